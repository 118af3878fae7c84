"""Which neurons to mask: a task's key neurons, and random ones matched to them (SPEC section 7)."""

from __future__ import annotations

import numpy as np

from moemui.geometry import Geometry


def matched_random(*, key: np.ndarray, geometry: Geometry, seed: int) -> np.ndarray:
    """As many random neurons as are key in each expert, none of them key: flat numbers, ascending, int64.

    key: flat numbers of the key neurons. Layer and kind match because experts do. An expert more than half of whose
    neurons are key gives all the others that it has, so the control is smaller there; compare the lengths.
    """
    generator = np.random.default_rng(seed)
    is_key = np.zeros(geometry.neurons, dtype=bool)
    is_key[key] = True
    chosen = []
    for expert, count in zip(*np.unique(geometry.expert_of(np.flatnonzero(is_key)), return_counts=True), strict=True):
        first, end = geometry.expert_offsets[expert], geometry.expert_offsets[expert + 1]
        others = first + np.flatnonzero(~is_key[first:end])
        chosen.append(generator.choice(others, size=min(count, len(others)), replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def by_layer(*, neurons: np.ndarray, geometry: Geometry) -> list[np.ndarray]:
    """Flat numbers as indices inside each layer, as `capture.Tap` takes them: one int64 array a layer."""
    layers = geometry.layer_of(neurons)
    return [neurons[layers == layer] - offset for layer, offset in enumerate(geometry.layer_offsets[:-1])]
