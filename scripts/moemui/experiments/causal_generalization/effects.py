"""What causal generalization makes of one seed's measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from moemui.experiments.causal_generalization import KEY, RANDOM, SHAM, SURGERIES, UNTOUCHED, Settings
from moemui.experiments.measurements import Meaning, series


def _effects() -> Iterator[tuple[str, Meaning]]:
    share = "share"
    yield (
        "training_at_start",
        Meaning("Training accuracy of untouched; near 1 where the model has learned its examples.", share),
    )
    yield "gap_at_start", Meaning("The gap of untouched; far below 0 where it generalizes less than it could.", share)
    for surgery in SURGERIES:
        ours, theirs = f"{surgery}_{KEY}", f"{surgery}_{RANDOM}"
        between = f"of {ours} less that of {theirs}, after fine-tuning"
        yield f"utilization_{surgery}", Meaning(f"MUI {between}.", share)
        yield f"breadth_{surgery}", Meaning(f"Breadth {between}.", share)
        yield f"specialization_{surgery}", Meaning(f"Distinctness {between}.")
        yield f"training_{surgery}", Meaning(f"Training accuracy {between}.", share)
        yield f"held_out_{surgery}", Meaning(f"Held-out accuracy {between}.", share)
        yield f"gap_{surgery}", Meaning(f"The gap {between}; below 0: the key arm generalizes worse.", share)
        yield (
            f"contrast_{surgery}",
            Meaning(
                f"gap_{surgery} less the fall of training accuracy (training_{surgery} where that is below 0, else 0); "
                "below 0: the gap falls more than training accuracy.",
                share,
            ),
        )
        yield f"nll_{surgery}", Meaning(f"Held-out less training nll {between}; above 0: generalizes worse.", "nats")
    for name, what in (("utilization", "MUI"), ("training", "Training accuracy"), ("gap", "The gap")):
        yield f"{name}_duplicate_sham", Meaning(f"{what} of duplicate_key less that of sham, after fine-tuning.", share)
    yield (
        "contrast_duplicate_sham",
        Meaning(
            "As contrast_duplicate, against no surgery: gap_duplicate_sham less the fall of training_duplicate_sham.",
            share,
        ),
    )
    yield (
        "copies_parted",
        Meaning("1 less copies_cosine of duplicate_key after fine-tuning: 0 where copies stayed one neuron in effect."),
    )
    yield "utilization_at_once", Meaning("MUI of duplicate_key less that of sham, before fine-tuning.", share)
    for name, what in (("training", "Training accuracy"), ("gap", "The gap")):
        yield (
            f"{name}_blend_at_once",
            Meaning(f"{what} of blend_{KEY} less that of blend_{RANDOM}, before fine-tuning.", share),
        )
    yield "contrast_blend_at_once", Meaning("gap_blend_at_once less the fall of training_blend_at_once.", share)


EFFECTS = dict(_effects())


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """Every effect of one seed with a note; known wherever all arms were measured.

    Raises ValueError where an arm is missing.
    """
    first, last = int(measurements["step"].min()), int(measurements["step"].min()) + settings.steps

    def of(quantity: str, arm: str, step: int = last) -> float:
        found = series(measurements, quantity, ["arm"], step=step)
        if arm not in found:
            raise ValueError(f"{quantity} of arm {arm} at step {step} was not measured; measure the seed again")
        return float(found[arm])

    def between(quantity: str, ours: str, theirs: str, step: int = last) -> float:
        return of(quantity, ours, step) - of(quantity, theirs, step)

    found = {
        "training_at_start": of("training_accuracy", UNTOUCHED, first),
        "gap_at_start": of("gap", UNTOUCHED, first),
    }
    for surgery in SURGERIES:
        pair = f"{surgery}_{KEY}", f"{surgery}_{RANDOM}"
        for effect, quantity in (
            ("utilization", "mui"), ("breadth", "breadth"), ("specialization", "distinctness"),
            ("training", "training_accuracy"), ("held_out", "held_out_accuracy"), ("gap", "gap"),
        ):  # fmt: skip
            found[f"{effect}_{surgery}"] = between(quantity, *pair)
        found[f"contrast_{surgery}"] = _contrast(found[f"gap_{surgery}"], found[f"training_{surgery}"])
        found[f"nll_{surgery}"] = between("held_out_nll", *pair) - between("training_nll", *pair)
    for effect, quantity in (("utilization", "mui"), ("training", "training_accuracy"), ("gap", "gap")):
        found[f"{effect}_duplicate_sham"] = between(quantity, f"duplicate_{KEY}", SHAM)
    found["contrast_duplicate_sham"] = _contrast(found["gap_duplicate_sham"], found["training_duplicate_sham"])
    found["copies_parted"] = 1 - of("copies_cosine", f"duplicate_{KEY}")
    found["utilization_at_once"] = between("mui", f"duplicate_{KEY}", SHAM, first)
    for effect, quantity in (("training", "training_accuracy"), ("gap", "gap")):
        found[f"{effect}_blend_at_once"] = between(quantity, f"blend_{KEY}", f"blend_{RANDOM}", first)
    found["contrast_blend_at_once"] = _contrast(found["gap_blend_at_once"], found["training_blend_at_once"])
    unknown = "{} is not known, since a quantity it rests on is not known in some arm"
    return {name: (value, "" if np.isfinite(value) else unknown.format(name)) for name, value in found.items()}


def _contrast(gap: float, training: float) -> float:
    """The change of the gap less the fall of training accuracy; where that rose, nothing of it is owed to damage."""
    return gap - min(training, 0.0)
