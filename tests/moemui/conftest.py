"""Tables of a small made-up study, as the figures, findings and report get them. Every number follows from the code."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from moemui.checks import sensitivity
from moemui.experts import enrichment, exposure
from moemui.key_neurons.settings import Setting
from moemui.laws import decay, diagnostics, laws, published
from moemui.mui import dynamics, utilization
from moemui.report.views import Choice
from moemui.statistics.intervals import wilson
from moemui.tables.catalog import TABLES

MODELS = {"tiny-olmoe": 0, "tiny-deepseek": 1}  # model → shared experts a layer
TASKS = ("addition", "brackets", "facts")
CHECKPOINTS = (("step-00000", 0), ("step-00100", 1), ("step-00400", 2), ("step-00800", 3))
CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
SETTINGS = (CURVES, EXPERTS, Setting("glu", "pairs", 0.01))
N, LAYERS, ROUTED, WIDTH = 200, 3, 4, 100
# of diversity: level and measure
MEASURES = (
    ("neuron", "mui"),
    ("expert", "key_expert_proportion"),
    ("expert", "active_experts"),
    ("lexical", "distinct_2"),
)


def complete(name, rows):
    """A table of rows that give only what matters: the rest is 0, empty or missing, with a note that says so."""
    table = TABLES[name]
    nothing = {"string": "", "int64": 0, "bool": False, "float64": np.nan}
    filled = []
    for row in rows:
        full = {
            column.name: nothing.get(column.dtype) if column.nullable or column.dtype != "float64" else 0.0
            for column in table.columns
        } | row
        if "note" in full and not full["note"] and not set(table.names) <= set(row):
            full["note"] = "made up"
        filled.append(full)
    return table.frame(filled)


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


def _measured(counts):
    """What `utilization` measures of a scope, with an interval over samples as wide as Colwell's."""
    measured = utilization._measures(counts, N, "all")
    return measured | {f"mui_at_m_sample_{end}": measured[f"mui_at_m_{end}"] for end in ("se", "low", "high")}


def _utilization():
    for (identity, shared, t), setting in itertools.product(_cells(), SETTINGS):
        layer = WIDTH * (ROUTED + shared)
        scopes = [("total", None, LAYERS * layer), ("routed", None, LAYERS * ROUTED * WIDTH)]
        scopes += [("shared", None, LAYERS * shared * WIDTH)] * shared
        for scope, number, neurons in scopes + [("layer", i, layer) for i in range(LAYERS)]:
            yield identity | setting._asdict() | {
                "domain": "reasoning", "samples": "all", "scope": scope, "layer": number, "n_samples": N,
                "n_response_tokens": 2500, "n_neurons": neurons,
            } | _measured(_counts(identity, t, setting, neurons))  # fmt: skip


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
        for control, more in (("expert", 0.0), ("frequency", 0.01)):
            for name, value in {
                "loss_key": key, "loss_random": random + more, "loss_difference": key - random - more,
                "nll_increase_key": 1.0, "nll_increase_random": 0.1, "nll_difference": 0.9,
            }.items():  # fmt: skip
                row |= {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}
            yield row | {"control": control}


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
    difference = after["mui_at_m"] - before["mui_at_m"]
    margin = 1.96 * np.hypot(before["mui_at_m_se"], after["mui_at_m_se"])
    mui = dynamics.Change(difference, difference - margin, difference + margin)
    accuracy = dynamics.Change(0.25, 0.2, 0.3)
    phase = dynamics.phase(accuracy=accuracy, mui=mui) if before["order"] else ""
    row = {"model": model, "task": task, **CURVES._asdict(), "n_samples": N, "common_m": N, "phase": phase}
    row |= {"from_checkpoint": before["checkpoint"], "to_checkpoint": after["checkpoint"]}
    row |= {"from_order": before["order"], "to_order": after["order"]}
    row |= dict(zip(("d_accuracy", "d_accuracy_low", "d_accuracy_high"), accuracy, strict=True))
    row |= dict(zip(("d_mui", "d_mui_low", "d_mui_high"), mui, strict=True))
    return row | {"differs_from_mean": None if task == "mean" or not phase else False, "note": "" if phase else "start"}


def _diversity():
    """Three numbers of domains; the mean is the model's place, a tenth of d, and a hundredth a checkpoint."""
    labels = {"neuron": CURVES.label, "expert": EXPERTS.label, "lexical": ""}
    measures = [(level, name, labels[level]) for level, name in MEASURES]
    measures += [("neuron", "mui", EXPERTS.label), ("lexical", "distinct_1", "")]
    for (place, model), (order, seen), (level, name, setting), d in itertools.product(
        enumerate(MODELS), enumerate((0.0, 1e6)), measures, (3, 1, 2)
    ):
        mean = place + d / 10
        yield {
            "model": model, "checkpoint": f"step-{order}", "tokens": seen, "order": order, "level": level,
            "measure": name, "setting": setting, "n_domains": d, "n_samples": 22, "draws": 200,
            "mean": mean + order / 100, "sd": 0.01, "low": mean - 0.05, "high": mean + 0.05, "note": "",
        }  # fmt: skip


def _decay():
    """Rows of `decay` and of `decay_curve` at the first and last checkpoint."""
    rows, curves = [], []
    for model, (checkpoint, order), (number, task) in itertools.product(
        MODELS, (CHECKPOINTS[0], CHECKPOINTS[-1]), enumerate(("addition", "facts", "all"))
    ):
        q = np.maximum(1, N // np.arange(1, 120 + 10 * number))
        tail = decay.power_law(incidence=q, n=N, xmin=2)
        place = {"model": model, "checkpoint": checkpoint, "tokens": order * 1e6, "order": order, "task": task}
        place |= {**CURVES._asdict(), "n_samples": N, "note": "made up"}
        comparisons = decay.compare(incidence=q, n=N, xmin=2)
        ratios = {f"loglikelihood_ratio_{name}": pair.ratio for name, pair in comparisons.items()}
        chances = {f"p_{name}": pair.p for name, pair in comparisons.items()}
        best = {"p_fit": 0.5, "best": decay.verdict(comparisons=comparisons)}
        rows.append(place | {"n_key": len(q), "q_max": N} | tail._asdict() | ratios | chances | best)
        curves += [place | point for point in decay.ranks(incidence=q, n=N, tail=tail).to_dict("records")]
    return {"decay": complete("decay", rows), "decay_curve": complete("decay_curve", curves)}


def _comparisons():
    """The last checkpoint against two earlier ones, models and tasks: 10 points up, but brackets not shown."""
    names = [checkpoint for checkpoint, _ in CHECKPOINTS]
    pairs = [("checkpoints", (model, names[i]), (model, names[3])) for model in MODELS for i in (0, 1, 2)]
    pairs.append(("models", *((model, names[3]) for model in MODELS)))
    for (kind, a, b), task in itertools.product(pairs, (*TASKS, "mean")):
        yield _compared(kind, (*a, task), (*b, task), task != "brackets")
    for model in MODELS:
        yield _compared("tasks", (model, names[3], TASKS[0]), (model, names[3], TASKS[1]), False)


def _compared(kind, a, b, shown):
    ends = {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.15} if shown else {
        "difference": 0.01, "difference_low": -0.02, "difference_high": 0.04}  # fmt: skip
    cell = dict(zip(("model_a", "checkpoint_a", "task_a", "model_b", "checkpoint_b", "task_b"), a + b, strict=True))
    row = CURVES._asdict() | cell | ends | {"kind": kind, "m": 100, "p": 0.5, "q": 0.5, "note": ""}
    return row | {"verdict": "higher" if shown else "no difference shown", "mui_a": 0.2, "mui_b": 0.3}


def _training():
    """Rows of `phase_divergence` (the mean hides a task in the first step) and `change_points` (one of two turns)."""
    steps, points = [], []
    for (place, model), order in itertools.product(enumerate(MODELS), (1, 2)):
        ends = {"from_checkpoint": CHECKPOINTS[order][0], "to_checkpoint": CHECKPOINTS[order + 1][0]}
        row = {"model": model, **CURVES._asdict(), **ends, "from_order": order, "to_order": order + 1, "n_tasks": 3}
        steps.append(row | {"mean_phase": "Flat", "n_agree": 2, "n_differ": 1, "mean_masks": order == 1})
        if order == 1:
            slopes = {f"slope_{side}{end}": sign * (0.1 + by) for side, sign in (("before", -1), ("after", 1))
                      for end, by in (("", 0), ("_low", -0.02 * sign), ("_high", 0.02 * sign))}  # fmt: skip
            turn = {"change_checkpoint": CHECKPOINTS[2][0], "change_order": 2, "low_order": 1, "high_order": 2}
            row = {"model": model, "task": "mean", **CURVES._asdict(), "measure": "mui", "n_checkpoints": 4}
            points.append(row | turn | slopes | {"p_no_change": 0.6 if place else 0.001})
    return {"phase_divergence": complete("phase_divergence", steps), "change_points": complete("change_points", points)}


def _coactivation():
    """Rows of `coactivation` and `coactivation_summary`: pairs of the first layer, one together, one without a test."""
    names = {f"L0-E{i}": "routed" for i in range(ROUTED)} | {"L0-S1": "shared"}
    pairs, means = [], []
    for model, shared in MODELS.items():
        place = {"model": model, "checkpoint": CHECKPOINTS[3][0], "tokens": 3e6, "order": 3, **EXPERTS._asdict()}
        place |= {"n_samples": N * len(TASKS), "note": "made up"}
        own = [name for name, kind in names.items() if shared or kind == "routed"]
        for number, (a, b) in enumerate(itertools.combinations(own, 2)):
            together = {"verdict_within": "together" if number == 0 else "undecided", "n_tasks_within": len(TASKS)}
            together |= {"phi_within": 0.6 - 0.1 * number, "expected_within": 20.0}
            together |= {"p_within": 0.002 if number == 0 else 0.4, "q_within": 0.01 if number == 0 else 0.5}
            together |= {"odds_ratio_within": 2.0, "odds_ratio_within_low": 0.9, "odds_ratio_within_high": 4.4}
            pair = {"expert_a": a, "expert_b": b, "kind_a": names[a], "kind_b": names[b], "n_a": 90, "n_b": 120}
            pair |= {"n_both": 30, "expected": 18.0, "verdict": "undecided"}
            pairs.append(place | pair | ({"verdict_within": "undecided"} if number == 5 else together))
        for which in ("all", "same_layer"):
            counts = {"n_compared": len(own), "n_pairs": number + 1, "n_testable_within": number}
            counts |= {"n_together_within": 1, "mean_phi_within": 0.2, "chance_low": -0.03, "chance_high": 0.03}
            means.append(place | {"pairs": which, "n_tasks": len(TASKS), "p_within": 0.001, **counts})
    made = {"coactivation": pairs, "coactivation_summary": means}
    return {name: complete(name, rows) for name, rows in made.items()}


def _diagnostics(frames):
    """The flags, as if a third of the key experts were there: so one flag is raised, and one not measured."""
    measured = {name: frames[name] for name in ("utilization", "key_experts", "masking_effect", "phases")}
    shares = measured["key_experts"].filter(like="proportion") / 3
    measured["key_experts"] = measured["key_experts"].assign(**shares)
    settings = {"curve_setting": CURVES, "expert_setting": EXPERTS, "masking_setting": EXPERTS}
    return diagnostics.rows(**measured, **settings, expert_threshold=0.6)


@pytest.fixture(scope="session")
def untouched_tables() -> dict[str, pd.DataFrame]:
    """All tables of the made-up study, for fixtures that only read them."""
    made = {
        "performance": _performance(),
        "utilization": _utilization(),
        "saturation": _saturation(),
        "expert_frequency": _frequencies(),
        "masking_effect": _masking_effect(),
    }
    frames = {name: complete(name, rows) for name, rows in made.items()}
    frames["key_experts"] = complete("key_experts", _key_experts(frames["expert_frequency"]))
    frames["enrichment"] = enrichment.rows(frequencies=frames["expert_frequency"])
    frames["exposure"] = exposure.rows(frequencies=frames["expert_frequency"])
    frames["sensitivity"] = sensitivity.rows(
        utilization=frames["utilization"], key_experts=frames["key_experts"], expert_threshold=0.6
    )
    total = frames["utilization"]
    total = total[(total["scope"] == "total") & np.isclose(total["threshold"], 0.01) & (total["formulation"] != "glu")]
    own = {name: frames[name] for name in ("utilization", "performance")}
    law, curve = laws.rows(**own, published=published.load(), setting=CURVES)
    frames |= {"utility_law": law, "utility_curve": curve, "diversity": complete("diversity", _diversity())} | _decay()
    frames |= {"phases": complete("phases", _phases(total)), "comparisons": complete("comparisons", _comparisons())}
    frames |= _training() | _coactivation()
    frames["diagnostics"] = _diagnostics(frames)
    return {name: table.frame([]) for name, table in TABLES.items()} | frames


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


@pytest.fixture(scope="session")
def fill():
    """`complete`, for tests that make rows of their own."""
    return complete
