"""Tables: what masking neurons costs."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    MODEL,
    N_SAMPLES,
    NOTE,
    SETTING,
    SETTING_KEY,
    TASK,
    count,
    estimate,
    interval,
    number,
    text,
)
from moemui.tables.table import Column, Table

MASKING = Table(
    "masking",
    (
        MODEL,
        CHECKPOINT,
        TASK,
        *SETTING,
        text("condition", "none, key (key neurons set to 0) or random (as many others)"),
        count("seed", "seed of the random neurons; −1 for none and key"),
        count("n_masked", "neurons set to 0", "neurons"),
        Column("share_masked", "float64", "share", "n_masked over all neurons"),
        N_SAMPLES,
        count("n_graded", "samples that were graded", "samples"),
        number("accuracy", "share of the graded samples that are correct", "share"),
        *interval("accuracy", "accuracy (Wilson)", "share"),
        count("n_references", "samples that have a reference answer", "samples"),
        number("nll", "negative log-likelihood of the reference answer a token, mean over samples", "nats/token"),
        *interval("nll", "nll (percentile bootstrap over samples)", "nats/token"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "condition", "seed"),
)


MASKING_EFFECT = Table(
    "masking_effect",
    (
        MODEL,
        CHECKPOINT,
        TASK,
        *SETTING,
        count("n_masked", "neurons set to 0 in the key condition", "neurons"),
        N_SAMPLES,
        number("accuracy_none", "accuracy with nothing masked", "share"),
        *estimate("loss_key", "accuracy lost by masking the key neurons", "share difference"),
        *estimate("loss_random", "accuracy lost by masking random neurons, mean over seeds", "share difference"),
        *estimate("loss_difference", "loss_key − loss_random", "share difference"),
        number("loss_random_sd", "standard deviation over seeds of the random loss", "share difference"),
        *estimate("nll_increase_key", "rise of nll by masking the key neurons", "nats/token"),
        *estimate("nll_increase_random", "rise of nll by masking random neurons, mean over seeds", "nats/token"),
        *estimate("nll_difference", "nll_increase_key − nll_increase_random", "nats/token"),
        number(
            "effect_size",
            "paired Cohen's d over samples of correct under random (mean over seeds) minus correct under key",
        ),
        number("nll_effect_size", "paired Cohen's d over samples of nll under key minus nll under random"),
        count("n_seeds", "random controls", "seeds"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY),
)
