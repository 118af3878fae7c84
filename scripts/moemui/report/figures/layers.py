"""MUI by layer: where in the model are the neurons that tasks use, in routed and in shared experts?"""

from __future__ import annotations

from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.expert_axis import KINDS
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables
from moemui.report.figures.paper_style import DOUBLE, legend, mark, model_columns, name_axes, panels, percent, styled
from moemui.report.views import Choice

LABELS = {"routed": "routed experts", "shared": "shared experts"}
DIGITS = ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))  # of the ticks, coarse to fine
LABELLED = 10  # numbers of layers up to which each has its number below the axis


def data(tables: Tables, choice: Choice) -> Data:
    """MUI of every layer, kind and task at each model's last checkpoint, and the mean over tasks.

    Raises NothingToShow where the table has no rows.
    """
    frequencies = tables["expert_frequency"]
    rows = views.layers(frequencies, choice.curves)
    numbers = frequencies.drop_duplicates(["model", "checkpoint", "task"])
    rows = rows.merge(numbers[["model", "checkpoint", "task", "n_samples"]], how="left")
    by = ["model", "checkpoint", "layer", "kind"]
    means = rows.groupby(by, sort=False).agg(
        mui=("mui", "mean"), n_tasks=("task", "size"), n_samples=("n_samples", "sum")
    )
    return {"means": means.reset_index(), "tasks": rows[[*by, "task", "mui", "n_samples"]]}


class _Scale(NamedTuple):
    """The axis of MUI of all panels: places log(1 + share / constant), from low to high, named at the ticks.

    Nearly all of a shared expert can be key where 1 % of the routed ones are, so the axis is close to logarithmic, but
    it holds 0 as well.
    """

    constant: float
    low: float
    high: float
    ticks: list[float]


def _scale(data: Data) -> _Scale:
    shares = data["tasks"]["mui"].to_numpy(dtype=float)
    constant = float(shares[shares > 0].min(initial=1.0))
    low, high = (float(np.log1p(end / constant)) for end in (shares.min(), shares.max()))
    room = 0.05 * ((high - low) or 1.0)
    low, high = (float(constant * np.expm1(end)) for end in (low - room, high + room))
    for digits in DIGITS:
        ticks = [tick for tick in [0.0, *(d * 10.0**k for k in range(-6, 1) for d in digits)] if low <= tick <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [float(tick) for tick in MaxNLocator(3).tick_values(low, high)]
    return _Scale(constant, low, high, [tick for tick in ticks if tick <= 1])


def _aside(data: Data) -> dict[str, float]:
    """How far the tasks' marks of each kind stand from the middle of their layer, as share of a layer's width."""
    width = min(0.14, 0.02 * data["means"]["layer"].nunique())
    return {"routed": -width, "shared": width}


def _numbered(rows: pd.DataFrame) -> list[int]:
    """The layers whose numbers stand below the axis: all, or every second or so of many."""
    numbers = sorted({int(layer) for layer in rows["layer"]})
    return numbers[:: -(-len(numbers) // LABELLED)]


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model: small marks the tasks, lines their mean, a colour for each kind of expert."""
    models = views.names(data["means"], "model")
    columns = model_columns(len(models))
    figure = Drawing(figsize=(DOUBLE, 0.4 + 2.0 * -(-len(models) // columns)))
    every = panels(figure, len(models), columns, sharey=True)
    for axes, model in zip(every, models, strict=True):
        means, tasks = (rows[rows["model"] == model] for rows in (data["means"], data["tasks"]))
        for kind, style in KINDS.items():
            single, line = tasks[tasks["kind"] == kind], means[means["kind"] == kind]
            axes.plot(
                single["layer"] + _aside(data)[kind], single["mui"], style.marker, color=style.colour, alpha=0.4,
                markersize=1.6, markeredgewidth=0,
            )  # fmt: skip
            axes.plot(line["layer"], line["mui"], color=style.colour, marker=style.marker, markersize=2.6)
        axes.set_xticks(_numbered(means))
        axes.set_title(f"{model}, {means['checkpoint'].iloc[0]}", fontsize=6.5)
        _scaled(axes, _scale(data))
    name_axes(every, columns, "layer", "MUI")
    there = views.names(data["means"], "kind")
    legend(figure, {LABELS[kind]: mark(style) for kind, style in KINDS.items() if kind in there}, columns=2)
    return figure


def _scaled(axes: Axes, scale: _Scale) -> None:
    """The same axis as on the page."""
    least = -0.9 * scale.constant  # the logarithm's argument stays positive wherever matplotlib looks

    def there(share: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(share, least) / scale.constant)

    def back(place: np.ndarray) -> np.ndarray:
        return scale.constant * np.expm1(place)

    axes.set_yscale("function", functions=(there, back))
    axes.set_ylim(scale.low, scale.high)
    axes.yaxis.set_major_locator(FixedLocator(scale.ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    percent(axes)


def page(data: Data, choice: Choice) -> Chart:
    """The same; the mean's marks tell its value and number of tasks, small marks their task."""
    there = views.names(data["means"], "kind")
    series = Series("kind", {kind: look for kind, look in KINDS.items() if kind in there}, LABELS)
    layers, scale = data["means"]["layer"], _scale(data)
    numbers = _numbered(data["means"])
    x = page_style.x(
        "layer", "Layer", domain=[layers.min() - 0.5, layers.max() + 0.5], values=numbers, tickCount=len(numbers),
        format="d", grid=False,
    )  # fmt: skip
    y = alt.Y(
        "mui",
        type="quantitative",
        scale=alt.Scale(type="symlog", constant=scale.constant, domain=[scale.low, scale.high], nice=False),
        axis=page_style.percent_axis("MUI", values=scale.ticks, tickCount=len(scale.ticks)),
    )
    hue = page_style.coloured(series)
    written = "format(100 * datum.mui, datum.mui < 0.01 ? '.2f' : '.1f') + ' %'"  # a count, so without an interval
    means, tasks = (page_style.marks(name, series).transform_calculate(mui_said=written) for name in data)
    tooltip = {"model": "Model", "checkpoint": "Checkpoint", "layer": "Layer", "kind": "Experts"}
    aside = f"datum.layer + {_aside(data)}[datum.kind]"
    specification = page_style.view(
        page_style.named(
            tasks.transform_calculate(aside=aside).mark_point(filled=True, size=13, opacity=0.45).encode(
                x=alt.X("aside:Q"), y=y, color=hue, shape=page_style.shaped(series),
                tooltip=page_style.hover(**tooltip, task="Task", mui_said="MUI", n_samples="Samples"),
            )
        ),
        means.mark_line().encode(x=x, y=y, color=hue),
        page_style.named(
            means.mark_point(filled=True, size=32, opacity=1).encode(
                x=x, y=y, color=hue, shape=page_style.shaped(series),
                tooltip=page_style.hover(
                    **tooltip, mui_said="MUI, mean over tasks", n_tasks="Tasks", n_samples="Samples, together"
                ),
            )
        ),
        series=series,
        zoom_encodings=["y"],
    )  # fmt: skip
    last = data["means"].drop_duplicates("model")
    titles = {str(row["model"]): f"{row['model']}, {row['checkpoint']}" for row in last.to_dict("records")}
    return Chart((specification,), series, panel="model", titles=titles)


FIGURE = Figure(
    name="layers",
    title="MUI by layer",
    caption="MUI of the routed and of the shared experts of each layer ({curves}) at the last checkpoint, each over "
    "its own neurons and all samples of a task. Lines: mean over the tasks; small marks: the tasks. MUI of all "
    "samples is a count, so it has no interval; it grows with the number of samples, so compare layers of one task "
    "rather than tasks with other numbers of samples. Small values are stretched, nearly as by logarithms, since "
    "shared experts see every token and are used far more than routed ones.",
    definition="The neurons of one kind (routed or shared experts) in one layer l that are key in at least one sample "
    "s of the task T, over all neurons of that kind in that layer. Layers are counted from 0, dense ones included.",
    formula=r"\mathrm{MUI}_{l,\mathrm{kind}}(T) = \frac{\left| \bigcup_{s \in T} K(s) \cap U_{l,\mathrm{kind}} "
    r"\right|}{\left| U_{l,\mathrm{kind}} \right|}",
    alt="Line charts, one panel a model, of MUI by layer, with a line for routed and one for shared experts.",
    tables=("expert_frequency",),
    table_titles={
        "means": "MUI of each layer, mean over tasks",
        "tasks": "MUI of each layer and task",
    },
    data=data,
    paper=paper,
    page=page,
    meanings={
        "mui": ("share of the layer's neurons of this kind that are key; of a mean, the mean over its tasks", "share"),
        "n_tasks": ("tasks that the mean is over", "tasks"),
        "n_samples": ("samples of the task; of a mean, of its tasks together", "samples"),
    },
)
