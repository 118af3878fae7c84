"""Tables: how often experts are active, and which are key."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    EXPERT_THRESHOLD,
    MODEL,
    N_SAMPLES,
    NOTE,
    ORDER,
    SETTING,
    SETTING_KEY,
    TASK,
    TOKENS,
    count,
    interval,
    number,
    text,
)
from moemui.tables.table import Column, Table

EXPERT_FREQUENCY = Table(
    "expert_frequency",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        *SETTING,
        text("expert", "printed name: L17-E8 routed (from 0), L28-S1 shared (from 1)"),
        count("layer", "the layer's 0-based index in the model"),
        text("kind", "routed or shared"),
        N_SAMPLES,
        number("frequency", "share of samples whose key set holds a neuron of the expert", "share", nullable=False),
        number("expert_mui", "share of the expert's own neurons that are key", "share", nullable=False),
        Column("is_key", "bool", "", "frequency ≥ η_expert"),
        count("rank", "1 = most frequent; ties: higher expert_mui, then lower expert number"),
        count("routed_tokens", "response tokens routed to the expert; shared: all response tokens", "tokens"),
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "expert"),
)


KEY_EXPERTS = Table(
    "key_experts",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        *SETTING,
        EXPERT_THRESHOLD,
        N_SAMPLES,
        count("n_experts", "Σ_l (E_r + E_s), the proportion's denominator", "experts"),
        count("n_key", "key experts", "experts"),
        count("n_key_shared", "key experts that are shared", "experts"),
        number("proportion", "KeyExpertProportion, n_key / n_experts", "share", nullable=False),
        *interval("proportion", "proportion (percentile bootstrap over samples)", "share"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "expert_threshold"),
)
