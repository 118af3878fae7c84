"""What is drawn of task-specific phases."""

from __future__ import annotations

from moemui.experiments.picture import Picture
from moemui.experiments.task_phases import ANSWERS

PICTURES = (
    Picture(
        "courses",
        "Accuracy and MUI of tasks that begin one after another",
        "Every task on the same held-out samples at all steps; MUI as expected of half of them.",
        "course",
        ("accuracy", "mui"),
        series="task",
        where={"arm": (ANSWERS,)},
        labels={"": "mean over tasks"},
    ),
    Picture(
        "phases",
        "How many tasks are in which phase",
        "Share of the tasks in each phase on the step that ends here. Where two phases besides Flat have a share at "
        "once, a mean over tasks hides one of them.",
        "course",
        ("tasks_in_phase",),
        series="part",
        where={"arm": (ANSWERS,)},
    ),
    Picture(
        "change_points",
        "Where MUI and accuracy turn",
        "Training step of the one change of slope of each task's trajectory over the checkpoints trained on it, beside "
        "the step at which the task begins.",
        "arms",
        ("start", "mui_change_step", "accuracy_change_step"),
        x="task",
        one_scale=True,
    ),
)
