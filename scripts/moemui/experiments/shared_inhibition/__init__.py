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

from moemui.experiments.matched_families import FEWEST_CHECKING
from moemui.experiments.measurements import Meaning

NAME = "shared_inhibition"
_LEAST = {"checking_samples": FEWEST_CHECKING, "draws": 1, "states": 2, "masking_samples": 1}


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
