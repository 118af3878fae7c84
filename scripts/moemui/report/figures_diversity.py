"""The figure of data diversity, drawn from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from moemui.key_neurons.settings import Setting
from moemui.report import views
from moemui.report.figure_style import DOUBLE, GREY, FigureSpec, legend, looks, mark, panels, percent, styled
from moemui.report.views import Choice, NothingToShow

Tables = Mapping[str, pd.DataFrame]
# (level, measure) → what its axis says, and whether it is a share; two of experts, since they need not agree
PANELS = {
    ("neuron", "mui"): ("MUI", True),
    ("expert", "key_expert_proportion"): ("key experts", True),
    ("expert", "active_experts"): ("active experts", False),
    ("lexical", "distinct_2"): ("distinct 2-grams", True),
}

DIVERSITY = FigureSpec(
    "diversity",
    "Which level shows from how many domains samples come?",
    "Sets of equally many samples, spread evenly over 1 to all domains, at each model's last checkpoint: MUI "
    "({curves}), KeyExpertProportion and the number of experts active in any sample ({experts}), and the share of "
    "distinct 2-grams of prompt and response at one number of 2-grams. Lines: mean over random sets; bands: where 95 % "
    "of the sets lie, no interval of the mean; dotted: the untrained checkpoint. The less neighbouring numbers of "
    "domains overlap, the finer the resolution; the table diversity_effect tests whether levels differ in it.",
    "Line charts, one panel a measure (neurons, experts, text), against the number of domains, a line a model.",
    ("diversity",),
)


def shown(table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The rows drawn: one measure a level, neurons and experts at the chosen settings, without missing values.

    Raises NothingToShow, with a sentence, for none.
    """
    if table.empty:
        raise NothingToShow(views.NONE["diversity"])
    wanted = {"neuron": choice.curves, "expert": choice.experts}
    masks = [
        (table["level"] == level) & (table["measure"] == measure) & _is(table["setting"], wanted.get(level))
        for level, measure in PANELS
    ]
    rows = table[np.logical_or.reduce(masks)].dropna(subset=["mean", "low", "high"])
    if rows.empty:
        there = ", ".join(sorted(set(table["setting"]) - {""}))
        raise NothingToShow(
            f"The table diversity has no measured rows at {choice.curves.label} or {choice.experts.label}, only at "
            f"{there or 'none'}."
        )
    return rows


def _is(settings: pd.Series, wanted: Setting | None) -> pd.Series:
    return settings == ("" if wanted is None else wanted.label)


@styled
def diversity(tables: Tables, choice: Choice) -> Figure:
    """Each level against the number of domains, last checkpoint with its band. Table: diversity."""
    rows = shown(tables["diversity"], choice)
    measures = [place for place in PANELS if (rows["measure"] == place[1]).any()]
    models = views.names(rows, "model")
    look = looks(models, choice.families)
    figure = Figure(figsize=(DOUBLE, 2.2))
    last = views.last(rows)
    before = rows[views.untrained(rows) & ~rows.index.isin(last.index)]
    for axes, (level, measure) in zip(panels(figure, len(measures), len(PANELS)), measures, strict=True):
        label, share = PANELS[level, measure]
        for model in models:
            line, style = _line(last, measure, model), look[model]
            axes.plot(line["n_domains"], line["mean"], color=style.colour, linestyle=style.dash, marker=style.marker)
            axes.fill_between(line["n_domains"], line["low"], line["high"], color=style.colour, alpha=0.18, linewidth=0)
            start = _line(before, measure, model)
            axes.plot(
                start["n_domains"], start["mean"], color=style.colour, linestyle=":", linewidth=0.8,
                marker=style.marker, markerfacecolor="white",
            )  # fmt: skip
        axes.set(title=level, xlabel="domains", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if share:
            percent(axes)
    entries = {model: mark(style) for model, style in look.items()}
    if not before.empty:
        entries["untrained"] = Line2D([], [], color=GREY, linestyle=":", marker="o", markerfacecolor="white")
    legend(figure, entries, columns=6)
    return figure


def _line(rows: pd.DataFrame, measure: str, model: str) -> pd.DataFrame:
    return rows[(rows["measure"] == measure) & (rows["model"] == model)].sort_values("n_domains")
