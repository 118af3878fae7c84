"""The recipe of a small Mixture-of-Experts model that is trained here: every knob, with its default.

Apart from `moemui.models.training`, so that a cost plan reads the defaults without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

FAMILIES = ("olmoe", "deepseek_v2")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a trained model.

    family: one of `FAMILIES`: `olmoe` has routed experts only, `deepseek_v2` has shared ones beside them.
    experts, shared_experts, neurons_per_expert, top_k: the MoE layers; shared_experts counts for deepseek_v2 only
        and may be 0: then the layers have none.
    initializer_range: standard deviation of the initial weights; at transformers' 0.02 such models learn far worse.
    batch, steps: examples a step and number of steps.
    distinct: how many different training examples there are, seen again and again; 0: every example is seen once.
    learning_rate, warm_up, final_rate: AdamW's peak rate, steps of linear warm-up, and the share of the peak that
        the cosine ends at.
    balance: weight of the load-balancing loss. clip: largest gradient norm.
    seed: initial weights, examples and their order.
    device: where to train, `cpu` or `cuda`; on a GPU weights are not the same to the bit.
    save_steps: steps whose weights are kept, ascending; 0 is the untrained model.
    """

    family: str
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    experts: int = 64
    shared_experts: int = 1
    neurons_per_expert: int = 128
    top_k: int = 2
    initializer_range: float = 0.08
    batch: int = 64
    steps: int = 1000
    distinct: int = 0
    learning_rate: float = 3e-3
    warm_up: int = 50
    final_rate: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    balance: float = 0.01
    seed: int = 0
    device: str = "cpu"
    save_steps: tuple[int, ...] = (0, 50, 100, 200, 350, 500, 700, 1000)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}; a model can be trained as one of {', '.join(FAMILIES)}")
        if self.device not in DEVICES:
            raise ValueError(f"device is {self.device!r}; a model can be trained on {' or '.join(DEVICES)}")
        for knob in ("layers", "heads", "experts", "neurons_per_expert", "batch", "steps"):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it is at least 1")
        if self.shared_experts < 0 or self.distinct < 0:
            raise ValueError(
                f"shared_experts is {self.shared_experts} and distinct is {self.distinct}; neither is below 0"
            )
        if self.hidden % (4 * self.heads):
            raise ValueError(
                f"hidden is {self.hidden} with {self.heads} heads; it must be a multiple of 4 x heads = "
                f"{4 * self.heads}, because half of each head's width carries positions in pairs"
            )
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k is {self.top_k}; it lies between 1 and the number of experts, {self.experts}")
        if list(self.save_steps) != sorted(set(self.save_steps)) or not self.save_steps:
            raise ValueError(f"save_steps is {list(self.save_steps)}; name at least one step, ascending, each once")
        if self.save_steps[0] < 0 or self.save_steps[-1] > self.steps:
            raise ValueError(
                f"save_steps is {list(self.save_steps)}; steps to keep lie between 0 and steps, {self.steps}"
            )

    @classmethod
    def from_mapping(cls, knobs: Mapping[str, Any]) -> Recipe:
        """A recipe from plain configuration values; what is not named keeps its default.

        Raises ValueError for a knob that does not exist, with those that do.
        """
        allowed = [field.name for field in fields(cls)]
        unknown = sorted(set(knobs) - set(allowed))
        if unknown:
            raise ValueError(f"a training recipe has no {', '.join(unknown)}; it has {', '.join(allowed)}")
        if "family" not in knobs:
            raise ValueError(f"a training recipe needs a family, one of {', '.join(FAMILIES)}")
        values = dict(knobs)
        if "save_steps" in values:
            values["save_steps"] = tuple(values["save_steps"])
        return cls(**values)
