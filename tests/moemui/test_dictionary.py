"""Tables explain themselves: on the page docs/tables.md, in the data dictionary, and in every Parquet file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from moemui.tables import dictionary
from moemui.tables.catalog import TABLES
from moemui.tables.columns import count, number, text
from moemui.tables.experiments import EXPERIMENT_TABLES
from moemui.tables.exports import EXPORTS
from moemui.tables.table import Column, Table, read, write, write_parts

ROOT = Path(__file__).parents[2]
ALL = {**TABLES, **EXPORTS, **EXPERIMENT_TABLES}
FRUIT = Table(
    "fruit",
    "One fruit; stage exports.",
    (
        text("name", "what it is called"),
        count("seeds", "how many it has", "seeds"),
        number("ripe", "share that is ripe", "share"),
        Column("eaten", "boolean", "", "whether it is gone", nullable=True),
        text("note", "why a value is missing"),
    ),
    ("name",),
)
ROWS = [
    {"name": "fig", "seeds": 1600, "ripe": 0.5, "eaten": True, "note": ""},
    {"name": "plum", "seeds": 1, "ripe": np.nan, "eaten": None, "note": "not looked at"},
]


def test_the_page_is_what_the_code_says():
    page = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert page == dictionary.markdown(), "run `python -m moemui.tables.dictionary > docs/tables.md`"


@pytest.mark.parametrize("table", ALL.values(), ids=lambda table: table.name)
def test_a_meaning_is_one_short_sentence_that_names_a_stage(table):
    stages = {path.stem for path in (ROOT / "rules").glob("*.smk")}
    named = re.search(r"; stage (\w+)[,.]", table.meaning)
    assert named is not None
    assert named[1] in stages
    assert table.meaning.endswith(".")
    assert ". " not in table.meaning
    assert len(table.meaning) <= 120


def test_the_frame_has_a_row_for_each_column_of_each_table():
    found = dictionary.frame()
    assert len(found) == sum(len(table.columns) for table in ALL.values())
    row = found[(found["table"] == "utilization") & (found["column"] == "mui")].iloc[0]
    assert (row["dtype"], row["unit"], row["nullable"], row["in_key"]) == ("float64", "share", True, False)
    for name, table in ALL.items():
        own = found[found["table"] == name]
        assert own["column"].tolist() == table.names
        assert own["position"].tolist() == list(range(1, len(table.columns) + 1))
        assert set(own.loc[own["in_key"], "column"]) == set(table.key)


def test_every_column_of_every_table_is_on_the_page():
    """By reading the page: a column is in its table's own list, or named there and explained once above."""
    parts = re.split(r"^## ", dictionary.markdown(), flags=re.MULTILINE)[1:]
    sections = {part.split("\n", 1)[0]: part for part in parts}
    common = set(re.findall(r"^\| `(\w+)` \|", sections.pop("Columns of many tables"), re.MULTILINE))
    assert set(sections) == set(ALL)
    for name, table in ALL.items():
        own = re.findall(r"^\| `(\w+)` \|", sections[name], re.MULTILINE)
        line = re.search(r"^\[Columns of many tables\].*: (.*)\.$", sections[name], re.MULTILINE)
        shared = re.findall(r"`(\w+)`", line[1]) if line else []
        assert sorted(own + shared) == sorted(table.names)
        assert set(shared) <= common


def test_a_pipe_in_a_meaning_does_not_break_the_page(monkeypatch):
    strange = Table("strange", "One; stage laws.", (text("a", "|x| of `b|c`"),), ("a",))
    monkeypatch.setattr(dictionary, "TABLES", {"strange": strange})
    monkeypatch.setattr(dictionary, "EXPORTS", {})
    (line,) = [line for line in dictionary.markdown().splitlines() if line.startswith("| `a` |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_a_parquet_file_says_what_is_in_it(tmp_path):
    write(FRUIT.frame(ROWS), tmp_path / "fruit.parquet", FRUIT)
    schema = parquet.read_schema(tmp_path / "fruit.parquet")
    assert schema.metadata[b"table"] == b"fruit"
    assert schema.metadata[b"meaning"].decode() == FRUIT.meaning
    assert json.loads(schema.metadata[b"key"]) == ["name"]
    assert schema.names == FRUIT.names
    for column in FRUIT.columns:
        about = schema.field(column.name).metadata
        assert (about[b"unit"].decode(), about[b"meaning"].decode()) == (column.unit, column.meaning)
    pd.testing.assert_frame_equal(read(tmp_path / "fruit.parquet", FRUIT), FRUIT.frame(ROWS))


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(FRUIT.frame(ROWS), tmp_path / f"{name}.parquet", FRUIT)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_files_without_explanations_are_read_as_before(tmp_path):
    FRUIT.frame(ROWS).to_parquet(tmp_path / "old.parquet", index=False)
    write(FRUIT.frame([ROWS[0] | {"name": "pear"}]), tmp_path / "new.parquet", FRUIT)
    together = read([tmp_path / "old.parquet", tmp_path / "new.parquet"], FRUIT)
    assert together["name"].tolist() == ["fig", "plum", "pear"]
    assert read(tmp_path / "old.parquet", FRUIT, [("seeds", ">", 1)])["name"].tolist() == ["fig"]


def test_a_table_written_in_parts_is_the_table(tmp_path):
    assert write_parts((pd.DataFrame([row]) for row in ROWS), tmp_path / "parts.parquet", FRUIT) == 2
    pd.testing.assert_frame_equal(read(tmp_path / "parts.parquet", FRUIT), FRUIT.frame(ROWS))
    assert parquet.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 2
    assert write_parts([], tmp_path / "none.parquet", FRUIT) == 0
    assert list(read(tmp_path / "none.parquet", FRUIT).columns) == FRUIT.names
    with pytest.raises(ValueError, match="column ripe: found 2"):
        write_parts([pd.DataFrame([ROWS[0] | {"ripe": 2.0}])], tmp_path / "wrong.parquet", FRUIT)
