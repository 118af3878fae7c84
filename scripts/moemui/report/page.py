"""One self-contained HTML page of a study: findings first, then figures, limits, tables and provenance.

The page needs no network and no file beside it; tables show their first rows and name the files that hold all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from moemui.checks.threshold_selection import AUTO
from moemui.report import views
from moemui.report.figures import FIGURES
from moemui.report.findings import findings
from moemui.report.limits import limits
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import estimate, percent
from moemui.tables.catalog import TABLES
from moemui.tables.table import Column

TEMPLATES = Path(__file__).with_name("templates")
ROWS = 30  # rows of a table on the page
NARROW = 300.0  # points; a figure up to this width fits a phone as it is
# The findings read tables that no figure shows.
NEEDED = {table for spec, _ in FIGURES.values() for table in spec.tables} | {
    "change_points", "coactivation_summary", "comparisons", "diagnostics", "diversity_effect", "expert_overlap",
    "exposure", "phase_divergence", "published", "published_agreement", "specialization_summary", "top_composition",
    "threshold_selection",
}  # fmt: skip
VERDICTS = {
    "agrees": "agrees with the paper",
    "disagrees": "disagrees with the paper",
    "undecided": "undecided",
    "described": "no expectation",
    "not measured": "not measured",
}


def write_report(
    path: str | Path,
    *,
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, str],
    left_out: Mapping[str, str],
    choice: Choice,
    provenance: Mapping[str, Any],
    files: Mapping[str, Sequence[str]],
    made: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the report of a study to `path`.

    study: name, description, settings (any depth of plain values).
    tables: by name, empty ones included. figures: figure name → its SVG as written by `figure_style.save`.
    left_out: figure name → sentence that says why it is missing. choice: the settings shown.
    provenance: commit, dirty, packages (name → version), stage_seconds (stage → seconds), conservation_error_max,
    identity_error_max; what is absent or None is printed as not recorded.
    files: table name → the files that hold it, relative to the report's folder.
    made: table name → how it was made: stage, record (file relative to the report's folder), code, path (as the audit
    takes it), commit and dirty where they are known. drawn: the same by figure name. Either may lack names.
    Raises ValueError for an unknown figure or table, or one missing that figures and findings are made of.
    """
    named = (("figure", [*figures, *left_out, *drawn], FIGURES), ("table", [*tables, *files, *made], TABLES))
    for what, given, known in named:
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown {what} {unknown[0]!r}; there are {', '.join(known)}")
    if missing := sorted(NEEDED - set(tables)):
        raise ValueError(f"the report needs the tables {', '.join(sorted(NEEDED))}; missing: {', '.join(missing)}")
    page = _template().render(
        study=study,
        settings=_flat(_with_chosen(study.get("settings", {}), choice)),
        glance=_glance(tables, choice),
        findings=findings(tables, choice),
        verdicts=VERDICTS,
        figures=[_figure(name, svg, choice) | {"made": drawn.get(name)} for name, svg in figures.items()],
        left_out=[(FIGURES[name][0].title, reason) for name, reason in left_out.items()],
        limits=limits(tables, choice),
        published=_published(tables["published"]),
        tables=[
            _preview(name, tables[name], files.get(name, ())) | {"made": made.get(name)}
            for name in TABLES
            if name in tables
        ],
        provenance=provenance,
    )
    Path(path).write_text(page, encoding="utf-8")


def unbroken(sentence: str) -> str:
    """The sentence with no line break before a percent sign, inside an interval, or between p and its value."""
    sentence = sentence.replace(" %", "\u00a0%").replace(" points", "\u00a0points")
    sentence = re.sub(r"\bp = ", "p\u00a0=\u00a0", sentence)
    return re.sub(r"\[[^\[\]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), sentence)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("report.html.j2")


def inline_svg(svg: str, name: str, alt: str) -> Markup:
    """The SVG element as part of a page: without XML prolog, ids made unique by the figure's name, named by `alt`.

    Raises ValueError where there is no svg element.
    """
    start = svg.find("<svg")
    if start < 0:
        raise ValueError(f"figure {name}: found no <svg> element in {svg[:40]!r}")
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", body)
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))


def _figure(name: str, svg: str, choice: Choice) -> dict[str, Any]:
    spec = FIGURES[name][0]
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', svg)
    return {
        "name": name,
        "title": spec.title,
        "caption": spec.caption_for(choice),
        "svg": inline_svg(svg, name, spec.alt),
        "narrow": width is not None and float(width[1]) <= NARROW,
        "tables": spec.tables,
    }


def _glance(tables: Mapping[str, pd.DataFrame], choice: Choice) -> list[dict[str, str]]:
    """One row a model for the first screen: its last checkpoint's means over tasks; a dash where there is none.

    tasks: over how many the means are, each on its own where they differ.
    """
    try:
        cells = views.last(views.trajectory(tables, choice))
    except NothingToShow:
        return []
    try:
        proportions = views.last(views.key_experts(tables["key_experts"], choice))
    except NothingToShow:
        proportions = tables["key_experts"].head(0)
    rows = []
    for model, own in cells.groupby("model", sort=False):
        mean, key = own[own["task"] == MEAN], proportions[proportions["model"] == model]
        row = {"model": str(model), "checkpoint": str(own["checkpoint"].iloc[0])}
        tasks = {"accuracy": 0, "MUI": 0}
        for name, measure in zip(tasks, views.MEASURED, strict=True):
            tasks[name] = int(mean[f"n_{measure}"].iloc[0]) if len(mean) else 0
            row[measure] = percent(estimate(mean.iloc[0], measure)) if tasks[name] else "–"
        row["key_experts"] = percent(views.mean_column(key, "proportion")) if len(key) else "–"
        tasks |= {"key experts": len(key)} if len(key) else {}
        alike = len(set(tasks.values())) == 1
        row["tasks"] = str(tasks["MUI"]) if alike else ", ".join(f"{name} {n}" for name, n in tasks.items())
        rows.append(row)
    return rows


def _published(table: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "model": " ".join(filter(None, [str(row["published_model"]), str(row["expert"])])),
            "task": str(row["task"]),
            "metric": str(row["metric"]).replace("_", " "),
            "published": percent(float(row["published"])),
            "own": percent(estimate(row, "own")),
            "ranks": f"{row['published_rank']} and {row['own_rank']}",
        }
        for _, row in table.iterrows()
    ]


def _preview(name: str, frame: pd.DataFrame, files: Sequence[str]) -> dict[str, Any]:
    columns = TABLES[name].columns
    shown = frame.head(ROWS)
    return {
        "name": name,
        "columns": [(column, _numeric(column)) for column in columns],
        "rows": [[_cell(value, column) for value, column in zip(row, columns, strict=True)]
                 for row in shown[TABLES[name].names].itertuples(index=False)],
        "total": len(frame),
        "files": list(files),
    }  # fmt: skip


def _numeric(column: Column) -> bool:
    return column.dtype in ("int64", "Int64", "float64")


def _cell(value: Any, column: Column) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if column.dtype == "float64" else str(value)


def _with_chosen(settings: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """The settings with the number beside each threshold of `analysis` that masking has chosen: `auto (0.01)`."""
    found = {"threshold": choice.experts.threshold, "curve_threshold": choice.curves.threshold}
    analysis = dict(settings.get("analysis", {}))
    chosen = {key: f"{AUTO} ({number:g})" for key, number in found.items() if analysis.get(key) == AUTO}
    return {**settings, "analysis": analysis | chosen} if chosen else dict(settings)


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of dotted key and value."""
    if isinstance(settings, Mapping):
        return [row for key, value in settings.items() for row in _flat(value, f"{prefix}.{key}".removeprefix("."))]
    if isinstance(settings, (list, tuple)):
        return [(prefix, ", ".join(map(str, settings)))]
    return [(prefix, str(settings))]
