"""Tables: phases of training, where tasks part from the mean, and where trajectories turn."""

from __future__ import annotations

from moemui.tables.columns import MODEL, NOTE, SETTING, SETTING_KEY, count, estimate, interval, number, text
from moemui.tables.table import Column, Table

STEP = (
    text("from_checkpoint", "checkpoint before the step"),
    text("to_checkpoint", "checkpoint after the step"),
    count("from_order", "its position in training order"),
    count("to_order", "its position in training order"),
)

PHASES = Table(
    "phases",
    "One step between two checkpoints on one task or the mean: how accuracy and MUI change, the phase; stage dynamics.",
    (
        MODEL,
        text("task", "the task's name, or `mean` over the tasks"),
        *SETTING,
        *STEP,
        count(
            "n_samples", "graded samples that both checkpoints answered; on the mean those behind d_accuracy", "samples"
        ),
        *estimate(
            "d_accuracy",
            "change of accuracy over the same samples (Bonett and Price 2012); no interval with fewer than 10 of them",
            "share difference",
        ),
        Column(
            "common_m",
            "Int64",
            "samples",
            "samples that MUI is compared at, half of the smallest cell's of the model",
            nullable=True,
        ),
        *estimate(
            "d_mui",
            "change of MUI at common_m over the same samples (paired jackknife); no interval with fewer than "
            "2 · common_m of them",
            "share difference",
        ),
        text(
            "phase",
            "Accumulating, Evolving, Coarsening, Collapsing, Flat, or empty (see note); on the mean that of the tasks "
            "with both changes",
        ),
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


def _tasks(name: str, meaning: str) -> Column:
    return Column(name, "Int64", "tasks", meaning, nullable=True)


PHASE_DIVERGENCE = Table(
    "phase_divergence",
    "One step between two checkpoints: which tasks are in another phase than their mean; stage dynamics.",
    (
        MODEL,
        *SETTING,
        *STEP,
        text("mean_phase", "phase of the mean over tasks, or empty (see note)"),
        count("n_tasks", "tasks that have a phase", "tasks"),
        _tasks("n_agree", "tasks in the mean's phase; missing where the mean has none"),
        _tasks("n_differ", "tasks in another phase, Flat included; missing where the mean has none"),
        count("n_flat", "tasks that are Flat", "tasks"),
        text("differing", "the tasks in another phase, as task=phase; task=phase"),
        Column(
            "mean_masks",
            "boolean",
            "",
            "at least one task is Accumulating and another Evolving, which a mean can't show; missing without phases",
            nullable=True,
        ),
        NOTE,
    ),
    ("model", *SETTING_KEY, "from_checkpoint", "to_checkpoint"),
)

_ORDER = "position in training order"

CHANGE_POINTS = Table(
    "change_points",
    "One trajectory of MUI or accuracy: where its slope changes and where it peaks; stage dynamics.",
    (
        MODEL,
        text("task", "the task's name, or `mean` over the tasks"),
        *SETTING,
        text("measure", "mui or accuracy"),
        count("n_checkpoints", "trained checkpoints of the trajectory", "checkpoints"),
        Column("n_samples", "Int64", "samples", "samples that all of them answered (accuracy: graded)", nullable=True),
        Column(
            "common_m",
            "Int64",
            "samples",
            "samples that MUI is taken at, half of the smallest cell's of the model; missing for accuracy",
            nullable=True,
            needs_note=False,
        ),
        text("change_checkpoint", "checkpoint at which the slope changes, or empty (see note)"),
        Column("change_order", "Int64", "", f"its {_ORDER}", nullable=True),
        Column("low_order", "Int64", "", f"lower end of its 95 % interval, {_ORDER}", nullable=True),
        Column("high_order", "Int64", "", f"upper end of its 95 % interval, {_ORDER}", nullable=True),
        number("share_at_estimate", "share of resamples that turn at the same checkpoint", "share"),
        number("slope_before", "change a checkpoint before it", "share difference"),
        *interval("slope_before", "slope_before", "share difference"),
        number("slope_after", "change a checkpoint after it", "share difference"),
        *interval("slope_after", "slope_after", "share difference"),
        number("p_no_change", "p-value of a straight line against one change of slope, wherever it is", "probability"),
        number("p_rise_then_fall", "share of resamples that rise before their change point and fall after", "share"),
        text("peak_checkpoint", "checkpoint of the highest value, or empty (see note)"),
        Column("peak_order", "Int64", "", f"its {_ORDER}", nullable=True),
        Column("peak_low_order", "Int64", "", f"lower end of its 95 % interval, {_ORDER}", nullable=True),
        Column("peak_high_order", "Int64", "", f"upper end of its 95 % interval, {_ORDER}", nullable=True),
        Column(
            "lag_to_mean",
            "Int64",
            "checkpoints",
            "checkpoints from the mean's change point to the task's, negative: earlier; missing on the mean and where "
            "either has no significant change of slope",
            nullable=True,
            needs_note=False,
        ),
        NOTE,
    ),
    ("model", "task", *SETTING_KEY, "measure"),
)
