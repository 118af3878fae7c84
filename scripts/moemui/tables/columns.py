"""Columns that several tables share, and short ways to write one."""

from __future__ import annotations

from moemui.tables.table import Column


def text(name: str, meaning: str) -> Column:
    """A column of text, never missing."""
    return Column(name, "string", "", meaning)


def count(name: str, meaning: str, unit: str = "") -> Column:
    """A column of integers, never missing."""
    return Column(name, "int64", unit, meaning)


def number(name: str, meaning: str, unit: str = "", nullable: bool = True) -> Column:
    """A column of floats that may be missing."""
    return Column(name, "float64", unit, meaning, nullable)


def interval(name: str, meaning: str, unit: str = "") -> tuple[Column, Column]:
    """The two ends of an estimate's interval: NAME_low and NAME_high."""
    return (
        number(f"{name}_low", f"lower end of the 95 % interval of {meaning}", unit),
        number(f"{name}_high", f"upper end of the 95 % interval of {meaning}", unit),
    )


def estimate(name: str, meaning: str, unit: str = "") -> tuple[Column, Column, Column]:
    """An estimate and its interval: NAME, NAME_low and NAME_high."""
    return (number(name, meaning, unit), *interval(name, name, unit))


MODEL = text("model", "the model's name in the config")
CHECKPOINT = text("checkpoint", "the checkpoint's name in the config")
TOKENS = Column("tokens", "float64", "tokens", "tokens seen in training; 0: untrained", nullable=True, needs_note=False)
ORDER = count("order", "position of the checkpoint in training order, from 0")
TASK = text("task", "the task's name in the config")
DOMAIN = text("domain", "the task's domain; `mixed` where its samples have several")
SETTING = (
    text("formulation", "projection, glu or activation"),
    text("selection", "pairs, neurons or per_token"),
    Column("threshold", "float64", "share", "η, share of neurons that are key; top_score: of the highest score"),
    text("rule", "topk, top_score or global_topk"),
    text("variant", "main, or the name of other scoring options of the config"),
)
EXPERT_THRESHOLD = Column("expert_threshold", "float64", "share", "η_expert, frequency from which an expert is key")
N_SAMPLES = count("n_samples", "samples, those with an empty key set included", "samples")
NOTE = text("note", "why a value is missing or what to know about it; empty otherwise")
SETTING_KEY = ("formulation", "selection", "threshold", "rule", "variant")
