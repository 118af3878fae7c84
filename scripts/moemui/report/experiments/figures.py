"""All figures of an experiment: its effects, and each picture that it declares."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure as Drawing

from moemui.experiments.picture import Picture
from moemui.report.experiments import arms, course, effects_figure, picture_figure
from moemui.report.experiments.picture_figure import Laid
from moemui.report.experiments.plan import Plan, Shown
from moemui.report.experiments.rows import rows
from moemui.report.figures.figure import Chart, Tables
from moemui.report.figures.paper_style import DOUBLE, SINGLE, legend, mark, panels, styled
from moemui.report.views import NothingToShow

KINDS = {"course": course, "arms": arms}


def collect(plans: Sequence[Plan], tables: Tables) -> tuple[dict[str, Shown], dict[str, str]]:
    """The figures of all experiments by name, and for pictures without a value the sentence that says so.

    Names are EXPERIMENT-effects and EXPERIMENT-PICTURE. tables: measurements, experiment_seeds, experiment_effects and
    experiment_decisions of all experiments. Raises ValueError for a picture that says too little, see `rows`.
    """
    shown, left_out = {}, {}
    for plan in plans:
        own = of(plan, tables)
        shown[f"{plan.name}-effects"] = effects_figure.figure(plan, own)
        for picture in plan.pictures:
            try:
                shown[f"{plan.name}-{picture.name}"] = _picture(plan, picture, own["measurements"])
            except NothingToShow as reason:
                left_out[f"{plan.name}-{picture.name}"] = str(reason)
    return shown, left_out


def of(plan: Plan, tables: Tables) -> dict[str, pd.DataFrame]:
    """The rows of an experiment in each table."""
    return {name: table[table["experiment"] == plan.name] for name, table in tables.items()}


def _picture(plan: Plan, picture: Picture, measurements: pd.DataFrame) -> Shown:
    data, missing = rows(picture, measurements, plan.quantities)
    laid = Laid(picture, data)
    drawn = KINDS[picture.kind]
    views: Mapping = {value: (drawn.view(laid, value),) for value in laid.panels}
    chart = Chart(
        next(iter(views.values())),
        laid.series,
        panel=laid.panel,
        titles={value: laid.heading(value) for value in laid.panels},
        wide=picture.kind == "arms" and arms.wide(laid),
        own_views=views if laid.panel else {},
    )
    words = picture_figure.words(plan.name, laid, plan.quantities, drawn.reading(laid), missing)
    return Shown(words, data, chart, lambda: _paper(laid))


@styled
def _paper(laid: Laid) -> Drawing:
    """The picture on paper: one panel in a column, several in up to three columns."""
    count = len(laid.panels)
    wide = laid.picture.kind == "arms" and arms.wide(laid)
    columns = 1 if count == 1 or wide else 2 if count in (2, 4) else 3
    width = SINGLE if count == 1 and not wide else DOUBLE
    lines = -(-len(laid.looks()) // (2 if width == SINGLE else 4)) if laid.series else 0
    drawing = Drawing(figsize=(width, 0.16 * lines + 2.1 * -(-count // columns)))
    for axes, value in zip(panels(drawing, count, columns), laid.panels, strict=True):
        KINDS[laid.picture.kind].draw(axes, laid, value)
        laid.scale(axes, value)
        if laid.panel:
            axes.set_title("\n".join(textwrap.wrap(laid.heading(value), int(12 * width / columns))))
    if laid.series:
        shown = {name: look if laid.series.line else replace(look, dash="none") for name, look in laid.looks().items()}
        entries = {laid.series.labels[name]: mark(look) for name, look in shown.items()}
        legend(drawing, entries, columns=4)
    return drawing
