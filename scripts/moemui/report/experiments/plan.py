"""An experiment as its page needs it: what was written before it ran, and what is drawn of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure as Drawing

from moemui.experiments.hypotheses import Hypothesis
from moemui.experiments.measurements import Meaning
from moemui.experiments.picture import Picture
from moemui.report.figures.figure import Chart, Data, Words

NAME = re.compile(r"[A-Za-z0-9_]+")  # names become anchors and files


class Declared(Protocol):
    """What an experiment declares for its figures."""

    @property
    def QUANTITIES(self) -> Mapping[str, Meaning]: ...

    @property
    def PICTURES(self) -> tuple[Picture, ...]: ...


@dataclass(frozen=True)
class Plan:
    """One experiment.

    question, paper (what it says, "" for nothing), outcome, controls, limits: sentences. seeds: planned ones.
    settings, measure (how neurons are read), cohorts (name → training and tasks): plain values of any depth.
    hypotheses: in the order of the config. quantities: what each measurement is. pictures: its figures.
    """

    name: str
    question: str
    paper: str
    outcome: str
    controls: tuple[str, ...]
    limits: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    measure: Mapping[str, Any]
    cohorts: Mapping[str, Any]
    hypotheses: tuple[Hypothesis, ...]
    quantities: Mapping[str, Meaning]
    pictures: tuple[Picture, ...]

    def __post_init__(self) -> None:
        for name in (self.name, *(picture.name for picture in self.pictures)):
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"experiment {self.name}: the name {name!r} becomes a file; letters, digits and '_' are allowed"
                )
        primary = [hypothesis.name for hypothesis in self.hypotheses if hypothesis.primary]
        if len(primary) != 1:
            raise ValueError(
                f"experiment {self.name}: found {len(primary)} primary hypotheses; exactly one is what it is for"
            )

    @classmethod
    def of(cls, name: str, plan: Mapping[str, Any], declared: Declared) -> Plan:
        """From the plain values of the configuration and what the experiment declares.

        plan: question, paper, outcome, controls, limits, seeds, settings, measure, cohorts, hypotheses by name.
        Raises ValueError for a rule that is none, as `Hypothesis`, or a name that can't be a file's.
        """
        return cls(
            name=name,
            **{key: plan[key] for key in ("question", "paper", "outcome", "limits", "settings", "measure", "cohorts")},
            controls=tuple(plan["controls"]),
            seeds=tuple(plan["seeds"]),
            hypotheses=tuple(Hypothesis.from_mapping(*item) for item in plan["hypotheses"].items()),
            quantities=declared.QUANTITIES,
            pictures=declared.PICTURES,
        )

    @property
    def title(self) -> str:
        """The name as people write it."""
        return titled(self.name)


def titled(name: str) -> str:
    """A name of code as people write it: `mui_share` → MUI share."""
    words = name.replace("_", " ").split()
    known = {"mui": "MUI", "cka": "CKA", "auc": "AUC", "ood": "OOD", "moe": "MoE"}
    first = [word[:1].upper() + word[1:] if place == 0 else word for place, word in enumerate(words)]
    return " ".join(known.get(word.lower(), word) for word in first)


@dataclass(frozen=True)
class Shown:
    """A figure of an experiment that has something to show: its words, its rows, and both ways to draw them."""

    words: Words
    data: Data
    chart: Chart
    paper: Callable[[], Drawing]
