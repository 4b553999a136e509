from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from deepmr import schemas, tables


def _effects(n: int, draws: int = 3) -> pa.Table:
    values = np.arange(n * draws, dtype=np.float16).reshape(n, draws)
    target = pa.StructArray.from_arrays(
        [
            pa.array(np.zeros(n, np.float32)),
            pa.array(np.ones(n, np.float32)),
            pa.array(np.ones(n, np.float32)),
            tables.draws_column(values),
        ],
        ["eval", "mean", "sd", "draws"],
    )
    return pa.table(
        {
            "sequence_id": [f"s{i}" for i in range(n)],
            "position": pa.array(range(n), pa.int32()),
            "ref": ["A"] * n,
            "alt": ["C"] * n,
            "GATA1": target,
        }
    )


def test_table_round_trip_keeps_draws_and_metadata(tmp_path):
    path = tmp_path / "new" / "effects.parquet"
    schema = schemas.effects_schema(["GATA1"], 3)
    tables.write_table(_effects(4), path, schema, {"seed": 7})

    back = tables.read_table(path, columns=["sequence_id", "GATA1.draws"])
    draws = tables.draws_array(back["GATA1"].combine_chunks().field("draws"))
    assert draws.dtype == np.float16
    assert draws.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert tables.read_metadata(path) == {"seed": 7}
    assert tables.targets_of(tables.read_table(path).schema) == ["GATA1"]


def test_units_survive_in_the_file(tmp_path):
    path = tmp_path / "effects.parquet"
    tables.write_table(_effects(1), path, schemas.effects_schema(["GATA1"], 3))
    field = tables.read_table(path).schema.field("GATA1")
    assert field.metadata[b"unit"] == b"logit difference (link scale)"


def test_empty_table_is_valid(tmp_path):
    path = tmp_path / "empty.parquet"
    schema = schemas.effects_schema(["GATA1"], 3)
    tables.write_table(schema.empty_table(), path, schema)
    assert tables.read_table(path).num_rows == 0


def test_draws_of_no_rows():
    column = tables.draws_column(np.zeros((0, 5), np.float32))
    assert column.type.list_size == 5
    assert tables.draws_array(column).shape == (0, 5)


def test_sliced_draws_column_is_unpacked_where_it_starts():
    column = tables.draws_column(np.arange(8, dtype=np.float32).reshape(4, 2)).slice(2)
    assert tables.draws_array(column).tolist() == [[4, 5], [6, 7]]


def test_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"lacks the columns \['alt'\]"):
        tables.write_table(
            _effects(1).drop_columns("alt"),
            tmp_path / "x.parquet",
            schemas.effects_schema(["GATA1"], 3),
        )
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_table_and_no_temporary_file(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write_table(pa.table({"a": [1]}), path)

    def fail_after_a_row_group() -> None:
        with tables.writer(path, pa.schema([("a", pa.int64())])) as out:
            out.write_table(pa.table({"a": [2]}))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_after_a_row_group()
    assert tables.read_table(path)["a"].to_pylist() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_truncated_table_says_what_to_do(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write_table(pa.table({"a": list(range(100))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(tables.DamagedTableError, match="delete it and run the same command again"):
        tables.read_table(path)


def test_missing_table_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        tables.read_table(tmp_path / "nothing.parquet")


def test_tables_are_read_in_the_order_given(tmp_path):
    for name in ("b", "a"):
        tables.write_table(pa.table({"x": [name]}), tmp_path / f"{name}.parquet")
    both = tables.read_tables([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    assert both["x"].to_pylist() == ["b", "a"]


@pytest.mark.parametrize(
    "schema",
    [
        schemas.windows_schema(["A"]),
        schemas.sequences_schema(["A"]),
        schemas.predictions_schema(["A"], 2),
        schemas.references_schema(["A"], 2),
        schemas.HISTORY,
        schemas.TRUTH,
        schemas.MR,
        schemas.META,
        schemas.CALIBRATION,
    ],
)
def test_every_schema_can_be_written(tmp_path, schema):
    tables.write_table(schema.empty_table(), tmp_path / "t.parquet", schema)
    assert tables.read_table(tmp_path / "t.parquet").schema.equals(schema)
