"""What the report says of calibration, from tables that the calibration itself wrote."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from deepmr import mr, schemas
from deepmr.calibration.fit_and_judge import Settings as Fitting
from deepmr.calibration.fit_and_judge import fit_all, judge
from deepmr.calibration.maps import zero_effects
from deepmr.calibration.parameters import to_table
from deepmr.held_out import HeldOut
from deepmr.report import rescaling, standard_errors, wording
from deepmr.report.answers import Settings, answers
from deepmr.report.calibration import in_words, of_predictions, outside, why_unfitted
from deepmr.report.calibration_checks import calibration_checks
from deepmr.report.render import render
from deepmr.report.table import Cell, Heading
from tests import toy_meta, toy_report

MAPS = ("temperature", "platt", "beta", "isotonic", "centred_isotonic")
TARGETS = ("GATA1", "open", "NRF1", "JUND", "counted")
KINDS = ("binary", "binary", "binary", "binary", "count")
PLAIN = Settings(n_draws=40)


def plain(text):
    return text.replace(wording.NBSP, " ")


def windows(seed, chromosomes, n=900):
    """Return windows whose `open` is overconfident, with 4 labels of NRF1 and none of JUND."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.0, 1.8, (n, len(TARGETS)))
    labels = (rng.random(true.shape) < expit(true)).astype(np.float32)
    labels[:, 2] = np.arange(n) < 4
    labels[:, 3] = np.nan
    labels[:, 4] = rng.poisson(np.exp(0.3 * true[:, 4]))
    true[:, 1] = 2 * true[:, 1] + 0.7
    draws = true[:, None] + rng.normal(0, 0.2, (n, 3, len(TARGETS)))
    chrom = np.array(chromosomes, object)[np.arange(n) % len(chromosomes)]
    return HeldOut(TARGETS, chrom, labels, true.astype(np.float32), draws.astype(np.float32))


def judged_errors(method="mc_dropout", se=toy_report.SPREAD, members=4, truth=False):
    """Return uncertainty.parquet; `se` is right where it is the toy networks' spread."""
    found = toy_report.replicates(dict.fromkeys(TARGETS, se), members, truth)
    return toy_report.uncertainty(found, method)


@pytest.fixture(scope="module")
def run():
    held_out = {"validation": windows(1, ["chr4"]), "test": windows(2, ["chr5", "chr6", "chr7"])}
    settings = Fitting(MAPS, 10, 100, 10, 40, 3)
    fitted = fit_all(held_out["validation"], KINDS, settings, "cnn")
    calibration = judge(held_out, KINDS, fitted, settings, "cnn")
    rng = np.random.default_rng(4)
    effects = rng.normal(-1, 2, 500), rng.normal(0, 0.05, 500)
    shares = {(f.target, f.name): zero_effects(f.calibrator, *effects) for f in fitted}
    calibrators = to_table(fitted, "cnn", shares)
    schema = schemas.CALIBRATION
    calibration = pa.Table.from_pandas(calibration, schema=schema, preserve_index=False)
    return calibration.to_pandas(), calibrators.to_pandas()


@pytest.fixture(scope="module")
def found():
    local = toy_report.mr()
    meta = toy_meta.complete(toy_report.meta(local=local))
    return answers(meta, local, toy_report.PAIRS, toy_report.truth(), toy_report.SETTINGS)


@pytest.fixture(scope="module")
def section(run, found):
    return of_predictions(*run, found, PLAIN)


def group(table, target):
    """Return heading and rows of a target, the rows by calibrator."""
    rows, here, heading = {}, False, None
    for row in table.rows:
        if isinstance(row, Heading):
            here = row.title.startswith(f"{target}:")
            heading = row if here else heading
        elif here:
            rows[row[0]] = dict(zip(table.columns, row, strict=True))
    return heading, rows


def listed(calibration, calibrators, uncertainty, settings=PLAIN):
    found = calibration_checks(calibration, calibrators, uncertainty, settings)
    return {check.title: (check.level, plain(check.text)) for check in found}


def test_metrics_stand_by_target_before_and_after_each_calibrator(run, section):
    calibration, _ = run
    heading, rows = group(section.test, "open")
    n_positive = calibration.query("target == 'open' and split == 'test'")["n_positive"].iloc[0]
    assert heading.title == f"open: 900 windows, {n_positive} with label 1, 3 chromosomes"
    assert heading.note == ""
    assert list(rows) == ["as predicted", *(wording.calibrator(name) for name in MAPS)]
    assert rows["as predicted"]["Cox slope"].marked
    assert rows["as predicted"]["ECE"].marked
    assert not rows["Platt"]["Cox slope"].marked
    # no strictly increasing map of the logits changes what is above what
    assert rows["as predicted"]["AUROC"] == rows["temperature"]["AUROC"]
    assert "1 chromosome" in group(section.validation, "open")[0].title


def test_every_mark_is_a_value_outside_its_band(run, section):
    calibration, _ = run
    test = calibration[calibration["split"] == "test"]
    for target in ("GATA1", "open"):
        _, rows = group(section.test, target)
        for name, cells in zip(("none", *MAPS), rows.values(), strict=True):
            row = test[(test["target"] == target) & (test["calibrator"] == name)].iloc[0]
            assert row["ece"] == pytest.approx(float(cells["ECE"].text), abs=0.001)
            assert cells["ECE"].marked == (row["ece"] > row["ece_null_high"])
            slope, low, high = (row[f"cox_slope{e}"] for e in ("", "_null_low", "_null_high"))
            assert cells["Cox slope"].marked == (slope < low or slope > high)


def test_labels_of_one_class_are_said_to_be_those_of_the_validation_windows():
    row = {"status": "one_class", "n": 1400, "n_positive": 0}
    assert why_unfitted(row, PLAIN) == "every label of the 1,400 validation windows is the same"


def test_targets_that_stay_as_predicted_say_why_with_the_number(section):
    heading, rows = group(section.test, "NRF1")
    assert heading.note == (
        "not calibrated: 4 of 900 validation windows have label 1, 10 are needed"
    )
    assert list(rows) == ["as predicted"]
    heading, rows = group(section.test, "JUND")
    assert heading.note == "no window was measured"
    assert all(not isinstance(cell, Cell) for cell in rows["as predicted"].values())
    heading, rows = group(section.test, "counted")
    assert heading.note == "counts, not 0 or 1"
    assert "label 1" not in heading.title
    assert rows["as predicted"]["AUROC"] == "–"
    assert list(rows) == ["as predicted"]
    assert section.summary[0].startswith("As predicted: ")
    assert "not open" in section.summary[0]
    assert any(re.match(r"With Platt: \d of 2 targets", text) for text in section.summary)


@given(
    value=st.floats(-3, 3),
    low=st.floats(-1, 0.99),
    width=st.floats(0.001, 1),
)
def test_a_marked_value_is_never_printed_as_the_end_of_its_band(value, low, width):
    row = {"cox_slope": value, "cox_slope_null_low": low, "cox_slope_null_high": low + width}
    text, band = in_words(row, "cox_slope")
    low_text, high_text = re.fullmatch(r"\[(.*), (.*)\]", plain(band)).groups()
    gap = min(abs(value - low), abs(value - low - width))
    assert outside(row, "cox_slope") == (not low <= value <= low + width)
    if outside(row, "cox_slope") and gap > 2e-6:
        assert text not in (low_text, high_text)


def test_errors_below_their_band_are_not_marked():
    row = {"ece": 0.001, "ece_null_low": 0.01, "ece_null_high": 0.02}
    assert not outside(row, "ece")
    assert outside(row | {"ece": 0.021}, "ece")
    assert not outside(row | {"ece": np.nan}, "ece")


def test_the_factor_of_an_affine_map_is_what_the_estimators_find(run):
    _, calibrators = run
    a_x, a_y = rescaling.factors(calibrators, "cnn", "GATA1", "open", "platt")
    bx, by, sx, sy = toy_report.instruments()
    methods = ("ivw", "egger", "weighted_median")
    before = mr.estimate(bx, sx, by, sy, methods)
    after = mr.estimate(a_x * bx, a_x * sx, a_y * by, a_y * sy, methods)
    assert np.allclose(after["estimate"], a_y / a_x * before["estimate"], rtol=1e-9)
    exact = before["method"] != "weighted_median"  # its SE is a bootstrap, seeded by its input
    z = [(t["estimate"] / t["se"])[exact] for t in (before, after)]
    assert np.allclose(*z, rtol=1e-9)


def test_effects_of_calibration_in_words(run, found):
    _, calibrators = run
    a = calibrators.query("target == 'open' and calibrator == 'platt'")["a"].iloc[0]
    text = [plain(t) for t in rescaling.effect_sentences(calibrators, found, PLAIN)]
    assert text[0] == "No calibrator is applied to the effects (calibration.apply: none)."
    a_x = calibrators.query("target == 'GATA1' and calibrator == 'platt'")["a"].iloc[0]
    assert text[1].startswith(
        f"With Platt calibration 1 logit of GATA1 becomes {a_x:.2f} and 1 logit of open becomes "
        f"{a:.2f}: θ of GATA1 → open would read {0.93 * a / a_x:.2f} instead of 0.93 (× "
    )
    # a target that was not calibrated keeps its logits
    assert f"1 logit of NRF1 stays as predicted and 1 logit of open becomes {a:.2f}" in text[2]
    assert any("z and p of every effect stay as they are" in t for t in text)
    assert any(t.startswith("Beta and centred isotonic calibration, if applied,") for t in text)
    share = calibrators.query("target == 'open' and calibrator == 'isotonic'")["zero_effects"]
    assert f"{share.iloc[0]:.0%}".replace("%", " % of open") in text[-1]


def test_an_applied_map_says_what_the_estimate_would_be_without(run, found):
    _, calibrators = run
    settings = replace(PLAIN, calibrator="platt")
    text = [plain(t) for t in rescaling.effect_sentences(calibrators, found, settings)]
    assert text[0].startswith("Every draw went through Platt calibration")
    assert "except NRF1, JUND and counted, which could not be calibrated." in text[0]
    a_x, a_y = rescaling.factors(calibrators, "cnn", "GATA1", "open", "platt")
    assert f"reads 0.93 instead of {0.93 * a_x / a_y:.2f} (× {a_y / a_x:.2f})" in text[1]
    bent = rescaling.effect_sentences(calibrators, found, replace(PLAIN, calibrator="beta"))
    assert "no mere change of units" in bent[1]
    assert "Centred isotonic calibration, if applied" in bent[2]
    on_p = replace(settings, effect_scale="probability")
    assert "On the probability scale" in rescaling.effect_sentences(calibrators, found, on_p)[1]
    section = of_predictions(*run, found, settings)
    assert "Platt, applied" in group(section.test, "open")[1]


def test_applying_what_was_not_fitted_is_an_error(run, found):
    calibration, calibrators = run
    some = calibrators[calibrators["calibrator"] == "beta"]
    with pytest.raises(
        ValueError, match=r"no row of 'platt', which calibration.apply names; .*beta"
    ):
        of_predictions(calibration, some, found, replace(PLAIN, calibrator="platt"))


def test_maps_are_listed_with_their_parameters(run, section):
    _, calibrators = run
    rows = {row[:2]: row for row in section.maps.rows}
    platt = calibrators.query("target == 'open' and calibrator == 'platt'").iloc[0]
    assert rows["open", "Platt"][2:5] == (
        wording.number(platt["a"], 3),
        wording.number(platt["b"], 3),
        "–",
    )
    assert rows["NRF1", "beta"][-1] == "stays as predicted: too few windows with label 1"


def test_standard_errors_that_are_too_small_fit_or_are_too_wide():
    for se, says in ((0.05, "too small"), (0.1, "fitting"), (0.3, "too wide")):
        table = judged_errors(se=se)
        shown = standard_errors.of_standard_errors(table, PLAIN)
        row = dict(zip(shown.table.columns, shown.table.rows[0], strict=True))
        assert row["target"] == "GATA1"
        assert row["the SEs are"] == says
        assert row["held against"] == "retrained networks"
        assert (row["networks"], row["sequences"], row["mutations"]) == ("4", "20", "1,200")
        assert float(row["s"].text) == pytest.approx(0.1 / se, rel=0.1)
        assert row["s"].marked == (says != "fitting")
        assert float(row["after s"].text) == pytest.approx(1, abs=0.15)
        inside = 2 * expit(1.702 * 1.96 * se / 0.1) - 1  # the normal distribution, to a percent
        assert float(plain(row[wording.unbroken("in 95 %")]).split()[0]) == pytest.approx(
            100 * inside, abs=4
        )
        assert plain(row["applied"]) == "× 1.00"
        assert plain(shown.summary[0]).startswith(
            f"Against retrained networks, standard errors are {says} for GATA1 (s"
        )
    widened = standard_errors.of_standard_errors(
        judged_errors(se=0.05), replace(PLAIN, apply_scale=True)
    )
    factor = float(plain(widened.table.rows[0][-1]).removeprefix("× "))
    assert factor == pytest.approx(2, rel=0.1)
    wide = standard_errors.of_standard_errors(
        judged_errors(se=0.3), replace(PLAIN, apply_scale=True)
    )
    assert plain(wide.table.rows[0][-1]) == "× 1.00"


def test_truth_is_a_reference_that_is_never_applied():
    settings = replace(PLAIN, apply_scale=True)
    shown = standard_errors.of_standard_errors(
        judged_errors(members=1, truth=True, se=0.05), settings
    )
    row = dict(zip(shown.table.columns, shown.table.rows[0], strict=True))
    assert (row["held against"], row["applied"]) == ("simulated truth", "never")
    assert shown.against_truth
    assert not standard_errors.of_standard_errors(judged_errors(), settings).against_truth
    assert shown.summary[0].startswith(
        "Against simulated truth, standard errors are too small for GATA1"
    )
    assert "set models.cnn.members: 6" in shown.summary[1]


def test_without_a_reference_the_report_says_how_to_get_one():
    table = judged_errors(members=1)
    shown = standard_errors.of_standard_errors(table, PLAIN)
    assert shown.table.rows == ()
    assert len(shown.summary) == 1
    assert "set models.cnn.members: 6" in shown.summary[0]
    two = standard_errors.of_standard_errors(judged_errors("ensemble", members=2), PLAIN)
    assert plain(two.summary[0]).startswith(
        "Against retrained networks, standard errors are not judged for GATA1 (too few networks)"
    )
    assert "set models.cnn.members: 6" in two.summary[1]
    four = standard_errors.of_standard_errors(judged_errors("ensemble", members=4), PLAIN)
    assert "s is near 1 by construction" in " ".join(four.summary)


def test_checks_warn_of_predictions_and_say_what_mends_them(run):
    calibration, calibrators = run
    errors = judged_errors()
    level, text = listed(calibration, calibrators, errors)["Probabilities are off"]
    assert level == "warn"
    assert re.search(
        r"open \(ECE 0\.\d+, band \[.*Cox slope 0\.\d+, band \[.*: overconfident\)", text
    )
    assert re.search(
        r"Platt calibration predicts test windows best \(mean NLL (\S+) instead of (\S+)\), with "
        r".*NRF1 outside: set calibration.apply: platt\.",
        text,
    )
    assert "not z or p" in text
    on_p = listed(calibration, calibrators, errors, replace(PLAIN, effect_scale="probability"))
    assert "not z or p" not in on_p["Probabilities are off"][1]
    applied = replace(PLAIN, calibrator="platt")
    calm = calibration[calibration["target"] == "open"]
    level, text = listed(calm, calibrators, errors, applied)["Probabilities mean what they say"]
    assert level == "good"
    assert text.startswith("After Platt calibration, test ECE and Cox slope of the one target lie")
    worse = calibration.copy()
    worse.loc[worse["calibrator"] == "platt", ["nll", "cox_slope"]] = 0.9, 0.2
    text = listed(worse, calibrators, errors, applied)["Probabilities are off"][1]
    assert "instead of 0.900" in text
    alone = calibration[calibration["calibrator"] == "none"]
    text = listed(alone, calibrators, errors)["Probabilities are off"][1]
    assert "No calibrator that may be applied predicts test windows better" in text
    # one band of two left, as chance may have it: no alarm
    mild = alone[alone["target"].isin(["GATA1", "open"])].copy()
    mild.loc[mild["target"] == "open", ["ece", "cox_slope"]] = [0.0, 0.3]
    assert listed(mild, calibrators, errors)["Probabilities are off"][0] == "note"


def test_checks_name_rare_targets_and_single_chromosomes(run):
    calibration, calibrators = run
    checks = listed(calibration, calibrators, judged_errors())
    level, text = checks["Too rare to calibrate"]
    assert level == "note"
    assert text.startswith(
        "NRF1 (4 of 900 validation windows have label 1, 10 are needed) and JUND (no window was"
    )
    assert "counted" not in text
    level, text = checks["One chromosome of validation windows"]
    assert level == "note"
    assert "split.validation" in text
    several = calibration.assign(n_chromosomes=2)
    assert not any(
        t.startswith("One chromosome") for t in listed(several, calibrators, judged_errors())
    )


def test_checks_of_standard_errors(run):
    level, text = listed(*run, judged_errors(se=0.05))["Standard errors are too small"]
    assert level == "warn"
    assert re.search(r"GATA1 \(s = [12]\.\d+ \[[12]\.\d+, 2\.\d+\]\)", text)
    assert "uncertainty.apply_scale: true" in text
    widened = listed(*run, judged_errors(se=0.05), replace(PLAIN, apply_scale=True))
    assert widened["Standard errors are widened"][0] == "good"
    assert "Standard errors are too small" not in widened
    for se in (0.1, 0.3):
        checks = listed(*run, judged_errors(se=se))
        assert checks["Standard errors cover retraining"][0] == "good"
        assert "Not judged" not in checks["Standard errors cover retraining"][1]
    unknown = judged_errors(se=0.1)
    retrained = (unknown["target"] == "open") & (unknown["reference"] == "retrained")
    unknown.loc[retrained, "status"] = "too_few_degrees_of_freedom"
    unknown.loc[retrained, ["se_scale", "se_scale_low", "se_scale_high"]] = np.nan
    _, text = listed(*run, unknown)["Standard errors cover retraining"]
    assert text.endswith("Not judged: open.")
    checks = listed(*run, judged_errors(members=1, truth=True, se=0.05))
    level, text = checks["Standard errors are not held against retraining"]
    assert level == "note"
    assert "models.cnn.members: 6" in text
    assert not any("too small" in title for title in checks)


def test_checks_of_draws(run):
    errors = judged_errors()
    level, text = listed(*run, errors, replace(PLAIN, n_draws=10))["Few draws"]
    assert level == "warn"
    assert "10 draws know their own SD to about 24 % only; set uncertainty.draws: 24" in text
    assert "Few draws" not in listed(*run, errors, replace(PLAIN, n_draws=24))
    ensemble = replace(PLAIN, n_draws=5, draw_method="ensemble")
    assert "ensemble_mc_dropout with 24 draws" in listed(*run, errors, ensemble)["Few draws"][1]


def test_page_of_a_whole_run(run):
    calibration, calibrators = run
    page = render(
        **toy_report.context()
        | {
            "calibration": calibration,
            "calibrators": calibrators,
            "uncertainty": judged_errors(truth=True),
            "settings": replace(PLAIN, calibrator="platt", draw_method="laplace"),
        }
    )
    assert not re.search(r"\b(nan|None)\b", page)
    assert "<small>[" in page
    assert re.search(r"<b>[^<]+\*</b>", page)
    assert "its weights for one target are independent" in page
    assert "4 of 900 validation windows have label 1" in plain(page)
    without = pd.DataFrame(columns=schemas.CALIBRATORS.names)
    page = render(**toy_report.context() | {"calibrators": without})
    assert "The fitted maps" not in page
