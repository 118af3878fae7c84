"""Pictures over training: a line a series with its band over seeds, each seed faint behind it."""

from __future__ import annotations

from typing import Any

import altair as alt
from matplotlib.axes import Axes

from moemui.report.experiments.picture_figure import MOST_BANDS, Laid
from moemui.report.figures import page_style

MOST_SEEDS = 30  # lines of single seeds in a panel that leave its means readable
READING = (
    "Lines and marks: mean over seeds at each step that was measured; bands: 95 % t intervals over seeds, none where "
    "fewer than three seeds have a value{faint}."
)
FAINT = "; thin lines: single seeds"


def reading(laid: Laid) -> str:
    """How the picture is read."""
    return READING.format(faint=FAINT if _faint(laid) else "")


def _faint(laid: Laid) -> bool:
    return laid.data["seeds"]["seed"].nunique() * len(laid.looks()) <= MOST_SEEDS


def _opacity(laid: Laid) -> float:
    return 0.18 if len(laid.looks()) <= MOST_BANDS else 0.08


def view(laid: Laid, value: str) -> dict[str, Any]:
    """A panel on the page."""
    means, seeds = laid.told(value)
    steps = laid.data["means"]["step"]
    x = page_style.x("step", "Training step", domain=page_style.spanned(steps), grid=False)
    y, colour = laid.y(value, "mean"), laid.colour()
    thin = [
        seeds.mark_line(strokeWidth=0.8, opacity=0.3).encode(
            x=x, y=laid.y(value, "value"), color=colour, detail="seed:N"
        )
    ]
    line = means.mark_line().encode(x=x, y=y, color=colour)
    points = means.mark_point(size=34, opacity=1, filled=True)
    marks = points.encode(
        x=x, y=y, color=colour, tooltip=laid.hover(mean_said="Mean over seeds [95 % interval]", n_seeds="Seeds")
    )
    if laid.series is not None:
        line, marks = (
            line.encode(strokeDash=page_style.dashed(laid.series)),
            marks.encode(shape=page_style.shaped(laid.series)),
        )
    band = means.transform_filter("isValid(datum.mean_low)").mark_area(opacity=_opacity(laid))
    return page_style.view(
        *([page_style.zero("y")] if laid.crosses(value) else []),
        *(thin if _faint(laid) else []),
        band.encode(x=x, y=alt.Y("mean_low:Q"), y2="mean_high:Q", color=colour),
        line,
        page_style.named(marks),
        series=laid.series,
        height=210,
    )  # fmt: skip


def draw(axes: Axes, laid: Laid, value: str) -> None:
    """A panel on paper."""
    own = laid.own(value)
    if laid.crosses(value):
        axes.axhline(0, color="black", linewidth=0.6)
    for name, look in laid.looks().items():
        means, seeds = laid.of(name, own["means"]), laid.of(name, own["seeds"])
        if _faint(laid):
            for _, one in seeds.groupby("seed", sort=False):
                one = one.sort_values("step")
                axes.plot(one["step"], one["value"], color=look.colour, linewidth=0.4, alpha=0.35)
        axes.fill_between(
            means["step"], means["mean_low"], means["mean_high"], color=look.colour, alpha=_opacity(laid), linewidth=0
        )
        axes.plot(
            means["step"], means["mean"], color=look.colour, linestyle=look.dash, marker=look.marker, markersize=2.8
        )
    axes.set_xlabel("training step")
