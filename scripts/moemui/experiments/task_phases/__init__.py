"""Task-specific phases: does a mean over tasks hide tasks that are in different phases of training?

The paper reads a model's training off the mean over tasks: neurons are recruited first (performance and MUI rise,
Accumulating), then used more sparingly (performance rises, MUI falls, Evolving). Here tasks begin one after another in
one training run, and every task is followed on its own: accuracy and MUI on the same held-out samples at every saved
step, MUI as expected of half of them.

Outcome: the phase of each step between consecutive checkpoints that were trained on the task, of every task and of
their mean, by the same rules as everywhere in the project (a step counts only where the intervals of both changes,
paired over the samples, leave 0 out; else it is Flat); and where MUI and accuracy turn, the one change of slope of each
task's trajectory over the checkpoints trained on it. An exact answer comes late in learning, so the phases are told a
second time with the share of right answer tokens as performance (arm `tokens`).

Controls: two disjoint halves of one task's samples at the same checkpoints. They share task and model, so what parts
them is noise of sampling. It is taken off what parts a half of one task from a half of another: as many pairs of
halves, as large, so a comparison between tasks finds no more by its samples than that within a task. Accuracy has to
part the change points of tasks, too: that it does is made so.

What it does not show: the tasks differ in when they begin, because the run was made so, and none can turn before it has
begun; how far apart tasks lie where a corpus holds everything from the beginning is another question. A step with
little change is Flat by its interval, so with more samples more steps are named, and halves name fewer than all do.
"""

from __future__ import annotations

from dataclasses import dataclass

from moemui.experiments.measurements import Meaning

FLAT, RISING, SPARING = "Flat", "Accumulating", "Evolving"
PHASES = (RISING, SPARING, "Coarsening", "Collapsing", FLAT)
ANSWERS, TOKENS = "", "tokens"  # arms: whether performance is exact answers or right tokens
HALF = "half {half} of split {split}"


@dataclass(frozen=True)
class Settings:
    """samples: held-out samples of a task, instead of the number for all experiments, for intervals name the phases.

    splits: how often each task's samples are halved.

    resamples: bootstrap samples behind the intervals of token accuracy, and resampled trajectories behind the test of a
    change point.
    """

    samples: int = 200
    splits: int = 10
    resamples: int = 500

    def __post_init__(self) -> None:
        for knob in ("splits", "resamples"):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it is at least 1")
        if self.samples < 4:
            raise ValueError(f"samples is {self.samples}; their halves take at least 4")


def half_arm(split: int, half: int) -> str:
    """The arm of the measurements on one half (0 or 1) of a task's samples."""
    return HALF.format(half=half, split=split)


_POSITION = (
    "place among the trained checkpoints of the run, from 0, at which {} changes its slope once (two straight lines "
    "that meet there leave the smallest sum of squares), sought among the checkpoints trained on the task; not of the "
    "mean over tasks, since they begin one after another"
)
_DIFFERENT = "in different phases, neither of them Flat"
QUANTITIES = {
    "accuracy": Meaning(
        "share of the samples that would be answered exactly; without a task the mean over tasks", "share"
    ),
    "token_accuracy": Meaning(
        "share of the reference answer's tokens that are the likeliest; without a task the mean over tasks",
        "share",
    ),
    "mui": Meaning("MUI as it is expected of half of the samples; without a task the mean over tasks", "share"),
    "accuracy_change": Meaning("accuracy minus that at the trained checkpoint before, same samples", "share"),
    "mui_change": Meaning("MUI minus that at the trained checkpoint before, same samples", "share"),
    "in_phase": Meaning(
        "1 where the step that ends here is in the phase that `part` names, else 0; of a task only steps that leave a "
        "checkpoint trained on it; without a task that of the mean over tasks"
    ),
    "tasks_in_phase": Meaning(
        "share of the tasks, of those that the checkpoint before was trained on, whose step that ends here is in the "
        "phase that `part` names",
        "share",
    ),
    "halves_differ": Meaning(
        f"share of the splits in which, on the step that ends here, at least one task's two halves are {_DIFFERENT}",
        "share",
    ),
    "tasks_differ": Meaning(
        "halves_differ with the second half of another task: that of the task s places on in the circle of the n tasks "
        f"that have phases, so again n pairs of halves, at least one of which is {_DIFFERENT}; mean over s from 1 to "
        "n − 1; 0 for a single task",
        "share",
    ),
    "start": Meaning("the first training step that may hold the task", "steps"),
    "mui_change_point": Meaning(_POSITION.format("MUI"), "checkpoints"),
    "accuracy_change_point": Meaning(_POSITION.format("accuracy"), "checkpoints"),
    "mui_change_step": Meaning("training step of mui_change_point", "steps"),
    "accuracy_change_step": Meaning("training step of accuracy_change_point", "steps"),
    "mui_straight": Meaning(
        "p-value of a straight line as MUI's trajectory over the checkpoints trained on the task", "probability"
    ),
    "accuracy_straight": Meaning("mui_straight of accuracy", "probability"),
    "mui_slope_before": Meaning("slope of MUI before its change point, per checkpoint", "share"),
    "mui_slope_after": Meaning("slope of MUI after its change point, per checkpoint", "share"),
}
