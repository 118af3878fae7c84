"""What is measured of a set of samples, at three levels: its key neurons, its experts, its text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from moemui.diversity import lexical
from moemui.diversity.domain_sets import set_sums, union_sizes
from moemui.experts import key_experts as experts
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui.utilization import incomplete


class Measure(NamedTuple):
    """A measure of sets of samples.

    direction: 1 where mixing domains raises it by its nature: a neuron is missed by all n samples with the product of
    their chances to miss it, and by mixed samples with the geometric mean of the domains' products, which is at most
    their mean; the same goes for experts and words. −1 where mixing lowers it, 0 where nothing says.
    of: values of sets given as sample numbers, int64 (sets, n), in random order: float64, (sets,); None where the
    measure can't be had, and `note` says why.
    """

    level: str
    name: str
    setting: str
    direction: int
    of: Callable[[np.ndarray], np.ndarray] | None
    note: str = ""


def measures(
    *,
    key_neurons: Sequence[KeyNeurons],
    texts: Sequence[str],
    n: int,
    curve_setting: Setting,
    expert_setting: Setting,
    expert_threshold: float,
) -> list[Measure]:
    """The measures of sets of n of the samples, which are those of all files in their order; the neuron level first.

    texts: of the same samples.
    """
    geometry = key_neurons[0].geometry
    found = []
    for setting in dict.fromkeys([curve_setting, expert_setting]):
        sets = [file.sets(*setting) for file in key_neurons]
        notes = [f"{file.task}: {note}" for file in key_neurons if (note := incomplete(file, setting))]
        found.append(Measure("neuron", "mui", setting.label, 1, _mui(sets, geometry.neurons), "; ".join(notes)))
    active = sparse.csr_array(
        np.concatenate([experts.activity(sets=part, geometry=geometry) for part in sets]).astype(np.int64)
    )

    def proportion(drawn: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                experts.key_experts(frequency=sums.toarray() / drawn.shape[1], expert_threshold=expert_threshold).mean(
                    axis=1
                )
                for sums in set_sums(matrix=active, sets=drawn)
            ]
        )

    def active_experts(drawn: np.ndarray) -> np.ndarray:
        return union_sizes(incidence=active, sets=drawn).astype(float)

    label = expert_setting.label
    found += [
        Measure("expert", "key_expert_proportion", label, 0, proportion, found[-1].note),
        Measure("expert", "active_experts", label, 1, active_experts, found[-1].note),
    ]
    return found + [_distinct(texts, size, n) for size in (1, 2)] + [_compression(texts, n)]


def _mui(sets: Sequence[KeySets], n_neurons: int) -> Callable[[np.ndarray], np.ndarray]:
    """MUI of sets of samples: |∪ K(s)| / n_neurons. Only neurons that are key somewhere have a column."""
    neurons = np.concatenate([part.neurons for part in sets])
    sizes = np.concatenate([np.diff(part.indptr) for part in sets])
    used, columns = np.unique(neurons, return_inverse=True)
    incidence = sparse.csr_array(
        (np.ones(len(neurons), dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        shape=(len(sizes), len(used)),
    )
    return lambda drawn: union_sizes(incidence=incidence, sets=drawn) / n_neurons


def _shortest(lengths: np.ndarray, n: int) -> int:
    """The length that any set of n samples has at least."""
    return int(np.sort(lengths)[:n].sum())


def _distinct(texts: Sequence[str], size: int, n: int) -> Measure:
    counts = lexical.ngram_counts(texts=texts, n=size)
    at = _shortest(np.asarray(counts.sum(axis=1)), n)
    if at == 0:
        return Measure("lexical", f"distinct_{size}", "", 1, None, f"a set of {n} may hold no {size}-gram")

    def of(drawn: np.ndarray) -> np.ndarray:
        return np.array(
            [
                lexical.distinct_share(counts=sums.data[a:b], at=at)
                for sums in set_sums(matrix=counts, sets=drawn)
                for a, b in itertools.pairwise(sums.indptr)
            ]
        )

    return Measure("lexical", f"distinct_{size}", "", 1, of, f"expected among {at} {size}-grams of a set")


def _compression(texts: Sequence[str], n: int) -> Measure:
    shortest = _shortest(np.array([len(text.encode()) if text.strip() else 0 for text in texts]), n)
    if shortest == 0:
        return Measure("lexical", "compression_ratio", "", -1, None, f"a set of {n} may hold no text")
    at = shortest + n - 1

    def of(drawn: np.ndarray) -> np.ndarray:
        return np.array([lexical.compression_ratio(texts=[texts[i] for i in one], at=at) for one in drawn])

    return Measure("lexical", "compression_ratio", "", -1, of, f"of the first {at} bytes of a set")
