"""Does a model that uses more of its neurons generalize worse, because it uses more of them?

The paper finds that low utilization goes with good generalization. Here utilization is raised by hand. A model is
trained on few examples again and again, until it answers nearly all of them and clearly fewer held-out ones. Then
surgery makes each of its key neurons two: the same gate and up weights, W_down split between them, so that the model
computes what it did. A short fine-tuning on the same examples lets the copies part. The other surgery lowers how
specialized experts are: each key neuron is blended with the neuron of another expert that is most like it.

Arms, all of one geometry and all but the first fine-tuned on the same batches: `untouched`; `sham`, with places for
copies that hold none; `duplicate_key` and `blend_key`, operated on key neurons; `duplicate_random` and `blend_random`,
the same surgery on as many random neurons of the same experts that are not key.

Outcome: the gap, held-out minus training accuracy, and training accuracy alone, each as difference of the key and the
random arm. A model that generalizes worse has a lower gap; one that is merely damaged loses training accuracy too. The
contrast is the change of the gap less the fall of training accuracy: below 0 where the gap falls by more.

Not shown: with a fixed share of top scores (`topk`), the number of key entries of a sample is fixed, so more neurons
share it; duplication moves MUI by that bookkeeping at once, before anything is learned, and `breadth` and
`top_score_mui` say whether measures without a fixed share move too. It raises MUI by redundancy, which need not be what
makes MUI high elsewhere. Two copies that are both trained move twice as far as one neuron, and so do copies of random
neurons, which contribute less. Blending changes what the model computes, and key neurons are those where that costs
most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.pictures import Picture

UNTOUCHED, SHAM = "untouched", "sham"
DUPLICATE, BLEND = SURGERIES = ("duplicate", "blend")
KEY, RANDOM = "key", "random"
ARMS = (UNTOUCHED, SHAM, *(f"{surgery}_{target}" for surgery in SURGERIES for target in (KEY, RANDOM)))


@dataclass(frozen=True)
class Settings:
    """Knobs of the experiment.

    share: 0..1, at most so much of the model's neurons is operated on. Fewer where fewer are key, or where an expert
    has too few others for a control.
    copies: neurons that each duplicated one becomes, itself counted, at least 2. blend: 0..1, the partner's part in a
    blended neuron.
    learning_rate, warm_up: of fine-tuning, the peak and the steps that rise to it; then it falls as in training.
    measured_at: steps of fine-tuning after which everything is measured, ascending from 0; the last is its length.
    examples: of each task, training and held-out ones each, that accuracy rests on; fewer where fewer were trained on.
    top_score: 0..1, share of a layer's highest score from which a neuron counts for `top_score_mui`.
    """

    share: float = 0.15
    copies: int = 2
    blend: float = 0.5
    learning_rate: float = 1e-3
    warm_up: int = 10
    measured_at: tuple[int, ...] = (0, 40, 80)
    examples: int = 300
    top_score: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured_at", tuple(self.measured_at))
        for knob in ("share", "blend", "top_score"):
            if not 0 < getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it lies between 0 and 1, both excluded")
        for knob, least in (("copies", 2), ("warm_up", 0), ("examples", 1)):
            if getattr(self, knob) < least:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it is at least {least}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it is above 0")
        steps = list(self.measured_at)
        if steps != sorted(set(steps)) or len(steps) < 2 or steps[0] != 0:
            raise ValueError(f"measured_at is {steps}; name 0 and at least one later step, ascending, each once")

    @property
    def steps(self) -> int:
        """Steps of fine-tuning."""
        return self.measured_at[-1]


QUANTITIES = {
    "training_accuracy": Meaning(
        "Share of the examples trained on that the model would answer exactly, all tasks together.", "share"
    ),
    "held_out_accuracy": Meaning("The same of as many held-out examples of each task.", "share"),
    "gap": Meaning("Held-out less training accuracy; lower is worse generalization.", "share"),
    "training_nll": Meaning(
        "Mean negative log-likelihood of the reference answers' tokens, mean over the examples trained on.", "nats"
    ),
    "held_out_nll": Meaning("The same of the held-out examples.", "nats"),
    "mui": Meaning(
        "MUI of held-out examples' reference answers, all tasks together, of the same examples in every arm; its "
        "denominator counts the places for copies in every arm, whether they hold one or not.",
        "share",
    ),
    "mui_training": Meaning("The same of examples trained on.", "share"),
    "breadth": Meaning(
        "Utilization without a fixed number of key entries: the smallest share of a layer's neurons that together hold "
        "90 % of the layer's positive score, a neuron's score being its highest over the response's tokens; mean over "
        "layers and held-out examples.",
        "share",
    ),
    "top_score_mui": Meaning(
        "Share of neurons whose score reaches the share `top_score` of their layer's highest one in at least one of "
        "the held-out examples.",
        "share",
    ),
    "distinctness": Meaning(
        "How unlike those of other experts the neurons are that answers need: 1 less the cosine of a neuron's weights "
        "and those of the most similar neuron of another expert of its layer, mean over key neurons of the held-out "
        "examples, each counted as often as it is key.",
    ),
    "copies_cosine": Meaning(
        "How alike copies still are: cosine of the gate and up weights of a neuron's first two copies, mean over the "
        "neurons duplicated; 1 right after surgery."
    ),
    "neurons_operated": Meaning("Neurons that surgery touched.", "neurons"),
    "largest_logit_change": Meaning(
        "Largest difference that surgery alone makes to a logit of a held-out answer; rounding, where it keeps what "
        "the model computes."
    ),
}


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


LABELS = {
    UNTOUCHED: "untouched", SHAM: "places only", "duplicate_key": "key neurons doubled",
    "duplicate_random": "random neurons doubled", "blend_key": "key neurons blended",
    "blend_random": "random neurons blended", "mui": "MUI", "gap": "Held-out − training accuracy",
    "training_accuracy": "Training accuracy", "held_out_accuracy": "Held-out accuracy", "breadth": "Breadth",
}  # fmt: skip

PICTURES = (
    Picture(
        name="accuracy",
        title="Accuracy after surgery, as fine-tuning goes on",
        caption=(
            "Training and held-out accuracy and their difference. The first point of each line is the model right "
            "after surgery: doubled neurons compute what they did, blended ones do not. A lower gap is worse "
            "generalization."
        ),
        kind="course",
        quantities=("training_accuracy", "held_out_accuracy", "gap"),
        series="arm",
        labels=LABELS,
    ),
    Picture(
        name="utilization",
        title="Utilization after surgery, as fine-tuning goes on",
        caption=(
            "MUI of the same held-out answers in every arm, and the smallest share of a layer's neurons that hold 90 % "
            "of its positive score, which fixes no number of key neurons."
        ),
        kind="course",
        quantities=("mui", "breadth"),
        series="arm",
        labels=LABELS,
    ),
)
