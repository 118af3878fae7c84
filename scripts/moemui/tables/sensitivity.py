"""Tables: how alike results are under two settings, and under two thresholds of key experts."""

from __future__ import annotations

from moemui.tables.columns import NOTE, count, interval, number, text
from moemui.tables.table import Column, Table


def _correlation(name: str, what: str) -> tuple[Column, ...]:
    """A correlation with p-value and its two intervals."""
    return (
        number(name, f"{what} over the cells"),
        number(f"{name}_p", "its two-sided p-value, every cell taken as a draw of its own", "probability"),
        *interval(name, f"{name} (percentile bootstrap over cells)"),
        *interval(f"{name}_clustered", f"{name} (percentile bootstrap over whole checkpoints)"),
    )


STATISTICS = (
    count("n_cells", "(model, checkpoint, task) cells that both have", "cells"),
    count("n_clusters", "(model, checkpoint) clusters of these cells", "checkpoints"),
    *_correlation("pearson", "Pearson correlation"),
    *_correlation("spearman", "Spearman rank correlation"),
    *_correlation("kendall", "Kendall's tau-b"),
    number("cosine", "cosine similarity of the two vectors"),
    *interval("cosine", "cosine (percentile bootstrap over cells)"),
    *interval("cosine_clustered", "cosine (percentile bootstrap over whole checkpoints)"),
    NOTE,
)

SENSITIVITY = Table(
    "sensitivity",
    "How alike MUI or key-expert proportions come out under two settings, over cells; stage sensitivity.",
    (
        text("measure", "mui (at the common m) or key_expert_proportion"),
        text("setting_a", "formulation/selection/threshold, then rule and variant where they are not topk and main"),
        text("setting_b", "another setting, written the same way"),
        text("differs_in", "formulation, selection, threshold, rule, variant: those in which the two differ"),
        *STATISTICS,
    ),
    ("measure", "setting_a", "setting_b"),
)

EXPERT_THRESHOLD_SENSITIVITY = Table(
    "expert_threshold_sensitivity",
    "How alike key-expert proportions come out under two expert thresholds, over cells; stage sensitivity.",
    (
        text("setting", "formulation/selection/threshold, then rule and variant where they are not topk and main"),
        Column("expert_threshold_a", "float64", "share", "an η_expert of which key-expert proportions are compared"),
        Column("expert_threshold_b", "float64", "share", "a higher one"),
        *STATISTICS,
    ),
    ("setting", "expert_threshold_a", "expert_threshold_b"),
)
