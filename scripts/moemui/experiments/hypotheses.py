"""From effects on every seed to decisions, by rules that were written before anything ran.

A rule speaks of one effect's 95 % interval over the seeds: the hypothesis is confirmed where the whole interval lies in
one region, refuted where it lies in another, undecided otherwise. Seeds are the units: models trained from other
initial weights on other examples. Effects of several arms are differences within a seed, so the interval is paired.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
FEWEST_SEEDS = 3  # with two the interval is 12.7 standard errors wide and says nothing
ROUNDING = 1e-12


class SeedMean(NamedTuple):
    """Mean of an effect over seeds with its 95 % t interval; NaN where it is not known. n: seeds that it was had on."""

    estimate: float
    low: float
    high: float
    n: int


def over_seeds(values: Sequence[float]) -> SeedMean:
    """The mean over seeds; a seed whose effect is NaN, because it is not defined there, is left out and not counted.

    Without an interval for fewer than FEWEST_SEEDS; without a mean for none. Equal values give an interval without
    width, on which `decide` decides nothing.
    """
    # Every dry-run reads rules, which need none of these.
    import numpy as np
    from scipy import stats

    from moemui.statistics.intervals import CONFIDENCE

    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < FEWEST_SEEDS:
        mean = float(known.mean()) if len(known) else float("nan")
        return SeedMean(mean, float("nan"), float("nan"), len(known))
    mean, error = float(known.mean()), float(known.std(ddof=1)) / math.sqrt(len(known))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(known) - 1)) * error
    return SeedMean(mean, mean - half, mean + half, len(known))


@dataclass(frozen=True)
class Region:
    """The numbers above `above` and below `below`; without one of both there is no bound on that side."""

    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("a region needs a bound; give above, below or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"a region from {self.above} to {self.below} is empty; above is less than below")

    def holds(self, mean: SeedMean) -> bool:
        """Whether the whole interval lies inside; never without an interval."""
        if not (math.isfinite(mean.low) and math.isfinite(mean.high)):
            return False
        return (self.above is None or mean.low > self.above) and (self.below is None or mean.high < self.below)

    def overlaps(self, other: Region) -> bool:
        """Whether an interval could lie in both."""
        low = max((x for x in (self.above, other.above) if x is not None), default=-math.inf)
        high = min((x for x in (self.below, other.below) if x is not None), default=math.inf)
        return low < high - ROUNDING

    @property
    def words(self) -> str:
        """The region as a reader sees it: above 0.01, below 0, between −0.02 and 0.02."""
        if self.above is not None and self.below is not None:
            return f"between {self.above:g} and {self.below:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


@dataclass(frozen=True)
class Hypothesis:
    """A claim, the effect that it speaks of, and the rule that decides it.

    confirmed, refuted: regions, in one of which the whole interval must lie. needs: effect → region that it must lie in
    before the rule is asked at all, such as that a manipulation took hold; without it the hypothesis is undecided.
    paper: which decision the paper's own text would lead one to expect, `confirmed` or `refuted`, or "" where it says
    nothing. primary: whether it is the one that the experiment is for.
    """

    name: str
    claim: str
    effect: str
    confirmed: tuple[Region, ...]
    refuted: tuple[Region, ...]
    needs: Mapping[str, Region]
    paper: str = ""
    primary: bool = False

    def __post_init__(self) -> None:
        for one, other in itertools.combinations((*self.confirmed, *self.refuted), 2):
            if one.overlaps(other):
                raise ValueError(
                    f"hypothesis {self.name}: an interval can lie {one.words} and {other.words} at once; give regions "
                    "that don't overlap"
                )
        if self.paper not in ("", CONFIRMED, REFUTED):
            raise ValueError(f"hypothesis {self.name}: paper is {self.paper!r}; allowed are {CONFIRMED}, {REFUTED}, ''")

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any]) -> Hypothesis:
        """From plain configuration values; one region needs no list. Raises ValueError as the classes do."""
        plain = dict(values)
        confirmed, refuted = (_regions(plain.pop(key)) for key in ("confirmed", "refuted"))
        needs = {effect: Region(**region) for effect, region in plain.pop("needs", {}).items()}
        return cls(name=name, confirmed=confirmed, refuted=refuted, needs=needs, **plain)

    @property
    def rule(self) -> str:
        """The rule in words."""
        confirmed, refuted = (" or ".join(r.words for r in regions) for regions in (self.confirmed, self.refuted))
        words = (
            f"confirmed if the whole interval of {self.effect} lies {confirmed}, refuted if {refuted}, else undecided"
        )
        needed = " and ".join(f"that of {effect} lies {region.words}" for effect, region in self.needs.items())
        return f"{words}; only if {needed}" if needed else words


def _regions(given: Mapping[str, float] | Sequence[Mapping[str, float]]) -> tuple[Region, ...]:
    return tuple(Region(**region) for region in ([given] if isinstance(given, Mapping) else given))


class Decision(NamedTuple):
    """Confirmed, refuted or undecided; what that means for the paper (supports, contradicts, "" for neither); why."""

    outcome: str
    for_paper: str
    note: str


def decide(hypothesis: Hypothesis, effects: Mapping[str, SeedMean]) -> Decision:
    """What the rule makes of the effects. Raises ValueError for an effect that was not measured at all."""
    for name in (hypothesis.effect, *hypothesis.needs):
        if name not in effects:
            raise ValueError(
                f"hypothesis {hypothesis.name} speaks of the effect {name!r}; there are {', '.join(sorted(effects))}"
            )
    mean = effects[hypothesis.effect]
    if not math.isfinite(mean.low):
        return Decision(UNDECIDED, "", f"{hypothesis.effect} is known on {mean.n} seeds, so it has no interval")
    if mean.high - mean.low <= ROUNDING:
        return Decision(UNDECIDED, "", f"{hypothesis.effect} is the same on every seed, which says nothing of chance")
    for name, region in hypothesis.needs.items():
        if not region.holds(effects[name]):
            return Decision(UNDECIDED, "", f"{name} was to lie {region.words} and does not, so the rule says nothing")
    held = [
        outcome
        for outcome, regions in ((CONFIRMED, hypothesis.confirmed), (REFUTED, hypothesis.refuted))
        if any(region.holds(mean) for region in regions)
    ]
    if not held:
        return Decision(UNDECIDED, "", "")
    outcome = held[0]
    for_paper = "" if not hypothesis.paper else "supports" if hypothesis.paper == outcome else "contradicts"
    return Decision(outcome, for_paper, "")
