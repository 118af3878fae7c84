"""What a figure is: rows of a study's tables, drawn once for paper and once for the page, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Drawing

from moemui.report.figures.looks import Look
from moemui.report.views import Choice
from moemui.tables.catalog import TABLES
from moemui.tables.columns import number, text
from moemui.tables.table import Column

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
    panels where they aren't the values themselves. wide: a panel takes the whole width.
    """

    views: tuple[Mapping[str, Any], ...]
    series: Series | None = None
    panel: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    wide: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure's name (of its files, too), its heading and words, where its rows are from, and both ways to draw it.

    caption: what is to be seen, how to read it, with which settings; may hold {curves}, {experts}, {masking} and
    {expert_threshold}, which stand for the settings shown. definition: what is measured, in words; formula: in LaTeX,
    "" for none. alt: what kind of picture it is, for who can't see it. tables: those it is made of. table_titles: what
    each of its data sets holds, in words, as the heading of its table. meanings: of
    columns of its data that none of these tables has, or that mean something else here: name → (meaning, unit).
    data: raises NothingToShow, with a sentence, where the study has no rows for it.
    """

    name: str
    title: str
    caption: str
    definition: str
    formula: str
    alt: str
    tables: tuple[str, ...]
    table_titles: Mapping[str, str]
    data: Callable[[Tables, Choice], Data]
    paper: Callable[[Data, Choice], Drawing]
    page: Callable[[Data, Choice], Chart]
    meanings: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def caption_for(self, choice: Choice) -> str:
        """The caption with the settings' names filled in."""
        return self.caption.format(
            curves=choice.curves.label,
            experts=choice.experts.label,
            masking=choice.masking.label,
            expert_threshold=f"{choice.expert_threshold:g}",
        )

    def columns(self, rows: pd.DataFrame) -> list[Column]:
        """The columns of one of its data sets, each with its meaning: its own, or that of the first table that has it.

        Raises ValueError for a column that nobody explains.
        """
        known = {column.name: column for name in reversed(self.tables) for column in TABLES[name].columns}
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


def estimate_meanings(name: str, meaning: str, unit: str = "share") -> dict[str, tuple[str, str]]:
    """Meanings of an estimate and of the ends of its 95 % interval: NAME, NAME_low and NAME_high."""
    ends = {"_low": "lower", "_high": "upper"}
    return {name: (meaning, unit)} | {
        f"{name}{end}": (f"{which} end of the 95 % interval of {name}", unit) for end, which in ends.items()
    }
