"""What is drawn of turnover."""

from __future__ import annotations

from moemui.experiments.picture import Picture
from moemui.experiments.turnover import PER_STEPS

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
        one_scale=True,
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
