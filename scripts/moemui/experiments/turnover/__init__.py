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

from moemui.experiments.measurements import Meaning

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
