"""Tables: whether shared experts are over-represented among the key ones."""

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
    number,
    text,
)
from moemui.tables.table import Column, Table

ENRICHMENT = Table(
    "enrichment",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        Column("is_baseline", "bool", "", "the checkpoint is the untrained one (0 tokens)"),
        text("task_set", "`all`, or the name of a task or set of tasks"),
        count("n_tasks", "tasks whose key experts are intersected", "tasks"),
        *SETTING,
        EXPERT_THRESHOLD,
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
        number("odds_ratio_conditional", "conditional maximum likelihood odds ratio; missing where infinite"),
        number("low", "lower end of the exact 95 % interval of the conditional odds ratio"),
        number("high", "its upper end; missing beside a `low` means infinite"),
        *estimate("odds_ratio_corrected", "Haldane–Anscombe odds ratio: 0.5 added to every cell"),
        number("p_greater_baseline", "p_greater on the model's untrained checkpoint", "probability"),
        number("odds_ratio_corrected_baseline", "odds_ratio_corrected on the model's untrained checkpoint"),
        text("odds_ratio_note", "`infinite` or `undefined` where odds_ratio is missing; empty otherwise"),
        NOTE,
    ),
    ("model", "checkpoint", "task_set", *SETTING_KEY, "expert_threshold"),
)
