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

from dataclasses import dataclass

from moemui.experiments.matched_families import FEWEST_CHECKING
from moemui.experiments.measurements import Meaning
from moemui.experts.key_experts import EXPERT_THRESHOLD

NAME = "shared_load"
TOTAL, SHARED, ROUTED = "", "shared", "routed"


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
