"""How every figure looks and is saved: one style, widths of a printed column, colours safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from moemui.report.views import Choice

SINGLE, DOUBLE = 3.4, 7.0  # inches: one column and the full width of a two-column page
# Okabe and Ito 2008, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
GREY = "#6b6b6b"
TICK_CHARACTERS = 30  # of all checkpoint names together that fit under one panel of three without turning them
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "moemui",  # otherwise ids, and with them the files, differ from run to run
    "pdf.fonttype": 42,  # TrueType, embedded
    "text.parse_math": False,  # names are text, whatever they contain
}


@dataclass(frozen=True)
class FigureSpec:
    """What goes with a figure: its file name without ending, a heading, caption, alt text, and the tables it shows.

    caption may hold {curves}, {experts}, {masking} and {expert_threshold}, which stand for the settings shown.
    """

    name: str
    title: str
    caption: str
    alt: str
    tables: tuple[str, ...]

    def caption_for(self, choice: Choice) -> str:
        """The caption with the settings' names filled in."""
        return self.caption.format(
            curves=choice.curves.label,
            experts=choice.experts.label,
            masking=choice.masking.label,
            expert_threshold=f"{choice.expert_threshold:g}",
        )


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    marker: str
    dash: Any


def looks(models: Iterable[str], families: Mapping[str, str]) -> dict[str, Look]:
    """A look for every model: a colour for its family, in order of appearance, and a marker and dash of its own.

    No two are alike as long as at most 28 models share a colour; with more families than colours, families share one.
    """
    numbers: dict[str, int] = {}
    shared = [0] * len(COLOURS)  # models of each colour so far
    found = {}
    for model in models:
        colour = numbers.setdefault(families.get(model, model), len(numbers)) % len(COLOURS)
        shape = shared[colour]
        shared[colour] += 1
        # 7 markers and 4 dashes have no common divisor, so their pairs repeat only after 28
        found[model] = Look(COLOURS[colour], MARKERS[(colour + shape) % len(MARKERS)], DASHES[shape % len(DASHES)])
    return found


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The function, run under the project's style."""

    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    drawn.__name__, drawn.__doc__ = draw.__name__, draw.__doc__
    return drawn


def save(figure: Figure, path_svg: str | Path) -> None:
    """Write the figure as SVG at `path_svg` and as PDF beside it (same name, suffix .pdf); the same bytes every time.

    Raises ValueError for a path that does not end in .svg.
    """
    target = Path(path_svg)
    if target.suffix != ".svg":
        raise ValueError(f"{target} ends in {target.suffix!r}; a figure is saved as .svg, and as .pdf beside it")
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, metadata={"Date": None})
        figure.savefig(target.with_suffix(".pdf"), metadata={"CreationDate": None})


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """`count` axes in rows of at most `columns`; the unused places of the last row stay empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[max(0, count - columns) : count]:  # the lowest of their column, also above an empty place
        axes.tick_params(labelbottom=True)
    return list(grid[:count])


def percent(axes: Axes, which: str = "y") -> None:
    """Shares are printed as percent."""
    for name in which:
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %"))
        if name == "x":
            axis.set_major_locator(MaxNLocator(6))  # more labels run into each other


def logarithmic(axes: Axes) -> None:
    """A logarithmic horizontal axis with plain numbers: 1, 10, 100."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, entries: Mapping[str, Line2D], columns: int) -> None:
    """A legend above all panels."""
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=min(columns, len(entries)))


def mark(look: Look, **options: Any) -> Line2D:
    """A model's legend entry."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash, **options)


HOLLOW = Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="none")


def band(axes: Axes, rows: pd.DataFrame, x: str, y: str, look: Look, low: str = "", high: str = "") -> None:
    """A line with its interval as a band, the untrained checkpoint's marker hollow and not joined to the others."""
    trained = rows[rows["tokens"] != 0]
    low, high = low or f"{y}_low", high or f"{y}_high"
    axes.plot(trained[x], trained[y], color=look.colour, linestyle=look.dash, marker=look.marker)
    axes.fill_between(
        trained[x], trained[low].astype(float), trained[high].astype(float), color=look.colour, alpha=0.18, linewidth=0
    )
    hollow = rows[rows["tokens"] == 0]
    whisker(axes, hollow, x, y, look, low=low, high=high)


def whisker(axes: Axes, rows: pd.DataFrame, x: str, y: str, look: Look, low: str, high: str) -> None:
    """Hollow points with their intervals as bars."""
    error = [rows[y] - rows[low], rows[high] - rows[y]]
    axes.errorbar(
        rows[x], rows[y], yerr=[part.clip(lower=0).astype(float) for part in error], fmt=look.marker,
        color=look.colour, markerfacecolor="white", elinewidth=0.7, capsize=1.5,
    )  # fmt: skip


def checkpoint_ticks(axes: Axes, rows: pd.DataFrame) -> str:
    """Tick the horizontal axis by checkpoint; returns its label.

    Names stand there where all models call the checkpoint of a place alike, else its place in training order.
    """
    places = rows.drop_duplicates(["order", "checkpoint"]).sort_values("order")
    if places["order"].duplicated().any():
        axes.set_xticks(sorted(places["order"].unique()))
        return "checkpoint, in training order"
    turned = places["checkpoint"].str.len().max() * len(places) > TICK_CHARACTERS
    axes.set_xticks(list(places["order"]), list(places["checkpoint"]), rotation=35 if turned else 0)
    if turned:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
    return "checkpoint"
