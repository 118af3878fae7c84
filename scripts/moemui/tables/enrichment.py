"""Tables: whether shared experts are over-represented among the key ones and among the most frequent ones."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    EXPERT_THRESHOLD,
    MODEL,
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

TASK_SET = (
    Column("is_baseline", "bool", "", "the checkpoint is the untrained one (0 tokens)"),
    text("task_set", "`all`, a task, a pair of them as `a + b`, or the name of another set of tasks"),
    text("tasks", "the set's tasks, separated by semicolons"),
    count("n_tasks", "tasks whose key experts are intersected", "tasks"),
    *SETTING,
    EXPERT_THRESHOLD,
)
TASK_SET_KEY = ("model", "checkpoint", "task_set", *SETTING_KEY, "expert_threshold")

ENRICHMENT = Table(
    "enrichment",
    "One test of whether shared experts are key more often than routed ones, on a set of tasks; stage enrichment.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *TASK_SET,
        count("shared_key", "shared experts that are key on every task of the set", "experts"),
        count("shared_other", "the other shared experts", "experts"),
        count("routed_key", "routed experts that are key on every task of the set", "experts"),
        count("routed_other", "the other routed experts", "experts"),
        number("p_greater", "Fisher's exact test, shared experts more often key", "probability", nullable=False),
        number("p_two_sided", "Fisher's exact test, two-sided", "probability", nullable=False),
        number(
            "q_greater",
            "p_greater after Benjamini–Hochberg over all testable rows of one setting; 1 where untestable",
            "probability",
            nullable=False,
        ),
        number("odds_ratio", "sample odds ratio; missing where infinite or undefined, see odds_ratio_note"),
        *interval("odds_ratio", "odds_ratio (Wald); missing where a cell is 0"),
        number("odds_ratio_conditional", "conditional maximum likelihood odds ratio; missing where infinite"),
        number("low", "lower end of the exact 95 % interval of the conditional odds ratio"),
        number("high", "its upper end; missing beside a `low` means infinite"),
        *estimate("odds_ratio_corrected", "Haldane–Anscombe odds ratio: 0.5 added to every cell"),
        number("p_greater_baseline", "p_greater on the model's untrained checkpoint", "probability"),
        number("odds_ratio_corrected_baseline", "odds_ratio_corrected on the model's untrained checkpoint"),
        number("log_odds_change", "log of odds_ratio_corrected less that of the model's untrained checkpoint"),
        *interval(
            "log_odds_change",
            "log_odds_change (Wald, as of two independent tables; they hold the same experts, so it is too wide where "
            "most stay key or not key)",
        ),
        text("odds_ratio_note", "`infinite` or `undefined`: no odds_ratio; `zero`: no interval of it; else empty"),
        NOTE,
    ),
    TASK_SET_KEY,
)

EXPOSURE = Table(
    "exposure",
    "The same question, adjusted for how many tokens each expert saw (logistic regression); stage enrichment.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *TASK_SET,
        count("n_experts", "experts, each once", "experts"),
        count("n_shared", "those that are shared", "experts"),
        count("n_key", "experts that are key on every task of the set", "experts"),
        count("n_key_shared", "those that are shared", "experts"),
        number("expected_key_shared", "n_key_shared as the regression on tokens alone predicts it", "experts"),
        number("log_odds_shared", "coefficient of shared in the logistic regression of key on it and log(1 + tokens)"),
        *interval("log_odds_shared", "log_odds_shared (profile likelihood)"),
        number("wald_p", "two-sided Wald p of log_odds_shared", "probability"),
        number(
            "likelihood_ratio_p",
            "p of the regression with shared against the one without (χ², 1 degree of freedom; rough for few experts)",
            "probability",
        ),
        number(
            "likelihood_ratio_q",
            "likelihood_ratio_p after Benjamini–Hochberg over all rows of one setting that have one",
            "probability",
        ),
        number("log_odds_tokens", "coefficient of log(1 + response tokens routed to the expert)"),
        *interval("log_odds_tokens", "log_odds_tokens (profile likelihood)"),
        text(
            "separation", "none, quasi-complete or complete: do shared and tokens give key away? Empty: no regression"
        ),
        text("separation_by_tokens", "the same of tokens alone"),
        NOTE,
    ),
    TASK_SET_KEY,
)


def _of_kind(name: str, meaning: str) -> tuple[Column, Column]:
    """A mean over the shared and one over the routed experts of the top, missing where there are none of the kind."""
    shared, routed = (
        Column(
            f"{name}_{kind}",
            "float64",
            "share",
            f"mean {meaning} of the {kind} experts among them; missing without one",
            nullable=True,
            needs_note=False,
        )
        for kind in ("shared", "routed")
    )
    return shared, routed


TOP_COMPOSITION = Table(
    "top_composition",
    "The ten most frequent experts on one task: how many are shared, against chance; stage enrichment.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        text("task", "the task's name in the config, or `all`: the samples of all tasks together"),
        *SETTING,
        count("n_experts", "experts of the model", "experts"),
        count("n_shared_experts", "those that are shared", "experts"),
        count("n_top", "most frequent experts looked at: ten, fewer where fewer are ever active", "experts"),
        count("n_shared", "shared ones among them", "experts"),
        number("expected_shared", "n_top · n_shared_experts / n_experts", "experts", nullable=False),
        number("p_greater", "chance of n_shared or more (hypergeometric)", "probability", nullable=False),
        number(
            "q_greater",
            "p_greater after Benjamini–Hochberg over all testable rows of one setting; 1 where untestable",
            "probability",
            nullable=False,
        ),
        *_of_kind("frequency", "frequency"),
        *_of_kind("expert_mui", "expert MUI"),
        text("experts", "their names, the most frequent first, separated by semicolons"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY),
)
