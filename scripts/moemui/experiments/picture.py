"""What is drawn of an experiment, declared beside what it measures; `moemui.report.experiments` draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("course", "arms")


@dataclass(frozen=True)
class Picture:
    """A figure of an experiment: a panel a quantity (or a value of `panel`), mean over seeds with its 95 % t interval.

    kind: `course`, lines over training steps, or `arms`, a point for each value of `x`, seeds beside it.
    quantities: which measurements, by name; with several, each has a panel. where: column → values that rows must have.
    x: the column of the points of `arms`: arm, task or part. series: the column with a colour for each value: arm, task
    or part; "" for one colour. panel: the column whose values have a panel each, where there is one quantity; "" for
    none. labels: what values of series, x and panel are called on the page, where it isn't the value itself.
    one_scale: whether all panels go over one vertical axis, so that several quantities of one unit compare by eye.
    """

    name: str
    title: str
    caption: str
    kind: str
    quantities: tuple[str, ...]
    series: str = ""
    x: str = ""
    panel: str = ""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    one_scale: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"picture {self.name}: kind is {self.kind!r}; allowed are {', '.join(KINDS)}")
        if (self.kind == "arms") != bool(self.x):
            raise ValueError(f"picture {self.name}: x is {self.x!r}; a picture of arms needs it, and no other has one")
        if self.panel and len(self.quantities) > 1:
            raise ValueError(
                f"picture {self.name}: panels by {self.panel!r} go with one quantity, not {self.quantities}"
            )
