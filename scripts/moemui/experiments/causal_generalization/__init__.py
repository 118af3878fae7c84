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

from dataclasses import dataclass

from moemui.experiments.measurements import Meaning

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
