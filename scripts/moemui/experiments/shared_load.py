"""How much work do shared experts take off the routed ones, and does training make them hubs?

Four families of the same class differ in nothing but how wide the shared expert is: 200 %, 100 %, 50 % and 0 % of a
reference width. What the shared experts lose, routed experts gain, and a token uses as many more of them, so that a
layer has the same number of neurons in every family, and a token uses the same number. (Only the router differs, hidden
size × routed experts: 28 to 32 columns.) The loss that evens routing out grows with the experts a token uses, so its
weight is less by as much: the same push in every family. Each family is measured untrained, at its last step, and at
the step whose accuracy lies nearest the highest that all families reach; whether accuracies are equal there is asked on
held-out samples that had no part in the choice.

Outcome: the slope of MUI over the shared width, of all neurons and of the routed ones alone; how much training changes
the shared experts' enrichment among key experts (SPEC section 6).

Controls: accuracy must not change with the width, or MUI says nothing about the same ability; which family is ahead at
the last step differs from seed to seed, so families are compared at matched accuracy. A shared expert sees
every token with the weight 1 and a routed one few with a small weight, so MUI and enrichment differ between the
families before any training: each one's own untrained model is the baseline. Where that is enriched as far as a table
can say, an increase can't show; so enrichment is measured without the router's weights as well.

What it does not show: whether training makes MUI fall, since that of an untrained model is an artefact of its initial
weights; how far the width itself or the weight 1 that comes with it is the cause, since this class scales routed
experts by the router's weights, whose sum is below 1, and shared ones not at all; small changes of enrichment, since
one key shared expert more or less moves the log odds of a family with few of them by more than ln 2. Nor does it show
what large models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.pictures import Picture
from moemui.experts.key_experts import EXPERT_THRESHOLD

NAME = "shared_load"
TOTAL, SHARED, ROUTED = "", "shared", "routed"
GAP = float("nan")
FEWEST_CHECKING = 50  # samples of a task that an accuracy is checked on


@dataclass(frozen=True)
class Settings:
    """reference_experts: experts of routed width that make a shared width of 100 %, at least 1.

    expert_threshold: η_expert, the share of samples from which on an expert is key, above 0 and at most 1.
    checking_samples: held-out samples of each task, other than those that choose steps, that accuracies are compared on
    at those steps; where a task has fewer, all that it has. At least FEWEST_CHECKING.
    """

    reference_experts: int = 2
    expert_threshold: float = EXPERT_THRESHOLD
    checking_samples: int = 400

    def __post_init__(self) -> None:
        if self.reference_experts < 1:
            raise ValueError(f"reference_experts is {self.reference_experts}; it is at least 1")
        if not 0 < self.expert_threshold <= 1:
            raise ValueError(f"expert_threshold is {self.expert_threshold}; it is above 0 and at most 1")
        if self.checking_samples < FEWEST_CHECKING:
            raise ValueError(f"checking_samples is {self.checking_samples}; it is at least {FEWEST_CHECKING}")


_TASK = "; without a task, the mean over tasks"
QUANTITIES = {
    "shared_width": Meaning("width of the shared expert over the reference width, times 100", "%"),
    "matched": Meaning("1 for the step whose accuracy is nearest the highest that all arms of the seed reach"),
    "parameters": Meaning("weights of the model, router and embeddings included", "weights"),
    "accuracy": Meaning(
        "share of held-out examples whose reference answer would be written exactly" + _TASK,
        "share",
    ),
    "accuracy_other_samples": Meaning(
        "accuracy at the matched step, on held-out examples that had no part in matching" + _TASK,
        "share",
    ),
    "nll": Meaning(
        "mean negative log-likelihood of the reference answer's tokens, mean over examples (and over tasks)", "nats"
    ),
    "mui": Meaning(
        "MUI on the reference answers at the same number of samples of every task: of all neurons, or of shared or "
        "routed ones alone, over their own number" + _TASK,
        "share",
    ),
    "union_shared": Meaning(
        "share of the neurons that are key in any sample of the task that lie in shared experts" + _TASK,
        "share",
    ),
    "key_experts": Meaning(
        "share of the shared, or routed, experts that are active in at least η_expert of a task's samples" + _TASK,
        "share",
    ),
    "enrichment": Meaning(
        "log odds ratio of being key on every task, shared against routed experts, 0.5 added to each count "
        "(Haldane-Anscombe)",
        "log odds",
    ),
    "enrichment_unweighted": Meaning(
        "the same where neurons are scored without the router's weights", "log odds"
    ),
    "enrichment_highest": Meaning(
        "what it would be with every shared and no routed expert key", "log odds"
    ),
}  # fmt: skip

_SLOPE = "least-squares slope over the arms of one seed, per 100 points of shared width, "
_MORE = "; above 0: more with wider shared experts"
_CHANGE = "enrichment trained - untrained"
EFFECTS = {
    "mui_slope_matched": Meaning(_SLOPE + "of MUI at matched accuracy, mean over tasks" + _MORE, "share"),
    "mui_slope_matched_shared": Meaning(
        "the same slope over the arms with shared experts alone, those of width 0 left out" + _MORE, "share"
    ),
    "routed_mui_slope_matched": Meaning(
        _SLOPE + "of MUI of routed neurons alone at matched accuracy" + _MORE, "share"
    ),
    "accuracy_slope_matched": Meaning(
        _SLOPE + "of accuracy_other_samples, what is left at matched steps" + _MORE, "share"
    ),
    "mui_slope": Meaning(_SLOPE + "of the trained models' MUI, mean over tasks" + _MORE, "share"),
    "mui_slope_untrained": Meaning(_SLOPE + "of the untrained models' MUI, mean over tasks" + _MORE, "share"),
    "mui_slope_learned": Meaning(
        "slope of MUI over shared width, trained - untrained; above 0: training turns it upward; untrained MUI is an "
        "artefact of initialization, so this says nothing of why MUI falls",
        "share",
    ),
    "routed_mui_slope": Meaning(_SLOPE + "of the trained models' MUI of routed neurons alone" + _MORE, "share"),
    "accuracy_slope": Meaning(_SLOPE + "of the trained models' accuracy, mean over tasks" + _MORE, "share"),
    "nll_slope": Meaning(_SLOPE + "of the trained models' negative log-likelihood" + _MORE, "nats"),
    "mui_200_less_50": Meaning("MUI of the trained model of width 200 % - that of 50 %", "share"),
    "mui_100_less_0": Meaning("MUI of the trained model of width 100 % - that without shared experts", "share"),
    "accuracy_200_less_50": Meaning("accuracy of the trained model of width 200 % - that of 50 %", "share"),
    "accuracy_100_less_0": Meaning(
        "accuracy of the trained model of width 100 % - that without shared experts", "share"
    ),
    "union_shared_change": Meaning(
        "share of the union that lies in shared experts, trained - untrained, mean over arms that have some", "share"
    ),
    "enrichment_change": Meaning(f"{_CHANGE}, mean over arms with shared experts", "log odds"),
    "enrichment_change_200": Meaning(f"{_CHANGE}, width 200 %", "log odds"),
    "enrichment_change_100": Meaning(f"{_CHANGE}, width 100 %", "log odds"),
    "enrichment_change_50": Meaning(f"{_CHANGE}, width 50 %", "log odds"),
    "enrichment_change_unweighted": Meaning(
        f"{_CHANGE}, scored without the router's weights, mean over arms with shared experts", "log odds"
    ),
    "enrichment_room": Meaning(
        "highest possible enrichment - the untrained model's, mean over arms with shared experts; 0: it can't rise",
        "log odds",
    ),
    "enrichment_room_unweighted": Meaning(
        "highest possible enrichment - that of the untrained model without the router's weights, mean over arms with "
        "shared experts; 0: it can't rise",
        "log odds",
    ),
}  # fmt: skip

_LABELS = {
    "shared_200": "200 %", "shared_100": "100 %", "shared_50": "50 %", "shared_0": "0 %", "": "all neurons",
    "shared": "shared experts", "routed": "routed experts",
}  # fmt: skip
PICTURES = (
    Picture(
        "utilization_by_shared_width",
        "Utilization and accuracy by the width of shared experts",
        "A layer has the same number of neurons in every family, and a token uses the same number; over training.",
        "course",
        ("accuracy", "mui"),
        series="arm",
        where={"task": ("",), "part": ("",)},
        labels=_LABELS,
    ),
    Picture(
        "enrichment_over_training",
        "Are shared experts key more often than routed ones?",
        "Log odds ratio against the experts that are key on every task, untrained and trained; 0: as often.",
        "course",
        ("enrichment", "enrichment_unweighted"),
        series="arm",
        where={"part": ("",)},
        labels=_LABELS,
    ),
)


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """The effects on one seed, whose arms were measured untrained, at matched accuracy and at their last step."""
    widths = series(measurements, "shared_width", ("arm",))
    last = int(measurements["step"].max())
    arms = {step: _values(measurements[measurements["step"] == step]) for step in (0, last)}
    steps = measurements.loc[measurements["quantity"] == "matched", ["arm", "step"]]
    matched = _values(measurements.merge(steps, on=["arm", "step"]))
    found: dict[str, tuple[float, str]] = {}
    for name, quantity, part, step in (
        ("mui_slope", "mui", TOTAL, last),
        ("mui_slope_untrained", "mui", TOTAL, 0),
        ("routed_mui_slope", "mui", ROUTED, last),
        ("accuracy_slope", "accuracy", TOTAL, last),
        ("nll_slope", "nll", TOTAL, last),
    ):
        found[name] = _slope(widths, arms[step][quantity, part])
    for name, quantity, part in (
        ("mui_slope_matched", "mui", TOTAL),
        ("routed_mui_slope_matched", "mui", ROUTED),
        ("accuracy_slope_matched", "accuracy_other_samples", TOTAL),
    ):
        found[name] = _slope(widths, matched[quantity, part])
    found["mui_slope_matched_shared"] = _slope(widths[widths > 0], matched["mui", TOTAL])
    found["mui_slope_learned"] = _less(found["mui_slope"], found["mui_slope_untrained"])
    for quantity in ("mui", "accuracy"):
        for one, other in ((200, 50), (100, 0)):
            found[f"{quantity}_{one}_less_{other}"] = _less(
                _of_width(widths, arms[last][quantity, TOTAL], one),
                _of_width(widths, arms[last][quantity, TOTAL], other),
            )
    sharing = widths.index[widths > 0]
    change = arms[last]["enrichment", TOTAL] - arms[0]["enrichment", TOTAL]
    for width in (200, 100, 50):
        found[f"enrichment_change_{width}"] = _of_width(widths, change, width)
    found["enrichment_change"] = _mean(change, sharing)
    for suffix in ("", "_unweighted"):
        untrained = arms[0][f"enrichment{suffix}", TOTAL]
        found[f"enrichment_room{suffix}"] = _mean(arms[0]["enrichment_highest", TOTAL] - untrained, sharing)
    found["enrichment_change_unweighted"] = _mean(
        arms[last]["enrichment_unweighted", TOTAL] - arms[0]["enrichment_unweighted", TOTAL], sharing
    )
    found["union_shared_change"] = _mean(arms[last]["union_shared", TOTAL] - arms[0]["union_shared", TOTAL], sharing)
    return {name: found[name] for name in EFFECTS}


def matched_steps(accuracy: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
    """arm → the step whose accuracy lies nearest the level, the highest that all arms reach; of equal ones the latest.

    accuracy: arm → step → mean accuracy.
    """
    level = min(max(steps.values()) for steps in accuracy.values())
    return {
        arm: min(steps, key=lambda step: (round(abs(steps[step] - level), 9), -step)) for arm, steps in accuracy.items()
    }


def _values(measurements: pd.DataFrame) -> Mapping[tuple[str, str], pd.Series]:
    """(quantity, part) → value by arm, of all tasks together; the measurements are of one step an arm."""
    return {
        (quantity, part): series(measurements, quantity, ("arm",), task="", part=part)
        for quantity in QUANTITIES
        for part in (TOTAL, SHARED, ROUTED)
    }


def _slope(widths: pd.Series, values: pd.Series) -> tuple[float, str]:
    """Per 100 points of width, over the arms that `widths` has."""
    x, y = widths.to_numpy() / 100, values.reindex(widths.index).to_numpy()
    if (different := len(set(x))) < 2:
        return GAP, f"a slope needs arms of two or more shared widths; there are arms of {different}"
    return float(np.polyfit(x, y, 1)[0]), ""


def _of_width(widths: pd.Series, values: pd.Series, width: float) -> tuple[float, str]:
    arms = widths.index[widths == width]
    if len(arms) != 1:
        return GAP, f"{len(arms)} arms have a shared width of {width:g} %; exactly one is needed"
    return float(values[arms[0]]), ""


def _less(one: tuple[float, str], other: tuple[float, str]) -> tuple[float, str]:
    return one[0] - other[0], one[1] or other[1]


def _mean(values: pd.Series, arms: pd.Index) -> tuple[float, str]:
    if not len(arms):
        return GAP, "no arm has shared experts"
    return float(values[arms].mean()), ""
