"""Key sets: the key neurons of every sample, as sparse sets, and the algebra on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class KeySets:
    """Key sets of many samples: sample s's is neurons[indptr[s]:indptr[s + 1]], ascending, each neuron once.

    indptr: int64, (samples + 1,). neurons: int32 or int64 flat neuron numbers.
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

    def subset(self, samples: np.ndarray) -> KeySets:
        """The sets of the samples where the boolean mask (samples,) is true, in their order."""
        mask = self._mask(samples)
        sizes = np.diff(self.indptr)[mask]
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return KeySets(indptr, self.neurons[np.repeat(mask, np.diff(self.indptr))])

    def incidence(self, n_neurons: int, samples: np.ndarray | None = None) -> np.ndarray:
        """q_u, the number of (masked) samples in which each neuron is key: int64, (n_neurons,), 0..samples."""
        chosen = self if samples is None else self.subset(samples)
        if len(chosen.neurons) and int(chosen.neurons.max()) >= n_neurons:
            raise ValueError(
                f"key neuron {int(chosen.neurons.max())} is outside the model's {n_neurons} neurons; "
                "the key sets belong to another geometry"
            )
        return np.bincount(chosen.neurons, minlength=n_neurons)

    def union(self, samples: np.ndarray | None = None) -> np.ndarray:
        """Neurons that are key in at least one (masked) sample, ascending."""
        return np.unique((self if samples is None else self.subset(samples)).neurons)

    def _mask(self, samples: np.ndarray) -> np.ndarray:
        mask = np.asarray(samples)
        if mask.dtype != bool or mask.shape != (self.n_samples,):
            raise ValueError(
                f"samples is {mask.dtype} of shape {mask.shape}; it must be a boolean mask of shape ({self.n_samples},)"
            )
        return mask
