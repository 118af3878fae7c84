"""Who the ten most frequent experts are (SPEC section 5), and whether more of them are shared than by chance.

Chance: ten experts drawn from all of them. A shared expert sees every token, so it is ahead by construction, as in
`enrichment`: the rows of the untrained checkpoint stand in the same table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from moemui.experts.enrichment import ALL, CELL, false_discovery
from moemui.experts.key_experts import ranks
from moemui.tables.columns import SETTING_KEY
from moemui.tables.enrichment import TOP_COMPOSITION

TOP = 10  # as in the paper


def pooled(*, frequencies: pd.DataFrame) -> pd.DataFrame:
    """Each expert over all tasks of its model, checkpoint and setting: the rows of one task `all`.

    frequencies: a table `expert_frequency` or some of its rows. frequency: share of all tasks' samples together;
    expert_mui: mean over tasks; n_samples and routed_tokens: sums; rank: as `experts.ranks`, the expert's number being
    its place in the table. Columns: model, checkpoint, tokens, order, task, the setting, expert, layer, kind,
    n_samples, frequency, expert_mui, rank, routed_tokens.
    """
    # frequency is a share of n_samples, so this is a count; rounded, equal counts tie whatever the tasks' sizes
    active = np.rint(frequencies["frequency"] * frequencies["n_samples"])
    together = (
        frequencies.assign(active=active)
        .groupby([*CELL, "expert"], sort=False)
        .agg(
            tokens=("tokens", "first"),
            order=("order", "first"),
            layer=("layer", "first"),
            kind=("kind", "first"),
            n_samples=("n_samples", "sum"),
            active=("active", "sum"),
            expert_mui=("expert_mui", "mean"),
            routed_tokens=("routed_tokens", "sum"),
        )
        .reset_index()
    )
    together = together.assign(task=ALL, frequency=together["active"] / together["n_samples"], rank=0)
    for _, group in together.groupby(list(CELL), sort=False):
        place = ranks(frequency=group["frequency"].to_numpy(), expert_mui=group["expert_mui"].to_numpy())
        together.loc[group.index, "rank"] = place
    leading = ["model", "checkpoint", "tokens", "order", "task", *SETTING_KEY, "expert", "layer", "kind"]
    return together[[*leading, "n_samples", "frequency", "expert_mui", "rank", "routed_tokens"]]


def by_chance(*, n_experts: int, n_shared_experts: int, n_top: int, n_shared: int) -> tuple[float, float]:
    """Expected number of shared experts among the top, n_top · n_shared_experts / n_experts, and P(n_shared or more).

    Hypergeometric: n_top experts drawn without replacement. Raises ValueError for counts that can't be.
    """
    fits = 0 <= n_shared <= min(n_top, n_shared_experts) and max(n_top, n_shared_experts) <= n_experts
    if not fits or n_top - n_shared > n_experts - n_shared_experts or n_experts == 0:
        raise ValueError(
            f"found {n_shared} shared experts among the top {n_top} of {n_experts} experts, {n_shared_experts} of them "
            "shared; a part is no larger than its whole"
        )
    p = stats.hypergeom.sf(n_shared - 1, n_experts, n_shared_experts, n_top)
    return n_top * n_shared_experts / n_experts, min(1.0, max(0.0, float(p)))


def rows(*, frequencies: pd.DataFrame, count: int = TOP) -> pd.DataFrame:
    """The table `top_composition` from a table `expert_frequency`: each task and, as `all`, its tasks together.

    An expert that is active in no sample is not among the most frequent, even where fewer than `count` ever are.
    q_greater corrects over all testable rows of one setting: those of models with shared and routed experts of which
    some are in the top and some are not. Raises ValueError for a task named `all`.
    """
    if (frequencies["task"] == ALL).any():
        raise ValueError(f"a task is named {ALL!r}, which stands for all tasks together; rename it")
    every = pd.concat([frequencies, pooled(frequencies=frequencies)], ignore_index=True, join="inner")
    records = []
    for values, group in every.groupby(["task", *CELL], sort=False):
        identity = dict(zip(["task", *CELL], values, strict=True))
        identity |= {"tokens": group["tokens"].iloc[0], "order": group["order"].iloc[0]}
        records.append(identity | _composition(group, count))
    tested = [record.pop("tested") for record in records]
    family = [tuple(record[name] for name in SETTING_KEY) for record in records]
    p = [record["p_greater"] for record in records]
    for record, q in zip(records, false_discovery(p=p, family=family, tested=tested), strict=True):
        record["q_greater"] = q
    return TOP_COMPOSITION.frame(records)


def _composition(group: pd.DataFrame, count: int) -> dict[str, Any]:
    """Columns of one row from n_experts on, and whether it can be tested; group: all experts of one task."""
    top = group[(group["rank"] <= count) & (group["frequency"] > 0)].sort_values("rank")
    found = {
        "n_experts": len(group),
        "n_shared_experts": int((group["kind"] == "shared").sum()),
        "n_top": len(top),
        "n_shared": int((top["kind"] == "shared").sum()),
    }
    notes = {
        "no expert is active in any sample": found["n_top"] == 0,
        f"only {found['n_top']} experts are active in any sample": 0 < found["n_top"] < min(count, len(group)),
        f"all {len(group)} experts are among the most frequent": found["n_top"] == len(group),
        "no shared experts": found["n_shared_experts"] == 0,
        "no routed experts": found["n_shared_experts"] == len(group),
    }
    expected, p = by_chance(**found)
    means = {
        f"{name}_{kind}": top.loc[top["kind"] == kind, name].mean()
        for name in ("frequency", "expert_mui")
        for kind in ("shared", "routed")
    }
    return {
        **found,
        "expected_shared": expected,
        "p_greater": p,
        **means,
        "experts": "; ".join(top["expert"]),
        "note": "; ".join(name for name, holds in notes.items() if holds),
        "tested": 0 < found["n_shared_experts"] < len(group) and 0 < found["n_top"] < len(group),
    }
