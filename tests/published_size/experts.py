"""Experts: frequencies, key experts, overlap of tasks, domains, co-activation and enrichment."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from published_size.shape import (
    CHECKPOINTS,
    CURVES,
    DOMAINS,
    ETAS,
    EXPERTS,
    GEOMETRY,
    LAST,
    TASKS,
    Made,
    N,
    around,
    share,
    study_cells,
    wilson,
)


def expert_frequency(made: Made) -> None:
    found = []
    for model, (layers, routed, shared) in GEOMETRY.items():
        layer, place = (part.ravel() for part in np.indices((layers, routed + shared)))
        kind = np.where(place < routed, "routed", "shared")
        name = [f"L{at}-E{e}" if e < routed else f"L{at}-S{e - routed + 1}" for at, e in zip(layer, place, strict=True)]
        strength = made.draws.beta(0.5, 4, len(place)) + np.where(place < routed, 0, 0.6)
        for setting, (t, task) in itertools.product((CURVES, EXPERTS), enumerate(TASKS)):
            often = strength * (1 if setting == CURVES else 0.9) + made.draws.normal(0, 0.03 + 0.002 * t, len(place))
            active = np.round(N * np.clip(often, 0, 1)).astype(int)
            covered = np.minimum(active / N * made.draws.uniform(0.1, 0.5, len(place)), 1)
            rank = np.empty(len(place), dtype=int)
            rank[np.lexsort((np.arange(len(place)), -covered, -active))] = np.arange(1, len(place) + 1)
            tokens = np.where(place < routed, np.round(30_000 * strength / routed), 30_000).astype(int)
            columns = {"expert": name, "layer": layer, "kind": kind, "expert_mui": covered, "rank": rank}
            cell = {"model": model, "task": task, "active": active, "routed_tokens": tokens, **setting._asdict()}
            found.append(pd.DataFrame(columns | cell))
    rows = pd.concat(found, ignore_index=True)
    made.add(
        "expert_frequency", rows, checkpoint=CHECKPOINTS[LAST], order=LAST, tokens=2e11, n_samples=N, common_m=N // 2,
        **wilson("frequency", rows["active"].to_numpy() / N, N), is_key=rows["active"] >= 0.6 * N,
        **share("expert_mui_at_m", 0.8 * rows["expert_mui"].to_numpy(), 0.01),
    )  # fmt: skip


def key_experts(made: Made) -> None:
    """Counted at the last checkpoint; before it the more, the less a model is trained."""
    often = made.frames["expert_frequency"]
    by = ["model", "task", "threshold"]
    found = []
    for setting, eta in itertools.product((CURVES, EXPERTS), ETAS):
        at = often[often["threshold"] == setting.threshold].assign(
            key=lambda frame, eta=eta: frame["frequency"] >= eta,
            key_shared=lambda frame: frame["key"] & (frame["kind"] == "shared"),
            open=lambda frame, eta=eta: (frame["frequency_low"] <= eta) & (frame["frequency_high"] >= eta),
        )  # fmt: skip
        last = at.groupby(by, sort=False)[["key", "key_shared", "open"]].sum().reset_index()
        found.append(study_cells(setting, task=TASKS).merge(last, on=by).assign(expert_threshold=eta))
    rows = pd.concat(found, ignore_index=True)
    experts = rows["model"].map({model: layers * (r + s) for model, (layers, r, s) in GEOMETRY.items()})
    more = np.round((LAST - rows["order"]) * made.draws.uniform(1, 4, len(rows))).astype(int)
    key = rows["key"] + more
    made.add(
        "key_experts", rows, n_samples=N, n_experts=experts, n_key=key, n_key_shared=rows["key_shared"],
        n_undecided=rows["open"], **share("proportion", key / experts, 0.004),
    )  # fmt: skip


def structure(made: Made) -> None:
    """Overlap of tasks, experts by number of tasks, and experts against domains."""
    often = made.frames["expert_frequency"]
    often = often[often["threshold"] == EXPERTS.threshold]
    cells = {"checkpoint": CHECKPOINTS[LAST], "order": LAST, "tokens": 2e11, **EXPERTS._asdict()}
    limit, overlap, shared_by = {"expert_threshold": 0.6}, [], []
    for model, own in often.groupby("model", sort=False):
        key = own.pivot_table(index=["expert", "kind"], columns="task", values="is_key", sort=False).astype(bool)
        for a, b in itertools.combinations(TASKS, 2):
            both, either = int((key[a] & key[b]).sum()), int((key[a] | key[b]).sum())
            counts = {
                "n_experts": len(key),
                "n_key_a": int(key[a].sum()),
                "n_key_b": int(key[b].sum()),
                "n_both": both,
            }
            overlap.append(
                {"model": model, "task_a": a, "task_b": b, "jaccard": both / either if either else np.nan} | counts
            )
        for kind, tasks_of in key.sum(axis=1).groupby("kind", sort=False):
            counts = np.bincount(tasks_of, minlength=len(TASKS) + 1)
            shared_by += [{"model": model, "kind": kind, "k": k, "n_experts": int(number), "n_kind": len(tasks_of)}
                          for k, number in enumerate(counts)]  # fmt: skip
    rows = pd.DataFrame(overlap).assign(**cells, **limit)
    made.add("expert_overlap", rows, **share("jaccard", rows["jaccard"], 0.05), jaccard_expected=0.02,
             jaccard_expected_within_kind=0.1, q_within_kind=made.draws.uniform(0, 0.2, len(rows)))  # fmt: skip
    made.add("experts_shared", pd.DataFrame(shared_by).assign(**cells, **limit), n_tasks=len(TASKS))
    first = often[often["task"] == TASKS[0]][["model", "expert", "layer", "kind"]].assign(**cells)
    bits, q = made.draws.gamma(2, 0.03, len(first)), made.draws.beta(0.4, 1, len(first))
    top = np.array(sorted(set(DOMAINS.values())))[made.draws.integers(0, len(set(DOMAINS.values())), len(first))]
    experts = made.add(
        "specialization", first, n_domains=len(set(DOMAINS.values())), n_samples=N * len(TASKS), n_active=N,
        mutual_information=bits, mutual_information_expected=0.002, selectivity=np.minimum(bits, 1), p=q / 2, q=q,
        domains=np.where(q < 0.05, top, ""), top_domain=top,
        **share("frequency_top", made.draws.uniform(0, 1, len(first)), 0.05),
        **share("frequency_elsewhere", made.draws.uniform(0, 0.5, len(first)), 0.03),
    )  # fmt: skip
    kinds = experts.assign(follows=experts["q"] < 0.05).groupby(["model", "kind"], sort=False)
    rows = kinds.agg(n_experts=("q", "size"), n_specialised=("follows", "sum"), mean=("mutual_information", "mean"))
    rows = rows.reset_index().assign(**cells)
    made.add(
        "specialization_summary", rows, n_domains=len(set(DOMAINS.values())), n_samples=N * len(TASKS),
        n_active=rows["n_experts"], n_testable=rows["n_experts"], mean_mutual_information_expected=0.002,
        **around("mean_mutual_information", rows["mean"], 0.004, low=0.0),
    )  # fmt: skip


def pairs_of_experts(made: Made) -> None:
    """Co-activation of the 30 most frequent experts of each model that are not active everywhere."""
    often = made.frames["expert_frequency"]
    often = often[(often["threshold"] == EXPERTS.threshold) & (often["task"] == TASKS[0]) & (often["frequency"] < 1)]
    cells = {
        "checkpoint": CHECKPOINTS[LAST],
        "order": LAST,
        "tokens": 2e11,
        "n_samples": N * len(TASKS),
        **EXPERTS._asdict(),
    }
    first, second = np.triu_indices(30, 1)
    found = []
    for model, own in often.groupby("model", sort=False):
        top = own.nsmallest(30, "rank")[["expert", "kind", "layer", "frequency"]].reset_index(drop=True)
        a, b = top.loc[first].reset_index(drop=True), top.loc[second].reset_index(drop=True)
        found.append(a.add_suffix("_a").join(b.add_suffix("_b")).assign(model=model))
    rows = pd.concat(found, ignore_index=True).assign(**cells)
    n_a, n_b = (np.round(rows[f"frequency_{side}"] * N * len(TASKS)).astype(int) for side in "ab")
    phi, q = made.draws.normal(0, 0.15, len(rows)), made.draws.beta(0.4, 1, len(rows))
    verdict = np.where(q < 0.05, np.where(phi > 0, "together", "apart"), "undecided")
    expected = n_a * n_b / (N * len(TASKS))
    both = np.clip(np.round(expected * (1 + phi)), 0, np.minimum(n_a, n_b)).astype(int)
    pairs = made.add(
        "coactivation", rows, n_a=n_a, n_b=n_b, n_both=both, expected=expected, lift=both / expected, p=q / 2, q=q,
        **around("phi", phi, 0.05, -1, 1), verdict=verdict, n_tasks_within=len(TASKS), expected_within=expected,
        phi_within=phi / 2, **around("odds_ratio_within", np.exp(phi), 0.2, low=0.0), p_within=q / 2, q_within=q,
        verdict_within=verdict,
    )  # fmt: skip
    found = []
    for which in ("all", "same_layer", "across_layers"):
        same = pairs["layer_a"] == pairs["layer_b"]
        own = pairs[same if which == "same_layer" else ~same if which == "across_layers" else same | ~same]
        counts = own.assign(together=own["verdict"] == "together", apart=own["verdict"] == "apart")
        sums = counts.groupby("model", sort=False).agg(
            n_pairs=("q", "size"), n_together=("together", "sum"), n_apart=("apart", "sum"),
            mean_phi=("phi", "mean"), mean_phi_within=("phi_within", "mean"),
        )  # fmt: skip
        found.append(sums.reset_index().assign(pairs=which))
    rows = pd.concat(found, ignore_index=True).assign(**cells)
    made.add(
        "coactivation_summary", rows, n_tasks=len(TASKS), n_compared=30, n_testable_within=rows["n_pairs"],
        n_together_within=rows["n_together"] // 2, n_apart_within=rows["n_apart"] // 2,
        chance_low=-0.005, chance_high=0.005, p_within=made.draws.uniform(0, 0.2, len(rows)),
    )  # fmt: skip


def enrichment(made: Made) -> None:
    """Tests over all tasks, every task and every pair of tasks, at all checkpoints."""
    pairs = [" + ".join(pair) for pair in itertools.combinations(TASKS, 2)]
    rows = study_cells(EXPERTS, task_set=["all", *TASKS, *pairs])
    rows = rows[rows["model"].map(GEOMETRY).str[2] > 0].reset_index(drop=True)
    lone = study_cells(EXPERTS, orders=[LAST], task_set=["all"])
    rows = pd.concat([rows, lone[lone["model"].map(GEOMETRY).str[2] == 0]], ignore_index=True)
    layers, routed, shared = (rows["model"].map(GEOMETRY).str[part].to_numpy() for part in range(3))
    shared_key = made.draws.binomial(layers * shared, 0.6)
    routed_key = made.draws.binomial(layers * routed, 0.01)
    cells = np.array([shared_key, layers * shared - shared_key, routed_key, layers * routed - routed_key])
    all_key = cells[0] + cells[2]
    p = stats.hypergeom.sf(cells[0] - 1, cells.sum(axis=0), np.maximum(cells[0] + cells[1], 0), all_key)
    p = np.where(layers * shared == 0, 1.0, np.clip(p, 0, 1))
    half = np.where(layers * shared == 0, np.nan, cells + 0.5)
    ratio, error = half[0] * half[3] / half[1] / half[2], np.sqrt((1 / half).sum(axis=0))
    ends = {"odds_ratio_corrected": ratio}
    ends |= {
        f"odds_ratio_corrected_{end}": ratio * np.exp(sign * 1.96 * error) for end, sign in (("low", -1), ("high", 1))
    }
    sets = dict(zip(rows["task_set"], rows["task_set"].replace({"all": " + ".join(TASKS)}), strict=True))
    names = rows["task_set"].map(sets).str.replace(" + ", ";", regex=False)
    change = made.draws.normal(0, 0.6, len(rows))
    shown = {
        "is_baseline": rows["order"] == 0,
        "tasks": names,
        "n_tasks": names.str.count(";") + 1,
        "expert_threshold": 0.6,
    }
    made.add(
        "enrichment", rows, **shown, shared_key=cells[0], shared_other=cells[1], routed_key=cells[2],
        routed_other=cells[3], p_greater=p, p_two_sided=p, q_greater=np.minimum(2 * p, 1), **ends,
        **around("log_odds_change", change, 0.4), odds_ratio_note="",
    )  # fmt: skip
    shown["note"] = "made up"
    keys = ["n_key", "n_key_shared", "n_experts", "n_shared"]
    counts = zip(keys, (all_key, cells[0], cells.sum(axis=0), layers * shared), strict=True)
    made.add(
        "exposure", rows.assign(**shown), **dict(counts), expected_key_shared=0.5 * cells[0], wald_p=0.2,
        **around("log_odds_shared", made.draws.normal(0.5, 0.5, len(rows)), 0.6), separation="none",
        likelihood_ratio_p=made.draws.uniform(0, 0.2, len(rows)),
        likelihood_ratio_q=made.draws.uniform(0, 0.3, len(rows)),
        **around("log_odds_tokens", made.draws.normal(2, 0.3, len(rows)), 0.5), separation_by_tokens="none",
    )  # fmt: skip
    rows = study_cells(EXPERTS, orders=[LAST], task=["all", *TASKS])
    layers, routed, shared = (rows["model"].map(GEOMETRY).str[part] for part in range(3))
    top = np.where(shared > 0, made.draws.integers(4, 10, len(rows)), 0)
    p = np.where(shared > 0, stats.hypergeom.sf(top - 1, layers * (routed + shared), layers * shared, 10), 1.0)
    made.add(
        "top_composition", rows, n_experts=layers * (routed + shared), n_shared_experts=layers * shared, n_top=10,
        n_shared=top, expected_shared=10 * shared / (routed + shared), p_greater=np.clip(p, 0, 1),
        q_greater=np.clip(2 * p, 0, 1),
    )  # fmt: skip
