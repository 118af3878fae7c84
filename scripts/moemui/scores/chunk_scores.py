"""What is measured on some samples: the arrays between a forward pass and the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Ranked = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class ChunkScores:
    """Everything measured on a chunk of samples, in their order; arrays as `moemui.scores.store` names them.

    ranked: by (formulation, selection), for the selections of a fixed number of entries: neuron (index inside the
        layer) and token, int32, and score, float32, each (samples, layers, ranks); −1, −1 and 0 past the end.
    per_token: by formulation, where asked for: neuron and best rank over tokens (from 0), int32 (entries,), by sample,
        layer, rank and neuron; and the number of entries, int32 (samples, layers).
    response_tokens: int32 (samples,). routed_tokens: int32 and gate_mass: float32, (samples, layers, most experts a
        layer). conservation, imbalance: float32 (samples, layers), the largest over tokens (see
        `moemui.scores.scoring`).
    """

    ranked: dict[tuple[str, str], Ranked]
    per_token: dict[str, Ranked]
    response_tokens: np.ndarray
    routed_tokens: np.ndarray
    gate_mass: np.ndarray
    conservation: np.ndarray
    imbalance: np.ndarray

    @classmethod
    def empty(
        cls,
        *,
        response_tokens: Sequence[int],
        layers: int,
        experts: int,
        ranks: int,
        settings: Iterable[tuple[str, str]],
    ) -> ChunkScores:
        """Nothing measured yet. response_tokens: of each sample; settings: (formulation, selection) pairs."""
        samples = len(response_tokens)
        ranked: dict[tuple[str, str], Ranked] = {}
        per_token: dict[str, Ranked] = {}
        for formulation, selection in settings:
            if selection == "per_token":
                none = np.empty(0, dtype=np.int32)
                per_token[formulation] = none, none, np.zeros((samples, layers), dtype=np.int32)
            else:
                shape = (samples, layers, ranks)
                ranked[formulation, selection] = (
                    np.full(shape, -1, dtype=np.int32),
                    np.full(shape, -1, dtype=np.int32),
                    np.zeros(shape, dtype=np.float32),
                )
        return cls(
            ranked=ranked,
            per_token=per_token,
            response_tokens=np.array(response_tokens, dtype=np.int32),
            routed_tokens=np.zeros((samples, layers, experts), dtype=np.int32),
            gate_mass=np.zeros((samples, layers, experts), dtype=np.float32),
            conservation=np.zeros((samples, layers), dtype=np.float32),
            imbalance=np.zeros((samples, layers), dtype=np.float32),
        )

    def put(self, samples: Sequence[int], part: ChunkScores) -> None:
        """Fill in what was measured on some of the samples, given by their numbers; each is filled in once."""
        index = list(samples)
        for setting, arrays in part.ranked.items():
            for whole, values in zip(self.ranked[setting], arrays, strict=True):
                whole[index] = values
        for name in ("routed_tokens", "gate_mass", "conservation", "imbalance"):
            getattr(self, name)[index] = getattr(part, name)
        for formulation, (neuron, rank, count) in part.per_token.items():
            before = self.per_token[formulation]
            layers = count.shape[1]
            owners = np.concatenate([_owners(range(len(before[2])), before[2]), _owners(index, count)])
            order = np.argsort(owners, kind="stable")  # within a sample, entries have their order already
            total = before[2].copy()
            total[index] = count
            self.per_token[formulation] = (
                np.concatenate([before[0], neuron])[order],
                np.concatenate([before[1], rank])[order],
                total.reshape(-1, layers),
            )


def _owners(samples: Sequence[int], count: np.ndarray) -> np.ndarray:
    """The sample of every entry. count: (samples, layers)."""
    return np.repeat(np.asarray(samples, dtype=np.int64), count.sum(1))
