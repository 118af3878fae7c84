"""Tables: what training a model here went through."""

from __future__ import annotations

from moemui.tables.columns import MODEL, count, number
from moemui.tables.table import Table

TRAINING = Table(
    "training",
    "One optimizer step of a model that the workflow trains itself; stage checkpoints.",
    (
        MODEL,
        count("step", "optimizer step, from 1"),
        number("loss", "cross-entropy a token of the answers, mean over the batch", "nats/token", nullable=False),
        number("balance", "load-balancing loss before its weight", nullable=False),
        number("learning_rate", "rate of the step", nullable=False),
        number("tokens", "tokens seen up to and with this step", "tokens", nullable=False),
        number("seconds", "time spent in training steps so far", "s", nullable=False),
    ),
    ("model", "step"),
)
