"""Pictures of arms: for each arm (task, part) the mean with its interval, every seed beside it."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import altair as alt
import numpy as np
from matplotlib.axes import Axes

from moemui.report.experiments.picture_figure import Laid
from moemui.report.figures import page_style

SEEDS, MEAN = "seeds of ", "mean of "  # places beside each other at one value of x
MANY = 20  # places along a panel from which on it takes the whole width
LETTERS, MOST_LINES = 44, 4  # of names that stand beside each other on a phone, and lines of one
READING = (
    "Large marks and bars: mean over seeds with its 95 % t interval, no bar where fewer than three seeds have a value; "
    "small circles: seeds"
)
JOINED = ", joined by a line within a seed"


def reading(laid: Laid) -> str:
    """How the picture is read."""
    return f"{READING}{JOINED if _joined(laid) else ''}."


def wide(laid: Laid) -> bool:
    """Whether a panel takes the whole width."""
    return len(laid.values(laid.across)) * len(laid.looks()) > MANY


def _joined(laid: Laid) -> bool:
    return laid.across == "arm"


def view(laid: Laid, value: str) -> dict[str, Any]:
    """A panel on the page."""
    means, seeds = laid.told(value)
    column = laid.picture.series
    name = f"datum[{column!r}]" if laid.series else "''"
    means, seeds = (
        rows.transform_calculate(place=f"'{prefix}' + {name}") for rows, prefix in ((means, MEAN), (seeds, SEEDS))
    )
    labels = json.dumps(_lines(laid), ensure_ascii=False)
    angle = -35 if _turned(laid) else 0
    axis = alt.Axis(
        title=None,
        labelExpr=f"{labels}[datum.value]",
        labelAngle=angle,
        labelLimit=150,
        labelOverlap=False,
        ticks=False,
    )
    x = alt.X(
        f"{laid.across}:N",
        scale=alt.Scale(domain=laid.values(laid.across), paddingInner=0.3, paddingOuter=0.2),
        axis=axis,
    )
    places = [prefix + one for one in laid.looks() for prefix in (SEEDS, MEAN)]
    offset = alt.XOffset("place:N", scale=alt.Scale(domain=places))
    colour = laid.colour()
    lines = seeds.mark_line(strokeWidth=0.8, opacity=0.35).encode(
        x=x, xOffset=offset, y=laid.y(value, "value"), color=colour, detail=["seed:N", "place:N"]
    )
    marks = means.mark_point(size=70, opacity=1, filled=True).encode(
        x=x, xOffset=offset, y=laid.y(value, "mean"), color=colour,
        tooltip=laid.hover(mean_said="Mean over seeds [95 % interval]", n_seeds="Seeds"),
    )  # fmt: skip
    if laid.series is not None:
        marks = marks.encode(shape=page_style.shaped(laid.series))
    return page_style.view(
        *([page_style.zero("y")] if laid.crosses(value) else []),
        *([lines] if _joined(laid) else []),
        means.mark_rule(strokeWidth=1.8).encode(
            x=x, xOffset=offset, y=alt.Y("mean_low:Q"), y2="mean_high:Q", color=colour
        ),
        page_style.named(
            seeds.mark_point(size=18, opacity=0.8, strokeWidth=1.2).encode(
                x=x, xOffset=offset, y=laid.y(value, "value"), color=colour,
                tooltip=laid.hover(seed="Seed", value_said="Value"),
            )
        ),
        page_style.named(marks),
        series=laid.series,
        zoomed=False,
        height=240,
    )  # fmt: skip


def _lines(laid: Laid) -> dict[str, list[str]]:
    """The names along a panel, broken between words where they then stand beside each other on a phone; else turned."""
    names = laid.labels(laid.across)
    width = max(7, LETTERS // len(names))
    broken = {value: textwrap.wrap(name, width, break_long_words=False) or [""] for value, name in names.items()}
    upright = len(names) * 7 <= LETTERS and all(
        len(lines) <= MOST_LINES and max(map(len, lines)) <= width for lines in broken.values()
    )
    return broken if upright else {value: [name] for value, name in names.items()}


def _turned(laid: Laid) -> bool:
    lines = _lines(laid)
    return max(len(line) for parts in lines.values() for line in parts) * len(lines) > LETTERS


def draw(axes: Axes, laid: Laid, value: str) -> None:
    """A panel on paper."""
    own, values = laid.own(value), laid.values(laid.across)
    if laid.crosses(value):
        axes.axhline(0, color="black", linewidth=0.6)
    series = laid.looks()
    width = 0.8 / (2 * len(series))
    for number, (name, look) in enumerate(series.items()):
        means, seeds = laid.of(name, own["means"]), laid.of(name, own["seeds"])
        left = -0.4 + width * (2 * number + 0.5)
        if _joined(laid):
            for _, one in seeds.groupby("seed", sort=False):
                places = one["arm"].map(values.index)
                order = np.argsort(places.to_numpy())
                axes.plot(
                    places.to_numpy()[order] + left,
                    one["value"].to_numpy()[order],
                    color=look.colour,
                    linewidth=0.4,
                    alpha=0.5,
                )
        axes.plot(
            seeds[laid.across].map(values.index) + left, seeds["value"], "o", color=look.colour, markersize=1.8,
            markerfacecolor="none", markeredgewidth=0.5,
        )  # fmt: skip
        x = means[laid.across].map(values.index) + left + width
        axes.vlines(x, means["mean_low"], means["mean_high"], color=look.colour, linewidth=1.0)
        axes.plot(x, means["mean"], look.marker, color=look.colour, markersize=3.5)
    turned = _turned(laid)
    axes.set_xticks(
        range(len(values)), ["\n".join(lines) for lines in _lines(laid).values()], rotation=35 if turned else 0,
        ha="right" if turned else "center", rotation_mode="anchor" if turned else "default",
    )  # fmt: skip
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(visible=False, axis="x")
