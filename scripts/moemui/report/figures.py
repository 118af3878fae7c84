"""The figures of MUI and performance, and the list of all figures. Each is drawn from tables alone.

A figure without rows raises NothingToShow; `draw_all` leaves it out and keeps the reason for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moemui.report import figures_diversity, figures_experts, figures_laws, figures_sensitivity, views
from moemui.report.figure_style import (
    COLOURS,
    DASHES,
    DOUBLE,
    GREY,
    HOLLOW,
    SINGLE,
    FigureSpec,
    Look,
    band,
    checkpoint_ticks,
    legend,
    logarithmic,
    looks,
    mark,
    panels,
    percent,
    styled,
)
from moemui.report.views import MEAN, Choice, NothingToShow

Tables = Mapping[str, pd.DataFrame]

MUI_PERFORMANCE = FigureSpec(
    "mui_performance",
    "MUI against performance",
    "Accuracy against MUI ({curves}, at the common number of samples) of the tasks that have both. Large marks: mean "
    "over the tasks that have both at every checkpoint, with 95 % intervals, joined in training order; hollow: the "
    "untrained checkpoint, whose MUI is an artefact of initialisation. Small marks: the tasks at the last checkpoint. "
    "Models of one family share a colour.",
    "Scatter plot with MUI on the horizontal and accuracy on the vertical axis, one line of checkpoints a model.",
    ("performance", "utilization"),
)
TRAJECTORIES = FigureSpec(
    "trajectories",
    "Accuracy and MUI over training",
    "Accuracy (upper panel of each pair) and MUI ({curves}, lower panel) over the checkpoints in training order, for "
    "the mean over tasks and every task. Each mean is over the tasks that have the value at every checkpoint. Bands: "
    "95 % intervals (accuracy: Wilson; MUI at the common number of samples: jackknife over samples, which holds up to "
    "half of a task's samples). Hollow: the untrained checkpoint, whose MUI is an artefact of initialisation.",
    "Pairs of line charts, accuracy above MUI, over training checkpoints: first the mean over tasks, then each task.",
    ("performance", "utilization", "phases"),
)
SATURATION = FigureSpec(
    "saturation",
    "Saturation of MUI",
    "Expected MUI of m samples ({curves}) at the last checkpoint of each model, by exact rarefaction, with 95 % bands "
    "(Colwell et al. 2012). A curve that still rises at its right end would grow with more samples. Logarithmic m.",
    "Line charts, one panel a model, of MUI rising with the number of samples, one line a task.",
    ("saturation",),
)


@styled
def mui_performance(tables: Tables, choice: Choice) -> Figure:
    """Accuracy against MUI, a mark for each model × checkpoint (mean over tasks). Tables: performance, utilization.

    Raises NothingToShow where no cell has both values.
    """
    cells = views.trajectory(tables, choice, both=True).dropna(subset=list(views.MEASURED))
    if cells.empty:
        raise NothingToShow("No task has both an accuracy and a MUI at the common number of samples.")
    look = looks(views.names(cells, "model"), choice.families)
    figure = Figure(figsize=(SINGLE, 2.7 + 0.14 * -(-len(look) // 3)))  # the legend has three entries a line
    axes = figure.subplots()
    for model, rows in cells.groupby("model", sort=False):
        style = look[str(model)]
        single = views.last(rows[rows["task"] != MEAN])
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
    _model_legend(figure, cells, look)
    return figure


@styled
def trajectories(tables: Tables, choice: Choice) -> Figure:
    """Accuracy and MUI over checkpoints, a pair of panels for the mean and each task. Tables: performance, utilization.

    Raises NothingToShow where no model has two checkpoints.
    """
    cells = views.trajectory(tables, choice).dropna(subset=list(views.MEASURED), how="all")
    if cells.empty:
        raise NothingToShow("No task has an accuracy or a MUI at the common number of samples.")
    if cells.groupby("model")["checkpoint"].nunique().max() < 2:
        raise NothingToShow("No model has two checkpoints, so there is no trajectory.")
    look = looks(views.names(cells, "model"), choice.families)
    tasks = views.names(cells, "task")
    shown = sorted(tasks, key=lambda task: task != MEAN)  # the mean first, the others as they come
    columns = min(3, len(shown))
    blocks = -(-len(shown) // columns)
    figure = Figure(figsize=(DOUBLE, 0.5 + 2.2 * blocks))
    grid = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
    for axes in grid.ravel():
        axes.set_visible(False)
    for place, task in enumerate(shown):
        block, column = divmod(place, columns)
        pair = (grid[2 * block, column], grid[2 * block + 1, column])
        for axes, name in zip(pair, ("accuracy", "mui"), strict=True):
            axes.set_visible(True)
            percent(axes)
            own = cells[(cells["task"] == task) & cells[name].notna()]
            if own.empty:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GREY)
            for model, rows in own.groupby("model", sort=False):
                band(axes, rows.sort_values("order"), "order", name, look[str(model)])
            if column == 0:
                axes.set_ylabel("accuracy" if name == "accuracy" else "MUI")
        pair[0].set_title("mean over tasks" if task == MEAN else task, fontweight="bold" if task == MEAN else "normal")
        pair[1].tick_params(labelbottom=True)
        pair[1].set_xlabel(checkpoint_ticks(pair[1], cells))
    _model_legend(figure, cells, look)
    return figure


@styled
def saturation(tables: Tables, choice: Choice) -> Figure:
    """MUI(m) with bands at each model's last checkpoint, a line a task. Table: saturation."""
    rows = views.last(views.at(tables["saturation"], choice.curves, "saturation"))
    models, tasks = views.names(rows, "model"), views.names(rows, "task")
    look = {
        task: Look(COLOURS[i % len(COLOURS)], "", DASHES[i // len(COLOURS) % len(DASHES)])
        for i, task in enumerate(tasks)
    }
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.5 + 2.1 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharex=True), models, strict=True):
        own = rows[rows["model"] == model]
        for task, curve in own.groupby("task", sort=False):
            band(axes, curve.sort_values("m").assign(tokens=np.nan), "m", "mui", look[str(task)], "low", "high")
        logarithmic(axes)
        axes.set(title=f"{model}, {own['checkpoint'].iloc[0]}", xlabel="samples m", ylabel="MUI")
        percent(axes)
    legend(figure, {task: mark(style) for task, style in look.items()}, columns=8)
    return figure


def _model_legend(figure: Figure, cells: pd.DataFrame, look: Mapping[str, Look]) -> None:
    entries: dict[str, Line2D] = {model: mark(style) for model, style in look.items()}
    if views.untrained(cells).any():
        entries["untrained"] = HOLLOW
    legend(figure, entries, columns=3 if figure.get_figwidth() <= SINGLE else 6)


FIGURES: dict[str, tuple[FigureSpec, Callable[[Tables, Choice], Figure]]] = {
    spec.name: (spec, draw)
    for spec, draw in (
        (MUI_PERFORMANCE, mui_performance),
        (TRAJECTORIES, trajectories),
        (SATURATION, saturation),
        (figures_experts.LAYERS, figures_experts.layers),
        (figures_experts.KEY_EXPERTS, figures_experts.key_experts),
        (figures_experts.TOP_EXPERTS, figures_experts.top_experts),
        (figures_experts.ENRICHMENT, figures_experts.enrichment),
        (figures_sensitivity.SETTINGS, figures_sensitivity.settings),
        (figures_experts.MASKING, figures_experts.masking),
        (figures_diversity.DIVERSITY, figures_diversity.diversity),
        (figures_laws.UTILITY_LAW, figures_laws.utility_law),
        (figures_laws.DECAY, figures_laws.utilization_decay),
    )
}


def draw_all(tables: Tables, choice: Choice) -> tuple[dict[str, Figure], dict[str, str]]:
    """All figures that the tables have rows for, by name, and for the others the sentence that says why not."""
    drawn, left_out = {}, {}
    for name, (_, draw) in FIGURES.items():
        try:
            drawn[name] = draw(tables, choice)
        except NothingToShow as reason:
            left_out[name] = str(reason)
    return drawn, left_out
