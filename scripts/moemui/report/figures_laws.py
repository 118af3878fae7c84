"""The figures of the laws: performance against MUI over models, incidence against rank over neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from moemui.laws import laws
from moemui.laws.published import load
from moemui.report import views
from moemui.report.figure_style import (
    COLOURS,
    DASHES,
    DOUBLE,
    GREY,
    FigureSpec,
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
FORMS: dict[str, Any] = {"linear": "-", "logarithmic": (0, (4, 1.5))}
NAMED_LEFT = ("DeepSeek-Coder-V2", "DeepSeek-V2-Lite")  # where a name to the right would meet another
TASKS_NAMED = 10  # tasks up to which each line of a panel has a colour of its own

UTILITY_LAW = FigureSpec(
    "utility_law",
    "Performance against MUI: is there a law?",
    "Left: mean accuracy over tasks against MUI ({curves}) of this study, the trained checkpoints small, the last one "
    "of each model large. Right, apart from it: the figures that the paper prints for eight other models and for OLMoE "
    "in training, measured with other samples and tasks. Lines: least squares, solid linear, dashed logarithmic, with "
    "the linear fit's 95 % band of the mean; over models black, over the checkpoints of one model in its colour. Four "
    "points are needed, and checkpoints of one model are no independent points.",
    "Two scatter plots of accuracy against MUI with fitted lines and bands: this study, and the paper's figures.",
    ("performance", "utilization", "utility_law", "utility_curve"),
)
DECAY = FigureSpec(
    "utilization_decay",
    "Decay of utilization",
    "Incidence of neurons ({curves}): the share of samples in which a neuron is key, against its rank, on logarithmic "
    "axes, at the last checkpoint of each model. Coloured: tasks; black: all tasks together; grey: all tasks together "
    "at the untrained checkpoint. Dashed: the power law fitted to the tail of all tasks together, with its exponent α "
    "and the laws that none beats at p < 0.05.",
    "Log-log line charts, one panel a model, of neuron incidence falling with rank, with a fitted power law.",
    ("decay", "decay_curve"),
)


@styled
def utility_law(tables: Tables, choice: Choice) -> Figure:
    """Accuracy against MUI with fits, the study's and the paper's side by side. Tables: performance, utilization,
    utility_law, utility_curve. Raises NothingToShow where the study has no point.
    """
    cells = laws.cells(utilization=tables["utilization"], performance=tables["performance"], setting=choice.curves)
    own = [laws.means(cells=group) for _, group in cells[cells["tokens"] != 0].groupby("model", sort=False)]
    own = [points for points in own if len(points)]
    if not own:
        raise NothingToShow(
            "No trained checkpoint has a task with both an accuracy and a MUI, so there is no law to fit."
        )
    look = looks([str(points["model"].iloc[0]) for points in own], choice.families)
    figure = Figure(figsize=(DOUBLE, 3.0))
    left, right = figure.subplots(1, 2)
    curves = tables["utility_curve"]
    curves = curves[(curves["task"] == MEAN)]
    for points in own:
        style = look[str(points["model"].iloc[0])]
        left.plot(points["mui"], points["accuracy"], style.marker, color=style.colour, markersize=2.5, alpha=0.6)
        ends = points.sort_values("order").tail(1)
        left.plot(ends["mui"], ends["accuracy"], style.marker, color=style.colour, markersize=5.5)
        _fits(left, curves, "checkpoints", str(points["model"].iloc[0]), style.colour)
    _fits(left, curves, "models", "", "black")
    left.set_title("this study", loc="left")
    _published(right, curves)
    for axes in (left, right):
        axes.set(xlabel="MUI", ylabel="accuracy")
        percent(axes, "xy")
    entries = {model: mark(style) for model, style in look.items()}
    entries |= {form: Line2D([], [], color="black", linestyle=dash) for form, dash in FORMS.items()}
    legend(figure, entries, columns=6)
    return figure


def _fits(axes: Axes, curves: pd.DataFrame, scope: str, model: str, colour: str) -> None:
    """The fitted lines of one group of points, with the linear one's band, cut off at accuracies that can't be."""
    rows = curves[(curves["scope"] == scope) & (curves["model"] == model)]
    for form, line in rows.groupby("form", sort=False):
        axes.plot(line["mui"], line["performance"], color=colour, linestyle=FORMS[str(form)], linewidth=0.9)
        if form == "linear":
            low, high = line["performance_low"].clip(0, 1), line["performance_high"].clip(0, 1)
            axes.fill_between(line["mui"], low, high, color=colour, alpha=0.08, linewidth=0)


def _published(axes: Axes, curves: pd.DataFrame) -> None:
    """The paper's printed figures: models named, the checkpoints of a trajectory joined."""
    table = load()
    table = table[(table["task"] == MEAN) & table["metric"].isin(["mui_percent", "performance_percent"])]
    places = {"mui_performance": ("black", "D", "models"), "trajectory": (GREY, "o", "checkpoints")}
    for figure, (colour, marker, _) in places.items():
        wide = table[table["figure"] == figure].pivot(index="model", columns="metric", values="value") / 100
        mui, accuracy = wide["mui_percent"], wide["performance_percent"]
        axes.plot(mui, accuracy, marker, color=colour, markerfacecolor="white", markersize=3.5)
        if figure == "mui_performance":
            for name, x, y in zip(wide.index, mui, accuracy, strict=True):
                left = str(name) in NAMED_LEFT
                axes.annotate(
                    str(name), (x, y), (-3.5 if left else 3.5, 2.5), textcoords="offset points", fontsize=5,
                    ha="right" if left else "left",
                )  # fmt: skip
            axes.set_xlim(right=float(mui.max()) + 0.1)  # room for a name
        else:
            first = wide.index[0]
            axes.annotate(
                str(first).rsplit("-", 1)[0] + " in training", (mui[first], accuracy[first]), (0, -7),
                textcoords="offset points", fontsize=5, ha="center", color=colour,
            )  # fmt: skip
    _fits(axes, curves, "published", "", "black")
    for model in curves.loc[(curves["scope"] == "published") & (curves["model"] != ""), "model"].unique():
        _fits(axes, curves, "published", str(model), GREY)
    axes.set_title("the paper's printed figures (other models)", loc="left")


@styled
def utilization_decay(tables: Tables, choice: Choice) -> Figure:
    """Rank–frequency of neuron incidence with the fitted power law, a panel a model. Tables: decay, decay_curve."""
    rows = views.at(tables["decay_curve"], choice.curves, "decay_curve")
    ends = views.last(rows)
    models = views.names(ends, "model")
    tasks = [task for task in views.names(ends, "task") if task != "all"]
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.6 + 2.5 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharex=True, sharey=True), models, strict=True):
        own = ends[ends["model"] == model]
        for task, curve in own[own["task"] != "all"].groupby("task", sort=False):
            colour, dash = _task_look(tasks.index(str(task)), len(tasks))
            axes.plot(curve["rank"], curve["incidence"], color=colour, linestyle=dash, linewidth=0.7)
        start = rows[(rows["model"] == model) & (rows["task"] == "all") & views.untrained(rows)]
        axes.plot(start["rank"], start["incidence"], color=GREY, linewidth=1.2)
        together = own[own["task"] == "all"]
        axes.plot(together["rank"], together["incidence"], color="black", linewidth=1.2)
        axes.plot(together["rank"], together["fitted"], color="black", linestyle="--", linewidth=0.9)
        axes.set(title=f"{model}, {own['checkpoint'].iloc[0]}", xlabel="rank of the neuron", ylabel="share of samples")
        logarithmic(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.text(0.03, 0.04, _law(tables["decay"], own, choice), transform=axes.transAxes, fontsize=6)
    entries = {}
    if len(tasks) <= TASKS_NAMED:
        looked = {task: _task_look(i, len(tasks)) for i, task in enumerate(tasks)}
        entries = {task: Line2D([], [], color=colour, linestyle=dash) for task, (colour, dash) in looked.items()}
    entries["all tasks"] = Line2D([], [], color="black")
    if views.untrained(rows).any():
        entries["all tasks, untrained"] = Line2D([], [], color=GREY)
    entries["power law"] = Line2D([], [], color="black", linestyle="--")
    legend(figure, entries, columns=6)
    return figure


def _task_look(number: int, tasks: int) -> tuple[str, Any]:
    """Colour and dash of a task's line; all alike where there are too many to name."""
    if tasks > TASKS_NAMED:
        return COLOURS[0], "-"
    colours = COLOURS[:-1]  # black stands for all tasks
    return colours[number % len(colours)], DASHES[number // len(colours) % len(DASHES)]


def _law(decay: pd.DataFrame, own: pd.DataFrame, choice: Choice) -> str:
    """The fit to all tasks of the shown checkpoint, in words."""
    rows = views.at(decay, choice.curves, "decay")
    cell = own.iloc[0]
    found = rows[
        (rows["model"] == cell["model"]) & (rows["checkpoint"] == cell["checkpoint"]) & (rows["task"] == "all")
    ]
    if found.empty or np.isnan(found["alpha"].iloc[0]):
        return "no power law fitted" if found.empty else f"no power law fitted: {found['note'].iloc[0]}"
    row = found.iloc[0]
    return f"α = {row['alpha']:.2f} [{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]\nbest: {row['best']}"
