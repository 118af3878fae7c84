"""From contributions to key neurons (SPEC section 3): the key sets of every sample, by any rule at any threshold.

A read of what is stored, so none costs a forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moemui.answers.responses import read_responses, verdicts
from moemui.geometry import Geometry
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons import rules
from moemui.key_neurons.key_sets import KeySets, joined
from moemui.key_neurons.settings import MAIN, RULES, Setting
from moemui.scores import store

SAMPLES_AT_ONCE = 256  # bounds the memory of `select`: about 20 MB at 24 layers of 130 ranks
BY_SCORE = ("pairs", "neurons")  # the selections whose scores are stored

log = logging.getLogger(__name__)


class Selected(NamedTuple):
    """Key sets of some samples, and the cells, bool (samples, layers), of which not all is known (see `rules.Taken`):

    incomplete: neurons may be missing, because more entries than are stored would be needed; those found are key.
    undefined: the rule has no key set, as `top_score` without a positive score; empty here.
    """

    sets: KeySets
    incomplete: np.ndarray
    undefined: np.ndarray


def select(
    *,
    neuron: np.ndarray,
    score: np.ndarray,
    geometry: Geometry,
    threshold: float,
    rule: str = "topk",
    selection: str = "pairs",
    token: np.ndarray | None = None,
) -> Selected:
    """Key sets of every sample at one threshold, from ranked entries in rank order.

    neuron: int32, (samples, layers, ranks), index inside the layer, −1 where a layer has no more entries.
    score: float32, token: int32, the same shape; scores fall along the ranks. Only `global_topk` looks at tokens.
    Rule `topk`: the neurons among a layer's first k_l = max(1, floor(η·M_l)) entries. With selection `pairs` a neuron
    may occur for several tokens and counts once, so that a set has at most k_l neurons; with `neurons` exactly k_l,
    or all that there are. The other rules: see `moemui.key_neurons.rules`. A sample without entries has the empty set.

    Raises ValueError for an unknown rule, a selection without scores, shapes that don't fit the geometry, a threshold
    that needs more ranks than are stored, a neuron outside its layer, or used entries whose scores are NaN or not in
    falling order.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; allowed: {', '.join(RULES)}")
    if selection not in BY_SCORE:
        raise ValueError(
            f"rule {rule} chooses by score, but selection {selection!r} has none stored; allowed: {', '.join(BY_SCORE)}"
        )
    if neuron.shape != score.shape or neuron.ndim != 3 or neuron.shape[1] != len(geometry.layers):
        raise ValueError(
            f"ranked neurons have shape {neuron.shape} and scores {score.shape}; both must be "
            f"(samples, {len(geometry.layers)} layers, ranks)"
        )
    k, ranks = geometry.key_count(threshold), neuron.shape[2]
    if rule == "topk":
        if k.max() > ranks:
            raise ValueError(
                f"threshold {threshold:g} needs k = {k.max()} ranked entries in a layer, but the largest stored k is "
                f"{ranks}; choose a smaller threshold, or add this one to contributions.thresholds "
                "so that extraction runs again"
            )
        ranks = int(k.max())
    used = np.arange(ranks) < (k if rule == "topk" else np.full_like(k, ranks))[:, None]
    parts = [_nothing(geometry)]
    for start in range(0, len(neuron), SAMPLES_AT_ONCE):
        block = slice(start, start + SAMPLES_AT_ONCE), slice(None), slice(ranks)
        _check(neuron[block], score[block], used, geometry, start)
        taken = rules.BY_NAME[rule](
            neuron=neuron[block],
            token=None if token is None else token[block],
            score=score[block],
            geometry=geometry,
            threshold=threshold,
            selection=selection,
        )
        parts.append((*_sets(neuron[block], taken.entries, geometry), taken.incomplete, taken.undefined))
    sizes, neurons, incomplete, undefined = (np.concatenate(found) for found in zip(*parts, strict=True))
    return Selected(KeySets(np.cumsum(sizes), neurons), incomplete, undefined)


def _nothing(geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where sizes begin, and neurons, incomplete and undefined cells of no sample."""
    cells = np.zeros((0, len(geometry.layers)), dtype=bool)
    return np.zeros(1, dtype=np.int64), np.empty(0, dtype=rules.neuron_dtype(geometry)), cells, cells


def _check(neuron: np.ndarray, score: np.ndarray, used: np.ndarray, geometry: Geometry, start: int) -> None:
    """Raises ValueError, naming sample, layer and rank, for entries that can't be; `start` is the first sample."""
    sizes = np.array([layer.neurons for layer in geometry.layers], dtype=neuron.dtype)
    if (bad := (neuron >= sizes[:, None]) | (neuron < -1)).any():
        s, layer, rank = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"sample {start + s}, layer {geometry.layers[layer].index}, rank {rank}: neuron {neuron[s, layer, rank]} "
            f"is outside the layer's {sizes[layer]} neurons; the scores belong to another geometry"
        )
    present = (neuron >= 0) & used
    falling = ~present[..., 1:] | (present[..., :-1] & (score[..., 1:] <= score[..., :-1]))
    if (bad := np.isnan(score) & present).any() or (bad := ~falling).any():
        s, layer, rank = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"sample {start + s}, layer {geometry.layers[layer].index}, rank {rank}: scores are NaN or not in falling "
            "order; the store is damaged, extract this task again"
        )


def _sets(neuron: np.ndarray, entries: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (samples,) and flat neurons of the key sets that some entries (bool, the shape of `neuron`) make."""
    dtype = rules.neuron_dtype(geometry)
    missing = np.iinfo(dtype).max  # sorts behind every neuron
    flat = np.where(entries, neuron + geometry.layer_offsets[:-1, None].astype(dtype), missing)
    flat.sort(axis=-1)
    first = flat != missing
    first[..., 1:] &= flat[..., 1:] != flat[..., :-1]
    return first.sum(axis=(1, 2)), flat[first]


def select_key_neurons(
    stores: Sequence[Path],
    responses: Path,
    path: Path,
    *,
    thresholds: Sequence[float],
    model: str,
    checkpoint: str,
    top_score: Sequence[float] = (),
    global_topk: Sequence[float] = (),
    variant: str = MAIN,
    formulations: Collection[str] | None = None,
    selections: Collection[str] | None = None,
) -> None:
    """Key sets of the stored formulations and selections by every rule, written as key_neurons.h5.

    stores: the task's store, or all its shards in order. thresholds, top_score, global_topk: those of each rule; the
    last two need scores, so selection `per_token` has only the first. formulations, selections: of the stored ones,
    those wanted; None is all. Cells that are incomplete or undefined are counted in the file and in a warning, once a
    setting.

    Raises ValueError where stores and responses are not of the same samples, for a formulation or selection that is not
    stored, and for a rule that needs scores where none of the selections has any; IncompleteStoreError for a damaged
    store.
    """
    scores, records = store.Contributions(*stores), read_responses(responses)
    ids = [record["id"] for record in records]
    if ids != scores.sample_ids:
        where = ", ".join(map(str, stores))
        raise ValueError(f"{where} and {responses} hold other samples; delete the store and run again")
    wanted = [("topk", t) for t in thresholds]
    by_score = [("top_score", t) for t in top_score] + [("global_topk", t) for t in global_topk]
    chosen = _chosen(scores.settings, formulations, selections)
    if by_score and not any(selection in BY_SCORE for _, selection in chosen):
        raise ValueError(
            f"rule {by_score[0][0]} chooses by score, but the selections {', '.join(sorted({s for _, s in chosen}))} "
            f"have none stored; add one of {', '.join(BY_SCORE)} to contributions.selections"
        )
    sets: dict[Setting, KeySets] = {}
    incomplete: dict[Setting, int] = {}
    undefined: dict[Setting, int] = {}
    for formulation, selection in chosen:
        own = wanted + by_score * (selection in BY_SCORE)
        for (rule, threshold), found in _selected(scores, formulation, selection, own):
            setting = Setting(formulation, selection, threshold, rule, variant)
            sets[setting] = found.sets
            incomplete[setting], undefined[setting] = int(found.incomplete.sum()), int(found.undefined.sum())
            _tell(setting, found)
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
        variant=variant,
        incomplete=incomplete,
        undefined=undefined,
        options=scores.attributes["options"],
    )


def _chosen(
    stored: list[tuple[str, str]], formulations: Collection[str] | None, selections: Collection[str] | None
) -> list[tuple[str, str]]:
    """The stored (formulation, selection) pairs of those wanted, in their order."""
    for what, wanted, position in (("formulation", formulations, 0), ("selection", selections, 1)):
        there = sorted({pair[position] for pair in stored})
        if missing := sorted(set(wanted or ()) - set(there)):
            raise ValueError(f"{what} {missing[0]!r} is not stored; stored: {', '.join(there)}")
    return [
        (formulation, selection)
        for formulation, selection in stored
        if (formulations is None or formulation in formulations) and (selections is None or selection in selections)
    ]


def _selected(
    scores: store.Contributions, formulation: str, selection: str, wanted: Sequence[tuple[str, float]]
) -> Iterator[tuple[tuple[str, float], Selected]]:
    """What is selected by each (rule, threshold); what is stored is read once."""
    geometry = scores.geometry
    if selection in BY_SCORE:
        neuron, token, score = scores.ranked(formulation, selection)
        for rule, threshold in wanted:
            yield (
                (rule, threshold),
                select(
                    neuron=neuron,
                    token=token,
                    score=score,
                    geometry=geometry,
                    threshold=threshold,
                    rule=rule,
                    selection=selection,
                ),
            )
        return
    largest = scores.attributes["options"]["largest_threshold"]
    parts: dict[tuple[str, float], list[KeySets]] = {key: [] for key in wanted}
    for part in scores.per_token(formulation):
        for (_, threshold), found in parts.items():
            found.append(
                rules.select_per_token(**part._asdict(), geometry=geometry, threshold=threshold, largest=largest)
            )
    known = np.zeros((len(scores.sample_ids), len(geometry.layers)), dtype=bool)
    for key, found in parts.items():
        yield key, Selected(joined(found), known, known)


def _tell(setting: Setting, found: Selected) -> None:
    """Warn of what is not known."""
    cells = found.incomplete.size
    if count := int(found.undefined.sum()):
        log.warning(
            "%s: the highest score is not positive in %d of %d cells (sample × layer), so their key sets are empty",
            setting.label,
            count,
            cells,
        )
    if count := int(found.incomplete.sum()):
        log.warning(
            "%s: in %d of %d cells (sample × layer) more entries would be needed than are stored, so neurons may be "
            "missing; choose a %s, or add a larger one to contributions.thresholds so that extraction runs again",
            setting.label,
            count,
            cells,
            "larger share" if setting.rule == "top_score" else "smaller threshold",
        )
