"""How models and kinds are told apart, on paper and on the page: colours safe for colour-blind readers, marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Okabe and Ito 2008, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


@dataclass(frozen=True)
class Look:
    """A colour (one of COLOURS or GREY), a mark (one of MARKERS), a dash (one of DASHES), as matplotlib takes them."""

    colour: str
    marker: str = "o"
    dash: Any = "-"


def looks(models: Iterable[str], families: Mapping[str, str]) -> dict[str, Look]:
    """A look for every model: a colour for its family, in order of appearance, and a marker and dash of its own.

    No two are alike as long as at most 28 models share a colour; with more families than colours, families share one.
    """
    numbers: dict[str, int] = {}
    shared = [0] * len(COLOURS)  # models of each colour so far
    found = {}
    for model in models:
        colour = numbers.setdefault(families.get(model, model), len(numbers)) % len(COLOURS)
        shape = shared[colour]
        shared[colour] += 1
        # 7 markers and 4 dashes have no common divisor, so their pairs repeat only after 28
        found[model] = Look(COLOURS[colour], MARKERS[(colour + shape) % len(MARKERS)], DASHES[shape % len(DASHES)])
    return found


def task_looks(tasks: Iterable[str]) -> dict[str, Look]:
    """A look for every task: colours and markers in order, then the colours again with other markers and dashes.

    None is black, which is the look of all tasks together and of their mean.
    """
    colours = COLOURS[:-1]
    return {
        task: Look(
            colours[i % len(colours)],
            MARKERS[(i + i // len(colours)) % len(MARKERS)],
            DASHES[i // len(colours) % len(DASHES)],
        )
        for i, task in enumerate(tasks)
    }
