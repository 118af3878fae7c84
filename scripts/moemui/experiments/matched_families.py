"""Families of models that are compared at equal performance: alike but for shared experts, checked on other samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import fields

from moemui.models import synthetic
from moemui.models.recipe import Recipe
from moemui.models.synthetic import Example

FEWEST_CHECKING = 50  # samples of a task that an accuracy is checked on
ALIKE = 1e-3  # by which balance × top_k may differ, relatively: configurations write rounded weights


def check_families(recipes: list[Recipe]) -> None:
    """Refuse families that differ in more than how neurons are split between shared and routed experts.

    The load-balancing loss is top_k where experts are used evenly and grows with it, so one weight for all would push
    families of more active experts harder to even routing, which key experts and specialization are about: `balance`
    times top_k must be equal instead, within ALIKE. Raises ValueError, naming the knob or the number that differs.
    """
    free = {"balance", "experts", "shared_experts", "top_k"}
    for one, other in itertools.pairwise(recipes):
        knobs = [field.name for field in fields(Recipe) if field.name not in free]
        for knob in knobs:
            if getattr(one, knob) != getattr(other, knob):
                raise ValueError(
                    f"cohorts differ in {knob}, {getattr(one, knob)} and {getattr(other, knob)}; only "
                    f"{', '.join(sorted(free))} may"
                )
        for what, routed in (("a layer", "experts"), ("a token", "top_k")):
            sizes = [(getattr(r, routed) + r.shared_experts) * r.neurons_per_expert for r in (one, other)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"{what} has {sizes[0]} neurons in one cohort and {sizes[1]} in another; choose {routed} + "
                    "shared_experts alike"
                )
        pushes = [recipe.balance * recipe.top_k for recipe in (one, other)]
        if not math.isclose(*pushes, rel_tol=ALIKE):
            raise ValueError(
                f"balance times top_k is {pushes[0]:g} in one cohort and {pushes[1]:g} in another; choose balance so "
                "that both are equal, since the load-balancing loss grows with top_k"
            )


def other_examples(task: str, used: Sequence[Example], n: int) -> list[Example]:
    """n different held-out examples of a task that are not among those used; all that it has where they are fewer.

    The same for all seeds of training. Raises ValueError where fewer than FEWEST_CHECKING are left.
    """
    draws, taken = synthetic.Draws(f"other held-out {task}"), {example.prompt for example in used}
    found: list[Example] = []
    repeated = 0
    while len(found) < n and repeated < synthetic.PATIENCE:
        example = synthetic.draw(task, draws, held_out=True)
        if example.prompt in taken:
            repeated += 1
        else:
            repeated = 0
            found.append(example)
            taken.add(example.prompt)
    if len(found) < min(n, FEWEST_CHECKING):
        raise ValueError(
            f"task {task} has {len(found)} held-out examples besides the {len(used)} that choose the models; at least "
            f"{FEWEST_CHECKING} are needed, so ask for fewer samples"
        )
    return found
