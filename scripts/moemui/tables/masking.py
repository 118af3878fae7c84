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
    "One cell (model, checkpoint, task) with nothing, its key or random neurons set to 0; stage masking.",
    (
        MODEL,
        CHECKPOINT,
        TASK,
        *SETTING,
        text("condition", "none, key (key neurons set to 0), random or matched (as many others, see `control`)"),
        count("seed", "seed of the control neurons; −1 for none and key"),
        count("n_masked", "neurons set to 0", "neurons"),
        Column("share_masked", "float64", "share", "n_masked over all neurons"),
        number(
            "mean_activation_frequency",
            "mean over the masked neurons of the share of response tokens at which a neuron is switched on: its expert "
            "is used and its gate activation is positive",
            "share",
        ),
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
    "What masking the key neurons of one cell costs beside masking as many others; stage masking.",
    (
        MODEL,
        CHECKPOINT,
        TASK,
        *SETTING,
        text(
            "control",
            "what key neurons are set beside: expert (random neurons, as many in each layer and expert) or frequency "
            "(matched on activation frequency as well)",
        ),
        count("n_masked", "neurons set to 0 in the key condition", "neurons"),
        Column("share_masked", "float64", "share", "n_masked over all neurons"),
        count("n_masked_control", "neurons set to 0 in the control; the fewest of the seeds", "neurons"),
        number("activation_frequency_key", "mean activation frequency of the key neurons", "share"),
        number("activation_frequency_random", "mean activation frequency of the control, mean over seeds", "share"),
        number(
            "activation_frequency_smd",
            "standardised mean difference of activation frequency, key − control, mean over seeds; below 0.1 counts as "
            "balanced",
        ),
        N_SAMPLES,
        number("accuracy_none", "accuracy with nothing masked", "share"),
        *interval("accuracy_none", "accuracy_none (Wilson)", "share"),
        number("loss_key", "accuracy lost by masking the key neurons", "share difference"),
        *interval("loss_key", "loss_key (paired shares, Bonett and Price 2012)", "share difference"),
        number("loss_random", "accuracy lost by masking the control, mean over seeds", "share difference"),
        *interval(
            "loss_random", "loss_random (over samples and seeds, one lost and one gained more)", "share difference"
        ),
        number("loss_difference", "loss_key − loss_random, mean over seeds", "share difference"),
        *interval(
            "loss_difference", "loss_difference (over samples and seeds, one of either sign more)", "share difference"
        ),
        number("loss_difference_p", "two-sided p of no difference; not corrected for several tests", "probability"),
        number("loss_random_sd", "standard deviation over seeds of the control's loss", "share difference"),
        *estimate("nll_increase_key", "rise of nll by masking the key neurons", "nats/token"),
        *estimate("nll_increase_random", "rise of nll by masking the control, mean over seeds", "nats/token"),
        *estimate("nll_difference", "nll_increase_key − nll_increase_random, over samples and seeds", "nats/token"),
        number("nll_difference_p", "two-sided p of no difference; not corrected for several tests", "probability"),
        number(
            "effect_size",
            "paired Cohen's d over samples of correct under the control (mean over seeds) minus correct under key",
        ),
        number("nll_effect_size", "paired Cohen's d over samples of nll under key minus nll under the control"),
        *estimate(
            "loss_separation_per_1000_neurons",
            "accuracy lost a thousand masked neurons, key − control, each by the neurons that it masked itself",
            "share difference",
        ),
        *estimate(
            "nll_separation_per_1000_neurons",
            "rise of nll a thousand masked neurons, key − control, each by the neurons that it masked itself",
            "nats/token",
        ),
        count("n_seeds", "random controls", "seeds"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "control"),
)
