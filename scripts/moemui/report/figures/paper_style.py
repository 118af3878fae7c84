"""How every figure looks on paper and is saved: one style, widths of a printed column, fonts embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from moemui.report.figures.looks import GREY, Look

HEAT = ["#f7fbff", "#6baed6", "#08306b"]  # cells of a heat map, light to dark in one hue
SINGLE, DOUBLE = 3.4, 7.0  # inches: one column and the full width of a two-column page
PAGE = 9.5  # inches: the height of its text
LETTER = 0.58  # mean width of a letter, of its size
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
    "legend.handlelength": 3.0,  # shorter, and dashes look alike
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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The function, run under the project's style; no figure is taller than a page, no title wider than its column."""

    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            if figure.get_figheight() > PAGE:
                figure.set_figheight(PAGE)
            for axes in figure.axes:
                _break_title(axes, figure)
            return figure

    drawn.__name__, drawn.__doc__ = draw.__name__, draw.__doc__
    return drawn


def _break_title(axes: Axes, figure: Figure) -> None:
    """A title wider than its column, `MODEL, CHECKPOINT`, goes on in a second line after the last comma."""
    place, title = axes.get_subplotspec(), axes.title
    if place is None or ", " not in title.get_text() or "\n" in title.get_text():
        return
    column = (
        figure.get_figwidth() * len(place.colspan) / place.get_gridspec().ncols
    )  # inches, room for labels of ticks included
    if len(title.get_text()) * LETTER * float(title.get_fontsize()) / 72 > 0.7 * column:
        title.set_text(",\n".join(title.get_text().rsplit(", ", 1)))


def save(figure: Figure, path_svg: str | Path) -> None:
    """Write the figure as SVG at `path_svg` and as PDF beside it (same name, suffix .pdf); the same bytes every time.

    Raises ValueError for a path that does not end in .svg.
    """
    target = Path(path_svg)
    if target.suffix != ".svg":
        raise ValueError(f"{target} ends in {target.suffix!r}; a figure is saved as .svg, and as .pdf beside it")
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, metadata={"Date": None})
        figure.set_layout_engine("none")  # it stays as it is now, so both files are alike and the second is quick
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


def model_columns(models: int) -> int:
    """Panels of models beside each other: two to four."""
    return 4 if models > 6 else min(3, max(2, models))


def name_axes(every: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Name the axes of alike panels where they end: below the lowest of each column, left of the first of each row."""
    for axes in every[-columns:]:
        axes.set_xlabel(x)
    for axes in every[::columns]:
        axes.set_ylabel(y)


def percent(axes: Axes, which: str = "y") -> None:
    """Shares are printed as percent."""
    for name in which:
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %"))
        if name == "x":
            axis.set_major_locator(MaxNLocator(6))  # more labels run into each other


def points(axes: Axes, which: str = "y") -> None:
    """Differences of shares are printed as percentage points with their sign."""
    percent(axes, which)
    for name in which:
        form = FuncFormatter(lambda value, _: f"{round(100 * value, 6):+g}" if round(100 * value, 6) else "0")
        getattr(axes, f"{name}axis").set_major_formatter(form)


def logarithmic(axes: Axes) -> None:
    """A logarithmic horizontal axis with plain numbers: 1, 10, 100."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, entries: Mapping[str, Line2D], columns: int) -> None:
    """A legend above all panels with at most so many entries a line, fewer where names are long."""
    size = STYLE["legend.fontsize"]
    entry = size * (LETTER * max(map(len, entries), default=0) + 5.8)  # with its line and the gaps around it
    columns = max(1, min(columns, len(entries), int(72 * figure.get_figwidth() / entry)))
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


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


def model_legend(figure: Figure, cells: pd.DataFrame, look: Mapping[str, Look]) -> None:
    """A legend of models, with an entry for untrained checkpoints where there are any."""
    entries: dict[str, Line2D] = {model: mark(style) for model, style in look.items()}
    if (cells["tokens"] == 0).any():
        entries["untrained"] = HOLLOW
    legend(figure, entries, columns=3 if figure.get_figwidth() <= SINGLE else 6)
