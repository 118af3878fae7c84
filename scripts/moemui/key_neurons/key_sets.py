"""Key sets: the key neurons of every sample, as sparse sets, and the algebra on them.

A set of samples is a boolean mask, as `moemui.key_neurons.files.Samples.where` gives it, so that any question about
other samples (the correct ones, one domain, long responses) costs no forward pass. Several tasks are one KeySets once
`joined`, with their masks concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

ENTRIES_AT_ONCE = 2**22  # bounds the memory of counting, which numpy does on a copy in int64: 32 MB


@dataclass(frozen=True)
class KeySets:
    """Key sets of many samples: sample s's is neurons[indptr[s]:indptr[s + 1]], ascending, each neuron once.

    indptr: int64, (samples + 1,). neurons: int32 or int64 flat neuron numbers.
    Wherever a method takes masks, they are bool, (samples,); ValueError refuses any other array.
    """

    indptr: np.ndarray
    neurons: np.ndarray

    @property
    def n_samples(self) -> int:
        """Samples, those with an empty key set included."""
        return len(self.indptr) - 1

    @cached_property
    def sample_of(self) -> np.ndarray:
        """The sample of every entry of `neurons`: int64, its shape."""
        return np.repeat(np.arange(self.n_samples), np.diff(self.indptr))

    def check(self, n_neurons: int) -> None:
        """Raises ValueError, naming the sample, for sets that are not ascending, repeat a neuron or leave 0..n_neurons.

        Also for an indptr that does not rise from 0 to the number of entries.
        """
        indptr, neurons = self.indptr, self.neurons
        if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(neurons) or (np.diff(indptr) < 0).any():
            raise ValueError(
                f"indptr is {indptr[:3].tolist()} … {indptr[-1:].tolist()}; it must rise from 0 to the {len(neurons)} "
                "entries of neurons"
            )
        if neurons.dtype.kind != "i":
            raise ValueError(f"neurons are {neurons.dtype}; they must be whole numbers, int32 or int64")
        wrong = np.zeros(len(neurons), dtype=bool)
        wrong[1:] = neurons[1:] <= neurons[:-1]
        wrong[indptr[:-1][np.diff(indptr) > 0]] = False  # the first of its sample follows nothing
        wrong |= (neurons < 0) | (neurons >= n_neurons)
        if wrong.any():
            entry = int(wrong.argmax())
            sample = int(np.searchsorted(indptr, entry, side="right")) - 1
            raise ValueError(
                f"the key set of sample {sample} holds neuron {neurons[entry]} at place {entry - indptr[sample]}; a "
                f"set must be ascending, each neuron once, inside the model's {n_neurons}"
            )

    def subset(self, samples: np.ndarray) -> KeySets:
        """The sets of the samples where the mask is true, in their order."""
        mask = self._mask(samples)
        sizes = np.diff(self.indptr)[mask]
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return KeySets(indptr, self.neurons[np.repeat(mask, np.diff(self.indptr))])

    def incidence(self, n_neurons: int, samples: np.ndarray | None = None) -> np.ndarray:
        """q_u, the number of (masked) samples in which each neuron is key: int64, (n_neurons,), 0..samples."""
        neurons = (self if samples is None else self.subset(samples)).neurons
        if len(neurons) and int(neurons.max()) >= n_neurons:
            raise ValueError(
                f"key neuron {int(neurons.max())} is outside the model's {n_neurons} neurons; "
                "the key sets belong to another geometry"
            )
        counts = np.zeros(n_neurons, dtype=np.int64)
        for start in range(0, len(neurons), ENTRIES_AT_ONCE):
            counts += np.bincount(neurons[start : start + ENTRIES_AT_ONCE], minlength=n_neurons)
        return counts

    def union(self, samples: np.ndarray | None = None) -> np.ndarray:
        """Neurons that are key in at least one (masked) sample, ascending; none without samples."""
        return self._numbers(self._counts(samples) > 0)

    def intersection(self, samples: np.ndarray | None = None, *, share: float = 1.0) -> np.ndarray:
        """Neurons that are key in at least a share of the (masked) samples, q_u / n ≥ share, ascending.

        share: above 0 and at most 1, which asks for all of them; samples with an empty key set count.
        Raises ValueError for another share and without samples, of which every neuron would be in all.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it is a share of the samples, above 0 and at most 1")
        n = self.n_samples if samples is None else int(self._mask(samples).sum())
        if n == 0:
            raise ValueError("there are no samples to intersect; choose at least one")
        return self._numbers(self._counts(samples) / n >= share)

    def difference(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Neurons that are key in some sample of mask `one` and in none of `other`, ascending."""
        return self._numbers((self._counts(one) > 0) & (self._counts(other) == 0))

    def symmetric_difference(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Neurons that are key in some sample of one mask and in none of the other one, ascending."""
        return self._numbers((self._counts(one) > 0) != (self._counts(other) > 0))

    def jaccard(self, one: np.ndarray, other: np.ndarray) -> float:
        """|A ∩ B| / |A ∪ B| of the unions A and B of two masks, 0..1; grows with the samples of both, as unions do.

        Raises ValueError where neither has a key neuron.
        """
        a, b = self._counts(one) > 0, self._counts(other) > 0
        if not (a | b).any():
            raise ValueError("no sample of either mask has a key neuron, so their overlap is not defined")
        return int((a & b).sum()) / int((a | b).sum())

    def _counts(self, samples: np.ndarray | None) -> np.ndarray:
        """`incidence` of the neurons up to the highest that is key in any sample, masked or not."""
        return self.incidence(int(self.neurons.max()) + 1 if len(self.neurons) else 0, samples)

    def _numbers(self, chosen: np.ndarray) -> np.ndarray:
        return np.flatnonzero(chosen).astype(self.neurons.dtype)

    def _mask(self, samples: np.ndarray) -> np.ndarray:
        mask = np.asarray(samples)
        if mask.dtype != bool or mask.shape != (self.n_samples,):
            raise ValueError(
                f"samples is {mask.dtype} of shape {mask.shape}; it must be a boolean mask of shape ({self.n_samples},)"
            )
        return mask


def joined(parts: Sequence[KeySets]) -> KeySets:
    """The key sets of parts of a task, or of several tasks on one model, in order, as one; no parts are no samples."""
    sizes = [np.diff(part.indptr) for part in parts]
    indptr = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *sizes]))
    return KeySets(indptr, np.concatenate([np.empty(0, dtype=np.int32), *(part.neurons for part in parts)]))
