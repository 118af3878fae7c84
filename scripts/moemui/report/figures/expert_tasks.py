"""Which experts serve which tasks: is an expert frequent everywhere, or on one task alone?"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Drawing

from moemui.report import views
from moemui.report.figures import expert_axis, page_style
from moemui.report.figures.figure import Chart, Data, Figure, Tables
from moemui.report.figures.paper_style import DOUBLE, HEAT, PAGE, panels, styled
from moemui.report.views import TOP, Choice

MOST = 40  # experts of a model that can be read below each other
DARK = 0.7  # frequency from which a cell's number is white on paper
LARGEST = 3  # models up to which cells hold their numbers on paper


def data(tables: Tables, choice: Choice) -> Data:
    """Frequency by expert and task at each model's last checkpoint, of experts that are frequent on some task.

    They are those among the TOP most frequent of any task, or, where these are more than MOST, among as many of each
    task as together make at most MOST; of each task its first where even these are more. Experts stand in the model's
    order. Raises NothingToShow where there are no frequencies at the setting.
    """
    cells = views.last(views.at(tables["expert_frequency"], choice.experts, "expert_frequency"))
    found = []
    for _, own in cells.groupby("model", sort=False):
        count = places(own)
        shown = own[own["expert"].isin(own.loc[own["rank"] <= count, "expert"])].assign(places=count)
        found.append(shown.sort_values("expert", key=lambda experts: experts.map(expert_axis.place), kind="stable"))
    rows = pd.concat(found, ignore_index=True)
    columns = ["model", "checkpoint", "expert", "kind", "task", "frequency", "frequency_low", "frequency_high"]
    return {"cells": rows[[*columns, "expert_mui", "rank", "n_samples", "places"]]}


def places(rows: pd.DataFrame) -> int:
    """The ranks of every task, at most TOP, whose experts are together at most MOST; 1 where even these are more.

    rows: one model's, with expert and rank.
    """
    first = np.sort(rows.groupby("expert")["rank"].min())
    return next((count for count in range(TOP, 1, -1) if (first <= count).sum() <= MOST), 1)


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A heat map a model; names of shared experts bold; numbers in percent where there are few models."""
    rows = data["cells"]
    models, titles = views.names(rows, "model"), _titles(rows)
    few = len(models) <= LARGEST
    high = (0.11 if few else 0.075) * int(rows.groupby("model")["expert"].nunique().max())
    possible = [min(3, max(2, len(models)))] if few else [5, 6, 7]
    heights = {columns: 0.4 + (0.75 + high) * -(-len(models) // columns) for columns in possible}
    columns = next((columns for columns, height in heights.items() if height <= PAGE), possible[-1])
    figure = Drawing(figsize=(DOUBLE, heights[columns]))
    heat, share = LinearSegmentedColormap.from_list("heat", HEAT), Normalize(0, 1)
    shown = panels(figure, len(models), columns)
    for axes, model in zip(shown, models, strict=True):
        grid = rows[rows["model"] == model].pivot(index="expert", columns="task", values="frequency")
        own = rows[rows["model"] == model]
        grid = grid.loc[views.names(own, "expert"), views.names(own, "task")]
        values = grid.to_numpy(dtype=float)
        axes.imshow(values, cmap=heat, norm=share, aspect="auto")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        size = 5.5 if few else 5
        axes.set_yticks(range(len(grid)), list(grid.index), fontsize=size)
        axes.set_xticks(range(grid.shape[1]), list(grid.columns), rotation=90, fontsize=size)
        axes.tick_params(length=0, pad=1.5)
        expert_axis.bold_shared(axes)
        axes.set_title(titles[model], fontsize=6.5 if few else 5)
        for (row, column), value in np.ndenumerate(values) if few else ():
            colour = "white" if value >= DARK else "black"
            axes.text(
                column, row, f"{np.floor(100 * value + 0.5):.0f}", ha="center", va="center", fontsize=5, color=colour
            )
    bar = figure.colorbar(
        ScalarMappable(share, heat), ax=shown, orientation="horizontal", location="top", shrink=0.3, aspect=30, pad=0.01
    )
    bar.set_label("frequency in %" if few else "frequency", fontsize=6.5)
    bar.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """A heat map a model with numbers in percent; a mark beside the name tells the expert's kind."""
    rows = data["cells"]
    series = expert_axis.kinds(rows)
    cells = expert_axis.placed(page_style.marks("cells", series))
    y = alt.Y(
        "expert:N", sort=alt.EncodingSortField("expert_place", op="min"),
        axis=expert_axis.labels(title=None, minExtent=62, offset=14),
    )  # fmt: skip
    axis = alt.Axis(title=None, orient="top", labelAngle=-50, labelOverlap=False, ticks=False, labelPadding=5)
    x = alt.X("task:N", sort=views.names(rows, "task"), axis=axis)
    said = page_style.said(cells, ["frequency"]).transform_calculate(
        mui_said="format(100 * datum.expert_mui, '.1f') + ' %'"
    )
    tooltip = page_style.hover(
        expert="Expert", kind="Kind", task="Task",
        frequency_said="Frequency [95 % interval]", rank="Rank on the task", mui_said="Expert MUI",
        n_samples="Samples",
    )  # fmt: skip
    tiles = said.mark_rect(fill=page_style.CELL, stroke=page_style.LINE, strokeWidth=0.5).encode(
        x=x, y=y, fillOpacity=page_style.heat("frequency"), tooltip=tooltip,
    )  # fmt: skip
    numbers = said.mark_text(fontSize=9).encode(
        x=x, y=y, text=alt.Text("share:N"), tooltip=tooltip
    ).transform_calculate(share="format(100 * datum.frequency, '.0f')")  # fmt: skip
    once = cells.transform_aggregate(rows="count()", groupby=["expert", "kind", "expert_place"])
    beside = once.mark_point(opacity=1, size=26, tooltip=None).encode(
        x=alt.value(-8), y=y, shape=page_style.shaped(series), fill=page_style.coloured(series, alt.Fill),
        stroke=page_style.coloured(series, alt.Stroke),
    )  # fmt: skip
    high = 15 * int(rows.groupby("model")["expert"].nunique().max())
    specification = page_style.view(
        page_style.named(tiles), numbers, beside, series=series, zoomed=False, height=max(high, 60)
    )
    return Chart((specification,), series, panel="model", titles=_titles(rows))


def _titles(rows: pd.DataFrame) -> dict[str, str]:
    """Model, checkpoint and how many experts of each task are among the rows."""
    counts = rows.drop_duplicates("model").set_index("model")["places"]
    return {
        model: f"{title} (top {counts[model]})" if counts[model] < TOP else title
        for model, title in expert_axis.titles(rows).items()
    }


FIGURE = Figure(
    name="expert_tasks",
    title="Experts by task",
    caption="How often experts are active on each task at each model's last checkpoint ({experts}), in percent of the "
    "task's samples. Rows, in the model's order: the experts that are among the "
    f"{TOP} most frequent ones of any task; where these would be more than {MOST}, fewer of each task are taken, as "
    "the panel's heading says. All other experts are left out: on every task they rank below "
    "those that are shown because of it. A row that is full throughout is frequent whatever the task, one with a "
    "single full cell on that task alone. Shared experts have a square and a bold name; they see every token.",
    definition="An expert is active in a sample s of task T when at least one of its neurons is among the sample's key "
    "neurons K(s). Its frequency on the task is the share of the task's samples in which it is active.",
    formula=r"\mathrm{freq}_T(e) = \frac{|\{s \in T : K(s) \cap e \neq \emptyset\}|}{|T|}",
    alt="Heat maps, one panel a model, with experts as rows, tasks as columns, frequency as depth of colour and "
    "number.",
    tables=("expert_frequency",),
    table_titles={
        "cells": "Frequency of each expert on each task",
    },
    data=data,
    paper=paper,
    page=page,
    meanings={
        "rank": ("the expert's place on the task, 1 = most frequent; ties: higher expert_mui, then lower number", ""),
        "places": ("experts of the model are shown that are among so many most frequent ones of any task", "experts"),
    },
)
