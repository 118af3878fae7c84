"""What a finding is, and how many sentences it has at most."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

Tables = Mapping[str, pd.DataFrame]

SIGNIFICANT = 0.05
REASONS = 3  # of a topic that was not measured
MOST = 8  # sentences of a topic; what is beyond them is left to the table


@dataclass(frozen=True)
class Finding:
    """A topic, its sentences, what to keep in mind about them, and how they stand to the paper.

    verdict: agrees, disagrees or undecided against the paper's expectation; described where the paper expects nothing.
    figures: names of the figures that show the topic, in the order of the report; a study may lack some of them.
    """

    topic: str
    sentences: tuple[str, ...]
    caveat: str
    verdict: str = "described"
    figures: tuple[str, ...] = ()


def shortened(groups: Mapping[str, Sequence[str]], table: str) -> list[str]:
    """The sentences of each group (a model, say) as long as there are MOST at most, whole groups and at least one.

    A last sentence names the groups that are left out and the table (or tables) that holds them.
    """
    kept: list[str] = []
    left = [name for name in groups if groups[name]]
    while left and (not kept or len(kept) + len(groups[left[0]]) <= MOST):
        kept += groups[left.pop(0)]
    return [*kept, f"See {table} for the same of {', '.join(left)}."] if left else kept


def reasons(notes: Iterable[str]) -> str:
    """What a table's notes give as reasons, by semicolons: those in every note, else the REASONS most frequent ones."""
    listed = [[reason for reason in note.rstrip(".").split("; ") if reason] for note in notes]
    counts = Counter(itertools.chain(*map(dict.fromkeys, listed)))
    everywhere = [reason for reason, number in counts.items() if number == len(listed)]
    chosen = everywhere or [reason for reason, _ in counts.most_common(REASONS)]
    return "; ".join(chosen) or "the table gives no reason"


def verdict(outcomes: Sequence[int]) -> str:
    """Of outcomes that support (1), contradict (−1) or leave open (0) what the paper says: what they come to.

    agrees where all support it, disagrees where one contradicts and none supports it, described without any.
    """
    if not outcomes:
        return "described"
    if min(outcomes) > 0:
        return "agrees"
    return "disagrees" if min(outcomes) < 0 and max(outcomes) < 1 else "undecided"
