"""The figures of experts, enrichment and masking, each drawn from tables alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moemui.report import views
from moemui.report.figure_style import (
    COLOURS,
    DOUBLE,
    GREY,
    HOLLOW,
    SINGLE,
    FigureSpec,
    band,
    checkpoint_ticks,
    legend,
    logarithmic,
    looks,
    panels,
    percent,
    styled,
)
from moemui.report.views import Choice, NothingToShow

Tables = Mapping[str, pd.DataFrame]
KINDS = {"routed": (COLOURS[0], "o"), "shared": (COLOURS[1], "s")}
# Light to dark in one hue, so that it reads in print without colour as well.
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7fbff", "#6baed6", "#08306b"])
SMALLEST_CELL = 6  # settings up to which a heat map's cells hold their numbers

LAYERS = FigureSpec(
    "layers",
    "MUI by layer",
    "MUI of the routed and of the shared experts of each layer ({curves}) at the last checkpoint, each over its own "
    "neurons and all samples of a task. Small marks: tasks; lines: their mean.",
    "Line charts, one panel a model, of MUI by layer, with a line for routed and one for shared experts.",
    ("expert_frequency",),
)
KEY_EXPERTS = FigureSpec(
    "key_experts",
    "Share of key experts",
    "KeyExpertProportion: experts active in at least {expert_threshold} of the samples, over all experts ({experts}), "
    "by checkpoint. Thin: the tasks; thick: their mean with its 95 % band (bootstrap over samples); hollow: the "
    "untrained checkpoint.",
    "Line charts, one panel a model, of the share of key experts over training checkpoints.",
    ("key_experts",),
)
TOP_EXPERTS = FigureSpec(
    "top_experts",
    "The ten most frequent experts",
    "The ten most frequent experts of each model's last checkpoint ({experts}). Bars: share of all tasks' samples in "
    "which the expert holds a key neuron; marks: expert MUI, the share of the expert's own neurons that are key, mean "
    "over tasks. L3-E5 is routed expert 5 of layer 3, L3-S1 its first shared one.",
    "Horizontal bar charts, one panel a model, of the ten most frequent experts, with their expert MUI as marks.",
    ("expert_frequency",),
)
ENRICHMENT = FigureSpec(
    "enrichment",
    "Are shared experts more often key?",
    "Odds ratio of being key, shared against routed experts ({experts}, η_expert = {expert_threshold}), with 0.5 added "
    "to each cell (Haldane–Anscombe) and its 95 % interval. Filled: last checkpoint; hollow: the same model untrained. "
    "Shared experts see every token, so a ratio above 1 alone shows no specialisation.",
    "Forest plot of odds ratios on a logarithmic axis by model and task set, last checkpoint beside the untrained one.",
    ("enrichment",),
)
MASKING = FigureSpec(
    "masking",
    "What masking costs",
    "Accuracy lost when the key neurons ({masking}) are set to zero, when as many random neurons of the same layers "
    "and experts are, and when random ones are that are switched on about as often (means over seeds), with 95 % "
    "intervals (over samples, for the controls over samples and seeds), at each model's last checkpoint.",
    "Dot plots, one panel a model, of the accuracy lost by masking key neurons and two random controls on each task.",
    ("masking_effect", "masking"),
)


@styled
def layers(tables: Tables, choice: Choice) -> Figure:
    """MUI by layer, routed and shared, at each model's last checkpoint. Table: expert_frequency."""
    rows = views.layers(tables["expert_frequency"], choice.curves)
    models = views.names(rows, "model")
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.4 + 2.0 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharey=True), models, strict=True):
        own = rows[rows["model"] == model]
        for kind, cells in own.groupby("kind", sort=False):
            colour, marker = KINDS[str(kind)]
            axes.plot(cells["layer"], cells["mui"], marker, color=colour, alpha=0.4, markersize=2)
            means = cells.groupby("layer")["mui"].mean()
            axes.plot(means.index, means, color=colour, marker=marker)
        numbers = sorted(own["layer"].unique())
        axes.set_xticks(numbers if len(numbers) <= 12 else numbers[:: -(-len(numbers) // 12)])
        axes.set(title=f"{model}, {own['checkpoint'].iloc[0]}", xlabel="layer", ylabel="MUI")
        percent(axes)
    figure.axes[0].set_ylim(bottom=0)  # after all panels are drawn, since they share the axis
    legend(figure, _kinds(rows), columns=2)
    return figure


@styled
def key_experts(tables: Tables, choice: Choice) -> Figure:
    """Key-expert proportion over checkpoints, a panel a model, a line a task and the mean. Table: key_experts."""
    rows = views.key_experts(tables["key_experts"], choice)
    models = views.names(rows, "model")
    look = looks(models, choice.families)
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.4 + 2.1 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharey=True), models, strict=True):
        own = rows[rows["model"] == model].sort_values("order")
        for _, line in own.groupby("task", sort=False):
            trained = line[~views.untrained(line)]
            axes.plot(trained["order"], trained["proportion"], color=GREY, linewidth=0.5, alpha=0.7)
        means = pd.DataFrame(
            [
                {
                    "order": order,
                    "tokens": cells["tokens"].iloc[0],
                    **dict(zip(("y", "y_low", "y_high"), views.mean_column(cells, "proportion"), strict=True)),
                }
                for order, cells in own.groupby("order")
            ]
        )
        band(axes, means, "order", "y", look[model])
        axes.set(title=model, ylabel="key experts")
        axes.set_xlabel(checkpoint_ticks(axes, own))
        percent(axes)
    figure.axes[0].set_ylim(bottom=0)  # after all panels are drawn, since they share the axis
    entries = {"mean over tasks": Line2D([], [], color="black"), "a task": Line2D([], [], color=GREY, linewidth=0.5)}
    legend(figure, entries | ({"untrained": HOLLOW} if views.untrained(rows).any() else {}), columns=3)
    return figure


@styled
def top_experts(tables: Tables, choice: Choice) -> Figure:
    """Frequency and expert MUI of the ten most frequent experts of each model. Table: expert_frequency."""
    rows = views.top_experts(tables["expert_frequency"], choice.experts)
    models = views.names(rows, "model")
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.4 + 2.1 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharex=True), models, strict=True):
        own = rows[rows["model"] == model]
        place = np.arange(len(own))
        colours = [KINDS[kind][0] for kind in own["kind"]]
        axes.barh(place, own["frequency"], color=colours, alpha=0.55, height=0.7)
        axes.plot(own["expert_mui"], place, "D", color="black", markersize=3)
        axes.set_yticks(place, list(own["expert"]))
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set(title=f"{model}, {own['checkpoint'].iloc[0]}", xlim=(0, 1.02))
        percent(axes, "x")
    bars = {
        f"frequency, {kind}": Line2D([], [], color=KINDS[kind][0], linewidth=5, alpha=0.55)
        for kind in KINDS
        if (rows["kind"] == kind).any()
    }
    legend(figure, bars | {"expert MUI": Line2D([], [], color="black", marker="D", linestyle="none")}, columns=3)
    return figure


@styled
def enrichment(tables: Tables, choice: Choice) -> Figure:
    """Odds ratios with intervals, last and untrained checkpoint. Table: enrichment.

    Raises NothingToShow where no row can be tested, for instance where no model has shared experts.
    """
    rows = views.enrichment(tables["enrichment"], choice).dropna(subset=["odds_ratio_corrected"])
    rows = rows[(rows["n_tasks"] == 1) | (rows["task_set"] == "all")]  # pairs are many, and are in the table
    if rows.empty:
        raise NothingToShow(
            "No model has shared and routed experts of which some are key and some are not, so there is no odds ratio."
        )
    models = views.names(rows, "model")
    look = looks(models, choice.families)
    labels = list(rows[["model", "task_set"]].drop_duplicates().itertuples(index=False, name=None))
    figure = Figure(figsize=(SINGLE, 0.9 + 0.2 * len(labels)))
    axes = figure.subplots()
    for row in rows.to_dict("records"):
        baseline, style = bool(row["is_baseline"]), look[row["model"]]
        value, low, high = (row[f"odds_ratio_corrected{end}"] for end in ("", "_low", "_high"))
        axes.errorbar(
            value, labels.index((row["model"], row["task_set"])) + (0.18 if baseline else -0.18),
            xerr=[[value - low], [high - value]], fmt=style.marker, elinewidth=0.8,
            color=GREY if baseline else style.colour, markerfacecolor="white" if baseline else style.colour,
        )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.7)
    logarithmic(axes)
    texts = [task_set if len(models) == 1 else f"{model} {task_set}" for model, task_set in labels]
    axes.set_yticks(range(len(labels)), texts)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("odds ratio, shared against routed")
    last = Line2D([], [], color="black", marker="o", linestyle="none")
    legend(figure, {"last checkpoint": last, "untrained": HOLLOW}, columns=2)
    return figure


@styled
def masking(tables: Tables, choice: Choice) -> Figure:
    """Accuracy lost under key and random masking, by task, a panel a model. Table: masking_effect."""
    every = views.at(tables["masking_effect"], choice.masking, "masking_effect").dropna(subset=["loss_key"])
    if every.empty:
        raise NothingToShow("Masking was measured on no task that is graded.")
    by_control = {control: every[every["control"] == control] for control in ("expert", "frequency")}
    models, tasks = views.names(every, "model"), views.names(every, "task")
    columns = min(3, max(2, len(models)))
    figure = Figure(figsize=(DOUBLE, 0.5 + (0.5 + 0.2 * len(tasks)) * -(-len(models) // columns)))
    conditions = (
        ("key", "expert", COLOURS[1], "s", -0.24, "key neurons"),
        ("random", "expert", GREY, "o", 0.0, "random neurons of the same experts"),
        ("random", "frequency", COLOURS[0], "D", 0.24, "the same, switched on about as often"),
    )
    for axes, model in zip(panels(figure, len(models), columns, sharey=True, sharex=True), models, strict=True):
        for name, control, colour, marker, shift, _ in conditions:
            own = by_control[control][by_control[control]["model"] == model]
            place = np.array([tasks.index(task) for task in own["task"]])
            value, low, high = (own[f"loss_{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
            axes.errorbar(
                value, place + shift, xerr=np.maximum([value - low, high - value], 0), fmt=marker, color=colour,
                elinewidth=0.8,
            )  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.7)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        checkpoint = every.loc[every["model"] == model, "checkpoint"].iloc[0]
        axes.set(title=f"{model}, {checkpoint}", xlabel="accuracy lost")
        percent(axes, "x")
    entries = {
        label: Line2D([], [], color=colour, marker=marker, linestyle="none")
        for _, _, colour, marker, _, label in conditions
    }
    legend(figure, entries, columns=3)
    return figure


def _kinds(rows: pd.DataFrame) -> dict[str, Line2D]:
    return {
        kind: Line2D([], [], color=colour, marker=marker)
        for kind, (colour, marker) in KINDS.items()
        if (rows["kind"] == kind).any()
    }
