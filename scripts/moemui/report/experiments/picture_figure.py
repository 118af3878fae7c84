"""A declared picture as a figure: its panels, series, units and words; `course` and `arms` draw the panels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes

from moemui.experiments.measurements import Meaning
from moemui.experiments.picture import Picture
from moemui.report.experiments import wording
from moemui.report.experiments.plan import titled
from moemui.report.experiments.rows import MEAN, across, kind, panel
from moemui.report.figures import page_style, paper_style
from moemui.report.figures.figure import Data, Series, Words, estimate_meanings
from moemui.report.figures.looks import COLOURS, Look, task_looks
from moemui.report.views import Estimate

EMPTY = {"task": "all tasks", "part": "all parts", "arm": "the model"}  # what an empty value of a column says
PERCENT, POINTS = "percent", "points"
MOST_BANDS = 4  # series whose bands are told apart; more have paler ones


@dataclass(frozen=True)
class Laid:
    """A picture with its rows, and what its drawings on paper and page share."""

    picture: Picture
    data: Data

    @property
    def across(self) -> str:
        """The column along which the picture goes."""
        return across(self.picture)

    @property
    def panel(self) -> str:
        """The column whose values have a panel each; "" for one panel."""
        return panel(self.picture)

    @cached_property
    def panels(self) -> list[str]:
        """The values that have a panel each; [""] for one panel."""
        return self.values(self.panel) if self.panel else [""]

    def values(self, column: str) -> list[str]:
        """The values of a column: in the order of `where` where that names them, else as they appear, "" first."""
        there = list(dict.fromkeys(self.data["means"][column].astype(str)))
        asked = [str(value) for value in self.picture.where.get(column, ())]
        return sorted(there, key=asked.index if asked else bool)

    def label(self, column: str, value: str) -> str:
        """What a value is called."""
        if value in self.picture.labels:
            return self.picture.labels[value]
        if column == "quantity":
            return titled(value)
        return value or EMPTY.get(column, value)

    def labels(self, column: str) -> dict[str, str]:
        """What all values of a column are called."""
        return {value: self.label(column, value) for value in self.values(column)}

    @cached_property
    def series(self) -> Series | None:
        """The legend; None for one colour."""
        column = self.picture.series
        if not column:
            return None
        return Series(column, looks(self.values(column)), self.labels(column), line=self.picture.kind == "course")

    def own(self, value: str) -> Data:
        """The rows of a panel."""
        return {name: rows[rows[self.panel] == value] if self.panel else rows for name, rows in self.data.items()}

    def quantity(self, value: str) -> str:
        """The quantity of a panel."""
        return value if self.panel == "quantity" else self.picture.quantities[0]

    def kind(self, value: str) -> str:
        """How the numbers of a panel are printed, see `rows.kind`."""
        return kind(self.data, self.quantity(value))

    def heading(self, value: str) -> str:
        """What stands above a panel."""
        return self.label(self.panel, value) if self.panel else ""

    def axis_title(self, value: str) -> str | None:
        """What stands beside a panel: the quantity, unless its heading says it already, and its unit."""
        unit = self.kind(value) if self.kind(value) not in (PERCENT, POINTS) else ""
        if self.panel == "quantity":
            return unit or None
        name = self.label("quantity", self.quantity(value))
        return f"{name} ({unit})" if unit else name

    def domain(self, value: str) -> list[float]:
        """The ends of a panel's vertical axis, the same in all panels of one quantity, or of one scale."""
        shown = self.own(value) if self.panel == "quantity" and not self.picture.one_scale else self.data
        return page_style.spanned(*(shown["means"][name] for name in MEAN), shown["seeds"]["value"])

    def crosses(self, value: str) -> bool:
        """Whether a panel has values on both sides of 0."""
        shown = self.own(value)["seeds"]["value"]
        return bool((shown < 0).any() and (shown > 0).any())

    def y(self, value: str, field: str) -> alt.Y:
        """The vertical axis of a panel on the page."""
        ends = self.domain(value)
        options = {PERCENT: {"share": True}, POINTS: {"points": True}}.get(self.kind(value), axis_format(ends))
        return page_style.y(field, self.axis_title(value), domain=ends, **options)

    def told(self, value: str) -> tuple[alt.Chart, alt.Chart]:
        """Rows of means and of seeds with what hovering says: NAME_label of each column, mean_said, value_said."""
        kind, own = self.kind(value), self.own(value)
        share, change = kind == PERCENT, kind == POINTS
        plain = wording.form([Estimate(*row) for row in own["means"][MEAN].itertuples(index=False)])
        means = page_style.said(
            page_style.marks("means", self.series), ["mean"], share=share, points=change,
            form="" if share or change else plain,
        )  # fmt: skip
        form = {PERCENT: "format(100 * datum.value, '.2f') + ' %'", POINTS: "format(100 * datum.value, '+.2f')"}
        said = form.get(kind, "format(datum.value, ',.4~r')")
        seeds = page_style.marks("seeds", self.series).transform_calculate(value_said=said)
        names = {
            name: f"{json.dumps(self.labels(name), ensure_ascii=False)}[datum.{name}]"
            for name in self.told_columns
            if name != "step"
        }
        calculated = {f"{name}_label": words for name, words in names.items()}
        if not calculated:
            return means, seeds
        return means.transform_calculate(**calculated), seeds.transform_calculate(**calculated)

    @property
    def told_columns(self) -> list[str]:
        """What names a mark to who hovers over it."""
        return list(dict.fromkeys(filter(None, ["quantity", self.panel, self.picture.series, self.across])))

    def hover(self, **fields: str) -> list[alt.Tooltip]:
        """What hovering shows: the names of the mark, then fields."""
        named = {("step" if name == "step" else f"{name}_label"): titled(name) for name in self.told_columns}
        return page_style.hover(**named, **fields)

    def colour(self, channel: Any = alt.Color) -> Any:
        """The colour of marks on the page."""
        return alt.value("var(--colour-0)") if self.series is None else page_style.coloured(self.series, channel)

    def looks(self) -> Mapping[str, Look]:
        """A look for each series, or for "" where there is one colour."""
        return self.series.looks if self.series else {"": Look(COLOURS[0])}

    def of(self, look: str, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of a series."""
        return rows[rows[self.picture.series] == look] if self.series else rows

    def scale(self, axes: Axes, value: str) -> None:
        """The vertical axis of a panel on paper."""
        title = self.axis_title(value)
        if self.kind(value) == PERCENT:
            paper_style.percent(axes)
        elif self.kind(value) == POINTS:
            paper_style.points(axes)
            title = f"{title} (points)" if title else "points"
        axes.set_ylim(*self.domain(value))
        axes.set_ylabel(title or "")


def axis_format(ends: Sequence[float]) -> dict[str, Any]:
    """How an axis without a share prints its numbers: very large and very small ones by their power of ten."""
    largest = max(map(abs, ends))
    return {} if 1e-3 <= largest < 1e6 else {"format": "~e"}


def looks(values: Iterable[str]) -> dict[str, Look]:
    """A look for each series, all different up to 24; an empty value, which stands for all together, is black."""
    listed = list(values)
    found = task_looks(value for value in listed if value)
    return {value: found[value] if value else Look(COLOURS[-1]) for value in listed}


def words(experiment: str, laid: Laid, quantities: Mapping[str, Meaning], reading: str, missing: str) -> Words:
    """What stands beside a picture. reading: how it is read; missing: what is not shown."""
    picture = laid.picture
    caption = " ".join(part for part in (_sentence(picture.caption), reading, missing) if part)
    about = [(laid.label("quantity", name), quantities[name].words) for name in picture.quantities]
    kinds = {"course": "Lines over training steps", "arms": "Dot plots"}[picture.kind]
    shown = ", ".join(name for name, _ in about)
    return Words(
        name=f"{experiment}-{picture.name}",
        title=picture.title,
        caption=caption,
        definition=" ".join(_sentence(f"{name}: {text}") for name, text in about),
        formula=r"\bar{x} \pm t_{0.975,\,n-1} \sqrt{\frac{1}{n(n-1)} \sum_{s} \left( x_s - \bar{x} \right)^2}",
        alt=f"{kinds} of {shown}, mean over seeds with intervals, {len(laid.panels)} "
        f"{'panel' if len(laid.panels) == 1 else 'panels'}.",
        tables=("measurements",),
        table_titles={"means": "Means over seeds", "seeds": "Values of each seed"},
        meanings=estimate_meanings("mean", "mean over seeds, in the row's unit", "")
        | {"n_seeds": ("seeds that the mean is over", "seeds")},
    )  # fmt: skip


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."
