"""Tables: MUI, its dependence on the number of samples, and performance."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    DOMAIN,
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

PERFORMANCE = Table(
    "performance",
    "How well one checkpoint answers one task; stage utilization, from what responses graded.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        DOMAIN,
        N_SAMPLES,
        count("n_graded", "samples that were graded", "samples"),
        count("n_correct", "samples graded correct", "samples"),
        number("accuracy", "n_correct / n_graded; missing where nothing was graded", "share"),
        *interval("accuracy", "accuracy (Wilson)", "share"),
        number("mean_response_tokens", "mean length of a response, empty ones included", "tokens", nullable=False),
        count("n_empty", "samples with an empty response", "samples"),
        NOTE,
    ),
    ("model", "checkpoint", "task"),
)


UTILIZATION = Table(
    "utilization",
    "One cell (model, checkpoint, task), in all or a part of the model: its MUI with intervals; stage utilization.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        DOMAIN,
        *SETTING,
        text("samples", "all, or correct: only the samples graded correct"),
        text("scope", "total, routed, shared or layer: the neurons that are counted"),
        Column(
            "layer",
            "Int64",
            "",
            "the layer's 0-based index in the model; only for scope layer",
            nullable=True,
            needs_note=False,
        ),
        N_SAMPLES,
        count("n_response_tokens", "response tokens of these samples", "tokens"),
        count("n_neurons", "neurons of the scope, MUI's denominator", "neurons"),
        Column("n_key", "Int64", "neurons", "neurons that are key in at least one sample", nullable=True),
        number("mui", "n_key / n_neurons; missing where there is no sample", "share"),
        Column(
            "common_m",
            "Int64",
            "samples",
            "m, at which the model's cells are compared: half of their smallest n; cells with fewer have no MUI at m",
            nullable=True,
        ),
        number("mui_at_m", "expected MUI of m of the samples (exact rarefaction)", "share"),
        *interval("mui_at_m", "mui_at_m (Colwell et al. 2012, normal, kept within 0..1)", "share"),
        number("mui_at_m_se", "standard error of mui_at_m (Colwell et al. 2012: independent neurons)", "share"),
        *(
            Column(f"mui_at_m_sample_{name}", "float64", "share", meaning, nullable=True, needs_note=False)
            for name, meaning in (
                (
                    "se",
                    "standard error of mui_at_m over samples (jackknife); missing by layer, and below 2 or 2·m samples",
                ),
                ("low", "lower end of the 95 % interval of mui_at_m over samples (Student's t), kept within 0..1"),
                ("high", "upper end of the 95 % interval of mui_at_m over samples (Student's t), kept within 0..1"),
            )
        ),
        number("chao2", "Chao2 asymptote of MUI, at most 1", "share"),
        *interval("chao2", "chao2 (log-normal)", "share"),
        Column("q1", "Int64", "neurons", "neurons that are key in exactly one sample", nullable=True),
        Column("q2", "Int64", "neurons", "neurons that are key in exactly two samples", nullable=True),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "samples", "scope", "layer"),
)


SATURATION = Table(
    "saturation",
    "One point of a cell's saturation curve: the MUI to expect of m of its samples; stage utilization.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        *SETTING,
        N_SAMPLES,
        count("m", "number of samples drawn of the n", "samples"),
        number("mui", "expected MUI of m samples (exact rarefaction)", "share", nullable=False),
        number(
            "low",
            "lower end of the 95 % band (Colwell et al. 2012: independent neurons); missing with one sample",
            "share",
        ),
        number("high", "upper end of the 95 % band; missing with one sample", "share"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "m"),
)
