"""Tables: which threshold sets key neurons apart best while the ranks of MUI stay stable."""

from __future__ import annotations

from moemui.tables.columns import NOTE, SETTING, SETTING_KEY, count, estimate, number, text
from moemui.tables.table import Column, Table

THRESHOLD_SELECTION = Table(
    "threshold_selection",
    "One threshold: how well masking sets its key neurons apart, how stable ranks are; stage threshold_selection.",
    (
        text("model", "the model's name in the config, or `all models` for all of them together"),
        *SETTING,
        text("control", "what key neurons are set beside: expert or frequency, as in masking_effect"),
        count("n_cells", "(model, checkpoint, task) cells that are masked at every threshold compared", "cells"),
        *estimate(
            "separation",
            "rise of nll by masking key neurons less that by masking the control, for each 0.1 % of the model's "
            "neurons masked; mean over the cells",
            "nats/token",
        ),
        count(
            "n_significant",
            "cells with a higher nll under key than under the control, at q ≤ 0.05 (Benjamini–Hochberg over the whole "
            "table masking_effect)",
            "cells",
        ),
        number("spearman_neighbours", "lowest rank correlation of MUI with the next lower and next higher threshold"),
        number("spearman_others", "mean rank correlation of MUI with all other thresholds"),
        Column("eligible", "bool", "", "whether ranks of MUI are stable here and separation is above 0"),
        *estimate(
            "behind_best",
            "separation of the best eligible threshold minus this one's, over the same cells",
            "nats/token",
        ),
        Column("chosen", "bool", "", "whether `threshold: auto` would take this threshold"),
        NOTE,
    ),
    ("model", *SETTING_KEY, "control"),
)
