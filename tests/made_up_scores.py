"""Scores of samples without a model: they depend on a sample's id alone, whatever is scored with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

from moemui.geometry import Geometry, Layer
from moemui.scores.contributions import Options

# Layer 0: 2 routed experts of 4 neurons; layer 2: 1 routed of 4 and 1 shared of 6.
GEOMETRY = Geometry((Layer(0, 2, 0, 4, 0, 1), Layer(2, 1, 1, 4, 6, 1)))
ALL = ("pairs", "neurons", "per_token")


def records(names: Sequence[str]) -> list[dict]:
    """Records of responses.jsonl whose responses have the tokens that are scored."""
    return [
        {
            "id": name,
            "task": "t",
            "domain": "d",
            "correct": True,
            "response": "",
            "prompt_ids": [5],
            "response_ids": ids,
        }
        for name in names
        for ids in [[7] * tokens_of(name)]
    ]


def tokens_of(name: str) -> int:
    """Response tokens of a sample: 0 to 4."""
    return hashlib.sha256(name.encode()).digest()[0] % 5


def token_scores(name: str, geometry: Geometry = GEOMETRY) -> list[np.ndarray]:
    """The score of every token and neuron, (tokens, neurons) a layer: few different ones, so that there are ties."""
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[1:5], "big"))
    return [generator.integers(0, 4, (tokens_of(name), layer.neurons)) for layer in geometry.layers]


def best_ranks(scores: np.ndarray, ranks: int) -> list[tuple[int, int]]:
    """(best rank, neuron) of the neurons that are among the `ranks` highest of any token, sorted: a plain loop."""
    best: dict[int, int] = {}
    for row in scores:
        for rank, neuron in enumerate(sorted(range(len(row)), key=lambda j: (-row[j], j))[:ranks]):
            best[neuron] = min(rank, best.get(neuron, rank))
    return sorted((rank, neuron) for neuron, rank in best.items())


class Scorer:
    """Stands in for `moemui.scores.contributions.Scorer`. log: told the ids of every chunk that is asked for."""

    def __init__(
        self,
        *,
        formulations: Sequence[str] = ("glu",),
        selections: Sequence[str] = ALL,
        threshold: float = 0.3,
        geometry: Geometry = GEOMETRY,
        log: Callable[[list[str]], None] = lambda names: None,
    ):
        self.options = Options(tuple(formulations), tuple(selections), threshold)
        self.geometry, self.ranks, self.identity_tolerance = geometry, self.options.ranks(geometry), 1e-6
        self.log = log

    def scored_tokens(self, sample) -> list[int]:
        return list(sample.response)

    def identity_error(self, sample) -> float:
        return 0.0

    def score(self, samples, progress=lambda done: None) -> SimpleNamespace:
        names = [sample.id for sample in samples]
        self.log(names)
        for done in range(1, len(names) + 1):
            progress(done)
        return self.chunk(names)

    def chunk(self, names: Sequence[str]) -> SimpleNamespace:
        """As `moemui.scores.contributions.ChunkScores`."""
        layers, samples = len(self.geometry.layers), len(names)
        experts = max(layer.experts for layer in self.geometry.layers)
        shape = (samples, layers, self.ranks)
        neuron, token = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
        score = np.zeros(shape, dtype=np.float32)
        entries: list[tuple[int, int]] = []
        count = np.zeros(shape[:2], dtype=np.int32)
        for s, name in enumerate(names):
            for layer, scores in enumerate(token_scores(name, self.geometry)):
                found = best_ranks(scores, self.ranks)
                entries += found
                count[s, layer] = len(found)
                order = np.argsort(-scores.ravel(), kind="stable")[: self.ranks]
                token[s, layer, : len(order)], neuron[s, layer, : len(order)] = np.divmod(order, scores.shape[1])
                score[s, layer, : len(order)] = scores.ravel()[order]
        rank_of, neuron_of = (np.array([entry[i] for entry in entries], dtype=np.int32) for i in (0, 1))
        tokens = np.array([tokens_of(name) for name in names], dtype=np.int32)
        ranked = [(f, s) for f in self.options.formulations for s in self.options.selections if s != "per_token"]
        asked = self.options.formulations if "per_token" in self.options.selections else ()
        return SimpleNamespace(
            ranked=dict.fromkeys(ranked, (neuron, token, score)),
            per_token=dict.fromkeys(asked, (neuron_of, rank_of, count)),
            response_tokens=tokens,
            routed_tokens=np.broadcast_to(tokens[:, None, None], (samples, layers, experts)),
            gate_mass=np.broadcast_to(tokens[:, None, None] / np.float32(2), (samples, layers, experts)),
            conservation=np.full((samples, layers), 1e-7, dtype=np.float32),
            imbalance=np.full((samples, layers), 1e-6, dtype=np.float32),
        )
