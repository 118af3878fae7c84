"""Which neurons to mask: a task's key neurons, and random ones matched to them (SPEC section 7).

Two kinds of control, as many neurons in each expert and none of them key: any (`matched_random`), and those that the
task switches on about as often as the key ones (`matched_on_frequency`): key neurons are busy ones, and masking busy
neurons may cost more than masking any, key or not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from moemui.geometry import Geometry

NO_SEED = -1
# Of how many others, the nearest by activation frequency that are still free, one is drawn. Fewer would give seeds
# nearly the same control, more a worse balance.
NEAREST = 5


class Mask(NamedTuple):
    """Neurons to set to 0 under one condition: flat numbers, ascending, int64. seed: of a control, else −1."""

    condition: str
    seed: int
    neurons: np.ndarray


def masks(*, key: np.ndarray, frequency: np.ndarray, geometry: Geometry, seeds: Sequence[int]) -> Iterator[Mask]:
    """The masks of all conditions: none, key, and for every seed random and matched. Arguments as `matched_*`."""
    yield Mask("none", NO_SEED, np.empty(0, dtype=np.int64))
    yield Mask("key", NO_SEED, np.sort(key).astype(np.int64))
    for seed in seeds:
        yield Mask("random", seed, matched_random(key=key, geometry=geometry, seed=seed))
    for seed in seeds:
        drawn = matched_on_frequency(key=key, frequency=frequency, geometry=geometry, seed=seed)
        yield Mask("matched", seed, drawn)


def matched_random(*, key: np.ndarray, geometry: Geometry, seed: int) -> np.ndarray:
    """As many random neurons as are key in each expert, none of them key: flat numbers, ascending, int64.

    key: flat numbers of the key neurons. Layer and kind match because experts do. An expert more than half of whose
    neurons are key gives all the others that it has, so the control is smaller there; compare the lengths.
    """

    def draw(own: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return generator.choice(others, size=len(own), replace=False)

    return _by_expert(key, geometry, seed, draw)


def matched_on_frequency(*, key: np.ndarray, frequency: np.ndarray, geometry: Geometry, seed: int) -> np.ndarray:
    """As `matched_random`, with about the activation frequency of the key neurons: flat numbers, ascending, int64.

    key: flat numbers of the key neurons. frequency: float64, (Σ M_l,), the share of response tokens at which each
    neuron is switched on (`moemui.scores.activation_frequency`). In each expert, every key neuron gets one of its
    `NEAREST` nearest by frequency among the others that are still free, at random, so that seeds differ; those whose
    frequency lies farthest from the others' median choose first, since they have the fewest near them. Ties fall at
    random. How close the match is depends on what the expert has: `balance` measures it.
    Raises ValueError for a frequency of another shape, and for one that is missing or outside 0..1 in an expert that
    holds a key neuron.
    """
    if frequency.shape != (geometry.neurons,):
        raise ValueError(f"frequency has shape {frequency.shape}; it must be ({geometry.neurons},), one a neuron")

    def draw(own: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        known = frequency[np.concatenate([own, others])]
        if not ((known >= 0) & (known <= 1)).all():
            raise ValueError(
                f"activation frequencies of key neuron {own[0]}'s expert are missing or outside 0..1; count them over "
                "at least one response token"
            )
        free = generator.permutation(others)
        free = free[np.argsort(frequency[free], kind="stable")]
        apart = np.abs(frequency[own] - np.median(frequency[others]))
        first = np.lexsort((generator.random(len(own)), -apart))
        return _drawn_near(frequency[own[first]].tolist(), free.tolist(), frequency[free].tolist(), generator)

    return _by_expert(key, geometry, seed, draw)


def _by_expert(
    key: np.ndarray,
    geometry: Geometry,
    seed: int,
    draw: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray],
) -> np.ndarray:
    """What is drawn in every expert with key neurons: from these, more others than these, and a generator."""
    generator = np.random.default_rng(seed)
    is_key = np.zeros(geometry.neurons, dtype=bool)
    is_key[key] = True
    chosen = [np.empty(0, dtype=np.int64)]
    for expert in np.unique(geometry.expert_of(np.flatnonzero(is_key))):
        first, end = geometry.expert_offsets[expert], geometry.expert_offsets[expert + 1]
        own, others = (first + np.flatnonzero(part) for part in (is_key[first:end], ~is_key[first:end]))
        chosen.append(draw(own, others, generator) if len(own) < len(others) else others)
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _drawn_near(
    wanted: list[float], free: list[int], values: list[float], generator: np.random.Generator
) -> np.ndarray:
    """For each wanted value in turn a free neuron, at random among those nearest by `values`, which ascend."""
    drawn = []
    for value in wanted:
        low = high = bisect_left(values, value)
        while high - low < min(NEAREST, len(values)):
            below = value - values[low - 1] if low > 0 else np.inf
            above = values[high] - value if high < len(values) else np.inf
            low, high = (low - 1, high) if below < above else (low, high + 1)
        place = int(generator.integers(low, high))
        drawn.append(free.pop(place))
        values.pop(place)
    return np.array(drawn, dtype=np.int64)


def balance(*, key: np.ndarray, control: np.ndarray) -> float:
    """How far the activation frequencies of two sets of neurons are apart: their standardised mean difference.

    (mean of key − mean of control) / √((variance of key + variance of control) / 2), variances with n − 1 (Austin 2009,
    Statistics in Medicine 28: below 0.1 counts as balanced). key, control: float64, (neurons,). Positive where key
    neurons are switched on more often. NaN for a set of fewer than two or where neither has spread but means differ;
    0 where neither has spread and means agree.
    """
    if min(len(key), len(control)) < 2:
        return float("nan")
    difference = float(key.mean() - control.mean())
    spread = float(np.sqrt((key.var(ddof=1) + control.var(ddof=1)) / 2))
    if spread == 0:
        return 0.0 if difference == 0 else float("nan")
    return difference / spread


def by_layer(*, neurons: np.ndarray, geometry: Geometry) -> list[np.ndarray]:
    """Flat numbers as indices inside each layer, as `capture.Tap` takes them: one int64 array a layer."""
    layers = geometry.layer_of(neurons)
    return [neurons[layers == layer] - offset for layer, offset in enumerate(geometry.layer_offsets[:-1])]
