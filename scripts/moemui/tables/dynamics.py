"""Tables: phases of training."""

from __future__ import annotations

from moemui.tables.columns import MODEL, NOTE, SETTING, SETTING_KEY, count, estimate, text
from moemui.tables.table import Column, Table

PHASES = Table(
    "phases",
    (
        MODEL,
        text("task", "the task's name, or `mean` over the tasks"),
        *SETTING,
        text("from_checkpoint", "checkpoint before the step"),
        text("to_checkpoint", "checkpoint after the step"),
        count("from_order", "its position in training order"),
        count("to_order", "its position in training order"),
        count("n_samples", "graded samples that both checkpoints answered", "samples"),
        *estimate("d_accuracy", "change of accuracy over the same samples", "share difference"),
        Column("common_m", "Int64", "samples", "samples that MUI is compared at", nullable=True),
        *estimate("d_mui", "change of MUI at the common m", "share difference"),
        text("phase", "Accumulating, Evolving, Coarsening, Collapsing, Flat, or empty (see note)"),
        Column(
            "differs_from_mean",
            "boolean",
            "",
            "the task's phase is not the mean's; missing on the mean and without a phase",
            nullable=True,
            needs_note=False,
        ),
        NOTE,
    ),
    ("model", "task", *SETTING_KEY, "from_checkpoint", "to_checkpoint"),
)
