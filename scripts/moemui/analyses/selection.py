"""From contributions to key neurons (SPEC section 3): which entries make a neuron key at a threshold.

A read of what is stored, so any threshold up to the largest stored one costs no forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from moemui.analyses import key_neurons
from moemui.analyses.key_sets import KeySets
from moemui.analyses.settings import Setting
from moemui.answers.responses import read_responses, verdicts
from moemui.geometry import Geometry
from moemui.scores import store

RULES = ("topk",)
SAMPLES_AT_ONCE = 512  # bounds the memory of `select`: about 60 MB at 24 layers of 130 ranks


def select(
    *, neuron: np.ndarray, score: np.ndarray, geometry: Geometry, threshold: float, rule: str = "topk"
) -> KeySets:
    """Key sets of every sample at one threshold, from ranked entries in rank order.

    neuron: int32, (samples, layers, ranks), index inside the layer, −1 where a layer has no more entries.
    score: float32, the same shape; falls along the ranks.
    Rule `topk`: the neurons among a layer's first k_l = max(1, floor(η·M_l)) entries. With selection `pairs` a neuron
    may occur for several tokens and counts once, so that a set has at most k_l neurons; with `neurons` exactly k_l,
    or all that there are. A sample without entries has the empty set.

    Raises ValueError for an unknown rule, shapes that don't fit the geometry, a threshold that needs more ranks than
    are stored, a neuron outside its layer, or used entries whose scores are NaN or not in falling order.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; allowed: {', '.join(RULES)}")
    if neuron.shape != score.shape or neuron.ndim != 3 or neuron.shape[1] != len(geometry.layers):
        raise ValueError(
            f"ranked neurons have shape {neuron.shape} and scores {score.shape}; both must be "
            f"(samples, {len(geometry.layers)} layers, ranks)"
        )
    k = geometry.key_count(threshold)
    ranks = neuron.shape[2]
    if k.max() > ranks:
        raise ValueError(
            f"threshold {threshold:g} needs k = {k.max()} ranked entries in a layer, but the largest stored k is "
            f"{ranks}; choose a smaller threshold, or add this one to contributions.thresholds "
            "so that extraction runs again"
        )
    widest = int(k.max())
    used = np.arange(widest) < k[:, None]
    sizes, parts = [np.zeros(1, dtype=np.int64)], []
    for start in range(0, neuron.shape[0], SAMPLES_AT_ONCE):
        block = slice(start, start + SAMPLES_AT_ONCE)
        counts, flat = _unique_rows(neuron[block, :, :widest], score[block, :, :widest], used, geometry, start)
        sizes.append(counts)
        parts.append(flat)
    neurons = np.concatenate(parts) if parts else np.empty(0)
    return KeySets(np.cumsum(np.concatenate(sizes)), neurons.astype(_neuron_dtype(geometry)))


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
    return KeySets(indptr, flat[order].astype(_neuron_dtype(geometry)))


def joined(parts: Sequence[KeySets], geometry: Geometry) -> KeySets:
    """The key sets of consecutive parts of a task, as one; no parts are no samples."""
    sizes = [np.diff(part.indptr) for part in parts]
    indptr = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *sizes]))
    neurons = [np.empty(0, dtype=_neuron_dtype(geometry)), *(part.neurons for part in parts)]
    return KeySets(indptr, np.concatenate(neurons))


def _neuron_dtype(geometry: Geometry) -> type[np.signedinteger]:
    return np.int32 if geometry.neurons <= np.iinfo(np.int32).max else np.int64


def _unique_rows(
    neuron: np.ndarray, score: np.ndarray, used: np.ndarray, geometry: Geometry, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (samples,) and flat neurons of a block's key sets, after checking the block's used entries."""
    sizes = np.array([layer.neurons for layer in geometry.layers])
    present = (neuron >= 0) & used
    if (bad := (neuron >= sizes[:, None]) | (neuron < -1)).any():
        s, layer, rank = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"sample {start + s}, layer {geometry.layers[layer].index}, rank {rank}: neuron {neuron[s, layer, rank]} "
            f"is outside the layer's {sizes[layer]} neurons; the scores belong to another geometry"
        )
    falling = ~present[..., 1:] | (present[..., :-1] & (score[..., 1:] <= score[..., :-1]))
    if (bad := np.isnan(score) & present).any() or (bad := ~falling).any():
        s, layer, rank = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"sample {start + s}, layer {geometry.layers[layer].index}, rank {rank}: scores are NaN or not in falling "
            "order; the store is damaged, extract this task again"
        )
    missing = geometry.neurons  # sorts behind every neuron
    flat = np.where(present, neuron + geometry.layer_offsets[:-1, None], missing).reshape(len(neuron), -1)
    flat.sort(axis=1)
    first = flat != missing
    first[:, 1:] &= flat[:, 1:] != flat[:, :-1]
    return first.sum(axis=1), flat[first]


def select_key_neurons(
    stores: Sequence[Path], responses: Path, path: Path, *, thresholds: Iterable[float], model: str, checkpoint: str
) -> None:
    """Key sets of every stored formulation and selection at every threshold, written as key_neurons.h5.

    stores: the task's store, or all its shards in order.
    Raises ValueError where stores and responses are not of the same samples, IncompleteStoreError for a damaged store.
    """
    for shard in stores:
        store.verify(shard)
    scores, records = store.Contributions(*stores), read_responses(responses)
    ids = [record["id"] for record in records]
    if ids != scores.sample_ids:
        where = ", ".join(map(str, stores))
        raise ValueError(f"{where} and {responses} hold other samples; delete the store and run again")
    sets, wanted = {}, list(thresholds)
    for formulation, selection in scores.settings:
        for threshold, found in _key_sets(scores, formulation, selection, wanted).items():
            sets[Setting(formulation, selection, threshold)] = found
    key_neurons.write(
        path,
        model=model,
        checkpoint=checkpoint,
        task=records[0]["task"],
        geometry=scores.geometry,
        samples=key_neurons.Samples(
            id=np.array(ids, dtype=object),
            domain=np.array([record["domain"] for record in records], dtype=object),
            correct=verdicts(records),
            response_tokens=scores.response_tokens,
        ),
        sets=sets,
        routed_tokens=key_neurons.routed_tokens(tokens=scores.routed_tokens, geometry=scores.geometry),
        options=scores.attributes["options"],
    )


def _key_sets(
    scores: store.Contributions, formulation: str, selection: str, thresholds: Sequence[float]
) -> dict[float, KeySets]:
    """Key sets by threshold; what is stored is read once."""
    geometry = scores.geometry
    if selection != store.PER_TOKEN:
        neuron, _, score = scores.ranked(formulation, selection)
        return {t: select(neuron=neuron, score=score, geometry=geometry, threshold=t) for t in thresholds}
    largest = scores.attributes["options"]["largest_threshold"]
    parts: dict[float, list[KeySets]] = {threshold: [] for threshold in thresholds}
    for part in scores.per_token(formulation):
        for threshold, found in parts.items():
            found.append(select_per_token(**part._asdict(), geometry=geometry, threshold=threshold, largest=largest))
    return {threshold: joined(found, geometry) for threshold, found in parts.items()}
