"""How numbers are printed in prose: shares as percent, intervals in brackets, p-values, counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.report.views import Estimate

NOT_KNOWN = "not known"


def percent(number: Estimate | float, unit: str = " %", scale: float = 100.0, signed: bool = False) -> str:
    """A share as percent with one decimal, two below 1 %; an estimate with its interval in brackets, or without any.

    signed: a plus before what is above 0, as of a change. A missing value (NaN) is printed as NOT_KNOWN, by `decimal`
    and `probability` as well.
    """
    if _missing(number):
        return NOT_KNOWN
    if isinstance(number, float):
        return f"{_number(scale * number, _decimals(scale * number), signed)}{unit}"
    decimals = _decimals(scale * number.value)
    value, low, high = (_number(scale * part, decimals, signed) for part in number)
    missing = not np.isfinite([number.low, number.high]).all()
    if not missing and number.low == number.high:
        return f"{value}{unit} (the same in every resample)"  # no certainty: a threshold that no resample crosses
    return f"{value}{unit} {'(no interval)' if missing else f'[{low}, {high}]'}"


def decimal(number: Estimate | float, decimals: int = 2) -> str:
    """A plain number with its decimals; an estimate with its interval in brackets, or without any."""
    if _missing(number):
        return NOT_KNOWN
    if isinstance(number, float):
        return _number(number, decimals)
    missing = not np.isfinite([number.low, number.high]).all()
    ends = ", ".join(_number(end, decimals) for end in (number.low, number.high))
    return f"{_number(number.value, decimals)} {'(no interval)' if missing else f'[{ends}]'}"


def points(number: Estimate | float) -> str:
    """A difference of shares in percentage points."""
    return percent(number, unit=" points")


def change(number: Estimate | float) -> str:
    """A difference or change of shares in percentage points, with its sign: +4.5 points [+4.0, +5.0]."""
    return percent(number, unit=" points", signed=True)


def _missing(number: Estimate | float) -> bool:
    return bool(np.isnan(number.value if isinstance(number, Estimate) else number))


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 1 else 2


def _number(value: float, decimals: int, signed: bool = False) -> str:
    rounded = round(value, decimals) + 0.0  # + 0.0 turns −0.0 into 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}".replace("-", "−")


def probability(p: float) -> str:
    """A p-value as printed: 0.031, 0.0005 below 0.001, 2e−07 below 0.0001."""
    if _missing(p):
        return NOT_KNOWN
    if p == 0:
        return "below 1e−300"  # smaller than a float can hold
    if p >= 0.0001:
        return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"
    return f"{p:.0e}".replace("-", "−")


def power(number: float) -> str:
    """A small positive number by its power of ten: 3.7e−07; 0 as it is."""
    return f"{number:.1e}".replace("-", "−") if number else "0"


def sign(number: Estimate) -> int:
    """1 or −1 where the interval lies above or below 0, 0 where it contains it (ends included) or is missing."""
    return int(number.low > 0) - int(number.high < 0)


def estimate(row: pd.Series, name: str) -> Estimate:
    """A row's estimate from its columns NAME, NAME_low and NAME_high; NaN where the table has a gap."""
    values = (row[column] for column in (name, f"{name}_low", f"{name}_high"))
    return Estimate(*(np.nan if pd.isna(value) else float(value) for value in values))


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 task, 2 tasks."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def tally(first: str, *others: tuple[int, str]) -> str:
    """`first`, then the words of each other count that is not 0: "on 2 of 3 tasks, undecided on 1"."""
    return ", ".join([first, *(words for number, words in others if number)])


def sentence(note: str) -> str:
    """A table's note as a sentence: capital first, one full stop at its end."""
    return f"{note[:1].upper()}{note[1:].rstrip('.')}." if note else ""


def key_in_words(setting: Setting) -> str:
    """What is key at a setting, and its label."""
    return f"{key_share(setting)} ({setting.label})"


def key_share(setting: Setting) -> str:
    """What is key at a setting."""
    share = f"{100 * setting.threshold:g} %"
    words = {
        "topk": f"up to {share} of a layer's neurons key in a sample",
        "global_topk": f"up to {share} of the model's neurons key in a sample",
        "top_score": f"neurons with {share} or more of the layer's highest score key",
    }[setting.rule]
    if setting.selection == "per_token":
        words = words.replace("in a sample", "at a token")
    return words
