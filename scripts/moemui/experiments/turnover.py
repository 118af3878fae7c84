"""Turnover: how much of a task's key-neuron set survives from one checkpoint to the next?

MUI counts how many neurons a task needs; it does not say whether they are the same ones. Here tasks begin one after
another in one training run, and the set of neurons that are key for any of a task's held-out samples is followed from
one saved step to the next: within the task, against the other tasks, and by layer.

Outcome: similarity of two sets, |A ∩ B| / √(|A|·|B|), which is 1 for equal sets and does not grow because one of them
is larger. Only steps both of whose ends were trained on the task count in the effects.

Controls: 1. Sampling. Two sets of one task at one checkpoint differ, too, when they rest on other samples. So sets of
disjoint halves of the samples are compared, at one checkpoint and across two; each comparison, that with other tasks
too, is one of disjoint samples, and turnover is what the similarity across checkpoints lacks of that at one.
2. Chance: the similarity that is expected of random sets of equal size in every expert, so that the same neurons are
told from the same experts. 3. Inputs. Tasks differ in what they give the model, so their sets differ at step 0, before
anything is learned; what parts the same tasks and pairs there is taken off. 4. Learning rate. It falls during training,
so everything slows down; on one and the same step tasks that have begun lately are compared with those that began long
ago. Which tasks these are is the same in all seeds, so age is not told apart from what the tasks are.

What it does not show: whether a neuron that stays does the same thing, or one that leaves was replaced by its copy. The
reference answers are the same at all steps, so a change is one of the model and not of what it writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.pictures import Picture

PER_STEPS = 100
BETWEEN = "|"  # joins the names of two tasks


@dataclass(frozen=True)
class Settings:
    """splits: how often each task's samples are halved."""

    splits: int = 10

    def __post_init__(self) -> None:
        if self.splits < 1:
            raise ValueError(f"splits is {self.splits}; it is at least 1")


_OF = "neurons that are key for any of a task's samples"
_SIMILAR = "similarity |A ∩ B| / √(|A|·|B|)"
_HALVES = f"{_SIMILAR} of the sets of two disjoint halves of samples, mean over splits and over which half is which: "
_CHANCE = "as it is expected of random sets of equal size in every expert"
_RETAINED = "similar_next over the geometric mean of similar_same at both checkpoints"
QUANTITIES = {
    "accuracy": Meaning("share of the samples that would be answered exactly", "share"),
    "start": Meaning("the first training step that may hold the task", "steps"),
    "union": Meaning(f"{_OF}, at most those of `part`", "neurons"),
    "survival": Meaning(f"share of the {_OF} at the checkpoint before that are so at this one, same samples", "share"),
    "survival_chance": Meaning(f"survival {_CHANCE}", "share"),
    "jaccard": Meaning(f"|A ∩ B| / |A ∪ B| of the {_OF}, at the checkpoint before and at this one", "share"),
    "shared": Meaning("share of one task's neurons that are another's, at one checkpoint, mean of both ways", "share"),
    "shared_chance": Meaning(f"shared {_CHANCE}", "share"),
    "shared_jaccard": Meaning("|A ∩ B| / |A ∪ B| of two tasks' neurons at one checkpoint", "share"),
    "similar_same": Meaning(f"{_HALVES}of one task at one checkpoint", "share"),
    "similar_next": Meaning(f"{_HALVES}of one task at the checkpoint before and at this one", "share"),
    "similar_next_chance": Meaning(f"similar_next {_CHANCE}", "share"),
    "similar_other": Meaning(f"{_HALVES}of two tasks at one checkpoint", "share"),
    "similar_other_chance": Meaning(f"similar_other {_CHANCE}", "share"),
    "similar_other_next": Meaning(
        f"{_HALVES}of one task at the checkpoint before and another one at this, mean of both ways", "share"
    ),
    "retained": Meaning(f"{_RETAINED}: 1 where a set changes no more than other samples change it", "share"),
    "turnover": Meaning(
        f"1 minus retained^({PER_STEPS} / training steps between the checkpoints): what goes in {PER_STEPS} steps at "
        "this rate; slightly below 0 by noise where nothing does",
        "share",
    ),
}  # fmt: skip

EFFECTS = {
    "within_minus_between": Meaning(
        "similarity of a task's set with its own at the checkpoint before (similar_next) minus with another task's at "
        "the same one (similar_other); mean over tasks or pairs on each step, then over steps",
        "share",
    ),
    "within_minus_between_learned": Meaning(
        "within_minus_between minus the same tasks' and pairs' difference in the untrained model (similar_same minus "
        "similar_other at step 0): above 0 where training makes tasks' sets more their own than their inputs do",
        "share",
    ),
    "within_minus_between_next": Meaning(
        "similar_next minus the similarity with another task's set at the checkpoint before (similar_other_next)",
        "share",
    ),
    "beyond_experts": Meaning(
        "within_minus_between after each similarity lost what random sets of equal size in every expert have", "share"
    ),
    "survival_minus_shared": Meaning(
        "survival minus the share of neurons in common with another task (shared); sets of all samples, so that only "
        "survival is on the same ones",
        "share",
    ),
    "turnover": Meaning(f"turnover in {PER_STEPS} steps, mean of tasks and steps", "share"),
    "turnover_late_minus_early": Meaning(
        "turnover in the second half of a task's own steps minus in their first half, mean over tasks", "share"
    ),
    "turnover_young_minus_old": Meaning(
        "turnover of tasks in the first half of their own steps minus of tasks in the second half, on the same step of "
        "the run, mean over the steps that have both; the same tasks are the young ones in every seed",
        "share",
    ),
    "turnover_last_minus_first_layer": Meaning(
        "turnover in the last layer minus in the first, mean over tasks and steps", "share"
    ),
}  # fmt: skip

PICTURES = (
    Picture(
        "survival",
        "How similar a task's key neurons are to its own and to another task's",
        "Similarity of sets of disjoint halves of the samples: with the same task at the same checkpoint, with it one "
        "checkpoint earlier, and of two tasks at one checkpoint (mean over all tasks or pairs). What parts tasks at "
        "step 0 is their inputs.",
        "course",
        ("similar_same", "similar_next", "similar_other"),
        where={"task": ("",), "part": ("",)},
        labels={
            "similar_same": "one task, one checkpoint",
            "similar_next": "one task, checkpoint before",
            "similar_other": "two tasks, one checkpoint",
        },
    ),
    Picture(
        "turnover",
        f"Turnover in {PER_STEPS} training steps, by task",
        "What a task's set loses in similarity beyond what other samples make it lose.",
        "course",
        ("turnover",),
        series="task",
        where={"part": ("",)},
        labels={"": "mean over tasks"},
    ),
    Picture(
        "depth",
        f"Turnover in {PER_STEPS} training steps, by layer",
        "Mean over tasks, in each layer.",
        "course",
        ("turnover",),
        series="part",
        where={"task": ("",)},
        labels={"": "all layers"},
    ),
)


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """Every effect of one seed, NaN with a note where it is not defined."""
    turnover = _begun(measurements, "turnover")
    first, last = (_begun(measurements, "turnover", part) for part in _ends(measurements))
    young, old = _halves(turnover)
    next_, other = (_begun(measurements, quantity) for quantity in ("similar_next", "similar_other"))
    chances = (_begun(measurements, f"{quantity}_chance") for quantity in ("similar_next", "similar_other"))
    next_chance, other_chance = chances
    same_inputs, other_inputs = (_untrained(measurements, quantity) for quantity in ("similar_same", "similar_other"))
    return {
        "within_minus_between": _apart(next_, other),
        "within_minus_between_learned": _apart(
            next_ - same_inputs, other - other_inputs, "" if len(same_inputs) else "step 0 was not saved"
        ),
        "within_minus_between_next": _apart(next_, _begun(measurements, "similar_other_next")),
        "beyond_experts": _apart(next_ - next_chance, other - other_chance),
        "survival_minus_shared": _apart(_begun(measurements, "survival"), _begun(measurements, "shared")),
        "turnover": _mean(_known(turnover)),
        "turnover_late_minus_early": _mean((old.mean() - young.mean()).dropna()),
        "turnover_young_minus_old": _apart(young, old),
        "turnover_last_minus_first_layer": _mean(_known(last - first)),
    }


def _begun(measurements: pd.DataFrame, quantity: str, part: str = "") -> pd.DataFrame:
    """A quantity by step (rows) and task or pair (columns), where its ends were both trained on them; else missing."""
    starts = series(measurements, "start", ["task"])
    saved = np.sort(series(measurements, "accuracy", ["step", "task"]).index.unique("step"))
    values = series(measurements, quantity, ["step", "task"], part=part).unstack("task").drop(columns="")
    before = [saved[np.searchsorted(saved, step) - 1] if step > saved[0] else -1 for step in values.index]
    begun = [max(starts[task] for task in name.split(BETWEEN)) for name in values.columns]
    return values.where(np.greater.outer(np.array(before), np.array(begun)))


def _untrained(measurements: pd.DataFrame, quantity: str) -> pd.Series:
    """A quantity at step 0 by task or pair; empty where step 0 was not saved."""
    return series(measurements, quantity, ["task"], step=0, part="").drop("", errors="ignore")


def _ends(measurements: pd.DataFrame) -> tuple[str, str]:
    """The first and the last layer."""
    layers = sorted({part for part in measurements["part"] if part}, key=lambda part: int(part.removeprefix("L")))
    return layers[0], layers[-1]


def _halves(values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each task's values in the first and second half of its own steps; of an odd number the middle is in neither."""
    rank, half = values.notna().cumsum(), values.notna().sum() // 2
    return values.where(rank <= half), values.where(rank > values.notna().sum() - half)


def _apart(one: pd.DataFrame, other: pd.DataFrame, why_none: str = "") -> tuple[float, str]:
    """Mean of one minus mean of the other on the same step, mean over the steps that have both."""
    return _mean((one.mean(axis=1) - other.mean(axis=1)).dropna(), why_none)


def _known(values: pd.DataFrame) -> pd.Series:
    return pd.Series(values.to_numpy().ravel()).dropna()


def _mean(values: pd.Series, why_none: str = "") -> tuple[float, str]:
    """Mean; NaN with the reason for none."""
    return (float(values.mean()), "") if len(values) else (float("nan"), why_none or "no step has what is compared")
