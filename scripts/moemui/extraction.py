"""From responses to a contributions store, and from a store to key neurons: files in, files out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moemui import key_neurons, store
from moemui.responses import read_responses, verdicts

if TYPE_CHECKING:
    from moemui.contributions import ChunkScores, Scorer


class IdentityError(RuntimeError):
    """The model computes something else under the tap than without it."""


@dataclass(frozen=True)
class Quality:
    """What an extraction says about itself.

    conservation_error, imbalance: the largest over tokens and layers, see `moemui.contributions`; identity_error: of
    logits; samples, response_tokens: counts; bytes: size on disk.
    """

    conservation_error: float
    imbalance: float
    identity_error: float
    samples: int
    response_tokens: int
    bytes: int


def extract(
    scorer: Scorer,
    records: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    attributes: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> Quality:
    """Score the records of responses.jsonl and write them as a contributions store.

    Memory is bounded by `store.CHUNK_SAMPLES` samples. progress is called with the number of samples done.
    Raises ConservationError or IdentityError above tolerance, ValueError for a sample that can't be scored or no
    samples at all; no finished store is left then.
    """
    from moemui.contributions import Sample

    if not records:
        raise ValueError(f"{path.parent} has no responses; a task needs at least one sample")
    samples = [Sample(record["id"], record["prompt_ids"], record["response_ids"]) for record in records]
    for sample in samples:
        scorer.scored_tokens(sample)  # a bad sample stops the job before any work
    identity = scorer.identity_error(samples[0])
    if not identity <= scorer.identity_tolerance:
        raise IdentityError(
            f"logits under the tap differ by {identity:.2g} of the largest one, above {scorer.identity_tolerance:g}; "
            "this model can't be measured"
        )
    conservation, imbalance, tokens = 0.0, 0.0, 0
    with store.create(
        path,
        geometry=scorer.geometry,
        sample_ids=[sample.id for sample in samples],
        settings=[(f, s) for f in scorer.options.formulations for s in scorer.options.selections],
        ranks=scorer.ranks,
        attributes={**attributes, "options": scorer.options.to_dict(), "identity_error": identity},
    ) as writer:
        for start in range(0, len(samples), store.CHUNK_SAMPLES):
            chunk = scorer.score(samples[start : start + store.CHUNK_SAMPLES], partial(_add, progress, start))
            writer.write(start, _arrays(chunk))
            conservation = max(conservation, float(chunk.conservation.max()))
            imbalance = max(imbalance, float(chunk.imbalance.max()))
            tokens += int(chunk.response_tokens.sum())
    return Quality(conservation, imbalance, identity, len(samples), tokens, store.Contributions(path).bytes)


def _add(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _arrays(chunk: ChunkScores) -> dict[str, np.ndarray]:
    arrays = {
        "routing/tokens": chunk.routed_tokens,
        "routing/gate_mass": chunk.gate_mass,
        "quality/conservation": chunk.conservation,
        "quality/imbalance": chunk.imbalance,
        "samples/response_tokens": chunk.response_tokens,
    }
    for (formulation, selection), ranked in chunk.ranked.items():
        for name, values in zip(("neuron", "token", "score"), ranked, strict=True):
            arrays[f"scores/{formulation}/{selection}/{name}"] = values
    return arrays


def select_key_neurons(
    contributions: Path, responses: Path, path: Path, *, thresholds: Iterable[float], model: str, checkpoint: str
) -> None:
    """Key sets of every stored formulation and selection at every threshold, written as key_neurons.h5.

    Raises ValueError where store and responses are not of the same samples.
    """
    scores, records = store.Contributions(contributions), read_responses(responses)
    store.verify(contributions)
    ids = [record["id"] for record in records]
    if ids != scores.sample_ids:
        raise ValueError(f"{contributions} and {responses} hold other samples; delete the store and run again")
    sets = {}
    for formulation, selection in scores.settings:
        ranked = scores.ranked(formulation, selection)
        for threshold in thresholds:
            sets[key_neurons.Setting(formulation, selection, threshold)] = key_neurons.select(
                neuron=ranked.neuron, score=ranked.score, geometry=scores.geometry, threshold=threshold
            )
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
            response_tokens=scores.array("samples/response_tokens"),
        ),
        sets=sets,
        routed_tokens=key_neurons.routed_tokens(tokens=scores.array("routing/tokens"), geometry=scores.geometry),
        options=scores.attributes["options"],
    )
