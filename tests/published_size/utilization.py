"""Performance, MUI, its saturation, phases and comparisons."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.tables.catalog import TABLES
from published_size.shape import (
    CHECKPOINTS,
    CURVES,
    DOMAINS,
    EXPERTS,
    GEOMETRY,
    LAST,
    MODELS,
    TASKS,
    WIDTH,
    Made,
    N,
    around,
    grid,
    share,
    study_cells,
    wilson,
)


def performance(made: Made) -> None:
    cells = study_cells(task=TASKS)
    order = cells["order"].to_numpy()
    skill = 0.12 + 0.1 * order + made.noise(cells, 0.08, "model") + made.noise(cells, 0.08, "task")
    share = np.where(order == 0, 0.02, np.clip(skill + made.noise(cells, 0.03), 0.03, 0.97))
    correct = made.draws.binomial(N, share)
    made.add(
        "performance", cells, domain=cells["task"].map(DOMAINS), n_samples=N, n_graded=N, n_correct=correct,
        mean_response_tokens=150.0, **wilson("accuracy", correct / N, N),
    )  # fmt: skip


def utilization(made: Made) -> None:
    """MUI rises to the fourth checkpoint and falls after it, in every second model it only rises."""
    found = []
    for setting in (CURVES, EXPERTS):
        cells = study_cells(setting, task=TASKS)
        order, place = cells["order"].to_numpy(), cells["model"].map(MODELS.index).to_numpy()
        course = np.where(place % 2, 0.02 * order, 0.04 * np.minimum(order, 4) - 0.03 * np.maximum(order - 4, 0))
        height = 0.12 + course + 0.3 * (order == 0) + made.noise(cells, 0.03, "model") + made.noise(cells, 0.02, "task")
        cells["height"] = np.clip(height + made.noise(cells, 0.004), 0.01, 0.6) * (1 if setting == CURVES else 0.6)
        layers, routed, shared = (cells["model"].map({m: g[i] for m, g in GEOMETRY.items()}) for i in range(3))
        scopes = [
            ("total", 1.0, layers * (routed + shared)), ("routed", 0.9, layers * routed),
            ("shared", 1.9, layers * shared),
        ]  # fmt: skip
        found += [cells.assign(scope=scope, layer=pd.NA, up=up, n_neurons=of * WIDTH) for scope, up, of in scopes]
        for layer in range(max(geometry[0] for geometry in GEOMETRY.values()) * (setting == CURVES)):
            up = 0.6 + 0.03 * layer
            own = cells.assign(scope="layer", layer=layer, up=up, n_neurons=(routed + shared) * WIDTH)
            found.append(own[layer < layers])
    rows = pd.concat(found, ignore_index=True)
    rows = rows[rows["n_neurons"] > 0].reset_index(drop=True)
    at_m = np.minimum(rows["height"] * rows["up"], 0.7).to_numpy()
    key = np.round(rows["n_neurons"] * np.minimum(1.25 * at_m, 0.9)).astype(int)
    mui = key / rows["n_neurons"]
    made.add(
        "utilization", rows, domain=rows["task"].map(DOMAINS), samples="all", n_samples=N, n_response_tokens=N * 150,
        n_key=key, mui=mui, common_m=N // 2, **share("mui_at_m", at_m, 0.004), mui_at_m_se=0.002,
        mui_at_m_sample_se=0.003, mui_at_m_sample_low=np.maximum(at_m - 0.006, 0), mui_at_m_sample_high=at_m + 0.006,
        chao2=np.minimum(1.2 * mui, 1), chao2_low=np.minimum(1.1 * mui, 1), chao2_high=np.minimum(1.3 * mui, 1),
        q1=key // 4, q2=key // 8,
    )  # fmt: skip
    total = made.total()
    ms = np.unique(np.round(np.geomspace(1, N, 32)).astype(int))
    curves = total.loc[total.index.repeat(len(ms))].reset_index(drop=True).assign(m=np.tile(ms, len(total)))
    rate = -np.log1p(-(curves["mui"] / curves["chao2"])) / N
    expected = curves["chao2"] * -np.expm1(-rate * curves["m"])
    ends = {"low": np.maximum(expected - 0.005, 0), "high": np.minimum(expected + 0.005, 1)}
    made.add("saturation", curves.drop(columns="note").assign(mui=expected, **ends)[TABLES["saturation"].names[:-1]])


def dynamics(made: Made) -> None:
    """Steps of every task and the mean, with the phase that their changes give."""
    cells = made.total().merge(made.frames["performance"][["model", "checkpoint", "task", "accuracy"]])
    height = cells.pivot_table(index=["model", "task"], columns="order", values="mui_at_m", sort=False)
    right = cells.pivot_table(index=["model", "task"], columns="order", values="accuracy", sort=False)
    steps = []
    for before in range(LAST):
        step = pd.DataFrame(
            {"d_mui": height[before + 1] - height[before], "d_accuracy": right[before + 1] - right[before]}
        )
        mean = step.groupby("model", sort=False).mean().assign(task="mean").set_index("task", append=True)
        steps.append(pd.concat([step, mean]).reset_index().assign(from_order=before, to_order=before + 1))
    rows = pd.concat(steps, ignore_index=True)
    of_mean = rows["task"] == "mean"
    margins = {"d_accuracy": np.where(of_mean, 0.02, 0.05), "d_mui": np.where(of_mean, 0.004, 0.01)}
    signs = {name: np.sign(rows[name]) * (rows[name].abs() > margin) for name, margin in margins.items()}
    names = {(1, 1): "Accumulating", (1, -1): "Evolving", (-1, 1): "Coarsening", (-1, -1): "Collapsing"}
    phase = [names.get(pair, "Flat") for pair in zip(signs["d_accuracy"], signs["d_mui"], strict=True)]
    rows["phase"] = np.where(rows["from_order"] == 0, "", phase)
    rows = rows.assign(
        from_checkpoint=np.array(CHECKPOINTS)[rows["from_order"]],
        to_checkpoint=np.array(CHECKPOINTS)[rows["to_order"]],
        **CURVES._asdict(),
    )  # fmt: skip
    ends = {key: value for name, margin in margins.items() for key, value in around(name, rows[name], margin).items()}
    made.add("phases", rows, n_samples=N, common_m=N // 2, **ends)
    single = rows[~of_mean].merge(
        rows.loc[of_mean, ["model", "from_order", "phase"]], on=["model", "from_order"], suffixes=("", "_mean")
    )
    apart = []
    for (model, before), own in single[single["from_order"] > 0].groupby(["model", "from_order"], sort=False):
        other = own[own["phase"] != own["phase_mean"]]
        apart.append(
            own.iloc[0][["from_checkpoint", "to_checkpoint", "to_order", *Setting._fields]].to_dict()
            | {"model": model, "from_order": before, "mean_phase": own["phase_mean"].iloc[0], "n_tasks": len(own)}
            | {
                "n_agree": len(own) - len(other),
                "n_differ": len(other),
                "n_flat": int((own["phase"] == "Flat").sum()),
            }
            | {"differing": "; ".join(other["task"] + "=" + other["phase"])}
            | {"mean_masks": {"Accumulating", "Evolving"} <= set(own["phase"])}
        )
    made.add("phase_divergence", pd.DataFrame(apart))
    turns = grid(model=MODELS, task=[*TASKS, "mean"], measure=["mui", "accuracy"]).assign(**CURVES._asdict())
    at = made.draws.integers(2, LAST, len(turns))
    made.add(
        "change_points", turns, n_checkpoints=LAST, n_samples=N, common_m=N // 2, change_order=at, low_order=at - 1,
        high_order=at + 1, change_checkpoint=np.array(CHECKPOINTS)[at], share_at_estimate=0.7,
        **around("slope_before", made.draws.normal(0.03, 0.01, len(turns)), 0.01),
        **around("slope_after", made.draws.normal(-0.02, 0.01, len(turns)), 0.01),
        p_no_change=made.draws.beta(0.3, 4, len(turns)), p_rise_then_fall=0.9, peak_order=at, peak_low_order=at,
        peak_high_order=at, peak_checkpoint=np.array(CHECKPOINTS)[at],
    )  # fmt: skip


def comparisons(made: Made) -> None:
    def names(models: Any, orders: Any, tasks: Any, side: str) -> dict[str, Any]:
        columns = zip(("model", "checkpoint", "task"), (models, [CHECKPOINTS[o] for o in orders], tasks), strict=True)
        return {f"{name}_{side}": list(values) for name, values in columns}

    pairs = [("tasks", (m, LAST, a), (m, LAST, b)) for m in MODELS for a, b in itertools.combinations(TASKS, 2)]
    every = (*TASKS, "mean")
    pairs += [("checkpoints", (m, o, t), (m, LAST, t)) for m in MODELS for o in range(LAST) for t in every]
    pairs += [("models", (a, LAST, t), (b, LAST, t)) for a, b in itertools.combinations(MODELS, 2) for t in every]
    kinds, first, second = zip(*pairs, strict=True)
    cells = made.total()
    mean = cells.groupby(["model", "order"], sort=False)["mui_at_m"].mean()
    value = cells.set_index(["model", "order", "task"])["mui_at_m"].to_dict()
    value |= {(model, order, "mean"): own for (model, order), own in mean.items()}
    a, b = (np.array([value[cell] for cell in side]) for side in (first, second))
    shown = np.abs(b - a) > 0.01
    rows = pd.DataFrame(
        {"kind": kinds} | names(*zip(*first, strict=True), "a") | names(*zip(*second, strict=True), "b")
    )
    made.add(
        "comparisons", rows.assign(**CURVES._asdict()), m=N // 2, n_a=N, n_b=N, paired=False, mui_a=a, mui_b=b,
        **around("difference", b - a, 0.009), p=np.where(shown, 1e-4, 0.4), q=np.where(shown, 2e-4, 0.5),
        verdict=np.where(shown, np.where(b > a, "higher", "lower"), "no difference shown"),
    )  # fmt: skip
