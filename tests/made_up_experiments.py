"""Three made-up experiments with all that a page has to cope with: each outcome of a rule, gaps, few seeds, odd names.

`crowded` has everything in numbers: five seeds, ten series, one hypothesis confirmed, one undecided for want of another
effect, rules younger than its runs. `contrary` is refuted against the paper, in steps and without a unit, with very
large and very small effects. `sparse` has two seeds, so no interval, and an effect that nobody knows.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from moemui.experiments.judging import judged
from moemui.experiments.measurements import Meaning, Measured
from moemui.experiments.picture import Picture
from moemui.report.experiments.plan import Plan
from moemui.tables.experiments import DECISIONS, EFFECTS, MEASUREMENTS, SEED_EFFECTS

TASKS = ("sorting", "reversal", "boolean", "addition", "counting", "parity", "copying", "maximum", "sums", "<b>odd</b>")
STEPS = (0, 50, 100, 200, 400, 600)
ARMS = {"plain": "untouched", "key": "key neurons doubled", "random": "as many <i>random</i> ones doubled"}
REASON = "the model answered nothing, so there is <i>no</i> set"


def _planned(hypotheses: dict[str, Any], **given: Any) -> dict[str, Any]:
    usual = {
        "paper": "",
        "outcome": "Accuracy on held-out samples, less that on training examples.",
        "controls": ["The same surgery on as many random neurons of the same experts.", "An untouched twin."],
        "limits": "Models of 0.3 million parameters on made-up tasks; nothing is said of pretrained ones.",
        "seeds": [0, 1, 2, 3, 4],
        "settings": {"copies": 2, "rates": [0.1, 0.2], "arms": {"blend": 0.5}},
        "measure": {"formulation": "projection", "threshold": 0.01, "samples": 100},
        "cohorts": {"small": {"training": {"family": "olmoe", "hidden": 64}, "tasks": {"sorting": 0, "reversal": 200}}},
    }
    return usual | given | {"hypotheses": hypotheses}


def _split(end: float) -> dict[str, Any]:
    return {"confirmed": {"above": end}, "refuted": {"below": end}}


def _crowded(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    found = Measured("crowded", seed, CROWDED.QUANTITIES)
    for place, task in enumerate(TASKS):
        for step in STEPS:
            learned = 1 / (1 + np.exp(-(step - 60 * place) / 60))
            found.add("accuracy", float(np.clip(learned + random.normal(0, 0.02), 0, 1)), step=step, task=task)
            lost = task == "parity" and step == 400 and seed == 1
            mui = float("nan") if lost else float(0.03 + 0.1 * learned + random.normal(0, 0.004))
            found.add("mui", mui, step=step, task=task, note=REASON if lost else "")
    for place, arm in enumerate(ARMS):
        for task in ("", "sorting"):
            found.add("gap", float(0.03 * place + random.normal(0, 0.012)), arm=arm, task=task)
    return found.frame()


CROWDED = SimpleNamespace(
    Settings=dict,
    QUANTITIES={
        "accuracy": Meaning("share of held-out samples answered correctly", "share"),
        "mui": Meaning("share of the model's neurons that are key in a sample of the task", "share"),
        "gap": Meaning("held-out less training accuracy", "share"),
    },
    EFFECTS={
        "gap_change": Meaning("gap of the arm `random`, less that of `plain`", "share"),
        "key_change": Meaning("gap of the arm `key`, less that of `plain`", "share"),
        "bits": Meaning("mutual information of expert and task, after less before", "bits"),
    },
    PICTURES=(
        Picture(
            "course", "Tasks over training", "Accuracy and MUI of each task", "course", ("accuracy", "mui"),
            series="task",
        ),
        Picture(
            "gaps", "The gap under each surgery", "Held-out less training accuracy.", "arms", ("gap",), series="task",
            x="arm", labels=ARMS,
        ),
    ),
    effects=lambda rows, settings: {
        "gap_change": (_gap(rows, "random"), ""),
        "key_change": (_gap(rows, "key"), ""),
        "bits": (0.01234 + int(rows["seed"].iloc[0]) / 1000, ""),
    },
)  # fmt: skip


def _gap(rows: pd.DataFrame, arm: str) -> float:
    own = rows[(rows["quantity"] == "gap") & (rows["task"] == "")].set_index("arm")["value"]
    return float(own[arm] - own["plain"])


def _contrary(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    found = Measured("contrary", seed, CONTRARY.QUANTITIES)
    for part in ("shared", "routed"):
        for step in STEPS:
            found.add("loss", float(3 + 40_000 * np.exp(-step / 60) + random.exponential(0.4)), step=step, part=part)
    return found.frame()


CONTRARY = SimpleNamespace(
    Settings=dict,
    QUANTITIES={"loss": Meaning("mean loss a token on held-out samples", "nats")},
    EFFECTS={
        "delay": Meaning("steps by which the change point comes later than with no shared expert", "steps"),
        "tail": Meaning("largest weight after training over the largest before", ""),
        "tiny": Meaning("rise of the loss in the first step, less the twin's", "nats"),
    },
    PICTURES=(
        Picture(
            "loss", "Loss of the shared and the routed experts", "The loss over training.", "course", ("loss",),
            series="", panel="part", labels={"shared": "shared experts", "routed": "routed experts"},
        ),
    ),
    effects=lambda rows, settings: {
        "delay": (-100.0 - 7 * int(rows["seed"].iloc[0]), ""),
        "tail": (10.0 ** (3 + int(rows["seed"].iloc[0])), ""),
        "tiny": (3.1e-7 * (1 + int(rows["seed"].iloc[0])), ""),
    },
)  # fmt: skip


def _sparse(seed: int) -> pd.DataFrame:
    found = Measured("sparse", seed, SPARSE.QUANTITIES)
    for arm in ("static", "guided"):
        found.add("accuracy", 0.5 + 0.1 * (arm == "guided") + 0.01 * seed, arm=arm)
        found.add("never", float("nan"), arm=arm, note=REASON)
    return found.frame()


SPARSE = SimpleNamespace(
    Settings=dict,
    QUANTITIES={
        "accuracy": Meaning("share of held-out samples answered correctly", "share"),
        "never": Meaning("what no run could measure"),
    },
    EFFECTS={
        "gain": Meaning("accuracy of the arm guided, less that of static", "share"),
        "unknown": Meaning("what no run could measure", "share"),
        "same": Meaning("a difference that is the same on every seed", "share"),
    },
    PICTURES=(
        Picture("arms", "Accuracy of both mixtures", "Accuracy at the end.", "arms", ("accuracy",), x="arm"),
        Picture("nothing", "What nobody could measure", "Nothing.", "arms", ("never",), x="arm"),
    ),
    effects=lambda rows, settings: {
        "gain": (0.1 + int(rows["seed"].iloc[0]) / 50, ""),
        "unknown": (float("nan"), REASON),
        "same": (0.02, ""),
    },
)

EXPERIMENTS = {
    "crowded": (
        CROWDED,
        _crowded,
        _planned(
            {
                "wider": {
                    "primary": True,
                    "claim": "Doubling random neurons widens the gap by more than one point & <b>more</b>.",
                    "effect": "gap_change",
                    "paper": "confirmed",
                    **_split(0.01),
                },
                "unmoved": {
                    "claim": "Doubling key neurons leaves the gap within two points.",
                    "effect": "key_change",
                    "confirmed": {"above": -0.02, "below": 0.02},
                    "refuted": {"above": 0.02},
                    "needs": {"bits": {"above": 0.5}},
                },
            },
            question="Does a model with more key neurons generalize better?",
            paper="A model that needs <i>more</i> neurons is said to generalize worse.",
        ),
    ),
    "contrary": (
        CONTRARY,
        _contrary,
        _planned(
            {
                "later": {
                    "primary": True,
                    "claim": "Shared experts delay the change point.",
                    "effect": "delay",
                    "confirmed": {"above": 10},
                    "refuted": {"below": -10},
                    "paper": "confirmed",
                },
                "grown": {"claim": "The largest weight grows.", "effect": "tail", **_split(1)},
                "started": {"claim": "The loss rises.", "effect": "tiny", **_split(0)},
            },
            question="Do shared experts hold routed ones back?",
            paper="Shared experts are said to come first.",
        ),
    ),
    "sparse": (
        SPARSE,
        _sparse,
        _planned(
            {
                "better": {
                    "primary": True,
                    "claim": "Guiding helps.",
                    "effect": "gain",
                    "paper": "refuted",
                    **_split(0.01),
                },
                "seen": {"claim": "It can be seen.", "effect": "unknown", **_split(0)},
            },
            question="Does a guided mixture train better?",
            seeds=[0, 1],
            controls=[],
        ),
    ),
}  # fmt: skip
BEFORE = {"crowded": 3, "contrary": 0, "sparse": 1}  # runs made before the rules


@cache
def made_up() -> tuple[list[Plan], dict[str, pd.DataFrame]]:
    """Plans and tables of the three; not to be changed."""
    plans, found = (
        [],
        {name: [] for name in ("measurements", "experiment_seeds", "experiment_effects", "experiment_decisions")},
    )
    for name, (experiment, measure, planned) in EXPERIMENTS.items():
        rows = MEASUREMENTS.frame(pd.concat([measure(seed) for seed in planned["seeds"]]).to_dict("records"))
        tables = judged(name, experiment, rows, planned, runs_before_rule=BEFORE[name])
        for table, frame in zip(found, (rows, *tables), strict=True):
            found[table].append(frame)
        plans.append(Plan.of(name, planned, experiment))
    kinds = (MEASUREMENTS, SEED_EFFECTS, EFFECTS, DECISIONS)
    return plans, {kind.name: kind.frame(pd.concat(found[kind.name]).to_dict("records")) for kind in kinds}
