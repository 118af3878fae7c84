"""The rules of SPEC section 3: which of a sample's ranked entries make their neurons key.

An entry is a (token, neuron) score. Of each sample and layer the highest ones are stored, in the order of the
specification: higher score first, then lower token, then lower neuron. A rule that looks for a score or over all layers
can reach beyond what is stored. It then takes only what is certain, so that every neuron found is key, and says in
which cells (sample × layer) a neuron may be missing.

All rules take the same arguments and use what they need. neuron: int32, index inside the layer, −1 past a layer's last
entry; token: int32; score: float32; each (samples, layers, ranks). selection: "pairs", in which a neuron may have
several entries, or "neurons", where its highest one stands for it. Of selection `per_token` no scores are stored, so it
has a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moemui.geometry import Geometry
from moemui.key_neurons.key_sets import KeySets


def global_count(*, geometry: Geometry, threshold: float) -> int:
    """K = max(1, floor(η·Σ_l M_l)) of `global_topk`. Raises ValueError for a threshold outside (0, 1]."""
    geometry.key_count(threshold)  # refuses the same thresholds
    return max(1, int(threshold * geometry.neurons + 1e-9))


class Taken(NamedTuple):
    """Entries whose neurons are key: bool (samples, layers, ranks), and the cells, bool (samples, layers), that are:

    incomplete: may have more key neurons than the entries stored can tell.
    undefined: have entries, but by this rule no key set, which is empty.
    """

    entries: np.ndarray
    incomplete: np.ndarray
    undefined: np.ndarray


def topk(
    *,
    neuron: np.ndarray,
    token: np.ndarray | None,
    score: np.ndarray,
    geometry: Geometry,
    threshold: float,
    selection: str,
) -> Taken:
    """The first k_l = max(1, floor(η·M_l)) entries of each layer. As many must be stored; `select` checks it."""
    entries = (neuron >= 0) & (np.arange(neuron.shape[2]) < geometry.key_count(threshold)[:, None])
    none = np.zeros(neuron.shape[:2], dtype=bool)
    return Taken(entries, none, none)


def top_score(
    *,
    neuron: np.ndarray,
    token: np.ndarray | None,
    score: np.ndarray,
    geometry: Geometry,
    threshold: float,
    selection: str,
) -> Taken:
    """Entries with a score ≥ threshold × the layer's highest one, compared in float64; a neuron's best one decides.

    Undefined where the highest score is not positive: every share of it would be above it. Incomplete where the last
    stored entry passes, no rank is free, and the layer has neurons that are not stored: the next one may pass too.
    """
    present = neuron >= 0
    highest = score[..., :1].astype(np.float64)
    defined = present[..., 0] & (highest[..., 0] > 0)
    entries = present & (score >= threshold * highest) & defined[..., None]
    _, unseen = _beyond(neuron, geometry, selection)
    return Taken(entries, entries[..., -1] & unseen, present[..., 0] & ~defined)


def global_topk(
    *,
    neuron: np.ndarray,
    token: np.ndarray | None,
    score: np.ndarray,
    geometry: Geometry,
    threshold: float,
    selection: str,
) -> Taken:
    """The K = max(1, floor(η·Σ_l M_l)) highest entries of all layers together; ties: lower token, lower flat neuron.

    What follows a layer's last stored entry is not known if no rank is free there, nor then which entries of other
    layers are beyond the K first. So entries are taken up to the first such last entry. Incomplete are the layers that
    have a neuron between it and the K-th stored entry, or whose own last entry lies before the K-th and that have
    neurons that are not stored. With K at most the stored ranks nothing is incomplete.

    Raises ValueError without tokens.
    """
    if token is None or token.shape != neuron.shape:
        raise ValueError(
            f"rule global_topk breaks ties by token, but tokens have shape {getattr(token, 'shape', None)}; "
            f"give them in shape {neuron.shape}"
        )
    count = global_count(geometry=geometry, threshold=threshold)
    present = neuron >= 0
    position = _positions(present, token, score)
    follows, unseen = _beyond(neuron, geometry, selection)
    last = np.where(follows, position[..., -1], count)
    first_end = last.min(axis=1)
    within = present & (position < count)
    entries = within & (position <= first_end[:, None, None])
    incomplete = np.zeros(last.shape, dtype=bool)
    # An end that is itself the K-th entry closes the set.
    if (short := first_end < count - 1).any():
        more = _distinct(neuron[short], within[short]) > _distinct(neuron[short], entries[short])
        incomplete[short] = more | (unseen[short] & (last[short] < count - 1))
    return Taken(entries, incomplete, np.zeros_like(incomplete))


BY_NAME: dict[str, Callable[..., Taken]] = {"topk": topk, "top_score": top_score, "global_topk": global_topk}


def select_per_token(
    *,
    neuron: np.ndarray,
    rank: np.ndarray,
    counts: np.ndarray,
    geometry: Geometry,
    threshold: float,
    largest: float,
) -> KeySets:
    """Key sets of some samples at one threshold, selection `per_token`: the neurons whose best rank is below k_l.

    neuron: int32, (entries,), index inside the layer, each once a sample and layer. rank: int32, (entries,), its best
    rank over tokens, from 0. counts: int32, (samples, layers), entries of each, which lie in that order.
    largest: the threshold that the entries were stored for.

    Raises ValueError for a threshold above it, and for entries that do not fit counts or geometry.
    """
    k = geometry.key_count(threshold)
    if (k > geometry.key_count(largest)).any():
        raise ValueError(
            f"threshold {threshold:g} is above {largest:g}, the largest stored; choose a smaller one, or add this one "
            "to contributions.thresholds so that extraction runs again"
        )
    if counts.ndim != 2 or counts.shape[1] != len(k) or not len(neuron) == len(rank) == counts.sum():
        raise ValueError(
            f"{len(neuron)} neurons, {len(rank)} ranks and counts of {counts.sum()} in shape {counts.shape} do not "
            f"belong together; counts must be (samples, {len(k)} layers) and sum to the entries"
        )
    layer = np.repeat(np.tile(np.arange(len(k)), len(counts)), counts.ravel())
    sample = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    sizes = np.diff(geometry.layer_offsets)
    if (bad := (neuron < 0) | (neuron >= sizes[layer]) | (rank < 0)).any():
        entry = int(bad.argmax())
        raise ValueError(
            f"entry {entry} holds neuron {neuron[entry]} at rank {rank[entry]}, but its layer "
            f"{geometry.layers[layer[entry]].index} has {sizes[layer[entry]]} neurons and ranks count from 0; "
            "the store is damaged, extract this task again"
        )
    key = rank < k[layer]
    flat, sample = (neuron + geometry.layer_offsets[layer])[key], sample[key]
    order = np.lexsort((flat, sample))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(sample, minlength=len(counts)))]).astype(np.int64)
    return KeySets(indptr, flat[order].astype(neuron_dtype(geometry)))


def neuron_dtype(geometry: Geometry) -> type[np.signedinteger]:
    """int32, or int64 where flat neuron numbers need it."""
    return np.int32 if geometry.neurons <= np.iinfo(np.int32).max else np.int64


def _positions(present: np.ndarray, token: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The place of every entry in the order of its sample, from 0, absent ones last: int32, the shape of `present`."""
    shape = len(present), present.shape[1] * present.shape[2]
    # A stable sort leaves equal ones by layer, then rank, and that is by neuron. NaN sorts behind −∞.
    falling = np.where(present, -score, np.nan).reshape(shape)
    order = np.lexsort((token.reshape(shape), falling), axis=-1)
    position = np.empty(shape, dtype=np.int32)
    np.put_along_axis(position, order, np.arange(shape[1], dtype=np.int32)[None], axis=1)
    return position.reshape(present.shape)


def _beyond(neuron: np.ndarray, geometry: Geometry, selection: str) -> tuple[np.ndarray, np.ndarray]:
    """Cells where entries may follow the stored ones, and where they may be of neurons that are not stored.

    Entries follow only where no rank is free. With selection `neurons` none does if the ranks are as many as the
    layer's neurons; with `pairs` it is then a matter of how many different ones are stored.
    """
    sizes = np.array([layer.neurons for layer in geometry.layers])
    full = neuron[..., -1] >= 0
    if selection == "neurons":
        full = full & (neuron.shape[2] < sizes)
    if neuron.shape[2] < sizes.min():
        return full, full
    return full, full & (_distinct(neuron, neuron >= 0) < sizes)


def _distinct(neuron: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Different neurons among some entries of each cell: int64, (samples, layers)."""
    ordered = np.sort(np.where(entries, neuron, -1), axis=-1)
    new = ordered >= 0
    new[..., 1:] &= ordered[..., 1:] != ordered[..., :-1]
    return new.sum(axis=-1)
