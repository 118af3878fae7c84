"""Masking, settings, diversity, laws, and what is summed up from the other tables."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.laws import diagnostics, published
from published_size.shape import (
    CURVES,
    DOMAINS,
    ETAS,
    EXPERTS,
    LAST,
    MODELS,
    SETTINGS,
    TASKS,
    Made,
    N,
    around,
    grid,
    share,
    study_cells,
    wilson,
)


def masking(made: Made) -> None:
    cells = study_cells(EXPERTS, orders=[LAST], task=TASKS)
    right = made.frames["performance"].query(f"order == {LAST}")["accuracy"].to_numpy()
    key, random = right * made.draws.uniform(0.1, 0.6, len(cells)), right * made.draws.uniform(0, 0.04, len(cells))
    conditions = [("none", -1, 0 * key), ("key", -1, key)]
    conditions += [(name, seed, random) for name in ("random", "matched") for seed in range(5)]
    runs = pd.concat([cells.assign(condition=name, seed=seed, lost=lost) for name, seed, lost in conditions])
    correct = np.round(N * (np.tile(right, len(conditions)) - runs["lost"])).astype(int)
    runs = runs.reset_index(drop=True).drop(columns=["order", "tokens", "lost"])
    made.add(
        "masking", runs, n_masked=500, share_masked=0.01, n_samples=N, n_graded=N, n_references=N,
        **wilson("accuracy", (correct / N).to_numpy(), N), **around("nll", made.draws.uniform(1, 3, len(runs)), 0.1, 0),
    )  # fmt: skip
    found = []
    for control, more in (("expert", 0.0), ("frequency", 0.004)):
        estimates = {"loss_key": key, "loss_random": random + more, "loss_difference": key - random - more}
        logs = {
            "nll_increase_key": 5 * key,
            "nll_increase_random": 5 * random,
            "nll_difference": 5 * (key - random),
        }
        ends = [around(name, value, 0.03) for name, value in (estimates | logs).items()]
        found.append(cells.assign(control=control, **{name: value for part in ends for name, value in part.items()}))
    rows = pd.concat(found, ignore_index=True).drop(columns=["order", "tokens"])
    made.add(
        "masking_effect", rows, n_masked=500, share_masked=0.01, n_masked_control=500, n_samples=N, n_seeds=5,
        activation_frequency_key=0.4, activation_frequency_random=0.3, **wilson("accuracy_none", np.tile(right, 2), N),
        activation_frequency_smd=made.draws.normal(0, 0.08, len(rows)), effect_size=0.5, nll_effect_size=0.8,
        loss_random_sd=0.01, loss_difference_p=0.001, nll_difference_p=0.001,
    )  # fmt: skip
    rows = grid(model=[*MODELS, "all models"], threshold=[0.0008, 0.001, 0.002], control=["expert", "frequency"])
    rows = rows.assign(**{name: getattr(EXPERTS, name) for name in Setting._fields if name != "threshold"})
    made.add(
        "threshold_selection", rows, n_cells=np.where(rows["model"] == "all models", 7 * len(MODELS), 7),
        n_significant=6, spearman_neighbours=0.97, spearman_others=0.96, eligible=True,
        chosen=rows["threshold"] == 0.001,
        **around("separation", made.draws.normal(0.1, 0.02, len(rows)), 0.03), **around("behind_best", 0.01, 0.02),
    )  # fmt: skip


def sensitivity(made: Made) -> None:
    labels = [setting.label for setting in SETTINGS]
    pairs = [
        (measure, a.label, b.label, ", ".join(n for n, x, y in zip(Setting._fields, a, b, strict=True) if x != y))
        for measure in ("mui", "key_expert_proportion")
        for a, b in itertools.combinations(SETTINGS, 2)
    ]
    rows = pd.DataFrame(pairs, columns=["measure", "setting_a", "setting_b", "differs_in"])
    others = grid(setting=labels, pair=range(len(ETAS)))
    pairs_of_etas = np.array(list(itertools.combinations(ETAS, 2)))[others["pair"].astype(int)]
    etas = {f"expert_threshold_{side}": pairs_of_etas[:, place] for place, side in enumerate("ab")}
    for name, frame in (("sensitivity", rows), ("expert_threshold_sensitivity", others.assign(**etas))):
        columns: dict[str, Any] = {"n_cells": len(MODELS) * 49, "n_clusters": len(MODELS) * 7}
        for statistic in ("pearson", "spearman", "kendall", "cosine"):
            value = made.draws.uniform(0.9, 0.999, len(frame))
            columns |= around(statistic, value, 0.005, -1, 1)
            columns |= {f"{statistic}_clustered_{end}": columns[f"{statistic}_{end}"] for end in ("low", "high")}
        columns |= {f"{statistic}_p": 1e-30 for statistic in ("pearson", "spearman", "kendall")}
        made.add(name, frame, **columns)


def diversity(made: Made) -> None:
    measures = [("neuron", "mui", CURVES.label), ("neuron", "mui", EXPERTS.label)]
    measures += [("expert", name, EXPERTS.label) for name in ("key_expert_proportion", "active_experts")]
    measures += [("lexical", name, "") for name in ("distinct_1", "distinct_2", "compression_ratio")]
    domains = len(set(DOMAINS.values()))
    rows = study_cells(orders=[0, LAST], which=range(len(measures)), n_domains=range(1, domains + 1))
    for place, name in enumerate(("level", "measure", "setting")):
        rows[name] = rows["which"].map(lambda which, place=place: measures[which][place])
    mean = 0.2 + 0.02 * rows["n_domains"].astype(float) + made.noise(rows, 0.02, "model")
    made.add("diversity", rows, n_samples=40, draws=200, mean=mean, sd=0.01, low=mean - 0.02, high=mean + 0.02)
    rows = rows[rows["n_domains"] == domains].reset_index(drop=True)
    own = (rows["measure"] == "mui") & (rows["setting"] == CURVES.label)
    finer = made.draws.random(len(rows)) < 0.6
    words = np.where(finer, "neuron level resolves finer", "no difference shown")
    made.add(
        "diversity_effect", rows, n_samples=40, parts=5, direction="rises", verdict=np.where(own, "", words),
        **around("spearman", made.draws.uniform(0.3, 0.9, len(rows)), 0.08, -1, 1),
        **share("resolution", made.draws.uniform(0.52, 0.8, len(rows)), 0.03),
        **around("difference", np.where(finer, 0.1, 0.01), 0.04), difference_p=np.where(finer, 0.004, 0.6),
    )  # fmt: skip


def laws(made: Made) -> None:
    scopes = [
        ("models", ""),
        ("published", ""),
        ("published", "OLMoE"),
        *(("checkpoints", model) for model in MODELS),
    ]
    rows = grid(which=range(len(scopes)), task=[*TASKS, "mean"], form=["linear", "logarithmic"])
    for place, name in enumerate(("scope", "model")):
        rows[name] = rows["which"].map(lambda which, place=place: scopes[which][place])
    rows = rows.assign(**CURVES._asdict())
    slope, points = (
        made.draws.normal(0.5, 1, len(rows)),
        np.where(rows["scope"] == "checkpoints", LAST, len(MODELS)),
    )
    made.add(
        "utility_law", rows, n_points=points, intercept=0.3, **around("slope", slope, 0.8), aicc=-10.0,
        slope_p=made.draws.uniform(0, 0.6, len(rows)),
        **share("r_squared", made.draws.uniform(0, 0.7, len(rows)), 0.25),
        better=rows["form"] == "linear", spearman=0.3, spearman_p=0.2,
    )  # fmt: skip
    curve = rows.loc[rows.index.repeat(20)].assign(point=np.tile(np.arange(20), len(rows)), slope=np.repeat(slope, 20))
    mui = 0.1 + 0.01 * curve["point"]
    fitted = around("performance", 0.3 + curve["slope"] * (mui - 0.2), 0.05)
    made.add("utility_curve", curve.reset_index(drop=True).drop(columns="slope"), mui=mui.to_numpy(),
             **{name: value.to_numpy() for name, value in fitted.items()})  # fmt: skip


def decay(made: Made) -> None:
    rows = study_cells(CURVES, task=[*TASKS, "all"])
    alpha = made.draws.uniform(1.5, 2.5, len(rows))
    ratios = {f"loglikelihood_ratio_{name}": -3.0 for name in ("lognormal", "exponential", "truncated_power_law")}
    chances = {f"p_{name}": 0.01 for name in ("lognormal", "exponential", "truncated_power_law")}
    fits = made.add(
        "decay", rows, n_samples=N, n_key=20_000, q_max=N, xmin=5, n_tail=8_000, **around("alpha", alpha, 0.05),
        alpha_se=0.025, ks=0.03, p_fit=made.draws.uniform(0, 0.3, len(rows)), **ratios, **chances,
        best="log-normal or truncated power law",
    )  # fmt: skip
    ranks = np.unique(np.round(np.geomspace(1, 20_000, 50)).astype(int))
    ends = fits[fits["order"].isin((0, LAST))]
    curve = ends.loc[ends.index.repeat(len(ranks))].reset_index(drop=True).assign(rank=np.tile(ranks, len(ends)))
    curve = curve.assign(incidence=np.maximum(1 / N, 0.9 * curve["rank"] ** (-1 / curve["alpha"])))
    made.add("decay_curve", curve, fitted=np.where(curve["rank"] <= 8_000, curve["incidence"], np.nan))


def summaries(made: Made) -> None:
    """Flags and published values are counted from the tables before, by the project's own code."""
    own = {name: made.frames[name] for name in ("utilization", "performance", "key_experts")}
    often = made.frames["expert_frequency"]
    often = often[(often["task"] == "MMLU") & (often["threshold"] == EXPERTS.threshold)]  # all that was published
    settings = {"curve_setting": CURVES, "expert_setting": EXPERTS, "expert_threshold": 0.6}
    beside = published.rows(**own, expert_frequency=often, **settings)
    made.frames["published"], made.frames["published_agreement"] = beside
    own = {name: made.frames[name] for name in ("utilization", "key_experts", "masking_effect", "phases")}
    made.frames["diagnostics"] = diagnostics.rows(**own, **settings, masking_setting=EXPERTS)
