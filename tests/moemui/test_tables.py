"""Tables: the columns hold together, good frames survive the disk, bad ones are refused with a reason."""

import numpy as np
import pandas as pd
import pytest

from moemui.tables.catalog import TABLES, named
from moemui.tables.table import read, write

POINT = {
    "model": "olmoe",
    "checkpoint": "step-00050",
    "tokens": 1e9,
    "order": 1,
    "task": "addition",
    "formulation": "projection",
    "rule": "topk",
    "variant": "main",
    "selection": "pairs",
    "threshold": 0.001,
    "n_samples": 200,
    "m": 10,
    "mui": 0.25,
    "low": 0.2,
    "high": 0.3,
    "note": "",
}
SATURATION = TABLES["saturation"]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_table_names_its_columns_once_and_its_key_among_them(table):
    assert len(set(table.names)) == len(table.names)
    assert set(table.key) <= set(table.names)
    assert all(column.meaning for column in table.columns)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_table_without_rows_survives_the_disk_with_its_columns(table, tmp_path):
    write(table.frame([]), tmp_path / "t.parquet", table)
    assert list(read(tmp_path / "t.parquet", table).columns) == table.names


def test_rows_survive_the_disk_as_parquet_with_a_csv_twin(tmp_path):
    frame = SATURATION.frame([POINT, POINT | {"m": 20, "tokens": None, "low": np.nan, "note": "one sample"}])
    write(frame, tmp_path / ".part-saturation.parquet", SATURATION)
    pd.testing.assert_frame_equal(read(tmp_path / ".part-saturation.parquet", SATURATION), frame)
    twin = (tmp_path / ".part-saturation.csv").read_text().splitlines()
    assert twin[0] == ",".join(SATURATION.names)
    assert twin[2] == "olmoe,step-00050,,1,addition,projection,pairs,0.001,topk,main,200,20,0.25,,0.3,one sample"


def test_columns_are_put_in_order_and_cast():
    frame = SATURATION.frame([dict(reversed(POINT.items())) | {"m": 10.0, "mui": 0}])
    assert list(frame.columns) == SATURATION.names
    assert (frame["m"].dtype, frame["mui"].dtype) == (np.int64, np.float64)


def test_nullable_integers_and_booleans_stay_missing(tmp_path):
    table = TABLES["phases"]
    row = {column.name: {"string": "x", "int64": 1}.get(column.dtype, 0.0) for column in table.columns}
    frame = table.frame([row | {"common_m": None, "differs_from_mean": None}, row | {"task": "y", "common_m": 7}
                         | {"differs_from_mean": True}])  # fmt: skip
    write(frame, tmp_path / "p.parquet", table)
    back = read(tmp_path / "p.parquet", table)
    assert back["common_m"].isna().tolist() == [True, False]
    assert back["common_m"][1] == 7
    assert back["differs_from_mean"].isna().tolist() == [True, False]


def test_several_files_are_put_below_each_other(tmp_path):
    for name, frame in {
        "a": SATURATION.frame([POINT]),
        "b": SATURATION.frame([POINT | {"m": 20}]),
        "empty": SATURATION.frame([]),
    }.items():
        write(frame, tmp_path / f"{name}.parquet", SATURATION)
    read_back = read([tmp_path / "a.parquet", tmp_path / "empty.parquet", tmp_path / "b.parquet"], SATURATION)
    assert read_back["m"].tolist() == [10, 20]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"m": None}, "column m: 1 of 1 values are missing; none may be"),
        ({"m": 1.5}, "column m: found 1.5; it holds a value of dtype int64"),
        ({"mui": 25.0}, "column mui: found 25.0; it holds a number from 0 to 1"),
        ({"mui": np.inf}, "column mui: found inf"),
        ({"tokens": np.inf}, "column tokens: found inf; it holds a finite number"),
        ({"tokens": "many"}, "column tokens: found 'many'; it holds a finite number"),
        ({"task": 3}, "column task: found 3; it holds a value of dtype string"),
        ({"surplus": 1}, r"unknown columns \['surplus'\]; its columns are model, checkpoint"),
    ],
)
def test_a_bad_value_is_refused_with_its_column(change, text):
    with pytest.raises(ValueError, match=text):
        SATURATION.frame([POINT | change])


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"table saturation: missing columns \['mui'\]"):
        SATURATION.frame([{name: value for name, value in POINT.items() if name != "mui"}])


def test_a_number_is_no_boolean():
    table = TABLES["expert_frequency"]
    row = {column.name: {"string": "x", "int64": 1}.get(column.dtype, 0.0) for column in table.columns}
    with pytest.raises(ValueError, match=r"column is_key: found 0\.0; it holds a value of dtype bool"):
        table.frame([row])


def test_two_rows_of_one_key_are_refused():
    with pytest.raises(ValueError, match=r"2 rows share their key .* 'm': 10"):
        SATURATION.frame([POINT, POINT | {"mui": 0.5}])


def test_nothing_is_written_when_the_frame_is_bad(tmp_path):
    with pytest.raises(ValueError, match="missing columns"):
        write(pd.DataFrame({"model": ["a"]}), tmp_path / "t.parquet", SATURATION)
    assert list(tmp_path.iterdir()) == []


def test_reading_names_the_file_of_another_table_and_refuses_no_file(tmp_path):
    write(SATURATION.frame([POINT]), tmp_path / "curve.parquet", SATURATION)
    with pytest.raises(ValueError, match=r"curve\.parquet: table key_experts: missing columns"):
        read(tmp_path / "curve.parquet", TABLES["key_experts"])
    with pytest.raises(ValueError, match="table saturation: no file to read"):
        read([], SATURATION)


def test_a_missing_value_needs_a_note_unless_its_meaning_says_why():
    with pytest.raises(ValueError, match=r"column low: a value is missing and no note says why, .*'m': 10"):
        SATURATION.frame([POINT | {"low": None}])
    assert SATURATION.frame([POINT | {"tokens": None}])["tokens"].isna().all()


def test_tables_are_found_by_name():
    assert named("saturation") is SATURATION
    with pytest.raises(ValueError, match="there is no table 'saturations'; tables: training, performance"):
        named("saturations")


def test_reading_may_leave_rows_on_disk(tmp_path):
    write(SATURATION.frame([POINT, POINT | {"m": 20}, POINT | {"m": 30}]), tmp_path / "t.parquet", SATURATION)
    found = read(tmp_path / "t.parquet", SATURATION, [("m", ">", 10)])
    assert found["m"].tolist() == [20, 30]
    assert read(tmp_path / "t.parquet", SATURATION, [("task", "==", "other")]).empty
