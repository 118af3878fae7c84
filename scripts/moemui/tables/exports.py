"""Tables: key neurons and expert sets for other tools, and what every column of every table means."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    EXPERT_THRESHOLD,
    MODEL,
    N_SAMPLES,
    SETTING,
    SETTING_KEY,
    TASK,
    count,
    number,
    text,
)
from moemui.tables.table import Column, Table

CELL = (MODEL, CHECKPOINT, TASK, *SETTING)
CELL_KEY = ("model", "checkpoint", "task", *SETTING_KEY)
EXPERT = (
    count("layer", "the layer's 0-based index in the model"),
    text("expert", "printed name: L17-E8 routed (from 0), L28-S1 shared (from 1)"),
    text("kind", "routed or shared"),
)
NEURON = count(
    "neuron",
    "index inside the expert, from 0: its column of down_proj, or row where the family's weights lie transposed; "
    "shared experts fused into one MLP lie there one after the other (docs/files.md: mask.safetensors)",
)

KEY_NEURONS = Table(
    "key_neurons",
    "One neuron that is key in one sample, at the settings that the study shows; stage exports.",
    (*CELL, text("sample", "the sample's id, as in responses.jsonl"), *EXPERT, NEURON),
    (*CELL_KEY, "sample", "expert", "neuron"),
)

NEURONS = Table(
    "neurons",
    "One neuron that is key in at least one sample, at the settings that the study shows; stage exports.",
    (
        *CELL,
        *EXPERT,
        NEURON,
        count("incidence", "q_u, samples in which the neuron is key", "samples"),
        N_SAMPLES,
        number("share", "incidence / n_samples", "share", nullable=False),
    ),
    (*CELL_KEY, "expert", "neuron"),
)

EXPERT_SETS = Table(
    "expert_sets",
    "One expert on one task, key or not at one expert threshold, at the settings that the study shows; stage exports.",
    (
        *CELL,
        EXPERT_THRESHOLD,
        *EXPERT,
        number("frequency", "share of samples whose key set holds a neuron of the expert", "share", nullable=False),
        Column("is_key", "bool", "", "frequency ≥ η_expert"),
    ),
    (*CELL_KEY, "expert_threshold", "expert"),
)

DATA_DICTIONARY = Table(
    "data_dictionary",
    "One column of one table: its type, unit and meaning; stage exports.",
    (
        text("table", "the table's name, that of its file"),
        count("position", "the column's place in the table, from 1"),
        text("column", "the column's name"),
        text("dtype", "string, int64, Int64 (may be missing), float64, bool or boolean (may be missing)"),
        text("unit", "share and probability lie in 0..1, never percent; empty where there is none"),
        Column("nullable", "bool", "", "a value may be missing"),
        Column("in_key", "bool", "", "part of the key, the columns that together name a row"),
        text("meaning", "what the column holds"),
    ),
    ("table", "column"),
)

EXPORTS: dict[str, Table] = {table.name: table for table in (KEY_NEURONS, NEURONS, EXPERT_SETS, DATA_DICTIONARY)}
