"""What the figures of experts share: places and names of experts, kinds told apart, panels of models, p in words."""

from __future__ import annotations

import re
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes

from moemui.report.figures.figure import Series
from moemui.report.figures.looks import COLOURS, Look
from moemui.report.views import names

KINDS = {"routed": Look(COLOURS[0], "o"), "shared": Look(COLOURS[1], "s")}


def place(expert: str) -> tuple[int, bool, int]:
    """An expert's place in the model: its layer, routed before shared, its number.

    Raises ValueError for a name that is no expert's.
    """
    found = re.fullmatch(r"L(\d+)-([ES])(\d+)", expert)
    if found is None:
        raise ValueError(f"{expert!r} is no expert's name; they are like L17-E8 (routed) and L28-S1 (shared)")
    return int(found[1]), found[2] == "S", int(found[3])


def placed(chart: alt.Chart, field: str = "expert") -> alt.Chart:
    """The chart with FIELD_place, the number of the expert's place in the model, to sort an axis by."""
    name = f"datum.{field}"
    layer, own = f"replace(replace({name}, 'L', ''), /-.*/, '')", f"replace({name}, /.*[ES]/, '')"
    shared = f"(test(/-S/, {name}) ? 5e5 : 0)"
    return chart.transform_calculate(**{f"{field}_place": f"1e6 * toNumber({layer}) + {shared} + toNumber({own})"})


def labels(**options: Any) -> alt.Axis:
    """An axis of experts' names, those of shared ones bold."""
    bold = alt.condition("test(/-S/, datum.label)", alt.value("bold"), alt.value("normal"))
    return alt.Axis(labelFontWeight=bold, labelOverlap=False, labelPadding=4, ticks=False, **options)


def bold_shared(axes: Axes) -> None:
    """The same on paper, once the ticks are set."""
    for label in axes.get_yticklabels():
        if "-S" in label.get_text():
            label.set_fontweight("bold")


def kinds(rows: pd.DataFrame) -> Series:
    """The legend of the kinds of experts that there are."""
    return Series("kind", {kind: look for kind, look in KINDS.items() if (rows["kind"] == kind).any()}, line=False)


def titles(rows: pd.DataFrame) -> dict[str, str]:
    """The heading of each model's panel: the model and its checkpoint, of which there is one."""
    first = rows.drop_duplicates("model").set_index("model")["checkpoint"]
    return {model: f"{model}, {first[model]}" for model in names(rows, "model")}


def probability(name: str) -> str:
    """A probability in words, in Vega's language."""
    return f"datum.{name} < 0.001 ? format(datum.{name}, '.1e') : format(datum.{name}, '.3f')"
