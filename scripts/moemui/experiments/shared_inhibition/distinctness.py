"""How much routed experts differ in function: what routing tells of the task, shared key neurons, outputs, masking.

Pure functions of arrays. Tasks count alike, whatever their number of tokens. Two families may route tokens to other
numbers of experts, so each measure stands beside what chance, or the most that is possible, gives.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy import special

from moemui.experts import expert_overlap


def routing_information(*, use: np.ndarray) -> float:
    """I(expert; task) of a layer in bits, of a slot of a random task: H(mean of p(e|t)) − mean H(p(e|t)), 0..log2 T.

    use: (tasks, experts), slots that each task's response tokens took at each expert; p(e|t) is a row's share. With
    tasks alike in weight it is the Jensen–Shannon divergence of the rows (Lin 1991). Raises ValueError for a negative
    number and for a task without slots.
    """
    slots = use.sum(axis=1)
    if (use < 0).any() or not (slots > 0).all():
        raise ValueError(f"tasks took {slots.tolist()} slots; each takes at least one, and no expert gets fewer than 0")
    share = use / slots[:, None]
    return max(0.0, float(_bits(share.mean(axis=0)) - _bits(share).mean()))


def highest_information(*, n_tasks: int, experts: int, top_k: int) -> float:
    """The most that `routing_information` can be where a token uses top_k different experts: bits.

    min(log2 T, log2(E / k)): H(e) is at most log2 E, and no p(e|t) is above 1/k, so H(e|t) is at least log2 k. 0 for
    one task or where each token uses every expert. Raises ValueError unless T ≥ 1 and 1 ≤ k ≤ E.
    """
    if n_tasks < 1 or not 1 <= top_k <= experts:
        raise ValueError(f"{n_tasks} tasks and {top_k} of {experts} experts a token; give a task and 1 ≤ k ≤ E")
    return float(min(np.log2(n_tasks), np.log2(experts / top_k)))


def information_by_chance(*, slots: np.ndarray, task: np.ndarray, draws: int, seed: int) -> float:
    """Mean `routing_information` in bits where samples are dealt out to the tasks at random, as many to each as it has.

    slots: (samples, experts); task: int, (samples,), 0..T − 1. Whole samples are dealt, since the tokens of one are no
    independent units. Raises ValueError for no draw, and as `routing_information`.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least 1 is needed to know what chance gives")
    generator = np.random.default_rng(seed)
    return float(np.mean([routing_information(use=by_task(slots, generator.permutation(task))) for _ in range(draws)]))


def by_task(values: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Sums over the samples of each task: (samples, …) → (tasks, …). task: int, (samples,), 0..T − 1."""
    total = np.zeros((int(task.max()) + 1, *values.shape[1:]), dtype=values.dtype)
    np.add.at(total, task, values)
    return total


def adjusted(*, found: float, chance: float, highest: float) -> float:
    """(found − chance) / (highest − chance): 0 at chance, 1 at the most possible, below 0 under chance.

    The usual correction of an index for chance (Hubert & Arabie 1985). NaN where chance leaves no room.
    """
    return (found - chance) / (highest - chance) if highest > chance else float("nan")


class Overlap(NamedTuple):
    """Jaccard indices, 0..1, and what random sets give, one a pair of tasks: (pairs,), in the order of `pairs`."""

    jaccard: np.ndarray
    chance: np.ndarray


def pairs(n: int) -> list[tuple[int, int]]:
    """All pairs of 0..n − 1, the lower number first."""
    return list(itertools.combinations(range(n), 2))


def key_overlap(*, key: np.ndarray, expert: np.ndarray) -> Overlap:
    """How many key neurons two tasks have in common, |A ∩ B| / |A ∪ B|, for every pair of tasks.

    key: bool, (tasks, neurons); expert: int, (neurons,). Chance: the exact mean over random sets with as many neurons
    in each expert as the two tasks have there, so that using the same experts but unrelated neurons is at chance.
    NaN for a pair without key neurons.
    """
    jaccard = [float(expert_overlap.jaccard(a=key[one], b=key[other])) for one, other in pairs(len(key))]
    chance = [expert_overlap.chance(a=key[one], b=key[other], strata=expert).jaccard for one, other in pairs(len(key))]
    return Overlap(np.array(jaccard), np.array(chance))


def linear_cka(outputs: np.ndarray) -> np.ndarray:
    """Linear CKA of all pairs of experts (Kornblith et al. 2019): float64, (experts, experts), 0..1, symmetric.

    outputs: (experts, states, hidden), of every expert on the same states. ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), X and Y centred
    over the states, Frobenius norms. 1 for outputs equal but for rotation, scale and offset. With few states per
    dimension it is far from 0 by chance: use many more states than dimensions.
    Raises ValueError for fewer than two states and for an expert whose output never changes.
    """
    count, states, hidden = outputs.shape
    if states < 2:
        raise ValueError(f"found outputs on {states} states; similarity needs two or more")
    centred = outputs.astype(np.float64) - outputs.mean(axis=1, keepdims=True, dtype=np.float64)
    still = np.flatnonzero((centred == 0).all(axis=(1, 2)))
    if len(still):
        raise ValueError(f"the outputs of expert {still[0]} never change, so they are similar to nothing; leave it out")
    flat = centred.transpose(1, 0, 2).reshape(states, count * hidden)
    cross = np.square(flat.T @ flat).reshape(count, hidden, count, hidden).sum(axis=(1, 3))
    size = np.sqrt(np.diag(cross))
    similarity: np.ndarray = cross / np.outer(size, size)
    return similarity


def mean_over_pairs(matrix: np.ndarray) -> float:
    """Mean of a symmetric matrix off its diagonal; NaN for fewer than two rows."""
    upper = matrix[np.triu_indices(len(matrix), 1)]
    return float(upper.mean()) if len(upper) else float("nan")


def tau(effects: np.ndarray) -> np.ndarray:
    """Σ_t (1 − x_t / max x) / (T − 1), 0..1: the index τ of tissue specificity (Yanai et al. 2005), tasks for tissues.

    effects: (experts, tasks), T ≥ 2; what is below 0 counts as no effect. 0 where all tasks suffer alike, 1 where one
    alone does; NaN for an expert without effect. Raises ValueError for fewer than two tasks.
    """
    if effects.shape[1] < 2:
        raise ValueError(f"effects are on {effects.shape[1]} tasks; selectivity needs two or more")
    positive = np.maximum(effects, 0.0)
    largest = positive.max(axis=1, keepdims=True)
    share = np.divide(positive, largest, out=np.full(positive.shape, np.nan), where=largest > 0)
    selective: np.ndarray = (1 - share).sum(axis=1) / (effects.shape[1] - 1)
    return selective


def masking_selectivity(effects: np.ndarray) -> float:
    """`tau` of experts, averaged with their summed positive effects as weights: 0..1, NaN without any effect.

    The weights keep experts that hardly matter, and whose τ is noise, from deciding the mean. effects: as `tau`.
    """
    weight = np.maximum(effects, 0.0).sum(axis=1)
    if not weight.any():
        return float("nan")
    known = weight > 0
    return float(np.average(tau(effects)[known], weights=weight[known]))


def _bits(share: np.ndarray) -> np.ndarray:
    """Entropy of the last axis."""
    entropy: np.ndarray = special.entr(share).sum(axis=-1) / np.log(2)
    return entropy
