"""Key neurons and expert sets as tidy tables, which any tool that reads Parquet can use without this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moemui.experts.key_experts import key_experts
from moemui.geometry import Geometry
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.tables.columns import SETTING_KEY
from moemui.tables.exports import EXPERT_SETS, NEURONS

ENTRIES_AT_ONCE = 2**20  # of key neurons, whose rows take about 100 bytes each in memory


def places(*, neurons: np.ndarray, geometry: Geometry) -> pd.DataFrame:
    """Where neurons lie: columns layer, expert, kind, neuron (inside the expert), a row for each flat number."""
    expert = geometry.expert_of(neurons)
    layers = np.array([layer.index for layer in geometry.layers], dtype=np.int64)
    return pd.DataFrame(
        {
            "layer": layers[geometry.expert_layer[expert]],
            "expert": np.array(geometry.expert_names, dtype=object)[expert],
            "kind": np.where(geometry.expert_is_shared[expert], "shared", "routed"),
            "neuron": neurons - geometry.expert_offsets[expert],
        }
    )


def incidences(*, sets: KeySets, geometry: Geometry) -> pd.DataFrame:
    """The neurons that are key in some sample, with their place, incidence q_u and its share of the samples.

    Columns of `places`, then incidence, n_samples, share; in the order of flat numbers. No rows without key neurons.
    """
    often = sets.incidence(geometry.neurons)
    used = np.flatnonzero(often)
    found = places(neurons=used, geometry=geometry)
    return found.assign(incidence=often[used], n_samples=sets.n_samples, share=often[used] / max(sets.n_samples, 1))


def key_neuron_rows(*, key_neurons: KeyNeurons, settings: Sequence[Setting]) -> Iterator[pd.DataFrame]:
    """The rows of one task in the table `key_neurons`, some at a time, by setting, sample and flat number."""
    for setting in settings:
        sets = key_neurons.sets(*setting)
        for start in range(0, len(sets.neurons), ENTRIES_AT_ONCE):
            neurons = sets.neurons[start : start + ENTRIES_AT_ONCE]
            sample = np.searchsorted(sets.indptr, np.arange(start, start + len(neurons)), side="right") - 1
            found = places(neurons=neurons, geometry=key_neurons.geometry)
            yield found.assign(**_identity(key_neurons, setting), sample=key_neurons.samples.id[sample])


def neuron_rows(*, key_neurons: KeyNeurons, settings: Sequence[Setting]) -> pd.DataFrame:
    """The rows of one task in the table `neurons`, by setting and flat number."""
    parts = [
        incidences(sets=key_neurons.sets(*setting), geometry=key_neurons.geometry).assign(
            **_identity(key_neurons, setting)
        )
        for setting in settings
    ]
    return pd.concat(parts, ignore_index=True) if parts else NEURONS.frame([])


def expert_set_rows(
    *, frequencies: pd.DataFrame, settings: Sequence[Setting], expert_thresholds: Sequence[float]
) -> pd.DataFrame:
    """The table `expert_sets` from a table `expert_frequency`: its experts at some settings, at each η_expert.

    Raises ValueError, naming it, for a setting that the table does not hold, and as `key_experts`.
    """
    parts = []
    for setting in settings:
        own = frequencies[(frequencies[list(SETTING_KEY)] == list(setting)).all(axis=1)]
        if own.empty:
            raise ValueError(f"expert_frequency has no rows for {setting.label}; make it again at this setting")
        often = own["frequency"].to_numpy()
        for value in expert_thresholds:
            is_key = key_experts(frequency=often, expert_threshold=value)
            parts.append(own.assign(expert_threshold=value, is_key=is_key)[EXPERT_SETS.names])
    return pd.concat(parts, ignore_index=True) if parts else EXPERT_SETS.frame([])


def _identity(key_neurons: KeyNeurons, setting: Setting) -> dict[str, Any]:
    return {
        "model": key_neurons.model,
        "checkpoint": key_neurons.checkpoint,
        "task": key_neurons.task,
        **setting._asdict(),
    }
