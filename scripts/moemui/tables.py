"""Every table of a study in one place: column names, dtypes, units, meanings, and the only way to write and read one.

Tables are long (one observation a row). Shares are fractions from 0 to 1, never percent. A table is a Parquet file
with a CSV twin beside it. A missing value is allowed only in a column declared nullable, and a table that has one
has a `note` that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SHARE_TOLERANCE = 1e-9  # a sum of floats may leave 0..1 by this much


@dataclass(frozen=True)
class Column:
    """One column of a table.

    dtype: "string", "int64", "Int64" (integers that may be missing), "float64", "bool" or "boolean" (may be missing).
    unit: "share" and "probability" lie in 0..1 and are checked; "" where there is none.
    nullable: whether a value may be missing.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in order, and the columns that together name a row (no two rows share them)."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The columns' names in order."""
        return [column.name for column in self.columns]

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Rows as a checked frame; no rows give an empty frame with all columns. Raises ValueError as `conform`."""
        listed = list(rows)
        return conform(pd.DataFrame(listed) if listed else pd.DataFrame(columns=self.names), self)


def _text(name: str, meaning: str) -> Column:
    return Column(name, "string", "", meaning)


def _count(name: str, meaning: str, unit: str = "") -> Column:
    return Column(name, "int64", unit, meaning)


def _float(name: str, meaning: str, unit: str = "", nullable: bool = True) -> Column:
    return Column(name, "float64", unit, meaning, nullable)


def _interval(name: str, meaning: str, unit: str = "") -> tuple[Column, Column]:
    return (
        _float(f"{name}_low", f"lower end of the 95 % interval of {meaning}", unit),
        _float(f"{name}_high", f"upper end of the 95 % interval of {meaning}", unit),
    )


def _estimate(name: str, meaning: str, unit: str = "") -> tuple[Column, Column, Column]:
    return (_float(name, meaning, unit), *_interval(name, name, unit))


MODEL = _text("model", "the model's name in the config")
CHECKPOINT = _text("checkpoint", "the checkpoint's name in the config")
TOKENS = _float("tokens", "tokens seen in training; 0 = untrained; missing where unknown", "tokens")
ORDER = _count("order", "position of the checkpoint in training order, from 0")
TASK = _text("task", "the task's name in the config")
DOMAIN = _text("domain", "the task's domain; `mixed` where its samples have several")
SETTING = (
    _text("formulation", "projection, glu or activation"),
    _text("selection", "pairs, neurons or per_token"),
    Column("threshold", "float64", "share", "η, share of a layer's neurons that are key in a sample"),
)
EXPERT_THRESHOLD = Column("expert_threshold", "float64", "share", "η_expert, frequency from which an expert is key")
N_SAMPLES = _count("n_samples", "samples, those with an empty key set included", "samples")
NOTE = _text("note", "why a value is missing or what to know about it; empty otherwise")
SETTING_KEY = ("formulation", "selection", "threshold")

_LIST = [
    Table(
        "training",
        (
            MODEL,
            _count("step", "optimizer step, from 1"),
            _float("loss", "cross-entropy a token of the answers, mean over the batch", "nats/token", nullable=False),
            _float("balance", "load-balancing loss before its weight", nullable=False),
            _float("learning_rate", "rate of the step", nullable=False),
            _float("tokens", "tokens seen up to and with this step", "tokens", nullable=False),
            _float("seconds", "time spent in training steps so far", "s", nullable=False),
        ),
        ("model", "step"),
    ),
    Table(
        "performance",
        (
            MODEL,
            CHECKPOINT,
            TOKENS,
            ORDER,
            TASK,
            DOMAIN,
            N_SAMPLES,
            _count("n_graded", "samples that were graded", "samples"),
            _count("n_correct", "samples graded correct", "samples"),
            _float("accuracy", "n_correct / n_graded; missing where nothing was graded", "share"),
            *_interval("accuracy", "accuracy (Wilson)", "share"),
            _float("mean_response_tokens", "mean length of a response, empty ones included", "tokens", nullable=False),
            _count("n_empty", "samples with an empty response", "samples"),
            NOTE,
        ),
        ("model", "checkpoint", "task"),
    ),
    Table(
        "utilization",
        (
            MODEL,
            CHECKPOINT,
            TOKENS,
            ORDER,
            TASK,
            DOMAIN,
            *SETTING,
            _text("samples", "all, or correct: only the samples graded correct"),
            _text("scope", "total, routed, shared or layer: the neurons that are counted"),
            Column("layer", "Int64", "", "the layer's 0-based index in the model; only for scope layer", nullable=True),
            N_SAMPLES,
            _count("n_response_tokens", "response tokens of these samples", "tokens"),
            _count("n_neurons", "neurons of the scope, MUI's denominator", "neurons"),
            Column("n_key", "Int64", "neurons", "neurons that are key in at least one sample", nullable=True),
            _float("mui", "n_key / n_neurons; missing where there is no sample", "share"),
            Column("common_m", "Int64", "samples", "m, the number of samples all cells are compared at", nullable=True),
            _float("mui_at_m", "expected MUI of m of the samples (exact rarefaction)", "share"),
            *_interval("mui_at_m", "mui_at_m (Colwell et al. 2012, normal, kept within 0..1)", "share"),
            _float("mui_at_m_se", "standard error of mui_at_m (Colwell et al. 2012)", "share"),
            _float("chao2", "Chao2 asymptote of MUI, at most 1", "share"),
            *_interval("chao2", "chao2 (log-normal)", "share"),
            Column("q1", "Int64", "neurons", "neurons that are key in exactly one sample", nullable=True),
            Column("q2", "Int64", "neurons", "neurons that are key in exactly two samples", nullable=True),
            NOTE,
        ),
        ("model", "checkpoint", "task", *SETTING_KEY, "samples", "scope", "layer"),
    ),
    Table(
        "saturation",
        (
            MODEL,
            CHECKPOINT,
            TOKENS,
            ORDER,
            TASK,
            *SETTING,
            N_SAMPLES,
            _count("m", "number of samples drawn of the n", "samples"),
            _float("mui", "expected MUI of m samples (exact rarefaction)", "share", nullable=False),
            _float("low", "lower end of the 95 % band (Colwell et al. 2012); missing with a single sample", "share"),
            _float("high", "upper end of the 95 % band; missing with a single sample", "share"),
            NOTE,
        ),
        ("model", "checkpoint", "task", *SETTING_KEY, "m"),
    ),
    Table(
        "expert_frequency",
        (
            MODEL,
            CHECKPOINT,
            TOKENS,
            ORDER,
            TASK,
            *SETTING,
            _text("expert", "printed name: L17-E8 routed (from 0), L28-S1 shared (from 1)"),
            _count("layer", "the layer's 0-based index in the model"),
            _text("kind", "routed or shared"),
            N_SAMPLES,
            _float("frequency", "share of samples whose key set holds a neuron of the expert", "share", nullable=False),
            _float("expert_mui", "share of the expert's own neurons that are key", "share", nullable=False),
            Column("is_key", "bool", "", "frequency ≥ η_expert"),
            _count("rank", "1 = most frequent; ties: higher expert_mui, then lower expert number"),
            _count("routed_tokens", "response tokens routed to the expert; shared: all response tokens", "tokens"),
        ),
        ("model", "checkpoint", "task", *SETTING_KEY, "expert"),
    ),
    Table(
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
            _count("n_experts", "Σ_l (E_r + E_s), the proportion's denominator", "experts"),
            _count("n_key", "key experts", "experts"),
            _count("n_key_shared", "key experts that are shared", "experts"),
            _float("proportion", "KeyExpertProportion, n_key / n_experts", "share", nullable=False),
            *_interval("proportion", "proportion (percentile bootstrap over samples)", "share"),
            NOTE,
        ),
        ("model", "checkpoint", "task", *SETTING_KEY, "expert_threshold"),
    ),
    Table(
        "enrichment",
        (
            MODEL,
            CHECKPOINT,
            TOKENS,
            ORDER,
            Column("is_baseline", "bool", "", "the checkpoint is the untrained one (0 tokens)"),
            _text("task_set", "`all`, or the name of a task or set of tasks"),
            _count("n_tasks", "tasks whose key experts are intersected", "tasks"),
            *SETTING,
            EXPERT_THRESHOLD,
            _count("shared_key", "shared experts that are key on every task of the set", "experts"),
            _count("shared_other", "the other shared experts", "experts"),
            _count("routed_key", "routed experts that are key on every task of the set", "experts"),
            _count("routed_other", "the other routed experts", "experts"),
            _float("p_greater", "Fisher's exact test, shared experts more often key", "probability", nullable=False),
            _float("p_two_sided", "Fisher's exact test, two-sided", "probability", nullable=False),
            _float(
                "q_greater",
                "p_greater after Benjamini–Hochberg over all testable rows of one setting; 1 where untestable",
                "probability",
                nullable=False,
            ),
            _float("odds_ratio", "sample odds ratio; missing where infinite or undefined, see odds_ratio_note"),
            _float("odds_ratio_conditional", "conditional maximum likelihood odds ratio; missing where infinite"),
            _float("low", "lower end of the exact 95 % interval of the conditional odds ratio"),
            _float("high", "its upper end; missing beside a `low` means infinite"),
            *_estimate("odds_ratio_corrected", "Haldane–Anscombe odds ratio: 0.5 added to every cell"),
            _float("p_greater_baseline", "p_greater on the model's untrained checkpoint", "probability"),
            _float("odds_ratio_corrected_baseline", "odds_ratio_corrected on the model's untrained checkpoint"),
            _text("odds_ratio_note", "`infinite` or `undefined` where odds_ratio is missing; empty otherwise"),
            NOTE,
        ),
        ("model", "checkpoint", "task_set", *SETTING_KEY, "expert_threshold"),
    ),
    Table(
        "sensitivity",
        (
            _text("measure", "mui (at the common m) or key_expert_proportion"),
            _text("setting_a", "formulation/selection/threshold"),
            _text("setting_b", "formulation/selection/threshold"),
            _count("n_cells", "(model, checkpoint, task) cells that both settings have", "cells"),
            _float("pearson", "Pearson correlation over the cells"),
            _float("pearson_p", "its two-sided p-value", "probability"),
            *_interval("pearson", "pearson (percentile bootstrap over cells)"),
            _float("spearman", "Spearman rank correlation over the cells"),
            _float("spearman_p", "its two-sided p-value", "probability"),
            *_interval("spearman", "spearman (percentile bootstrap over cells)"),
            _float("cosine", "cosine similarity of the two vectors"),
            NOTE,
        ),
        ("measure", "setting_a", "setting_b"),
    ),
    Table(
        "masking",
        (
            MODEL,
            CHECKPOINT,
            TASK,
            *SETTING,
            _text("condition", "none, key (key neurons set to 0) or random (as many others)"),
            _count("seed", "seed of the random neurons; −1 for none and key"),
            _count("n_masked", "neurons set to 0", "neurons"),
            Column("share_masked", "float64", "share", "n_masked over all neurons"),
            N_SAMPLES,
            _count("n_graded", "samples that were graded", "samples"),
            _float("accuracy", "share of the graded samples that are correct", "share"),
            *_interval("accuracy", "accuracy (Wilson)", "share"),
            _count("n_references", "samples that have a reference answer", "samples"),
            _float("nll", "negative log-likelihood of the reference answer a token, mean over samples", "nats/token"),
            *_interval("nll", "nll (percentile bootstrap over samples)", "nats/token"),
            NOTE,
        ),
        ("model", "checkpoint", "task", *SETTING_KEY, "condition", "seed"),
    ),
    Table(
        "masking_effect",
        (
            MODEL,
            CHECKPOINT,
            TASK,
            *SETTING,
            _count("n_masked", "neurons set to 0 in the key condition", "neurons"),
            N_SAMPLES,
            _float("accuracy_none", "accuracy with nothing masked", "share"),
            *_estimate("loss_key", "accuracy lost by masking the key neurons", "share difference"),
            *_estimate("loss_random", "accuracy lost by masking random neurons, mean over seeds", "share difference"),
            *_estimate("loss_difference", "loss_key − loss_random", "share difference"),
            _float("loss_random_sd", "standard deviation over seeds of the random loss", "share difference"),
            *_estimate("nll_increase_key", "rise of nll by masking the key neurons", "nats/token"),
            *_estimate("nll_increase_random", "rise of nll by masking random neurons, mean over seeds", "nats/token"),
            *_estimate("nll_difference", "nll_increase_key − nll_increase_random", "nats/token"),
            _float(
                "effect_size",
                "paired Cohen's d over samples of correct under random (mean over seeds) minus correct under key",
            ),
            _float("nll_effect_size", "paired Cohen's d over samples of nll under key minus nll under random"),
            _count("n_seeds", "random controls", "seeds"),
            NOTE,
        ),
        ("model", "checkpoint", "task", *SETTING_KEY),
    ),
    Table(
        "phases",
        (
            MODEL,
            _text("task", "the task's name, or `mean` over the tasks"),
            *SETTING,
            _text("from_checkpoint", "checkpoint before the step"),
            _text("to_checkpoint", "checkpoint after the step"),
            _count("from_order", "its position in training order"),
            _count("to_order", "its position in training order"),
            _count("n_samples", "graded samples that both checkpoints answered", "samples"),
            *_estimate("d_accuracy", "change of accuracy over the same samples", "share difference"),
            Column("common_m", "Int64", "samples", "samples that MUI is compared at", nullable=True),
            *_estimate("d_mui", "change of MUI at the common m", "share difference"),
            _text("phase", "Accumulating, Evolving, Coarsening, Collapsing, Flat, or empty (see note)"),
            Column("differs_from_mean", "boolean", "", "the task's phase is not the mean's", nullable=True),
            NOTE,
        ),
        ("model", "task", *SETTING_KEY, "from_checkpoint", "to_checkpoint"),
    ),
]

TABLES: dict[str, Table] = {table.name: table for table in _LIST}


def conform(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The frame with the table's columns in order, cast to their dtypes, checked.

    Raises ValueError, naming table and column, for missing or unknown columns, a missing or infinite value that is
    not allowed, a value of another kind than the dtype, a share or probability outside 0..1, or two rows of one key.
    """
    missing = [name for name in table.names if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in table.names]
    if missing or unknown:
        raise ValueError(
            f"table {table.name}: missing columns {missing}, unknown columns {unknown}; "
            f"its columns are {', '.join(table.names)}"
        )
    done = pd.DataFrame(
        {column.name: _cast(frame[column.name], column, table.name) for column in table.columns}
    ).reset_index(drop=True)
    repeated = done[done.duplicated(list(table.key), keep=False)]
    if len(repeated):
        raise ValueError(
            f"table {table.name}: {len(repeated)} rows share their key ({', '.join(table.key)}), for example "
            f"{repeated[list(table.key)].iloc[0].to_dict()}; each may occur once"
        )
    return done


def _cast(values: pd.Series, column: Column, table: str) -> pd.Series:
    where = f"table {table}, column {column.name}"
    gaps = values.isna().to_numpy(dtype=bool)
    if gaps.any() and not column.nullable:
        raise ValueError(f"{where}: {int(gaps.sum())} of {len(values)} values are missing; none may be")
    present = values[~gaps]
    if column.dtype == "string":
        strange = [value for value in present if not isinstance(value, str)]
    elif column.dtype in ("bool", "boolean"):
        strange = [value for value in present if not isinstance(value, (bool, np.bool_))]
    else:
        numbers = pd.to_numeric(present, errors="coerce").to_numpy(dtype=float)
        wrong = ~np.isfinite(numbers)
        if column.dtype in ("int64", "Int64"):
            wrong |= numbers != np.round(numbers)
        if column.unit in ("share", "probability"):
            wrong |= (numbers < -SHARE_TOLERANCE) | (numbers > 1 + SHARE_TOLERANCE)
        strange = list(present[wrong])
    if strange:
        allowed = "a finite number" if column.dtype == "float64" else f"a value of dtype {column.dtype}"
        if column.unit in ("share", "probability"):
            allowed = "a number from 0 to 1"
        raise ValueError(f"{where}: found {strange[0]!r}; it holds {allowed}")
    # "str" compares to plain numpy booleans under every supported pandas, "string" does not.
    return values.astype("str" if column.dtype == "string" else column.dtype)  # type: ignore[call-overload]


def named(table: Table | str) -> Table:
    """The table of a name, or the table itself. Raises ValueError, naming the tables, for a name there is none of."""
    if isinstance(table, Table):
        return table
    if table not in TABLES:
        raise ValueError(f"there is no table {table!r}; tables: {', '.join(TABLES)}")
    return TABLES[table]


def write(frame: pd.DataFrame, path: str | Path, table: Table | str) -> None:
    """Write the table (or the one of that name) as Parquet at `path` and as CSV beside it (same name, suffix .csv).

    Raises ValueError as `conform`, before anything is written.
    """
    done = conform(frame, named(table))
    target = Path(path)
    done.to_parquet(target, index=False)
    done.to_csv(target.with_suffix(".csv"), index=False)


def read(paths: str | Path | Sequence[str | Path], table: Table | str) -> pd.DataFrame:
    """One or several Parquet files of a table, one below the other, checked as `conform` does.

    Raises ValueError for an empty list of paths or a file that is not of this table, naming the file.
    """
    listed, table = [paths] if isinstance(paths, (str, Path)) else list(paths), named(table)
    if not listed:
        raise ValueError(f"table {table.name}: no file to read; give at least one path")
    frames = []
    for path in listed:
        try:
            frames.append(conform(pd.read_parquet(path), table))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    filled = [frame for frame in frames if len(frame)]  # pandas warns about concatenating empty frames
    return conform(pd.concat(filled, ignore_index=True), table) if filled else frames[0]
