"""MUI against performance: does the stronger model need fewer neurons?"""

from __future__ import annotations

import altair as alt
import numpy as np
from matplotlib.figure import Figure as Drawing

from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import looks
from moemui.report.figures.paper_style import SINGLE, model_legend, percent, styled
from moemui.report.views import MEAN, Choice, NothingToShow

ESTIMATES = [f"{name}{end}" for name in ("mui", "accuracy") for end in ("", "_low", "_high")]


def data(tables: Tables, choice: Choice) -> Data:
    """Mean over tasks of every checkpoint, and the tasks of each model's last one, where both values are there.

    Raises NothingToShow where no cell has both.
    """
    cells = views.trajectory(tables, choice, both=True)
    last = cells["order"] == cells.groupby("model", sort=False)["order"].transform("max")
    cells = cells.dropna(subset=list(views.MEASURED))
    rows = cells[(cells["task"] == MEAN) | last[cells.index]]
    if rows.empty:
        raise NothingToShow(
            "No task has both an accuracy and a MUI at the common number of samples, at the last checkpoint or all."
        )
    identity = ["model", "checkpoint", "order", "tokens", "task"]
    columns = [*identity, *ESTIMATES, "common_m", "n_samples", "n_graded", "n_tasks"]
    return {"points": rows.assign(n_tasks=rows["n_mui"])[columns].reset_index(drop=True)}


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """One panel: large marks the means with their intervals, small ones the tasks of the last checkpoint."""
    cells = data["points"]
    look = looks(views.names(cells, "model"), choice.families)
    figure = Drawing(figsize=(SINGLE, 2.7 + 0.14 * -(-len(look) // 3)))  # the legend has three entries a line
    axes = figure.subplots()
    for model, rows in cells.groupby("model", sort=False):
        style = look[str(model)]
        single = rows[rows["task"] != MEAN]
        axes.plot(single["mui"], single["accuracy"], style.marker, color=style.colour, alpha=0.45, markersize=2)
        means = rows[rows["task"] == MEAN].sort_values("order")
        joined = means[~views.untrained(means)]
        axes.plot(joined["mui"], joined["accuracy"], color=style.colour, linewidth=0.7, linestyle=style.dash, alpha=0.7)
        for hollow, marks in means.groupby(views.untrained(means)):
            errors = [
                np.abs([marks[name] - marks[f"{name}_low"], marks[f"{name}_high"] - marks[name]])
                for name in ("mui", "accuracy")
            ]
            axes.errorbar(
                marks["mui"], marks["accuracy"], xerr=errors[0], yerr=errors[1], fmt=style.marker, color=style.colour,
                markerfacecolor="white" if hollow else style.colour, elinewidth=0.6, markersize=4.5, zorder=3,
            )  # fmt: skip
    axes.set(xlabel="MUI", ylabel="accuracy")
    percent(axes, "xy")
    model_legend(figure, cells, look)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The same; every mark tells its cell, both values with their intervals, and the numbers of samples."""
    cells = data["points"]
    series = Series("model", looks(views.names(cells, "model"), choice.families))
    mean = f"datum.task === '{MEAN}'"
    rows = page_style.marks("points", series)
    x = page_style.x(
        "mui", "MUI", share=True, domain=page_style.spanned(cells["mui"], cells["mui_low"], cells["mui_high"])
    )
    y = page_style.y("accuracy", "Accuracy", share=True, domain=page_style.SHARE)
    means = rows.transform_filter(mean).encode(color=page_style.coloured(series))
    joined = means.transform_filter("datum.tokens !== 0").mark_line(opacity=0.6)
    marks = page_style.said(rows, views.MEASURED).mark_point(opacity=1)
    specification = page_style.view(
        joined.encode(x=x, y=y, order="order:Q", strokeDash=page_style.dashed(series)),
        means.mark_rule().encode(x=alt.X("mui_low:Q"), x2="mui_high:Q", y=y),
        means.mark_rule().encode(x=x, y=alt.Y("accuracy_low:Q"), y2="accuracy_high:Q"),
        page_style.named(
            marks.encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), fill=page_style.hollow(series),
                shape=page_style.shaped(series), size=alt.condition(mean, alt.value(90), alt.value(20)),
                tooltip=page_style.hover(
                    model="Model", checkpoint="Checkpoint", task="Task", mui_said="MUI [95 % interval]",
                    accuracy_said="Accuracy [95 % interval]", common_m="MUI of samples", n_samples="Samples",
                    n_graded="Graded samples",
                ),
            )
        ),
        series=series,
        height=360,
    )  # fmt: skip
    return Chart((specification,), series, wide=True)


FIGURE = Figure(
    name="mui_performance",
    title="MUI against performance",
    caption="Accuracy against MUI ({curves}, at the common number of samples) of the tasks that have both. Large "
    "marks: mean over the tasks that have both at every checkpoint, with 95 % intervals, joined in training order; "
    "hollow: the untrained checkpoint, whose MUI is an artefact of initialisation. Small marks: the tasks at the last "
    "checkpoint. Models of one family share a colour.",
    definition="MUI of a task is the share of the model's neurons that are key in at least one of its samples. It "
    "grows with the number of samples, so it is given at one number m of samples for all, by exact rarefaction: q_u "
    "is the number of the n samples in which neuron u is key, M_l the neurons of layer l.",
    formula=r"\mathrm{MUI}(m) = \frac{1}{\sum_l M_l} \sum_u \left[ 1 - \binom{n - q_u}{m} \Big/ \binom{n}{m} \right]",
    alt="Scatter plot with MUI on the horizontal and accuracy on the vertical axis, one line of checkpoints a model.",
    tables=("utilization", "performance"),
    table_titles={
        "points": "Accuracy and MUI of each checkpoint's mean over tasks, and of each task at the last checkpoint",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("mui", "MUI to expect of common_m of the samples; of a mean, the mean over its tasks")
    | {
        "common_m": ("number of samples m at which MUI is given", "samples"),
        "n_tasks": ("tasks that the mean is over; of a single task 1 where it is one of them, else 0", "tasks"),
    },
)
