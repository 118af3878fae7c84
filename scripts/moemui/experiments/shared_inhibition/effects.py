"""What shared inhibition makes of one seed's measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.shared_inhibition import Settings

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
