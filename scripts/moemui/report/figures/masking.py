"""What masking costs: key neurons beside as many random ones, by task and over the share of neurons masked."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from moemui.key_neurons.settings import Setting
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, GREY, Look
from moemui.report.figures.paper_style import DOUBLE, legend, logarithmic, mark, points, styled
from moemui.report.views import Choice, NothingToShow

KEY = "key neurons"
# condition → its look; the control of the table that it stands in, and the ending of its columns there
LOOKS = {
    KEY: Look(COLOURS[1], "s"),
    "random, same experts": Look(GREY, "o", (0, (4, 1.5))),
    "random, same experts and switched on as often": Look(COLOURS[0], "D", (0, (1, 1))),
}
PLACES = dict(zip(LOOKS, (("expert", "key"), ("expert", "random"), ("frequency", "random")), strict=True))
ESTIMATES = ("loss", "nll_increase")
LOST, RISE = ([f"{name}{end}" for end in ("", "_low", "_high")] for name in ESTIMATES)
AVERAGED = ["n_masked", "share_masked", "activation_frequency"]
COLUMNS = ["model", "checkpoint", "condition", "threshold"]
MEASURED = [*AVERAGED, *LOST, *RISE, "n_seeds", "n_samples"]
FEW = 6  # models whose panels on paper have room for large marks


def data(tables: Tables, choice: Choice) -> Data:
    """Each task's loss under every condition at the chosen setting; where other thresholds were masked too, `means`
    over the tasks that were graded under every condition and threshold.

    Raises NothingToShow where no task has a loss.
    """
    table = tables["masking_effect"]
    # only a model's last checkpoint is masked; of a table with more, the last
    table = table[table["checkpoint"] == table.groupby("model", sort=False)["checkpoint"].transform("last")]
    tasks = _conditions(views.at(table, choice.masking, "masking_effect"))
    if tasks.empty:
        raise NothingToShow("Masking was measured on no task that is graded.")
    shown = {"tasks": tasks[[*COLUMNS[:2], "task", *COLUMNS[2:], *MEASURED, "note"]]}
    alike = [name for name in Setting._fields if name != "threshold"]
    same = np.logical_and.reduce([table[name] == getattr(choice.masking, name) for name in alike])
    means = _means(_conditions(table[same]))
    if means["threshold"].nunique() > 1:
        shown["means"] = means
    return {name: rows.reset_index(drop=True) for name, rows in shown.items()}


def _conditions(effects: pd.DataFrame) -> pd.DataFrame:
    """A row for each condition that has a loss, with the columns of its own neurons."""
    found = []
    for condition, (control, ending) in PLACES.items():
        rows = effects[effects["control"] == control]
        own = {f"{name}{end}": rows[f"{name}_{ending}{end}"] for name in ESTIMATES for end in ("", "_low", "_high")}
        own["activation_frequency"] = rows[f"activation_frequency_{ending}"]
        rows = rows.assign(condition=condition, **own)
        if condition == KEY:
            rows["n_seeds"] = 0
        else:
            rows["share_masked"] *= rows["n_masked_control"] / rows["n_masked"]
            rows["n_masked"] = rows["n_masked_control"]
        found.append(rows)
    return pd.concat(found).dropna(subset=["loss"]).sort_index(kind="stable")


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each model, condition and threshold, over the tasks that the model has under all of these."""
    found = []
    for model, own in rows.groupby("model", sort=False):
        wanted = own.groupby(["threshold", "condition"]).ngroups
        own = own[own.groupby("task", sort=False)["condition"].transform("size") == wanted]
        for condition in LOOKS:
            for threshold, group in own[own["condition"] == condition].groupby("threshold"):
                row = {"model": model, "checkpoint": group["checkpoint"].iloc[0], "condition": condition}
                row |= {"threshold": threshold, "n_tasks": len(group), "n_samples": group["n_samples"].sum()}
                for names in (LOST, RISE):
                    known = bool(group[names[0]].notna().all())
                    mean = views.mean_column(group, names[0]) if known else [np.nan] * 3
                    row |= dict(zip(names, mean, strict=True))
                row |= {name: group[name].mean(skipna=False) for name in AVERAGED}
                found.append(row | {"n_seeds": group["n_seeds"].max()})
    return pd.DataFrame(found, columns=[*COLUMNS, *MEASURED, "n_tasks"])


def _masked(means: pd.DataFrame) -> tuple[tuple[float, float], list[float]]:
    """The ends and ticks of a logarithmic axis for the share of neurons masked."""
    low, high = means["share_masked"].min() / 1.3, means["share_masked"].max() * 1.3
    places = [step * 10.0**power for power in range(-8, 1) for step in (1, 2, 5)]
    return (low, high), [place for place in places if low <= place <= high]


def _present(data: Data) -> dict[str, Look]:
    there = set(data["tasks"]["condition"])
    return {condition: look for condition, look in LOOKS.items() if condition in there}


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model with its tasks; below it the curve of the means where several thresholds were masked."""
    rows, look = data["tasks"], _present(data)
    models, tasks = views.names(rows, "model"), views.names(rows, "task")
    curves, many = "means" in data, len(models) > FEW
    columns = 4 if many else min(3, max(2, len(models)))
    heights = [0.6 + (0.15 if many else 0.22) * len(tasks), 1.4 if many else 1.9][: 1 + curves]
    blocks, size = -(-len(models) // columns), 2.0 if many else 3.5
    drawing = Drawing(figsize=(DOUBLE, 0.3 + sum(heights) * blocks))
    grid = drawing.subplots(
        len(heights) * blocks, columns, squeeze=False, gridspec_kw={"height_ratios": heights * blocks}
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    for number, model in enumerate(models):
        block, column = divmod(number, columns)
        axes, own = grid[len(heights) * block, column], rows[rows["model"] == model]
        _share_axes(axes, grid[0, 0])
        axes.set_title(f"{model}, {own['checkpoint'].iloc[0]}", fontsize=6 if many else None)
        _dots(axes, own, look, tasks, size)
        axes.tick_params(labelleft=column == 0)  # shared axes share their labels, so none may be emptied
        if curves:
            below = grid[2 * block + 1, column]
            _share_axes(below, grid[1, 0])
            _curves(below, data["means"], model, look, size)
            below.set_ylabel("mean loss, points" if column == 0 else "")
    legend(drawing, {condition: mark(style) for condition, style in look.items()}, columns=3)
    return drawing


def _share_axes(axes: Axes, first: Axes) -> None:
    """Shows the axes, on the scales of the first of their kind."""
    axes.set_visible(True)
    if axes is not first:
        axes.sharex(first)
        axes.sharey(first)


def _dots(axes: Axes, rows: pd.DataFrame, look: Mapping[str, Look], tasks: list[str], size: float) -> None:
    for place, (condition, style) in enumerate(look.items()):
        own = rows[rows["condition"] == condition]
        at = [tasks.index(task) + 0.24 * (place - 1) for task in own["task"]]
        axes.errorbar(own["loss"], at, xerr=_distances(own), fmt=style.marker, color=style.colour, markersize=size)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set(xlabel="accuracy lost, points", ylim=(len(tasks) - 0.5, -0.5))
    points(axes, "x")


def _curves(axes: Axes, means: pd.DataFrame, model: str, look: Mapping[str, Look], size: float) -> None:
    for condition, style in look.items():
        own = means[(means["model"] == model) & (means["condition"] == condition)]
        axes.errorbar(
            100 * own["share_masked"], own["loss"], yerr=_distances(own), marker=style.marker, color=style.colour,
            linestyle=style.dash, elinewidth=0.8, markersize=size,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.7)
    domain, ticks = _masked(means)
    logarithmic(axes)
    axes.set(xlim=[100 * end for end in domain], xlabel="neurons masked, %")
    axes.set_xticks([100 * tick for tick in ticks])
    points(axes)


def _distances(rows: pd.DataFrame) -> list[pd.Series]:
    """From each loss to the ends of its interval."""
    distances = rows["loss"] - rows["loss_low"], rows["loss_high"] - rows["loss"]
    return [distance.clip(lower=0).astype(float) for distance in distances]


def page(data: Data, choice: Choice) -> Chart:
    """A panel a model: its tasks, and the means over the share of neurons masked where there are several."""
    rows = data["tasks"]
    series = Series("condition", _present(data), line="means" in data)
    places = rows.drop_duplicates("model")
    titles = {str(row.model): f"{row.model}, {row.checkpoint}" for row in places.itertuples()}
    extent = int(np.clip(8 + 6.5 * rows["task"].str.len().max(), 64, 120))
    specifications = [_by_task(rows, series, extent)]
    if "means" in data:
        specifications.append(_by_share(data["means"], series, extent))
    return Chart(tuple(specifications), series, panel="model", titles=titles)


def _told(series: Series, name: str, **first: str) -> tuple[alt.Chart, list[alt.Tooltip]]:
    base = page_style.said(page_style.marks(name, series), ["loss"], points=True)
    base = page_style.said(base, ["nll_increase"], share=False, decimals=3).transform_calculate(
        masked="format(datum.n_masked, ',.0f') + ' (' + format(100 * datum.share_masked, '.2f') + ' %)'",
        often="isValid(datum.activation_frequency) ? format(100 * datum.activation_frequency, '.1f') + ' %' : ''",
        draws="datum.n_seeds > 0 ? datum.n_seeds : ''",
    )
    return base, page_style.hover(
        **first, condition="Masked", masked="Neurons masked",
        loss_said="Accuracy lost [95 % interval]", nll_increase_said="Rise of nll, nats/token [95 % interval]",
        often="Switched on at", draws="Random draws", n_samples="Samples",
    )  # fmt: skip


def _by_task(rows: pd.DataFrame, series: Series, extent: int) -> dict:
    tasks = views.names(rows, "task")
    x = page_style.x(
        "loss", "Accuracy lost", points=True, domain=page_style.spanned(*(rows[name] for name in LOST), at=[0])
    )
    y = alt.Y(
        "task:N",
        sort=tasks,
        scale=alt.Scale(domain=tasks),
        axis=alt.Axis(title=None, ticks=False, minExtent=extent, labelLimit=extent),
    )
    offset = alt.YOffset("condition:N", scale=alt.Scale(domain=list(series.looks)))
    base, tooltip = _told(series, "tasks", task="Task")
    return page_style.view(
        page_style.zero(),
        base.mark_rule(strokeWidth=1.4).encode(
            x=alt.X("loss_low:Q"), x2="loss_high:Q", y=y, yOffset=offset, color=page_style.coloured(series)
        ),
        page_style.named(
            base.mark_point(size=34).encode(
                x=x, y=y, yOffset=offset, stroke=page_style.coloured(series, alt.Stroke),
                fill=page_style.coloured(series, alt.Fill), shape=page_style.shaped(series), tooltip=tooltip,
            )
        ),
        series=series,
        zoomed=False,
        height=34 * max(2, len(tasks)),
    )  # fmt: skip


def _by_share(rows: pd.DataFrame, series: Series, extent: int) -> dict:
    domain, ticks = _masked(rows)
    x = page_style.x("share_masked", "Share of neurons masked", share=True, domain=domain, scale="log", values=ticks)
    y = page_style.y(
        "loss",
        "Accuracy lost, mean",
        points=True,
        domain=page_style.spanned(*(rows[name] for name in LOST), at=[0]),
        minExtent=extent,
        titleX=14 - extent,  # Vega puts a title beyond the least extent, which would move the view
    )
    base, tooltip = _told(series, "means", threshold="η")
    hue = page_style.coloured(series)
    return page_style.view(
        page_style.zero("y"),
        base.mark_line().encode(x=x, y=y, color=hue, strokeDash=page_style.dashed(series)),
        base.mark_rule(strokeWidth=1.4).encode(x=x, y=alt.Y("loss_low:Q"), y2="loss_high:Q", color=hue),
        page_style.named(
            base.mark_point(size=40).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke),
                fill=page_style.coloured(series, alt.Fill), shape=page_style.shaped(series), tooltip=tooltip,
            )
        ),
        series=series,
        height=190,
        zoom_encodings=["y"],
    )  # fmt: skip


FIGURE = Figure(
    name="masking",
    title="What masking costs",
    caption="Accuracy lost when the key neurons ({masking}) of a task are set to zero, when as many random neurons of "
    "the same layers and experts are, and when these are switched on about as often as well; mean over random draws. "
    "Bars: 95 % intervals (over samples, for the controls over samples and seeds). By task, and where several "
    "thresholds were masked, below it the mean over the tasks that have all of them against the share of the model's "
    "neurons that is masked, on a logarithmic axis. Right of, or above, the line at 0 masking costs accuracy. Key "
    "neurons matter for a task where they cost more than both controls.",
    definition="Neurons are masked by setting their activation to zero at every token. The loss is the share of "
    "samples answered correctly with nothing masked, less that with the neurons masked, over the same samples. The "
    "intervals are of paired shares; of random neurons, over samples and draws. nll is the negative log-likelihood "
    "of the reference answer a token: what masking costs where no answer changes.",
    formula=r"\mathrm{loss} = \frac{1}{n} \sum_{s=1}^{n} "
    r"\left( \mathrm{correct}_s - \mathrm{correct}_s^{\mathrm{masked}} \right)",
    alt="Dot plots, a panel a model, of the accuracy lost by masking key neurons and two random controls on each task, "
    "and curves of their mean over the share of neurons masked.",
    tables=("masking_effect", "masking"),
    table_titles={
        "tasks": "Accuracy lost on each task",
        "means": "Accuracy lost by share of neurons masked, mean over tasks",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings(
        "loss", "accuracy lost by masking; of a mean, the mean over its tasks", "share difference"
    )
    | estimate_meanings("nll_increase", "rise of the reference answer's negative log-likelihood", "nats/token")
    | {
        "condition": ("which neurons are set to 0: the key ones, or one of two random controls", ""),
        "n_masked": ("neurons set to 0, the fewest of the draws; of a mean, the mean over its tasks", "neurons"),
        "share_masked": ("n_masked over all neurons", "share"),
        "activation_frequency": ("mean share of response tokens at which a masked neuron is switched on", "share"),
        "n_seeds": ("random draws; 0 for key neurons", "draws"),
        "n_tasks": ("tasks that the mean is over", "tasks"),
    },
)
