"""Calibrators survive the way through calibrators.parquet."""

import numpy as np
import pytest
from scipy.special import expit

from deepmr import schemas, tables
from deepmr.calibration.fitting import fit_targets
from deepmr.calibration.maps import NAMES, Affine, Beta, Identity, NotStrictlyIncreasingError
from deepmr.calibration.parameters import effect_calibrators, read_calibrators, to_table
from deepmr.effects import Response, on_scale


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    truth = rng.normal(-1.5, 1.5, (800, 3))
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    labels[:, 2] = 0
    draws = 1.5 * truth[:, None, :] + 0.5 + rng.normal(0, 0.3, (800, 4, 3))
    return [
        one
        for name in NAMES
        for one in fit_targets(name, labels, draws, ["A", "B", "rare"], ["binary"] * 3)
    ]


@pytest.fixture(scope="module")
def stored(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrators") / "calibrators.parquet"
    shares = {("A", "isotonic"): 0.58, ("A", "platt"): 0.0}
    tables.write_table(to_table(fitted, "cnn", shares), path, schemas.CALIBRATORS)
    return tables.read_table(path)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_through_parquet(fitted, stored, name):
    maps = read_calibrators(stored, "cnn", name)
    assert list(maps) == ["A", "B", "rare"]
    grid = np.linspace(-12, 12, 1001)
    for one in fitted:
        if one.name == name:
            again = maps[one.target]
            assert type(again) is type(one.calibrator)
            np.testing.assert_array_equal(again(grid), one.calibrator(grid))
    assert isinstance(maps["rare"], Identity)


def test_columns_of_the_table(fitted, stored):
    assert stored.schema.equals(schemas.CALIBRATORS)
    rows = {(r["target"], r["calibrator"]): r for r in stored.to_pylist()}
    assert len(rows) == 15
    platt = rows["A", "platt"]
    one = next(f for f in fitted if (f.target, f.name) == ("A", "platt"))
    assert (platt["a"], platt["b"], platt["c"]) == (one.calibrator.a, one.calibrator.b, None)
    assert (platt["n"], platt["n_positive"], platt["status"]) == (800, one.n_positive, "ok")
    assert (platt["knots"], platt["values"], platt["zero_effects"]) == (None, None, 0.0)
    assert rows["A", "temperature"]["b"] == 0
    assert rows["A", "isotonic"]["a"] is None
    assert len(rows["A", "isotonic"]["knots"]) == len(rows["A", "isotonic"]["values"]) > 2
    assert rows["A", "isotonic"]["zero_effects"] == 0.58
    assert rows["B", "isotonic"]["zero_effects"] is None
    strict = {name: rows["A", name]["strictly_increasing"] for name in NAMES}
    assert strict == {name: name != "isotonic" for name in NAMES}
    # A target that stays as it is has the parameters of the identity.
    grid = np.linspace(-5, 5, 11)
    for name, build in (("platt", Affine), ("temperature", Affine), ("beta", Beta)):
        row = rows["rare", name]
        assert row["status"] == "one_class"
        numbers = [row[key] for key in "abc" if row[key] is not None]
        np.testing.assert_allclose(build(*numbers)(grid), grid, atol=1e-14)


def test_isotonic_is_refused_for_effects_by_the_table(stored):
    with pytest.raises(
        NotStrictlyIncreasingError,
        match=r"model cnn, target A: .*58 % of those here.*centred_isotonic.*calibration.apply",
    ):
        effect_calibrators(stored, "cnn", "isotonic")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "isotonic"])
def test_other_maps_go_into_effects(stored, name):
    maps = effect_calibrators(stored, "cnn", name)
    rng = np.random.default_rng(1)
    reference, delta = rng.normal(-2, 0.3, 6), rng.normal(0, 0.5, (40, 6))
    effects = on_scale(reference, delta, response=Response(calibrator=maps["A"]))
    expected = maps["A"](reference + delta) - maps["A"](reference)
    np.testing.assert_allclose(effects.draws, expected.T)
    assert (np.sign(effects.draws) == np.sign(delta.T)).all()
    plain = on_scale(reference, delta)
    if name in ("temperature", "platt"):
        np.testing.assert_allclose(effects.point, maps["A"].a * plain.point, rtol=1e-9)
        np.testing.assert_allclose(effects.point / effects.se, plain.point / plain.se, rtol=1e-9)


def test_missing_and_doubled_rows_are_named(fitted, stored):
    with pytest.raises(ValueError, match="no map 'platt' of model 'lstm'; it has cnn/beta"):
        read_calibrators(stored, "lstm", "platt")
    with pytest.raises(ValueError, match="no map 'none'"):
        read_calibrators(stored, "cnn", "none")
    doubled = to_table([*fitted, *fitted[:1]], "cnn")
    with pytest.raises(ValueError, match=r"several maps 'temperature' .* for A"):
        read_calibrators(doubled, "cnn", "temperature")
    with pytest.raises(ValueError, match="it has no row"):
        read_calibrators(to_table([], "cnn"), "cnn", "platt")
