"""Share of key experts over training: does the work concentrate on few experts?"""

from __future__ import annotations

import altair as alt
import pandas as pd
from matplotlib.figure import Figure as Drawing

from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, Look, task_looks
from moemui.report.figures.paper_style import (
    DOUBLE,
    HOLLOW,
    band,
    checkpoint_ticks,
    legend,
    mark,
    model_columns,
    name_axes,
    panels,
    percent,
    styled,
)
from moemui.report.views import MEAN, Choice

ESTIMATE = ["proportion", "proportion_low", "proportion_high"]
PLACE = ["model", "checkpoint", "order", "tokens"]
LABEL = "mean over tasks"


def data(tables: Tables, choice: Choice) -> Data:
    """KeyExpertProportion of every checkpoint: the mean over its tasks, and each task.

    Raises NothingToShow where the table has no rows at the chosen settings.
    """
    rows = views.key_experts(tables["key_experts"], choice)
    means = [
        dict(zip(PLACE, place, strict=True))
        | {"task": MEAN, **dict(zip(ESTIMATE, views.mean_column(cells, "proportion"), strict=True))}
        | {"n_undecided": cells["n_undecided"].sum(), "n_samples": cells["n_samples"].sum(), "n_tasks": len(cells)}
        for place, cells in rows.groupby(PLACE, sort=False, dropna=False)  # tokens may be unknown
    ]
    own = [*PLACE, "task", *ESTIMATE, "n_key", "n_experts", "n_undecided", "n_samples"]
    return {"means": pd.DataFrame(means), "tasks": rows[own].reset_index(drop=True)}


def _looks(data: Data) -> dict[str, Look]:
    """The mean is black and no task is."""
    return {MEAN: Look(COLOURS[-1])} | task_looks(views.names(data["tasks"], "task"))


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model: thin lines the tasks, a thick one their mean with its band, hollow marks untrained."""
    means, tasks = data["means"], data["tasks"]
    models, look = views.names(means, "model"), _looks(data)
    columns = model_columns(len(models))
    figure = Drawing(figsize=(DOUBLE, 0.5 + 2.1 * -(-len(models) // columns)))
    every = panels(figure, len(models), columns, sharey=True)
    for axes, model in zip(every, models, strict=True):
        own = tasks[tasks["model"] == model]
        for task, rows in own.groupby("task", sort=False):
            rows, style = rows.sort_values("order"), look[str(task)]
            trained = rows[~views.untrained(rows)]
            axes.plot(
                trained["order"], trained["proportion"], linewidth=0.6, linestyle=style.dash,
                marker=style.marker, markersize=1.8, color=style.colour, alpha=0.8,
            )  # fmt: skip
            hollow = rows[views.untrained(rows)]
            axes.plot(
                hollow["order"], hollow["proportion"], style.marker, markersize=2, markerfacecolor="white",
                markeredgewidth=0.5, color=style.colour, alpha=0.8,
            )  # fmt: skip
        band(axes, means[means["model"] == model].sort_values("order"), "order", "proportion", look[MEAN])
        axes.set_title(model)
        name = checkpoint_ticks(axes, own)
        percent(axes)
    name_axes(every, columns, name, "key experts")
    figure.axes[0].set_ylim(bottom=0)  # after all panels are drawn, since they share the axis
    entries = {LABEL if task == MEAN else task: mark(style) for task, style in look.items()}
    legend(figure, entries | ({"untrained": HOLLOW} if views.untrained(means).any() else {}), columns=6)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The same; every mark tells its interval and how many experts are undecided."""
    series = Series("task", _looks(data), {MEAN: LABEL})
    domain = page_style.spanned(*(data[name]["proportion_high"] for name in data), data["tasks"]["proportion"], at=[0])
    x = page_style.checkpoint_x(data["tasks"])
    y = page_style.y("proportion", "Key experts, share of all", share=True, domain=domain)
    low, high = alt.Y("proportion_low:Q"), "proportion_high:Q"
    hue = page_style.coloured(series)
    marked = {
        "stroke": page_style.coloured(series, alt.Stroke), "fill": page_style.hollow(series),
        "shape": page_style.shaped(series),
    }  # fmt: skip
    place = {"model": "Model", "checkpoint": "Checkpoint", "task": "Task"}
    value = {"proportion_said": "KeyExpertProportion [95 % interval]"}
    means, tasks = (page_style.marks(name, series) for name in ("means", "tasks"))
    trained, untrained = (means.transform_filter(f"datum.tokens {sign} 0") for sign in ("!==", "==="))
    single = tasks.transform_filter("datum.tokens !== 0")
    specification = page_style.view(
        single.mark_line(strokeWidth=1, opacity=0.75).encode(
            x=x, y=y, color=hue, strokeDash=page_style.dashed(series)
        ),
        page_style.named(
            page_style.said(tasks, ["proportion"]).mark_point(size=16, strokeWidth=1, opacity=0.9).encode(
                x=x, y=y, **marked,
                tooltip=page_style.hover(
                    **place, **value, n_key="Key experts", n_undecided="Undecided experts", n_experts="All experts",
                    n_samples="Samples",
                ),
            )
        ),
        trained.mark_area(opacity=0.18).encode(x=x, y=low, y2=high, color=hue),
        trained.mark_line(strokeWidth=3).encode(x=x, y=y, color=hue),
        untrained.mark_rule(strokeWidth=2).encode(x=x, y=low, y2=high, color=hue),
        page_style.named(
            page_style.said(means, ["proportion"]).mark_point(size=55, opacity=1).encode(
                x=x, y=y, **marked,
                tooltip=page_style.hover(
                    **place, **value, n_undecided="Undecided, over tasks", n_tasks="Tasks",
                    n_samples="Samples, together",
                ),
            )
        ),
        series=series,
        zoom_encodings=["y"],
    )  # fmt: skip
    return Chart((specification,), series, panel="model")


FIGURE = Figure(
    name="key_experts",
    title="Share of key experts",
    caption="KeyExpertProportion: experts active in at least {expert_threshold} of a task's samples, over all experts "
    "({experts}), by checkpoint. Thin: the tasks; thick: their mean with its 95 % band (bootstrap over samples); "
    "hollow: the untrained checkpoint. An interval without width means that no resample moved an expert across the "
    "threshold, not that the share is certain. Undecided: experts whose own frequency's interval contains the "
    "threshold, so that they may as well be on its other side.",
    definition="An expert is active in a sample s where the sample's key set K(s) holds at least one of its neurons; "
    "freq is the share of samples in which it is. Key experts are those with freq of at least η_expert. E_r and E_s "
    "are the routed and shared experts of a layer.",
    formula=r"\mathrm{KeyExpertProportion}(T) = \frac{\left| \left\{ e : \mathrm{freq}(e) \ge \eta_\mathrm{expert} "
    r"\right\} \right|}{\sum_l (E_r + E_s)}",
    alt="Line charts, one panel a model, of the share of key experts over training checkpoints.",
    tables=("key_experts",),
    table_titles={
        "means": "Share of key experts of each checkpoint, mean over tasks",
        "tasks": "Share of key experts of each checkpoint and task",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("proportion", "KeyExpertProportion; of a mean, the mean over its tasks")
    | {
        "task": ("the task, or `mean` over tasks", ""),
        "n_undecided": (
            "experts of which the frequency's interval contains η_expert; of a mean, over its tasks together",
            "experts",
        ),
        "n_samples": ("samples of the task; of a mean, of its tasks together", "samples"),
        "n_tasks": ("tasks that the mean is over", "tasks"),
    },
)
