"""How effects, rules and decisions are printed: shares as points with their sign, other numbers with their unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moemui.experiments.hypotheses import CONFIRMED, REFUTED, UNDECIDED, Hypothesis, Region
from moemui.report.views import Estimate
from moemui.report.wording import NOT_KNOWN, change, power, sentence

SHARE = "share"
SYMBOLS = {CONFIRMED: "✓", REFUTED: "✗", UNDECIDED: "?"}
FOR_PAPER = {"supports": "supports the paper", "contradicts": "contradicts the paper"}
FINEST, GREATEST = 1e-4, 1e7  # numbers below and above are printed by their power of ten


def measured(number: Estimate, unit: str) -> str:
    """A mean over seeds with its interval: +3.4 points [+2.1, +4.7]; 0.512 [0.498, 0.526] bits; 12 steps (no interval).

    A missing mean is printed as NOT_KNOWN.
    """
    if math.isnan(number.value):
        return NOT_KNOWN
    known = math.isfinite(number.low) and math.isfinite(number.high)
    after = "" if known else " (no interval)"
    if known and number.low == number.high:
        known, after = False, " (the same on every seed)"
    if unit == SHARE:
        return change(number) if known else f"{change(float(number.value))}{after}"
    value, low, high = _plain(number)
    return " ".join(filter(None, [value, f"[{low}, {high}]" if known else "", unit])) + after


def digits(number: Estimate) -> int:
    """Decimals to print a number with, at most 6: two digits of half its interval, three of itself without one."""
    half = (number.high - number.low) / 2
    size, shown = (half, 2) if math.isfinite(half) and half > 0 else (abs(number.value), 3)
    if not math.isfinite(size) or size == 0:
        return 0
    return min(6, max(0, shown - 1 - math.floor(math.log10(size))))


def form(numbers: Sequence[Estimate]) -> str:
    """How d3 prints numbers beside each other: as `measured` the one of them that needs most decimals."""
    largest = max((abs(part) for number in numbers for part in number if math.isfinite(part)), default=0.0)
    if largest and not FINEST <= largest < GREATEST:
        return ".1e"
    return f",.{max(map(digits, numbers), default=0)}f"


def _plain(number: Estimate) -> list[str]:
    largest = max(abs(part) for part in number if math.isfinite(part))
    if largest and not FINEST <= largest < GREATEST:
        return [power(part) for part in number]
    decimals = digits(number)
    return [f"{round(part, decimals) + 0.0:,.{decimals}f}".replace("-", "−") for part in number]


def region(bounds: Region, unit: str) -> str:
    """A region in the unit that effects are printed in: above 1 point, between −2 and 2 points."""
    if unit == SHARE:
        shown = Region(*(None if end is None else round(100 * end, 9) for end in (bounds.above, bounds.below)))
        ends = [end for end in (shown.above, shown.below) if end is not None]
        after = "point" if len(ends) == 1 and abs(ends[0]) == 1 else "points"
    else:
        shown, after = bounds, unit
    return f"{shown.words} {after}".strip().replace("-", "−")


def rule(hypothesis: Hypothesis, unit: str) -> str:
    """Which interval confirms and which refutes, in the unit that effects are printed in."""
    confirmed, refuted = (
        " or ".join(region(part, unit) for part in parts) for parts in (hypothesis.confirmed, hypothesis.refuted)
    )
    return f"{CONFIRMED} {confirmed}, {REFUTED} {refuted}"


def for_paper(hypothesis: Hypothesis, said: str) -> str:
    """What a decision means for the paper, in words; said: `for_paper` of the table of decisions."""
    if said:
        return FOR_PAPER[said]
    return "neither, undecided" if hypothesis.paper else "the paper says nothing"


def ended(text: str) -> str:
    """Words of a table as a sentence, except that a name of code at their beginning stays as it is."""
    first = text.split(" ", 1)[0]
    return f"{text.rstrip('.')}." if "_" in first else sentence(text)
