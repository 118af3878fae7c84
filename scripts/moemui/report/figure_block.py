"""A figure as a part of the page: chart and data for the browser, static twin, definition, tables, provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import latex2mathml.converter
import pandas as pd
from markupsafe import Markup

from moemui.report.figures.figure import Chart, Data, Words
from moemui.report.figures.page_style import HEIGHT, entries
from moemui.tables.table import Column

DIGITS = 6  # significant ones of a number on the page; the files have all
NARROW = 300.0  # points; a drawing up to this width fits a phone as it is


def block(
    figure: Words,
    data: Data,
    chart: Chart,
    drawing: str,
    *,
    caption: str,
    made: Mapping[str, Any] | None,
    files: Sequence[str],
) -> dict[str, Any]:
    """All that the template writes of a figure. drawing: its SVG; made: how it was made; files: where it is kept.

    Raises ValueError for an SVG without an svg element or a column that nobody explains.
    """
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": caption,
        "definition": figure.definition,
        "formula": Markup(latex2mathml.converter.convert(figure.formula, display="block")) if figure.formula else "",
        "alt": figure.alt,
        "sources": figure.tables,
        "made": made,
        "files": files,
        "wide": chart.wide,
        "panels": _panels(chart, data),
        "heights": [view.get("height", HEIGHT) for view in chart.views],
        "zooms": any(parameter["name"] == "zoom" for view in chart.views for parameter in view.get("params", ())),
        "series": chart.series.column if chart.series else "",
        "legend": entries(chart.series) if chart.series else [],
        "static": image(drawing, figure.name),
        "narrow": _width(drawing) <= NARROW,
        "tables": [
            {"name": key, "title": figure.table_titles[key], "total": len(rows), "columns": figure.columns(rows)}
            for key, rows in data.items()
            if len(rows)
        ],
        "payload": embedded(
            {
                "views": chart.views,
                "panel": chart.panel,
                "data": {key: table(rows, figure.columns(rows)) for key, rows in data.items()},
                **({"own": chart.own_views} if chart.own_views else {}),
            }
        ),
    }


def _panels(chart: Chart, data: Data) -> list[dict[str, str]]:
    if not chart.panel:
        return [{"value": "", "title": ""}]
    columns = [rows[chart.panel] for rows in data.values() if chart.panel in rows]
    values = list(chart.own_views) or pd.unique(pd.concat(columns).astype(str))
    return [{"value": value, "title": chart.titles.get(value, value)} for value in values]


def table(rows: pd.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    """Rows as JSON takes them: names of columns, and a list a row; a gap is null, a float has DIGITS digits."""
    plain = rows.astype(object).where(rows.notna(), None)
    return {
        "columns": [column.name for column in columns],
        "numeric": [_numeric(rows[column.name]) for column in columns],
        "rows": [[_plain(value) for value in row] for row in plain.itertuples(index=False, name=None)],
    }


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def embedded(value: Any) -> Markup:
    """A value as JSON inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def image(svg: str, name: str) -> Markup:
    """The drawing as the address of an image that needs no file, as small as it goes: coordinates to 0.01 points.

    Raises ValueError where there is no svg element.
    """
    start = svg.find("<svg")
    if start < 0:
        raise ValueError(f"figure {name}: found no <svg> element in {svg[:40]!r}; save it by paper_style.save")
    body = re.sub(r"<metadata>.*?</metadata>|\s*<!--.*?-->", "", svg[start:], flags=re.DOTALL)
    body = re.sub(r"(scale\([^)]*\))|(\d+\.\d\d)\d+", lambda found: found[1] or found[2], body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # names that nothing refers to
    body = re.sub(r"> <", "><", re.sub(r"\s+", " ", body)).replace('"', "'")
    # Not base64, which is a third longer: only what an address, and the attribute that holds it, can't take is escaped.
    return Markup("data:image/svg+xml," + body.replace("%", "%25").replace("#", "%23").replace("&", "&amp;"))


def _width(svg: str) -> float:
    found = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', svg)
    return float(found[1]) if found else float("inf")
