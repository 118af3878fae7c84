"""Accuracy and MUI over training, and the phases that their changes make."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from moemui.mui.dynamics import FLAT, PHASES
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, GREY, Look, looks
from moemui.report.figures.paper_style import DOUBLE, PAGE, band, checkpoint_ticks, model_legend, percent, styled
from moemui.report.views import MEAN, Choice, NothingToShow

PHASE_LOOKS = {
    "Accumulating": Look(COLOURS[0]),
    "Evolving": Look(COLOURS[2]),
    "Coarsening": Look(COLOURS[4]),
    "Collapsing": Look(COLOURS[1]),
    FLAT: Look(GREY),
}
LETTERS = dict(zip(PHASE_LOOKS, "AECXF", strict=True))
EXTENT = (80, 150)  # pixels, at least and at most, beside the views, in which the names of models stand
NARROW = "windowSize()[0] < 600"  # on a phone, where the strip has but the least of them
CHANGES = ["d_accuracy", "d_mui"]


def data(tables: Tables, choice: Choice) -> Data:
    """Accuracy and MUI of every model × checkpoint × task and of the mean over tasks; each step's phase.

    Raises NothingToShow where no model has two checkpoints.
    """
    cells = views.trajectory(tables, choice).dropna(subset=list(views.MEASURED), how="all")
    if cells.empty:
        raise NothingToShow("No task has an accuracy or a MUI at the common number of samples.")
    if cells.groupby("model")["checkpoint"].nunique().max() < 2:
        raise NothingToShow("No model has two checkpoints, so there is no trajectory.")
    cells = cells.sort_values("task", key=lambda tasks: tasks != MEAN, kind="stable")  # the mean first, as it counts
    shown: dict[str, pd.DataFrame] = {}
    for name in views.MEASURED:
        own = cells.dropna(subset=[name])
        own = own.assign(n_tasks=own[f"n_{name}"])
        columns = ["model", "checkpoint", "order", "tokens", "task", name, f"{name}_low", f"{name}_high"]
        shown[name] = own[[*columns, *(["common_m"] if name == "mui" else []), views.SAMPLES[name], "n_tasks"]]
    phases = tables["phases"]
    phases = views.at(phases, choice.curves, "phases") if len(phases) else phases
    phases = phases[phases["phase"] != ""]
    estimates = [f"{name}{end}" for name in CHANGES for end in ("", "_low", "_high")]
    steps = ["model", "task", *(f"{end}_{name}" for name in ("checkpoint", "order") for end in ("from", "to")), "phase"]
    steps += [*estimates, "n_samples"]
    return {name: rows.reset_index(drop=True) for name, rows in (shown | {"phases": phases[steps]}).items()}


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """For the mean and every task: accuracy, MUI, and a strip with the phase of each step, a row a model."""
    cells = pd.concat([data["accuracy"], data["mui"]])
    models, tasks = views.names(cells, "model"), views.names(cells, "task")
    look = looks(models, choice.families)
    strip = 0.1 + 0.11 * len(models)
    heights = {columns: 0.5 + (2.2 + strip) * -(-len(tasks) // columns) for columns in (3, 4)}
    columns = min(3 if heights[3] <= PAGE else 4, len(tasks))
    blocks = -(-len(tasks) // columns)
    figure = Drawing(figsize=(DOUBLE, 0.5 + (2.2 + strip) * blocks))
    grid = figure.subplots(
        3 * blocks, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [1, 1, strip] * blocks}
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    for place, task in enumerate(tasks):
        block, column = divmod(place, columns)
        panels = [grid[3 * block + row, column] for row in range(3)]
        for axes, name in zip(panels, views.MEASURED, strict=False):
            axes.set_visible(True)
            percent(axes)
            own = data[name][data[name]["task"] == task]
            if own.empty:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GREY)
            for model, rows in own.groupby("model", sort=False):
                band(axes, rows.sort_values("order"), "order", name, look[str(model)])
            if column == 0:
                axes.set_ylabel("accuracy" if name == "accuracy" else "MUI")
        _strip(panels[2], data["phases"][data["phases"]["task"] == task], look)
        panels[0].set_title(
            "mean over tasks" if task == MEAN else task, fontweight="bold" if task == MEAN else "normal"
        )
        panels[2].tick_params(labelbottom=True)
        panels[2].set_xlabel(checkpoint_ticks(panels[2], cells))
    model_legend(figure, cells, look)
    return figure


def _strip(axes: Axes, steps: pd.DataFrame, look: dict[str, Look]) -> None:
    """The phase of each step with its letter, a row a model, with its mark of the legend before it."""
    axes.set_visible(True)
    axes.grid(False)
    axes.set_yticks([])
    models = list(look)
    axes.set_ylim(len(models) - 0.5, -0.5)
    for row, style in enumerate(look.values()):
        axes.plot(
            -0.05, row, style.marker, color=style.colour, markersize=2.8, clip_on=False,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    rows, starts = steps["model"].map(models.index), steps["from_order"]
    widths, colours = steps["to_order"] - starts, [PHASE_LOOKS[phase].colour for phase in steps["phase"]]
    axes.barh(rows, widths, left=starts, height=0.9, color=colours, alpha=0.35)
    for x, row, phase in zip(starts + widths / 2, rows, steps["phase"], strict=True):
        axes.text(x, row, LETTERS[phase], ha="center", va="center", fontsize=5)


def page(data: Data, choice: Choice) -> Chart:
    """A panel for the mean and every task: accuracy, MUI, and the strip of phases below them."""
    cells = pd.concat([data["accuracy"], data["mui"]])
    series = Series("model", looks(views.names(cells, "model"), choice.families))
    domains = {
        "accuracy": page_style.SHARE,
        "mui": page_style.spanned(*(data["mui"][f"mui{end}"] for end in ("", "_high")), at=[0]),
    }
    titles = {"accuracy": "Accuracy", "mui": "MUI"}
    wide = int(np.clip(10 + 6.5 * max(map(len, series.looks)), *EXTENT))
    extent = alt.expr(f"{NARROW} ? {EXTENT[0]} : {wide}")
    # Vega puts a title beyond the least extent, which would move the view away from the strip's
    place: dict[str, Any] = {"minExtent": extent, "titleX": alt.expr(f"18 - ({extent.expr})")}
    named = {"accuracy": False, "mui": data["phases"].empty}  # checkpoints are named below the lowest view
    specifications = [
        page_style.view(
            *page_style.trajectory(
                name,
                titles[name],
                page_style.checkpoint_x(cells, labels=named[name]),
                series,
                domain=domains[name],
                samples=views.SAMPLES[name],
                **place,
            ),
            series=series,
            height=150,
            zoom_encodings=["y"],
        )
        for name in views.MEASURED
    ]
    if len(data["phases"]):
        specifications.append(_phases(series, cells, extent))
    names = {MEAN: "mean over tasks"}
    return Chart(tuple(specifications), series, panel="task", titles=names)


def _phases(series: Series, cells: pd.DataFrame, extent: alt.ExprRef) -> dict:
    base = page_style.marks("phases", series).transform_calculate(
        letter=f"{LETTERS!r}[datum.phase]", middle="(datum.from_order + datum.to_order) / 2"
    )
    base = page_style.said(base, CHANGES, points=True)
    scale = alt.Scale(domain=list(PHASE_LOOKS), range=[page_style.colour(look) for look in PHASE_LOOKS.values()])
    # no wider than the views above, less the room between a name and its row
    axis = alt.Axis(title=None, ticks=False, labelLimit=alt.expr(f"{extent.expr} - 6"), minExtent=extent)
    rows = alt.Y("model:N", sort=list(series.looks), axis=axis)
    x = page_style.checkpoint_x(cells, field="from_order")
    steps = base.mark_bar(opacity=0.45, stroke=page_style.CARD).encode(
        x=x, x2="to_order", y=rows, color=alt.Color("phase:N", scale=scale, legend=None),
        tooltip=page_style.hover(
            model="Model", from_checkpoint="From", to_checkpoint="To", phase="Phase",
            d_accuracy_said="Change of accuracy [95 % interval]", d_mui_said="Change of MUI [95 % interval]",
            n_samples="Samples",
        ),
    )  # fmt: skip
    letters = base.mark_text(fontSize=10, tooltip=None).encode(x=alt.X("middle:Q"), y=rows, text="letter:N")
    height = 15 * max(2, len(series.looks))
    return page_style.view(page_style.named(steps), letters, series=series, zoomed=False, height=height)


FIGURE = Figure(
    name="trajectories",
    title="Accuracy and MUI over training",
    caption="Accuracy and MUI ({curves}) over the checkpoints in training order, for the mean over tasks and every "
    "task. Each mean is over the tasks that have the value at every checkpoint. Bands: 95 % intervals (accuracy: "
    "Wilson; MUI at the common number of samples: jackknife over samples, which holds up to half of a task's "
    "samples). Hollow: the untrained checkpoint, whose MUI is an artefact of initialisation; the step that leaves it "
    "has no phase. Strip: the phase of each step, a row a model (on paper with its mark of the legend), A "
    "Accumulating, E Evolving, C Coarsening, X Collapsing, F Flat (nothing is shown).",
    definition="The phase of a step from one checkpoint to the next, by the signs of both changes: accuracy up and "
    "MUI up Accumulating, accuracy up and MUI down Evolving, accuracy down and MUI up Coarsening, both down "
    "Collapsing; Flat where the 95 % interval of either change contains 0.",
    formula=r"\left(\operatorname{sgn} \Delta\mathrm{accuracy},\ \operatorname{sgn} \Delta\mathrm{MUI}(m)\right)",
    alt="A panel for the mean and for each task: accuracy above MUI over training checkpoints, with bands, and a "
    "strip of phases below them.",
    tables=("utilization", "performance", "phases"),
    table_titles={
        "accuracy": "Accuracy of each model, checkpoint and task",
        "mui": "MUI of each model, checkpoint and task",
        "phases": "Phase of each step from one checkpoint to the next",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("mui", "MUI to expect of common_m of the samples; of the mean, the mean over its tasks")
    | {
        "task": ("the task, or `mean` over tasks", ""),
        "n_tasks": ("tasks that the mean is over; of a single task 1 where it is one of them, else 0", "tasks"),
    },
)
assert set(PHASES.values()) | {FLAT} == set(PHASE_LOOKS)
