"""Tables of a small made-up study, as the figures, findings and report get them. Every number follows from the code."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from moemui.analyses import dynamics, enrichment, sensitivity, utilization
from moemui.analyses.intervals import wilson
from moemui.analyses.settings import Setting
from moemui.report.views import Choice
from moemui.tables.catalog import TABLES

MODELS = {"tiny-olmoe": 0, "tiny-deepseek": 1}  # model → shared experts a layer
TASKS = ("addition", "brackets", "facts")
CHECKPOINTS = (("step-00000", 0), ("step-00100", 1), ("step-00400", 2), ("step-00800", 3))
CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
SETTINGS = (CURVES, EXPERTS, Setting("glu", "pairs", 0.01))
N, LAYERS, ROUTED, WIDTH = 200, 3, 4, 100


def _cells():
    for (model, shared), (checkpoint, order), (t, task) in itertools.product(
        MODELS.items(), CHECKPOINTS, enumerate(TASKS)
    ):
        identity = {"model": model, "checkpoint": checkpoint, "tokens": order * 1e6, "order": order, "task": task}
        yield identity, shared, t


def _performance():
    for identity, shared, t in _cells():
        correct = [0, 40, 100, 150][identity["order"]] + 10 * t + 5 * shared
        low, high = wilson(successes=correct, trials=N)
        yield identity | {
            "domain": "reasoning", "n_samples": N, "n_graded": N, "n_correct": correct, "accuracy": correct / N,
            "accuracy_low": low, "accuracy_high": high, "mean_response_tokens": 12.5, "n_empty": 0, "note": "",
        }  # fmt: skip


def _counts(identity, t, setting, neurons):
    """Q_k of a scope: key neurons spread over k = 1..10, more of them in the middle of training."""
    key = neurons * [0.5, 0.2, 0.3, 0.25][identity["order"]] * (1 + 0.1 * t)
    key *= {CURVES: 1.0, EXPERTS: 0.2, SETTINGS[2]: 0.8}[setting]
    counts = np.zeros(N + 1, dtype=int)
    counts[1:11] = int(key) // 10
    counts[0] = neurons - counts[1:].sum()
    return counts


def _utilization():
    for (identity, shared, t), setting in itertools.product(_cells(), SETTINGS):
        layer = WIDTH * (ROUTED + shared)
        scopes = [("total", None, LAYERS * layer), ("routed", None, LAYERS * ROUTED * WIDTH)]
        scopes += [("shared", None, LAYERS * shared * WIDTH)] * shared
        for scope, number, neurons in scopes + [("layer", i, layer) for i in range(LAYERS)]:
            yield identity | setting._asdict() | {
                "domain": "reasoning", "samples": "all", "scope": scope, "layer": number, "n_samples": N,
                "n_response_tokens": 2500, "n_neurons": neurons,
            } | utilization._measures(_counts(identity, t, setting, neurons), N, "all")  # fmt: skip


def _saturation():
    for identity, shared, t in _cells():
        neurons = LAYERS * WIDTH * (ROUTED + shared)
        counts = _counts(identity, t, CURVES, neurons)
        curve = utilization.saturation_curve(counts=counts, ms=[1, 5, 20, 80, N], n_neurons=neurons)
        for row in curve.to_dict("records"):
            yield identity | CURVES._asdict() | {"n_samples": N, "note": ""} | row


def _frequencies():
    for (identity, shared, t), setting in itertools.product(_cells(), SETTINGS[:2]):
        experts = [(f"L{layer}-E{i}", layer, "routed", i) for layer in range(LAYERS) for i in range(ROUTED)]
        experts += [(f"L{layer}-S1", layer, "shared", 9) for layer in range(LAYERS) if shared]
        for rank, (name, layer, kind, strength) in enumerate(experts):
            often = min(1.0, 0.1 * (1 + strength + layer) + 0.02 * t)
            yield identity | setting._asdict() | {
                "expert": name, "layer": layer, "kind": kind, "n_samples": N, "frequency": often,
                "expert_mui": often * (0.5 if kind == "routed" else 0.9), "is_key": often >= 0.6,
                "rank": rank + 1, "routed_tokens": 500,
            }  # fmt: skip


def _key_experts(frequencies):
    by = ["model", "checkpoint", "tokens", "order", "task", *Setting._fields]
    for values, group in frequencies.groupby(by, sort=False):
        key = group["is_key"]
        share = float(key.mean())
        yield dict(zip(by, values, strict=True)) | {
            "expert_threshold": 0.6, "n_samples": N, "n_experts": len(group), "n_key": int(key.sum()),
            "n_key_shared": int((key & (group["kind"] == "shared")).sum()), "proportion": share,
            "proportion_low": max(0.0, share - 0.05), "proportion_high": share + 0.05, "note": "",
        }  # fmt: skip


def _masking_effect():
    for identity, shared, t in _cells():
        if identity["order"] != 3:
            continue
        # on the last task key and random neurons cost the same, so the difference is undecided
        key, random = (0.30 - 0.05 * shared, 0.01) if t < 2 else (0.02, 0.01)
        row = {name: identity[name] for name in ("model", "checkpoint", "task")} | EXPERTS._asdict()
        row |= {"n_masked": 60, "n_samples": N, "accuracy_none": 0.8, "loss_random_sd": 0.01, "n_seeds": 5, "note": ""}
        row |= {"effect_size": 0.8, "nll_effect_size": 0.9}
        for name, value in {
            "loss_key": key, "loss_random": random, "loss_difference": key - random, "nll_increase_key": 1.0,
            "nll_increase_random": 0.1, "nll_difference": 0.9,
        }.items():  # fmt: skip
            row |= {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}
        yield row


def _phases(total):
    for (model, task), group in total.groupby(["model", "task"], sort=False):
        cells = group.sort_values("order")
        for (_, before), (_, after) in itertools.pairwise(cells.iterrows()):
            yield _step(model, task, before, after)
    for model, (before, after) in itertools.product(MODELS, itertools.pairwise(range(4))):
        names = [name for name, _ in CHECKPOINTS]
        means = [0.5, 0.2, 0.3, 0.25]
        ends = [
            {"checkpoint": names[i], "order": i, "mui_at_m": means[i], "mui_at_m_se": 0.001} for i in (before, after)
        ]
        yield _step(model, "mean", *ends)


def _step(model, task, before, after):
    mui = dynamics.mui_change(
        before=(before["mui_at_m"], before["mui_at_m_se"]), after=(after["mui_at_m"], after["mui_at_m_se"])
    )
    accuracy = dynamics.Change(0.25, 0.2, 0.3)
    phase = dynamics.phase(accuracy=accuracy, mui=mui) if before["order"] else ""
    row = {"model": model, "task": task, **CURVES._asdict(), "n_samples": N, "common_m": N, "phase": phase}
    row |= {"from_checkpoint": before["checkpoint"], "to_checkpoint": after["checkpoint"]}
    row |= {"from_order": before["order"], "to_order": after["order"]}
    row |= dict(zip(("d_accuracy", "d_accuracy_low", "d_accuracy_high"), accuracy, strict=True))
    row |= dict(zip(("d_mui", "d_mui_low", "d_mui_high"), mui, strict=True))
    return row | {"differs_from_mean": None if task == "mean" or not phase else False, "note": "" if phase else "start"}


@pytest.fixture(scope="session")
def untouched_tables() -> dict[str, pd.DataFrame]:
    """All tables of the made-up study, for fixtures that only read them."""
    frames = {
        "performance": TABLES["performance"].frame(_performance()),
        "utilization": TABLES["utilization"].frame(_utilization()),
        "saturation": TABLES["saturation"].frame(_saturation()),
        "expert_frequency": TABLES["expert_frequency"].frame(_frequencies()),
        "masking_effect": TABLES["masking_effect"].frame(_masking_effect()),
        "masking": TABLES["masking"].frame([]),
    }
    frames["key_experts"] = TABLES["key_experts"].frame(_key_experts(frames["expert_frequency"]))
    frames["enrichment"] = enrichment.rows(frequencies=frames["expert_frequency"])
    frames["sensitivity"] = sensitivity.rows(utilization=frames["utilization"], key_experts=frames["key_experts"])
    total = frames["utilization"]
    total = total[(total["scope"] == "total") & np.isclose(total["threshold"], 0.01) & (total["formulation"] != "glu")]
    frames["phases"] = TABLES["phases"].frame(_phases(total))
    return frames


@pytest.fixture
def study_tables(untouched_tables) -> dict[str, pd.DataFrame]:
    """All tables of the made-up study; a test may change its copy."""
    return {name: frame.copy() for name, frame in untouched_tables.items()}


@pytest.fixture
def empty_tables() -> dict[str, pd.DataFrame]:
    """All tables without rows."""
    return {name: table.frame([]) for name, table in TABLES.items()}


@pytest.fixture(scope="session")
def choice() -> Choice:
    """MUI at 1 %, experts and masking at 0.1 %."""
    return Choice(curves=CURVES, experts=EXPERTS, masking=EXPERTS, trained_here=tuple(MODELS))
