"""What pages are written with: their templates, the first rows of a table, settings as rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from moemui.tables.table import Column, Table

TEMPLATES = Path(__file__).with_name("templates")
ROWS = 30  # rows of a table on the page


@cache
def template(name: str) -> jinja2.Template:
    """One of the templates: it escapes what it is given, and a name that it isn't given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template(name)


def unbroken(sentence: str) -> str:
    """The sentence with no line break before a percent sign, inside an interval, or between p and its value."""
    sentence = sentence.replace(" %", "\u00a0%").replace(" points", "\u00a0points")
    sentence = re.sub(r"\bp = ", "p\u00a0=\u00a0", sentence)
    return re.sub(r"\[[^\[\]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), sentence)


def preview(table: Table, frame: pd.DataFrame, files: Sequence[str]) -> dict[str, Any]:
    """The first ROWS rows of a table as texts, its columns (each with whether it holds numbers), and its files."""
    shown = frame.head(ROWS)
    return {
        "name": table.name,
        "columns": [(column, _numeric(column)) for column in table.columns],
        "rows": [[_cell(value, column) for value, column in zip(row, table.columns, strict=True)]
                 for row in shown[table.names].itertuples(index=False)],
        "total": len(frame),
        "files": list(files),
    }  # fmt: skip


def _numeric(column: Column) -> bool:
    return column.dtype in ("int64", "Int64", "float64")


def _cell(value: Any, column: Column) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if column.dtype == "float64" else str(value)


def flat(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of dotted key and value."""
    if isinstance(settings, Mapping):
        return [row for key, value in settings.items() for row in flat(value, f"{prefix}.{key}".removeprefix("."))]
    if isinstance(settings, (list, tuple)):
        return [(prefix, ", ".join(map(str, settings)))]
    return [(prefix, str(settings))]
