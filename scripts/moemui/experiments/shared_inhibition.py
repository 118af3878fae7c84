"""Do shared experts keep routed ones from specializing, or free them to?

Two families of the same class and size, one with shared experts and one without (`shared_load` says how they are made),
are compared at equal performance: on every seed, the two saved models, one of each, whose mean accuracies lie nearest
together, among those near the highest accuracy that both families reach. How equal they are is asked on held-out
samples that had no part in the choice. Of their routed experts alone:

* what being routed to an expert tells of the task (mutual information), tokens and samples;
* how many key neurons two tasks have in common, beyond what the experts they share would give by chance;
* how similar the experts' outputs are on the same states (linear CKA, Kornblith et al. 2019);
* how unequally masking one expert hurts the tasks (the index τ of Yanai et al. 2005).

Outcome: with shared experts less without, of each. DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066) brings shared
experts in so that routed ones specialize more; inhibition would be the opposite.

Controls: the accuracy left between the two models must be small; every measure is corrected for chance or stands on
single experts, because a token uses more routed experts in the family without shared ones.

What it does not show: what remains of that difference. With fewer routed neurons in use, unions are smaller and an
expert's part of the output is less; the families also reach the same accuracy at other steps of training (`step_gap`
says how far apart), and equal means can hide tasks that are not equal (`task_gap` says how far, sampling noise
included). It says nothing of large models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.pictures import Picture
from moemui.experiments.shared_load import FEWEST_CHECKING

NAME = "shared_inhibition"
_LEAST = {"checking_samples": FEWEST_CHECKING, "draws": 1, "states": 2, "masking_samples": 1}
ROUNDING = 1e-9  # by which equal accuracies may differ


@dataclass(frozen=True)
class Settings:
    """with_shared, without_shared: the cohorts compared.

    window: how far below the highest accuracy that both reach a model may lie to be compared, 0..1.
    checking_samples: held-out samples of each task, other than those that choose the models, that their accuracies are
    compared on; where a task has fewer, all that it has. At least FEWEST_CHECKING.
    draws: random assignments of samples to tasks that chance is known from, at least 1.
    states: of each task, that outputs are compared on, at least 2. masking_samples: of each task, at least 1.
    """

    with_shared: str = "shared_100"
    without_shared: str = "shared_0"
    window: float = 0.05
    checking_samples: int = 400
    draws: int = 200
    states: int = 200
    masking_samples: int = 50

    def __post_init__(self) -> None:
        if self.with_shared == self.without_shared:
            raise ValueError(f"with_shared and without_shared are both {self.with_shared!r}; name two cohorts")
        if not 0 <= self.window <= 1:
            raise ValueError(f"window is {self.window}; it is a difference of accuracies, 0 to 1")
        for knob, least in _LEAST.items():
            if getattr(self, knob) < least:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it is at least {least}")


_LAYER, _TASK = "; without a part, the mean over layers", "; without a task, the mean over tasks"
_PAIR = "; without a pair, the mean over pairs"
QUANTITIES = {
    "accuracy": Meaning(
        "share of held-out examples whose reference answer would be written exactly" + _TASK,
        "share",
    ),
    "accuracy_other_samples": Meaning(
        "accuracy of the model compared, on held-out examples that had no part in choosing it" + _TASK,
        "share",
    ),
    "compared": Meaning("1 for the step whose model is compared"),
    "routing_information": Meaning(
        "mutual information of routed expert and task, over the slots of the answers' tokens, tasks alike in weight; "
        "not comparable between families with other numbers of active experts, as routing_selectivity is" + _LAYER,
        "bits",
    ),
    "routing_information_chance": Meaning(
        "its mean where samples are dealt out to the tasks at random" + _LAYER, "bits"
    ),
    "routing_selectivity": Meaning(
        "(information - chance) / (highest - chance); highest: min(log2 tasks, log2(experts / experts a token))"
        + _LAYER,
        "share",
    ),
    "sample_information": Meaning(
        "mutual information of 'has a key neuron of the sample' and task, mean over routed experts active in some, not "
        "all samples",
        "bits",
    ),
    "sample_selectivity": Meaning(
        "adjusted uncertainty coefficient of the same, 0 at chance, 1 where the task decides; mean over those experts",
        "share",
    ),
    "testable_experts": Meaning("share of routed experts that are active in some but not all samples", "share"),
    "key_overlap": Meaning(
        "Jaccard index of two tasks' key neurons in routed experts, at as many samples" + _PAIR,
        "share",
    ),
    "key_overlap_chance": Meaning(
        "its mean for random sets with as many neurons in each expert" + _PAIR, "share"
    ),
    "output_similarity": Meaning(
        "linear CKA of two routed experts' outputs on the layer's inputs at answer tokens, mean over pairs" + _LAYER,
        "share",
    ),
    "masking_effect": Meaning(
        "rise of the task's negative log-likelihood when all neurons of a routed expert are masked, mean over experts"
        + _TASK,
        "nats",
    ),
    "masking_selectivity": Meaning(
        "how unequally masking one expert hurts the tasks, tau, mean over routed experts weighted by their summed harm",
        "share",
    ),
}  # fmt: skip

_WITH = ", with shared experts - without; above 0: with them "
EFFECTS = {
    "routing_selectivity": Meaning("routing_selectivity" + _WITH + "routing tells more of the task", "share"),
    "routing_information": Meaning(
        "routing_information less its chance" + _WITH + "routing tells more of the task; not comparable between other "
        "numbers of active experts, which bound it differently: routing_selectivity is",
        "bits",
    ),
    "sample_selectivity": Meaning(
        "sample_selectivity" + _WITH + "where key neurons lie tells more of the task", "share"
    ),
    "overlap_excess": Meaning("key_overlap less its chance" + _WITH + "tasks have more key neurons in common", "share"),
    "overlap_ratio": Meaning(
        "log of (key_overlap / its chance)" + _WITH + "tasks have more key neurons in common, relative to chance",
        "log ratio",
    ),
    "overlap": Meaning("key_overlap" + _WITH + "tasks have more key neurons in common", "share"),
    "output_similarity": Meaning("output_similarity" + _WITH + "outputs are more alike", "share"),
    "masking_selectivity": Meaning("masking_selectivity" + _WITH + "an expert matters to fewer tasks", "share"),
    "masking_effect": Meaning("masking_effect" + _WITH + "an expert is harder to do without", "nats"),
    "accuracy_gap": Meaning("accuracy_other_samples of the models compared, with shared experts - without", "share"),
    "task_gap": Meaning(
        "mean over tasks of the absolute difference of their accuracy_other_samples; above 0 by sampling alone", "share"
    ),
    "step_gap": Meaning("step of the model with shared experts - that without; above 0: trained longer", "steps"),
    "level": Meaning("mean accuracy_other_samples of the two models compared", "share"),
}

_LABELS = {"shared_200": "200 %", "shared_100": "100 %", "shared_50": "50 %", "shared_0": "no shared experts"}
PICTURES = (
    Picture(
        "routed_experts_with_and_without_shared",
        "Routed experts beside shared ones and alone",
        "At equal accuracy, routed experts only. Selectivity: 0 at chance, 1 where the task decides; similarity: 1 for "
        "outputs that are equal but for rotation and scale.",
        "arms",
        ("routing_selectivity", "sample_selectivity", "key_overlap", "output_similarity", "masking_selectivity"),
        x="arm",
        where={"task": ("",), "part": ("",)},
        labels=_LABELS,
    ),
    Picture(
        "accuracy_of_both_families",
        "How accuracy rises in both families",
        "Mean over tasks; of each seed, the two nearest together, near the highest level both reach, are compared.",
        "course",
        ("accuracy",),
        series="arm",
        where={"task": ("",)},
        labels=_LABELS,
    ),
)


NO_RATIO = ", as tasks have no key neuron in common there, or none by chance"
# effect → what is compared
_COMPARED = {
    "routing_selectivity": "routing_selectivity",
    "routing_information": "information_excess",
    "sample_selectivity": "sample_selectivity",
    "overlap_excess": "overlap_excess",
    "overlap_ratio": "overlap_ratio",
    "overlap": "key_overlap",
    "output_similarity": "output_similarity",
    "masking_selectivity": "masking_selectivity",
    "masking_effect": "masking_effect",
    "accuracy_gap": "accuracy_other_samples",
}


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """The effects on one seed: the models compared, with shared experts less without."""
    arms = settings.with_shared, settings.without_shared
    steps = measurements[measurements["quantity"] == "compared"].set_index("arm")["step"]
    one, other = (_together(measurements, arm, int(steps[arm])) for arm in arms)
    found = {}
    for name, quantity in _COMPARED.items():
        difference = float(one[quantity] - other[quantity])
        without = [arm for arm, values in zip(arms, (one, other), strict=True) if pd.isna(values[quantity])]
        why = NO_RATIO if quantity == "overlap_ratio" else ""
        found[name] = difference, f"{' and '.join(without)} has no {quantity}{why}" if without else ""
    checked = "accuracy_other_samples"
    by_task = [series(measurements, checked, ("task",), arm=arm, step=int(steps[arm])).drop("") for arm in arms]
    found["task_gap"] = float((by_task[0] - by_task[1]).abs().mean()), ""
    found["step_gap"] = float(steps[arms[0]] - steps[arms[1]]), ""
    found["level"] = float(one[checked] + other[checked]) / 2, ""
    return {name: found[name] for name in EFFECTS}


def _together(measurements: pd.DataFrame, arm: str, step: int) -> pd.Series:
    """quantity → value of an arm's model, of all tasks and layers together, and of some less or over chance."""
    where = {"arm": arm, "step": step, "task": "", "part": ""}
    rows = measurements[(measurements[list(where)] == pd.Series(where)).all(axis=1)]
    values = rows.set_index("quantity")["value"]
    values["information_excess"] = values["routing_information"] - values["routing_information_chance"]
    values["overlap_excess"] = values["key_overlap"] - values["key_overlap_chance"]
    known = values["key_overlap"] > 0 and values["key_overlap_chance"] > 0
    values["overlap_ratio"] = np.log(values["key_overlap"] / values["key_overlap_chance"]) if known else float("nan")
    return values


def nearest(accuracy: dict[str, dict[int, float]], window: float) -> dict[str, int]:
    """Of two families, the steps whose accuracies lie nearest together: family → step; of equal pairs the latest.

    accuracy: family → step → mean accuracy. Both lie at most `window` below the highest accuracy that both reach, the
    lower of the two families' best; a family's best does, so there is always a pair.
    """
    (one, first), (other, second) = accuracy.items()
    level = min(max(first.values()), max(second.values())) - window - ROUNDING
    pairs = [(a, b) for a in first for b in second if first[a] >= level and second[b] >= level]
    best = min(pairs, key=lambda pair: (round(abs(first[pair[0]] - second[pair[1]]), 9), -pair[0] - pair[1]))
    return {one: best[0], other: best[1]}
