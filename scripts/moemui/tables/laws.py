"""Tables: the utility law over models, the decay of utilization over neurons, and the diagnostic flags."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    MODEL,
    N_SAMPLES,
    NOTE,
    ORDER,
    SETTING,
    SETTING_KEY,
    TOKENS,
    count,
    estimate,
    interval,
    number,
    text,
)
from moemui.tables.table import Column, Table

_SCOPE = text(
    "scope", "models (last checkpoint of each), checkpoints (trained ones of a model) or published (the paper's)"
)
_LAW_MODEL = text("model", "the model whose checkpoints are the points; empty where the points are models")
_LAW_TASK = text("task", "the task's name, or `mean` over the tasks that all points have")
_FORM = text(
    "form", "linear: performance = a + b·MUI; logarithmic: performance = a + b·ln MUI (ordinary least squares)"
)
_DECAY_TASK = text("task", "the task's name, or `all` for the samples of all tasks of the checkpoint together")

UTILITY_LAW = Table(
    "utility_law",
    "One law fitted to performance against MUI, over models or checkpoints; stage laws.",
    (
        _SCOPE,
        _LAW_MODEL,
        _LAW_TASK,
        *SETTING,
        _FORM,
        count("n_points", "points that have both performance and MUI"),
        number("intercept", "a, in share of correct answers"),
        number("slope", "b: performance gained from MUI 0 to 1; logarithmic: for MUI times e"),
        *interval("slope", "slope (t distribution)"),
        number("slope_p", "p of slope = 0, two-sided", "probability"),
        number("r_squared", "share of performance's variance that the law explains", "share"),
        *interval("r_squared", "r_squared (Fisher's z of the correlation)", "share"),
        number("aicc", "Akaike's criterion corrected for few points; lower is better"),
        Column("better", "boolean", "", "aicc is below the other form's by 2 or more", nullable=True),
        number("spearman", "rank correlation of performance and MUI; the same for both forms"),
        number("spearman_p", "its two-sided permutation p", "probability"),
        NOTE,
    ),
    ("scope", "model", "task", *SETTING_KEY, "form"),
)


UTILITY_CURVE = Table(
    "utility_curve",
    "One point of the curve of a row of utility_law; stage laws.",
    (
        _SCOPE,
        _LAW_MODEL,
        _LAW_TASK,
        *SETTING,
        _FORM,
        count("point", "place along the curve, from 0"),
        number("mui", "MUI, within the range of the points", "share", nullable=False),
        number("performance", "fitted performance; a straight line may leave 0..1", nullable=False),
        *interval("performance", "the fitted mean performance"),
        NOTE,
    ),
    ("scope", "model", "task", *SETTING_KEY, "form", "point"),
)


DECAY = Table(
    "decay",
    "How neurons' incidence falls with their rank on one task: a power law and its rivals; stage laws.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        _DECAY_TASK,
        *SETTING,
        N_SAMPLES,
        count("n_key", "neurons that are key in at least one sample", "neurons"),
        Column("q_max", "Int64", "samples", "the largest q_u, samples in which a neuron is key", nullable=True),
        Column("xmin", "Int64", "samples", "smallest q_u of the tail that the power law is fitted to", nullable=True),
        Column("n_tail", "Int64", "neurons", "neurons with q_u ≥ xmin", nullable=True),
        number("alpha", "exponent: among neurons of the tail, P(q_u = k) ∝ k^−alpha for k = xmin..n_samples"),
        *interval("alpha", "alpha (normal, xmin taken as known, neurons as independent)"),
        number("alpha_se", "standard error of alpha, as its interval takes it"),
        number("ks", "Kolmogorov–Smirnov distance of the tail from the fitted power law", "share"),
        number("p_fit", "share of draws from the fitted power law that lie as far from it or farther", "probability"),
        number("loglikelihood_ratio_lognormal", "log-likelihood of the power law less the log-normal's", "nats"),
        number("p_lognormal", "p of that ratio being 0 (Vuong)", "probability"),
        number("loglikelihood_ratio_exponential", "log-likelihood of the power law less the exponential's", "nats"),
        number("p_exponential", "p of that ratio being 0 (Vuong)", "probability"),
        number(
            "loglikelihood_ratio_truncated_power_law",
            "log-likelihood of the power law less that of k^−alpha·e^−λk, which contains it",
            "nats",
        ),
        number("p_truncated_power_law", "p of λ = 0 (likelihood ratio, χ² with one degree)", "probability"),
        text("best", "the laws that no other beats at p < 0.05, as words; empty without a fit"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY),
)


DECAY_CURVE = Table(
    "decay_curve",
    "One point of the curve of incidence against rank of a row of decay; stage laws.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        _DECAY_TASK,
        *SETTING,
        N_SAMPLES,
        count("rank", "1 = the neuron that is key most often; about equal ratios from point to point"),
        number("incidence", "q_u / n_samples of the neuron of this rank", "share", nullable=False),
        number("fitted", "the same by the fitted power law, within its tail; missing elsewhere", "share"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "rank"),
)


DIAGNOSTICS = Table(
    "diagnostics",
    "One flag of one checkpoint: the figure it looks at, its limit and whether it is raised; stage diagnostics.",
    (
        MODEL,
        CHECKPOINT,
        text("flag", "mui_without_decline, few_key_experts, shared_and_total_mui_high or cheap_masking"),
        text(
            "outcome",
            "raised, not raised, undecided (an interval contains the limit, or as evidence says) or not measured",
        ),
        *estimate("value", "the figure that the flag looks at, mean over tasks"),
        number("limit", "the limit of value", nullable=False),
        *estimate("second", "the figure of the flag's second condition, mean over tasks where it has one"),
        number("second_limit", "the limit of second"),
        text("evidence", "the outcome in a sentence, with its figures"),
        NOTE,
    ),
    ("model", "checkpoint", "flag"),
)
