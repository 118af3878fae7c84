"""What a figure is: rows of a study's tables, drawn once for paper and once for the page, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Drawing

from moemui.report.figures.looks import Look
from moemui.report.views import Choice
from moemui.tables import experiments
from moemui.tables.catalog import TABLES
from moemui.tables.columns import number, text
from moemui.tables.table import Column

CATALOG = TABLES | {
    table.name: table
    for table in (experiments.MEASUREMENTS, experiments.SEED_EFFECTS, experiments.EFFECTS, experiments.DECISIONS)
}
Tables = Mapping[str, pd.DataFrame]
# What a figure shows, by name: first its rows, then what else is drawn (fitted lines, phases).
Data = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Series:
    """What a chart's legend tells apart, and switches on and off: a column's values and how each is drawn.

    labels: what the legend says where it isn't the value itself. line: whether the legend shows a line as well.
    """

    column: str
    looks: Mapping[str, Look]
    labels: Mapping[str, str] = field(default_factory=dict)
    line: bool = True


@dataclass(frozen=True)
class Chart:
    """A figure as it stands on the page: panels that wrap as the screen is wide, each with its views.

    views: Vega-Lite specifications, one below the other in every panel. They name the figure's data sets; a layer that
    has the name of a data set draws exactly one mark for each of its rows. panel: the column whose values have a panel
    each, in order of appearance (a data set without it is the same in all); "" for a single panel. titles: headings of
    panels where they aren't the values themselves. wide: a panel takes the whole width. own_views: panel → its views,
    in place of the common ones and as many, where panels differ in more than rows: in units, or in the ends of axes;
    panels then stand in its order.
    """

    views: tuple[Mapping[str, Any], ...]
    series: Series | None = None
    panel: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    wide: bool = False
    own_views: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Words:
    """A figure's name (of its files, too), its heading, what is said beside it, and where its rows are from.

    caption: what is to be seen and how to read it. definition: what is measured, in words; formula: in LaTeX, "" for
    none. alt: what kind of picture it is, for who can't see it. tables: those it is made of, of CATALOG. table_titles:
    what each of its data sets holds, in words, as the heading of its table. meanings: of columns of its data that none
    of these tables has, or that mean something else here: name → (meaning, unit).
    """

    name: str
    title: str
    caption: str
    definition: str
    formula: str
    alt: str
    tables: tuple[str, ...]
    table_titles: Mapping[str, str]
    meanings: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def columns(self, rows: pd.DataFrame) -> list[Column]:
        """The columns of one of its data sets, each with its meaning: its own, or that of the first table that has it.

        Raises ValueError for a column that nobody explains.
        """
        known = {column.name: column for name in reversed(self.tables) for column in CATALOG[name].columns}
        found = []
        for name in map(str, rows.columns):
            if name in self.meanings:
                meaning, unit = self.meanings[name]
                numeric = pd.api.types.is_numeric_dtype(rows[name])
                found.append(number(name, meaning, unit) if numeric else text(name, meaning))
            elif name in known:
                found.append(known[name])
            else:
                raise ValueError(
                    f"figure {self.name}: nothing says what its column {name!r} means; tables {', '.join(self.tables)} "
                    "don't have it, so give it in `meanings`"
                )
        return found


@dataclass(frozen=True, kw_only=True)
class Figure(Words):
    """A figure of a study: its words, its rows and both ways to draw them, all at the settings that are shown.

    caption: may hold {curves}, {experts}, {masking} and {expert_threshold}, which stand for these settings. data:
    raises NothingToShow, with a sentence, where the study has no rows for it.
    """

    data: Callable[[Tables, Choice], Data]
    paper: Callable[[Data, Choice], Drawing]
    page: Callable[[Data, Choice], Chart]

    def caption_for(self, choice: Choice) -> str:
        """The caption with the settings' names filled in."""
        return self.caption.format(
            curves=choice.curves.label,
            experts=choice.experts.label,
            masking=choice.masking.label,
            expert_threshold=f"{choice.expert_threshold:g}",
        )


def estimate_meanings(name: str, meaning: str, unit: str = "share") -> dict[str, tuple[str, str]]:
    """Meanings of an estimate and of the ends of its 95 % interval: NAME, NAME_low and NAME_high."""
    ends = {"_low": "lower", "_high": "upper"}
    return {name: (meaning, unit)} | {
        f"{name}{end}": (f"{which} end of the 95 % interval of {name}", unit) for end, which in ends.items()
    }
