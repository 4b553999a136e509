from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deepmr import mutagenesis, schemas, tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import decode
from deepmr.mutagenesis import effects_table
from tests.unit.test_mutagenesis import LENGTH, sequences, toy_model

TARGETS = ["C", "A"]


def as_table(codes: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "sequence_id": pa.array([f"s{i}" for i in range(len(codes))], pa.string()),
            "sequence": pa.array([decode(row) for row in codes], pa.string()),
        }
    )


def write(folder: Path, table: pa.Table, number: int = 4, **options) -> effects_table.Counts:
    return effects_table.write_shard(
        toy_model(),
        table,
        TARGETS,
        DrawSet("mc_dropout", number, 1),
        folder / "effects.parquet",
        folder / "references.parquet",
        {"seed": 1},
        **options,
    )


def test_tables_hold_what_saturate_returns(tmp_path: Path) -> None:
    codes = sequences(3)
    codes[1, 2] = 4
    counts = write(tmp_path, as_table(codes))
    assert counts == effects_table.Counts(3, 3 * (3 * LENGTH - 1), 1)
    expected = mutagenesis.saturate(toy_model(), codes, TARGETS, DrawSet("mc_dropout", 4, 1))
    table = tables.read_table(tmp_path / "effects.parquet")
    assert table.schema.remove_metadata().equals(schemas.effects_schema(TARGETS, 4))
    assert table.num_rows == counts.mutations
    known = codes < 4
    for k, target in enumerate(TARGETS):
        column = table[target].combine_chunks()
        delta = expected.delta[known][..., k].reshape(-1, 4)
        np.testing.assert_array_equal(
            tables.draws_array(column.field("draws")), delta.astype(np.float16)
        )
        np.testing.assert_array_equal(
            column.field("eval"), expected.delta_eval[known][..., k].ravel()
        )
        np.testing.assert_array_equal(column.field("mean"), delta.mean(1))
        np.testing.assert_array_equal(column.field("sd"), delta.std(1, ddof=1))
    rows = table.select(["sequence_id", "position", "ref", "alt"]).to_pylist()
    assert rows == sorted(rows, key=lambda r: (r["sequence_id"], r["position"], r["alt"]))
    for row in rows:
        assert row["ref"] == "ACGTN"[codes[int(row["sequence_id"][1:]), row["position"]]]
        assert row["ref"] != row["alt"]
    references = tables.read_table(tmp_path / "references.parquet")
    assert references["sequence_id"].to_pylist() == ["s0", "s1", "s2"]
    column = references["A"].combine_chunks()
    np.testing.assert_array_equal(
        tables.draws_array(column.field("draws")), expected.reference[..., 1]
    )
    np.testing.assert_array_equal(column.field("eval"), expected.reference_eval[:, 1])
    assert tables.read_metadata(tmp_path / "effects.parquet")["seed"] == 1


def test_one_shard_is_many_shards_whatever_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = as_table(sequences(5))
    write(tmp_path / "one", table, workers=2)
    monkeypatch.setattr(effects_table, "_ROW_GROUP_VALUES", 1)
    for i in range(5):
        write(tmp_path / str(i), table.slice(i, 1))
    for name in ("effects.parquet", "references.parquet"):
        many = pa.concat_tables([tables.read_table(tmp_path / str(i) / name) for i in range(5)])
        assert many.equals(tables.read_table(tmp_path / "one" / name))


def test_both_engines_write_the_same_tables(tmp_path: Path) -> None:
    found = {}
    for engine in ("local", "naive"):
        write(tmp_path / engine, as_table(sequences(2)), number=20, engine=engine)
        effects = tables.read_table(tmp_path / engine / "effects.parquet")
        references = tables.read_table(tmp_path / engine / "references.parquet")
        found[engine] = effects, references
    for local, naive in zip(found["local"], found["naive"], strict=True):
        for target in TARGETS:
            ours, theirs = (table[target].combine_chunks() for table in (local, naive))
            for name in ("eval", "mean", "sd"):
                if name in [field.name for field in ours.type]:
                    np.testing.assert_allclose(
                        ours.field(name).to_numpy(), theirs.field(name).to_numpy(), atol=1e-5
                    )
            ours, theirs = (tables.draws_array(column.field("draws")) for column in (ours, theirs))
            # Rounded to the next number of the stored type, where the engines lie on either side.
            step = np.spacing(np.abs(theirs)).astype(float)
            assert (np.abs(ours.astype(float) - theirs) <= step + 1e-5).all()


def test_the_dropout_sites_are_in_the_metadata(tmp_path: Path) -> None:
    write(tmp_path, as_table(sequences(1)))
    stored = tables.read_metadata(tmp_path / "effects.parquet")
    assert stored["dropout_sites"] == [
        ["p 0.3, element-wise (8, 10)", "p 0.5, element-wise (8, 10)"]
    ]


def test_an_empty_shard_is_two_empty_tables(tmp_path: Path) -> None:
    assert write(tmp_path, as_table(sequences(0))) == effects_table.Counts(0, 0, 0)
    for name, schema in (
        ("effects", schemas.effects_schema(TARGETS, 4)),
        ("references", schemas.references_schema(TARGETS, 4)),
    ):
        table = tables.read_table(tmp_path / f"{name}.parquet")
        assert table.num_rows == 0
        assert table.schema.remove_metadata().equals(schema)


def test_the_sd_of_one_draw_is_null(tmp_path: Path) -> None:
    write(tmp_path, as_table(sequences(1)), number=1)
    column = tables.read_table(tmp_path / "effects.parquet")["A"].combine_chunks()
    assert column.field("sd").null_count == 3 * LENGTH
    assert column.field("mean").null_count == 0


def test_a_sequence_of_another_length_is_named(tmp_path: Path) -> None:
    table = pa.table({"sequence_id": ["long"], "sequence": ["A" * (LENGTH + 1)]})
    with pytest.raises(ValueError, match=f"long: the sequence has {LENGTH + 1} bases"):
        write(tmp_path, table)
    assert not list(tmp_path.iterdir())


def test_effects_beyond_float16_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    model = toy_model()
    for parameter in model.members[0][-1].parameters():
        parameter.data *= 1e7
    with pytest.raises(ValueError, match=r"C: an effect in s0 is .* beyond the float16"):
        effects_table.write_shard(
            model,
            as_table(sequences(1)),
            TARGETS,
            DrawSet("mc_dropout", 2, 1),
            tmp_path / "effects.parquet",
            tmp_path / "references.parquet",
        )
    assert not list(tmp_path.iterdir())
