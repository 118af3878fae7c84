"""Tables: correlations between settings."""

from __future__ import annotations

from moemui.tables.columns import NOTE, count, interval, number, text
from moemui.tables.table import Table

SENSITIVITY = Table(
    "sensitivity",
    (
        text("measure", "mui (at the common m) or key_expert_proportion"),
        text("setting_a", "formulation/selection/threshold"),
        text("setting_b", "formulation/selection/threshold"),
        count("n_cells", "(model, checkpoint, task) cells that both settings have", "cells"),
        number("pearson", "Pearson correlation over the cells"),
        number("pearson_p", "its two-sided p-value", "probability"),
        *interval("pearson", "pearson (percentile bootstrap over cells)"),
        number("spearman", "Spearman rank correlation over the cells"),
        number("spearman_p", "its two-sided p-value", "probability"),
        *interval("spearman", "spearman (percentile bootstrap over cells)"),
        number("cosine", "cosine similarity of the two vectors"),
        NOTE,
    ),
    ("measure", "setting_a", "setting_b"),
)
