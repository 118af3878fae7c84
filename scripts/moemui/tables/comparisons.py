"""Tables: MUI of one cell against another."""

from __future__ import annotations

from moemui.tables.columns import NOTE, SETTING, SETTING_KEY, count, interval, number, text
from moemui.tables.table import Column, Table

COMPARISONS = Table(
    "comparisons",
    "MUI of one cell (model, checkpoint, task) against another's, at one number of samples; stage comparisons.",
    (
        text("kind", "tasks (of one last checkpoint), checkpoints (last against earlier) or models (last checkpoints)"),
        *SETTING,
        text("model_a", "model of the first cell"),
        text("checkpoint_a", "checkpoint of the first cell"),
        text("task_a", "task of the first cell, or `mean` over the tasks that can be compared"),
        text("model_b", "model of the second cell"),
        text("checkpoint_b", "checkpoint of the second cell"),
        text("task_b", "task of the second cell, or `mean`"),
        Column(
            "m",
            "Int64",
            "samples",
            "samples at which MUI is compared, one number for all of a kind in the study: half of the smallest n",
            nullable=True,
        ),
        count(
            "n_a", "samples of the first cell that are used, correct or not; of the mean, over all its tasks", "samples"
        ),
        count("n_b", "samples of the second cell that are used; of the mean, over all its tasks", "samples"),
        Column("paired", "bool", "", "whether both cells hold the same samples, so that their errors cancel"),
        number("mui_a", "expected MUI of m samples of the first cell (exact rarefaction)", "share"),
        number("mui_b", "expected MUI of m samples of the second cell", "share"),
        number("difference", "mui_b − mui_a", "share difference"),
        *interval("difference", "difference (Student's t, jackknife over samples)", "share difference"),
        number("p", "two-sided p-value of no difference", "probability"),
        number("q", "p after Benjamini–Hochberg over the rows of one kind and setting", "probability"),
        text(
            "verdict", "the second cell is `higher` or `lower` (q ≤ 0.05), `no difference shown`, or empty (see note)"
        ),
        NOTE,
    ),
    ("kind", *SETTING_KEY, "model_a", "checkpoint_a", "task_a", "model_b", "checkpoint_b", "task_b"),
)
