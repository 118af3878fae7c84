"""Tables: neuron, expert and lexical level against the number of domains."""

from __future__ import annotations

from moemui.tables.columns import CHECKPOINT, MODEL, NOTE, ORDER, TOKENS, count, estimate, interval, number, text
from moemui.tables.table import Table

MEASURE = (
    text("level", "neuron, expert or lexical"),
    text("measure", "mui, key_expert_proportion, active_experts, distinct_1, distinct_2 or compression_ratio"),
    text("setting", "formulation/selection/threshold of the key sets; empty for lexical measures"),
)
MEASURE_KEY = ("measure", "setting")
PER_SET = count("n_samples", "samples in every drawn set, n; 0 where none can be drawn", "samples")

DIVERSITY = Table(
    "diversity",
    "One measure over sample sets drawn from a given number of domains; stage diversity.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *MEASURE,
        count("n_domains", "domains that a set's samples are spread over evenly", "domains"),
        PER_SET,
        count("draws", "sets drawn from all samples: domains at random, then samples without replacement"),
        number("mean", "mean of the measure over the draws"),
        number("sd", "its standard deviation over the draws"),
        number("low", "2.5 % quantile of the draws: where sets lie, no interval of the mean"),
        number("high", "97.5 % quantile of the draws"),
        NOTE,
    ),
    ("model", "checkpoint", *MEASURE_KEY, "n_domains"),
)

DIVERSITY_EFFECT = Table(
    "diversity_effect",
    "How one measure answers to the number of domains, and how finely it tells them apart; stage diversity.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *MEASURE,
        count("n_domains", "domains of the study, D; they are fixed, so nothing here speaks about others", "domains"),
        PER_SET,
        count("parts", "disjoint parts of the samples that the intervals rest on; 0: no interval"),
        *estimate("spearman", "Spearman correlation with the number of domains, 1..D, over the draws"),
        text(
            "direction",
            "rises or falls: what more domains do to the measure by its nature; for key_expert_proportion what the "
            "parts together show, which favours it; empty where it is neither or not tested",
        ),
        number(
            "resolution",
            "P(of two sets without a common sample, the one with one domain more has the value farther in the "
            "direction) + P(equal)/2, mean over 1 against 2 … D−1 against D; 0.5: can't be told",
            "share",
        ),
        *interval("resolution", "resolution (t over the parts)"),
        number("difference", "resolution of the neuron level (mui at the setting of the curves) − resolution"),
        *interval("difference", "difference (t over the parts)"),
        number("difference_p", "two-sided p-value of the t test over the parts, not adjusted", "probability"),
        text("verdict", "neuron level resolves finer, neuron level resolves coarser, no difference shown, or empty"),
        NOTE,
    ),
    ("model", "checkpoint", *MEASURE_KEY),
)
