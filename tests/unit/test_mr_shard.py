from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from deepmr import mr, schemas, tables
from deepmr.effects import Response, on_scale
from deepmr.motifs import Motif
from deepmr.mr.estimator import Options
from deepmr.mr.gather import gather
from deepmr.mr.registry import ESTIMATORS
from deepmr.mr.shard import Pair, Settings, estimate_shard

LENGTH, N_DRAWS, SITE = 20, 12, "ACGTTGCA"
TARGETS = ("TF", "open", "unused")
PAIRS = (Pair("TF_open", "TF", "open"),)
MOTIF = Motif(
    "M1",
    "site",
    np.array([[97.0 if base == letter else 1.0 for letter in SITE] for base in "ACGT"]),
)
MOTIFS = {"TF": MOTIF, "open": None}
SETTINGS = Settings(minimum=5, options=Options(bootstrap_iterations=20))


def sequence_table(n=6):
    background = "GGGTTTGGGTTT"
    letters = [
        background + "GGGGTTTT" if i == 1 else background[:6] + SITE + background[6:]
        for i in range(n)
    ]
    strata = ["bound", "bound", "unbound", None, "bound", "unbound"] * n
    schema = schemas.sequences_schema(["TF"])
    return pa.table(
        {
            "sequence_id": [f"chr1:{i}" for i in range(n)],
            "chrom": ["chr1"] * n,
            "start": list(range(n)),
            "end": [i + LENGTH for i in range(n)],
            "strand": ["."] * n,
            "sequence": letters,
            "stratum.TF": strata[:n],
        },
        schema=schema,
    )


def logits(i):
    """Return reference (targets, draws) and differences (targets, 3 LENGTH, draws)."""
    rng = np.random.default_rng([7, i])
    delta_x = rng.normal(size=(3 * LENGTH, 1)) + 0.1 * rng.normal(size=(3 * LENGTH, N_DRAWS))
    delta_y = 0.8 * delta_x + 0.1 * rng.normal(size=delta_x.shape)
    delta = np.stack([delta_x, delta_y, delta_x])
    return rng.normal(size=(3, N_DRAWS)).astype(np.float32), delta.astype(np.float16)


def write(folder, rows, name="shard", skip=(), row_group=50):
    sequences = sequence_table().to_pylist()
    effects, references = folder / f"{name}.effects.parquet", folder / f"{name}.refs.parquet"
    with (
        tables.writer(references, schemas.references_schema(TARGETS, N_DRAWS)) as refs_out,
        tables.writer(effects, schemas.effects_schema(TARGETS, N_DRAWS)) as out,
    ):
        pieces = []
        for i in rows:
            reference, delta = logits(i)
            columns = {"sequence_id": pa.array([f"chr1:{i}"])}
            for t, target in enumerate(TARGETS):
                columns[target] = pa.StructArray.from_arrays(
                    [
                        pa.array(reference[t].mean(keepdims=True)),
                        tables.draws_column(reference[t][None]),
                    ],
                    names=["eval", "draws"],
                )
            refs_out.write_table(pa.table(columns, schema=refs_out.schema))
            if i in skip:
                continue
            letters = sequences[i]["sequence"]
            alternatives = [(p, r, a) for p, r in enumerate(letters) for a in "ACGT" if a != r]
            position, ref, alt = zip(*alternatives, strict=True)
            columns = {
                "sequence_id": pa.array([f"chr1:{i}"] * len(position)),
                "position": pa.array(position, pa.int32()),
                "ref": pa.array(ref),
                "alt": pa.array(alt),
            }
            for t, target in enumerate(TARGETS):
                mean = delta[t].astype(np.float32).mean(axis=1)
                sd = delta[t].astype(np.float32).std(axis=1, ddof=1)
                columns[target] = pa.StructArray.from_arrays(
                    [pa.array(mean), pa.array(mean), pa.array(sd), tables.draws_column(delta[t])],
                    names=["eval", "mean", "sd", "draws"],
                )
            pieces.append(pa.table(columns, schema=out.schema))
        if pieces:
            out.write_table(pa.concat_tables(pieces), row_group_size=row_group)
    return effects, references


def estimated(
    folder, rows, settings=SETTINGS, pairs=PAIRS, motifs=MOTIFS, responses=None, **options
):
    effects, references = write(folder, rows, **options)
    return estimate_shard(
        "cnn", sequence_table(), effects, references, pairs, motifs, settings, responses
    )


def test_rows_and_statuses(tmp_path):
    table = estimated(tmp_path, range(6), skip=(4,))
    assert table.schema.equals(schemas.MR)
    frame = table.to_pandas()
    # chr1:3 was not sampled for the exposure; two directions, four methods.
    ids = [f"chr1:{i}" for i in (0, 1, 2, 4, 5)]
    assert frame["sequence_id"].tolist() == np.repeat(ids, 8).tolist()
    assert frame["direction"].tolist()[:8] == ["forward"] * 4 + ["reverse"] * 4
    assert frame["method"].tolist()[:4] == list(SETTINGS.methods)
    status = frame[frame["method"] == "egger"].set_index(["sequence_id", "direction"])["status"]
    assert status["chr1:0", "forward"] == "ok"
    assert status["chr1:1", "forward"] == "no_motif_hit"
    assert status["chr1:1", "reverse"] == "ok"
    assert (status["chr1:4"] == "no_effects").all()
    forward, reverse = (frame[frame["direction"] == d] for d in ("forward", "reverse"))
    assert set(forward["instrument_rule"]) == {"motif"}
    assert set(reverse["instrument_rule"]) == {"all"}
    assert set(reverse["exposure"]) == {"open"}
    assert frame["stratum"].tolist()[::8] == ["bound", "bound", "unbound", "bound", "unbound"]
    ok = frame["status"] == "ok"
    assert set(forward[forward["status"] == "ok"]["n_instruments"]) == {3 * len(SITE)}
    assert frame[ok]["draws"].map(len).eq(N_DRAWS).all()
    assert frame[~ok]["draws"].isna().all()
    assert table["estimate"].null_count == (~ok).sum()


def test_estimates_are_those_of_the_api(tmp_path):
    row = estimated(tmp_path, [0]).to_pandas().iloc[1]
    assert (row["method"], row["direction"]) == ("ivw", "forward")
    reference, delta = logits(0)
    inside = np.repeat(np.arange(LENGTH), 3)
    inside = (inside >= 6) & (inside < 6 + len(SITE))
    x, y = (on_scale(reference[t], delta[t][inside]) for t in (0, 1))
    direct = mr.estimate(
        x.point, x.se, y.point, y.se, ("ivw",), draws_x=x.draws, draws_y=y.draws
    ).iloc[0]
    for column in ("estimate", "se", "se_within", "estimate_diagonal", "mean_f", "q", "p_value"):
        assert row[column] == direct[column], column
    assert abs(row["estimate"] - 0.8) < 0.1


def test_shards_blocks_and_row_groups_do_not_matter(tmp_path, monkeypatch):
    whole = estimated(tmp_path, range(6))
    write(tmp_path, range(6), "small", row_group=7)
    parts = []
    for name, rows in (("a", [5, 2]), ("b", [0]), ("c", []), ("d", [4, 3, 1])):
        path = tmp_path / f"{name}.mr.parquet"
        tables.write_table(estimated(tmp_path, rows, name=name), path, schemas.MR)
        parts.append(path)
    one = tmp_path / "whole.mr.parquet"
    tables.write_table(whole, one, schemas.MR)
    assert gather(parts).equals(gather([one]))
    monkeypatch.setattr("deepmr.mr.stored_effects._BATCH_ROWS", 11)
    monkeypatch.setattr("deepmr.mr.shard._BLOCK", 2)
    assert estimated(tmp_path, range(6), row_group=7).equals(whole)
    with pytest.raises(ValueError, match="rows stand in two shards, first cnn, TF_open, forward"):
        gather([one, parts[0]])


def test_empty_shard_is_an_empty_table(tmp_path):
    table = estimated(tmp_path, [])
    assert table.num_rows == 0
    assert table.schema.equals(schemas.MR)


def test_several_files_make_one_shard(tmp_path):
    first, second = write(tmp_path, [0, 1], "one"), write(tmp_path, [2], "two")
    effects, references = zip(first, second, strict=True)
    table = estimate_shard("cnn", sequence_table(), effects, references, PAIRS, MOTIFS, SETTINGS)
    assert table.num_rows == 24


def test_probability_scale_uses_the_kind_of_the_target(tmp_path):
    settings = replace(SETTINGS, effect_scale="probability", methods=("ivw",))
    responses = {"open": Response("count")}
    row = estimated(tmp_path, [0], settings, responses=responses).to_pandas().iloc[0]
    reference, delta = logits(0)
    inside = np.repeat(np.arange(LENGTH), 3)
    inside = (inside >= 6) & (inside < 6 + len(SITE))
    x = on_scale(reference[0], delta[0][inside], "probability")
    y = on_scale(reference[1], delta[1][inside], "probability", Response("count"))
    direct = mr.estimate(x.point, x.se, y.point, y.se, ("ivw",))
    assert row["estimate_diagonal"] == direct["estimate"][0]


def test_other_rules(tmp_path):
    motif_only = estimated(tmp_path, [0], replace(SETTINGS, rule="motif", methods=("ivw",)))
    assert motif_only["status"].to_pylist() == ["ok", "no_motif"]
    halves = replace(SETTINGS, rule="strength_halves", methods=("ivw",))
    frame = estimated(tmp_path, [0], halves).to_pandas()
    assert frame["draws"].map(len).tolist() == [N_DRAWS // 2] * 2
    few = estimated(tmp_path, [0], replace(SETTINGS, minimum=25, methods=("ivw",))).to_pandas()
    assert few["status"].tolist() == ["too_few_instruments", "ok"]
    assert few["n_instruments"].tolist() == [24, 60]


def test_one_draw_is_too_few(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.N_DRAWS", 3)
    halves = replace(SETTINGS, rule="strength_halves", methods=("ivw",))
    assert set(estimated(tmp_path, [0], halves)["status"].to_pylist()) == {"too_few_draws"}


def test_missing_target_stratum_and_pairs(tmp_path):
    with pytest.raises(ValueError, match="has no target gene; it has TF, open, unused"):
        estimated(tmp_path, [0], pairs=[Pair("p", "TF", "gene")])
    with pytest.raises(ValueError, match=r"no column 'stratum.open', though open is the exposure"):
        estimated(tmp_path, [0], pairs=[Pair("p", "open", "TF")])
    with pytest.raises(ValueError, match="pairs is empty"):
        estimated(tmp_path, [0], pairs=[])
    with pytest.raises(ValueError, match="method 'mode' is unknown"):
        estimated(tmp_path, [0], replace(SETTINGS, methods=("mode",)))


def test_tables_that_do_not_belong_together(tmp_path):
    effects, references = write(tmp_path, [0, 1])
    other, short = write(tmp_path, [2], "other")

    def run(sequences, effects, references):
        return estimate_shard("cnn", sequences, effects, references, PAIRS, MOTIFS, SETTINGS)

    with pytest.raises(ValueError, match="'chr1:2' of the effects table is not in the references"):
        run(sequence_table(), other, references)
    with pytest.raises(ValueError, match="'chr1:0' of the effects table has rows in two places"):
        run(sequence_table(), [effects, effects], references)
    with pytest.raises(ValueError, match=r"2 sequences .* sequences table \(chr1:0, chr1:1\)"):
        run(sequence_table().slice(2), effects, references)
    longer = sequence_table()
    letters = longer["sequence"].to_pylist()
    letters[1] += "A"
    place = longer.column_names.index("sequence")
    longer = longer.set_column(place, "sequence", pa.array(letters))
    with pytest.raises(ValueError, match="must all have the same length"):
        run(longer, effects, references)
    assert short.exists()


def test_every_method_fills_its_columns(tmp_path):
    settings = replace(SETTINGS, methods=tuple(ESTIMATORS))
    table = estimated(tmp_path, [0, 1], settings)
    assert table.schema.equals(schemas.MR)
    frame = table.to_pandas()
    assert set(frame["method"]) == set(ESTIMATORS)
    usable = frame[frame["status"] == "ok"].set_index("method")
    assert set(usable.index) == set(ESTIMATORS)
    for column, methods in {
        "without_position_low": ("ivw", "ivw_fixed", "egger"),
        "tau2": ("profile", "raps", "divw"),
        "intercept": ("egger", "egger_profile"),
        "ci_set": ("bayesian_mode",),
        "p_valid": ("bayesian_mode", "mr_presso", "contamination_mixture"),
        "n_modes": ("bayesian_mode", "weighted_mode"),
        "p_global": ("mr_presso",),
        "rucker": tuple(ESTIMATORS),
        "detectable_effect": tuple(ESTIMATORS),
    }.items():
        for method in methods:
            assert usable.loc[[method], column].notna().all(), (column, method)
    assert usable.loc["ivw", "p_valid"].isna().all()


def test_validity_names_the_mutation(tmp_path):
    settings = replace(SETTINGS, methods=("bayesian_mode",), rule="all")
    table = estimated(tmp_path, [0], settings)
    row = table.slice(0, 1).to_pylist()[0]
    assert row["status"] == "ok"
    assert len(row["p_valid"]) == row["n_instruments"]
    (sequence,) = [
        s for s in sequence_table().to_pylist() if s["sequence_id"] == row["sequence_id"]
    ]
    mutations = [(v["position"], v["alt"]) for v in row["p_valid"]]
    assert len(set(mutations)) == len(mutations)
    assert all(sequence["sequence"][place] != base for place, base in mutations)
    assert sum(v["p"] for v in row["p_valid"]) == pytest.approx(row["n_valid"], rel=1e-5)
    low, high = row["ci_set"][0][0], row["ci_set"][-1][1]
    assert low < row["estimate_diagonal"] < high
