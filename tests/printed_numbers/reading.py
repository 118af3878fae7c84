"""Numbers in prose, and how the same numbers look when they are printed from a table: written apart from the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

# A number that no letter stands before (Chao2 and L28 are names): 12, 1,024, −0.35, 0.031, 2e−07.
NUMBER = re.compile(r"(?<![A-Za-z\d.])−?\d+(?:,\d{3})*(?:\.\d+)?(?:e[−+]?\d+)?(?![A-Za-z])")
LEFT_OUT = re.compile(r"^See (?P<tables>[a-z_, ]+?) for the same of (?P<names>.+)\.$")


@dataclass
class Expected:
    """The numbers that a topic prints, as they follow each other.

    groups: first those of each group, which a table may be named for instead; always: then those that are always there.
    """

    groups: dict[str, list[str]] = field(default_factory=dict)
    always: list[str] = field(default_factory=list)

    def numbers(self, left_out: Iterable[str] = ()) -> list[str]:
        """All of them but those of the groups that are left out."""
        kept = [numbers for name, numbers in self.groups.items() if name not in set(left_out)]
        return [number for numbers in [*kept, self.always] for number in numbers]


def numbers(text: str, names: Sequence[str] = ()) -> list[str]:
    """The numbers of a text as they are printed, without those in names."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "")
    return NUMBER.findall(text)


def left_out(sentences: Iterable[str]) -> list[str]:
    """The groups for which the sentences name a table."""
    found = [LEFT_OUT.match(sentence) for sentence in sentences]
    return [name for match in found if match for name in match["names"].split(", ")]


def printed(sentences: Iterable[str], names: Sequence[str]) -> list[str]:
    """Every number of the sentences as it comes, but for the one that names the groups left out."""
    return [number for text in sentences if not LEFT_OUT.match(text) for number in numbers(text, names)]


def names(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Names that may hold digits and are no measured numbers: models, checkpoints, tasks, variants."""
    cells, tests = tables["performance"], tables["enrichment"]
    found = [cells["model"], cells["checkpoint"], cells["task"], tests["variant"], tables["phases"]["to_checkpoint"]]
    return [name for name in dict.fromkeys(name for column in found for name in column.unique()) if name]


def fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}" if abs(value) >= 1e15 else f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def interval(value: float, low: float, high: float, decimals: int, collapses: bool = False) -> list[str]:
    """A value and its ends; ends that are missing are not printed, nor (collapses) equal ones."""
    if np.isnan(value):
        return []
    if np.isnan([low, high]).any() or (collapses and low == high):
        return [fixed(value, decimals)]
    return [fixed(number, decimals) for number in (value, low, high)]


def percent(*estimate: float) -> list[str]:
    """A share, alone or with both ends: one decimal, two below 1 %."""
    scaled = [100 * number for number in estimate]
    decimals = 1 if abs(scaled[0]) >= 1 else 2
    if len(scaled) == 1:
        return [] if np.isnan(scaled[0]) else [fixed(scaled[0], decimals)]
    return interval(scaled[0], scaled[1], scaled[2], decimals, collapses=True)


def chance(p: float) -> list[str]:
    """A p-value."""
    if np.isnan(p):
        return []
    if p == 0:
        return ["1e−300"]
    if p >= 0.001:
        return [f"{p:.3f}"]
    return [f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}".replace("-", "−")]


def some(*counts: int) -> list[str]:
    """Counts as they are printed: none that is 0."""
    return [str(count) for count in counts if count]


def plain(number: float) -> str:
    return f"{number:g}"


def cells(row: pd.Series, name: str) -> list[float]:
    """A row's estimate and its ends."""
    values = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
    return [np.nan if pd.isna(value) else float(value) for value in values]


def mean(rows: pd.DataFrame, name: str) -> list[float]:
    """Mean over rows and its interval, by MOVER (Zou and Donner 2008)."""
    value, low, high = (rows[f"{name}{end}"].to_numpy(dtype=float, na_value=np.nan) for end in ("", "_low", "_high"))
    middle = value.mean()
    below, above = (np.sqrt(((value - end) ** 2).sum()) / len(value) for end in (low, high))
    return [middle, middle - below, middle + above]


def side(low: float, high: float) -> int:
    """Where an interval lies: 1 above 0, −1 below, 0 over it or unknown."""
    return 1 if low > 0 else -1 if high < 0 else 0


def at(table: pd.DataFrame, setting: Sequence[object]) -> pd.DataFrame:
    formulation, selection, threshold, rule, variant = setting
    same = np.isclose(table["threshold"].astype(float), threshold)
    for column, value in (("formulation", formulation), ("selection", selection), ("rule", rule), ("variant", variant)):
        same &= (table[column] == value).to_numpy()
    return table[same]


def last(table: pd.DataFrame) -> pd.DataFrame:
    best = table.groupby("model")["order"].max()
    return table[table["order"] == table["model"].map(best)]


def at_limit(table: pd.DataFrame, limit: float) -> pd.DataFrame:
    return table[np.isclose(table["expert_threshold"], limit)]


def models(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["model"]))


def of(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows with these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def in_words(setting: Sequence[object]) -> list[str]:
    """The numbers of a setting in words: its threshold as percent, and again in its label."""
    share = float(str(setting[2]))
    return [plain(100 * share), plain(share)]


def ends(rows: pd.DataFrame, column: str) -> list[str]:
    """The lowest and the highest estimate of a column, the first row of several; nothing where they are equal."""
    values = rows[column].to_numpy(dtype=float)
    if values.min() == values.max():
        return []
    low, high = rows.iloc[int(np.argmin(values))], rows.iloc[int(np.argmax(values))]
    return percent(*cells(low, column)) + percent(*cells(high, column))
