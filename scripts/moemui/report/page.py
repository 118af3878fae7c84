"""One self-contained HTML page of a study: findings first, then figures, limits, tables and provenance.

The page needs no network and no file beside it; tables show their first rows and name the files that hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from moemui.checks.threshold_selection import AUTO
from moemui.report import libraries
from moemui.report.figure_block import block, embedded
from moemui.report.figures import FIGURES
from moemui.report.figures.diagnostics import OUTCOMES
from moemui.report.figures.figure import Data
from moemui.report.figures.page_style import CONFIG
from moemui.report.figures.trajectories import LETTERS
from moemui.report.findings import findings
from moemui.report.glance import glance, grounds
from moemui.report.headline import headline
from moemui.report.limits import limits
from moemui.report.page_parts import flat, preview, template
from moemui.report.views import Choice
from moemui.tables.catalog import TABLES

# The findings read tables that no figure shows.
NEEDED = {table for figure in FIGURES.values() for table in figure.tables} | {
    "change_points", "coactivation_summary", "comparisons", "diagnostics", "diversity_effect", "expert_overlap",
    "exposure", "phase_divergence", "published", "published_agreement", "specialization_summary", "top_composition",
    "threshold_selection",
}  # fmt: skip
VERDICTS = {
    "agrees": "agrees with the paper",
    "disagrees": "disagrees with the paper",
    "undecided": "undecided",
    "described": "the paper says nothing",
    "not measured": "not measured",
}


def write_report(
    path: str | Path,
    *,
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Data],
    drawings: Mapping[str, str],
    left_out: Mapping[str, str],
    choice: Choice,
    provenance: Mapping[str, Any],
    files: Mapping[str, Sequence[str]],
    made: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the report of a study to `path`.

    study: name, description, settings (any depth of plain values).
    tables: by name, empty ones included. figures: what each shows, by name, as `figures.collect` gives it; drawings:
    the SVG of each as written by `paper_style.save`. left_out: figure name → sentence that says why it is missing.
    choice: the settings shown.
    provenance: commit, dirty, packages (name → version), stage_seconds (stage → seconds), conservation_error_max,
    identity_error_max; what is absent or None is printed as not recorded.
    files: name of a table or figure → the files that hold it, relative to the report's folder.
    made: table name → how it was made: stage, record (file relative to the report's folder), code, path (as the audit
    takes it), and where they are known run, inputs (in words), digest, commit and dirty. drawn: the same by figure
    name. Either may lack names.
    Raises ValueError for an unknown figure or table, or one missing that figures and findings are made of.
    """
    named = (
        ("figure", [*figures, *drawings, *left_out, *drawn], FIGURES),
        ("table", [*tables, *made], TABLES),
        ("table or figure", files, {**TABLES, **FIGURES}),
    )
    for what, given, known in named:
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown {what} {unknown[0]!r}; there are {', '.join(known)}")
    if missing := sorted(NEEDED - set(tables)):
        raise ValueError(f"the report needs the tables {', '.join(sorted(NEEDED))}; missing: {', '.join(missing)}")
    script, style = libraries.tables()
    page = template("report.html.j2").render(
        study=study,
        settings=flat(_with_chosen(study.get("settings", {}), choice)),
        headline=headline(tables, choice),
        glance=glance(tables, choice),
        grounds=grounds(choice, provenance),
        findings=findings(tables, choice),
        verdicts=VERDICTS,
        figures=[
            block(
                FIGURES[name],
                data,
                FIGURES[name].page(data, choice),
                drawings[name],
                caption=FIGURES[name].caption_for(choice),
                made=drawn.get(name),
                files=files.get(name, ()),
            )
            for name, data in figures.items()
        ],
        left_out=[(FIGURES[name].title, reason) for name, reason in left_out.items()],
        limits=limits(tables, choice),
        tables=[
            preview(TABLES[name], tables[name], files.get(name, ())) | {"made": made.get(name)}
            for name in TABLES
            if name in tables
        ],
        provenance=provenance,
        letters=LETTERS,
        symbols={outcome: symbol for outcome, (symbol, *_) in OUTCOMES.items()},
        chart_config=embedded(CONFIG),
        scripts={"charts": Markup(libraries.charts()), "tables": Markup(script)},
        styles={"tables": Markup(style)},
    )
    Path(path).write_text(page, encoding="utf-8")


def _with_chosen(settings: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """The settings with the number beside each threshold of `analysis` that masking has chosen: `auto (0.01)`."""
    found = {"threshold": choice.experts.threshold, "curve_threshold": choice.curves.threshold}
    analysis = dict(settings.get("analysis", {}))
    chosen = {key: f"{AUTO} ({number:g})" for key, number in found.items() if analysis.get(key) == AUTO}
    return {**settings, "analysis": analysis | chosen} if chosen else dict(settings)
