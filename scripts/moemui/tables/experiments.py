"""Tables: what experiments measured, the effects over seeds, and what the rules decided."""

from __future__ import annotations

from moemui.tables.columns import NOTE, count, number, text
from moemui.tables.table import Column, Table

EXPERIMENT = text("experiment", "the experiment's name in config/experiments.yaml")
SEED = count("seed", "seed of initial weights, training examples and everything random in the run")
EFFECT = text("effect", "the effect's name")

MEASUREMENTS = Table(
    "measurements",
    "One number that an experiment measured on one seed; stage experiments.",
    (
        EXPERIMENT,
        SEED,
        text("arm", "what was done to the model, its cohort, or which samples or measure were used; empty: the one"),
        count("step", "optimizer steps of training before the measurement", "steps"),
        Column(
            "tokens", "float64", "tokens", "tokens of training before the measurement; 0: untrained, or not counted"
        ),
        text("task", "the task, or two joined by `|`; empty for all tasks together"),
        text("part", "part of the model (a layer L0, routed, shared), kind of problem, or phase; empty for all"),
        text("quantity", "what was measured; the experiment's page says how"),
        number("value", "its value, in the row's unit"),
        text("unit", "of the value; share: 0 to 1, or a difference of shares"),
        NOTE,
    ),
    ("experiment", "seed", "arm", "step", "task", "part", "quantity"),
)

SEED_EFFECTS = Table(
    "experiment_seeds",
    "One effect of an experiment on one seed; stage experiments.",
    (EXPERIMENT, EFFECT, SEED, number("value", "the effect on this seed, in the unit of its table of effects"), NOTE),
    ("experiment", "effect", "seed"),
)

EFFECTS = Table(
    "experiment_effects",
    "One effect of an experiment over its seeds; stage experiments.",
    (
        EXPERIMENT,
        EFFECT,
        text("meaning", "what the effect is, and between which arms"),
        text("unit", "of the effect; share: a difference of shares, 0.01 is one point"),
        number("mean", "mean over seeds"),
        number("mean_low", "lower end of the 95 % t interval over seeds"),
        number("mean_high", "upper end of the 95 % t interval over seeds"),
        count("n_seeds", "seeds that the effect is known on", "seeds"),
        NOTE,
    ),
    ("experiment", "effect"),
)

DECISIONS = Table(
    "experiment_decisions",
    "One hypothesis of an experiment and what its rule, written beforehand, decided; stage experiments.",
    (
        EXPERIMENT,
        text("hypothesis", "the hypothesis' name"),
        Column("primary", "bool", "", "whether it is the one that the experiment is for"),
        text("claim", "the hypothesis in words"),
        EFFECT,
        number("mean", "the effect's mean over seeds"),
        number("mean_low", "lower end of its 95 % t interval over seeds"),
        number("mean_high", "upper end of its 95 % t interval over seeds"),
        text("unit", "of the effect"),
        count("n_seeds", "seeds that the effect is known on", "seeds"),
        text("rule", "the rule in words"),
        text("decision", "confirmed, refuted or undecided"),
        text("for_paper", "supports or contradicts what the paper says; empty where it says nothing or undecided"),
        text("paper", "what the paper says about it, in words; empty for nothing"),
        count("runs_before_rule", "runs that were made before the rule read as it does now; 0: all came after", "runs"),
        NOTE,
    ),
    ("experiment", "hypothesis"),
)

EXPERIMENT_TABLES = {table.name: table for table in (MEASUREMENTS, SEED_EFFECTS, EFFECTS, DECISIONS)}
