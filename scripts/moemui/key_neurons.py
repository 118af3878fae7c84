"""Key neurons (SPEC section 3): one sparse set a sample, and the HDF5 file that holds them.

Everything after this file is set algebra. A setting is (formulation, selection, threshold); a sample's key set is the
union over layers, as flat neuron numbers of `Geometry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from moemui.geometry import Geometry

SCHEMA_VERSION = 1


class Setting(NamedTuple):
    """What makes a neuron key: formulation, selection and threshold η."""

    formulation: str
    selection: str
    threshold: float

    @property
    def label(self) -> str:
        """As printed and as stored: projection/pairs/0.001."""
        return f"{self.formulation}/{self.selection}/{self.threshold:g}"


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


def routed_tokens(*, tokens: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Response tokens routed to each routed expert, summed over samples: int64, (layers, most routed of a layer).

    tokens: (samples, layers, experts) as the contributions store holds them, shared experts after the routed ones;
    shared columns are left out, layers with fewer routed experts are padded with 0.
    """
    most = max((layer.routed for layer in geometry.layers), default=0)
    routed = np.array([layer.routed for layer in geometry.layers])
    total = tokens.sum(axis=0, dtype=np.int64)[:, :most]
    return np.where(np.arange(most) < routed[:, None], total, 0)


@dataclass(frozen=True)
class Samples:
    """The samples of a task, in order.

    id, domain: (samples,) of str. correct: int8, 1 correct, 0 not, −1 not graded. response_tokens: int32.
    """

    id: np.ndarray
    domain: np.ndarray
    correct: np.ndarray
    response_tokens: np.ndarray

    def __post_init__(self) -> None:
        shapes = {len(self.id), len(self.domain), len(self.correct), len(self.response_tokens)}
        if len(shapes) > 1:
            raise ValueError(
                f"id, domain, correct and response_tokens have lengths {sorted(shapes)}; all must be equal"
            )
        if len(set(self.id)) < len(self.id):
            raise ValueError("sample ids repeat; each must be unique in its task")
        if strange := set(np.unique(self.correct).tolist()) - {-1, 0, 1}:
            raise ValueError(f"correct holds {sorted(strange)}; allowed: 1 correct, 0 not correct, -1 not graded")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.id)

    @property
    def task_domain(self) -> str:
        """The domain of all samples, `mixed` where they have several, empty without samples."""
        found = sorted(set(self.domain))
        return found[0] if len(found) == 1 else "mixed" if found else ""


def write(
    path: str | Path,
    *,
    model: str,
    checkpoint: str,
    task: str,
    geometry: Geometry,
    samples: Samples,
    sets: Mapping[Setting, KeySets],
    routed_tokens: np.ndarray,
    rule: str = "topk",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a task's key sets of all settings as HDF5, to be opened with `read`.

    routed_tokens: int64, (layers, most routed experts of a layer), response tokens routed to each expert.
    options: the options of SPEC section 2 that the scores were made with (alignment, head, …), plain JSON types.
    Raises ValueError for sets of another number of samples, thresholds that print alike, or a wrong shape.
    """
    labels = [Setting(*setting).label for setting in sets]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two settings print alike: {', '.join(labels)}; thresholds must differ in six digits")
    routed = max((layer.routed for layer in geometry.layers), default=0)
    if routed_tokens.shape != (len(geometry.layers), routed):
        raise ValueError(
            f"routed_tokens has shape {routed_tokens.shape}; "
            f"it must be ({len(geometry.layers)} layers, {routed} experts)"
        )
    with h5py.File(path, "w") as file:
        file.attrs.update(
            schema_version=SCHEMA_VERSION,
            model=model,
            checkpoint=checkpoint,
            task=task,
            geometry=json.dumps(geometry.to_dict()),
            n_samples=samples.n,
            options=json.dumps(dict(options or {}), sort_keys=True),
        )
        text = h5py.string_dtype("utf-8")
        file.create_dataset("samples/id", data=np.asarray(samples.id, dtype=object), dtype=text)
        file.create_dataset("samples/domain", data=np.asarray(samples.domain, dtype=object), dtype=text)
        file.create_dataset("samples/correct", data=np.asarray(samples.correct, dtype=np.int8))
        file.create_dataset("samples/response_tokens", data=np.asarray(samples.response_tokens, dtype=np.int32))
        file.create_dataset("routing/tokens", data=np.asarray(routed_tokens, dtype=np.int64))
        for raw, key_sets in sets.items():
            setting = Setting(*raw)
            if key_sets.n_samples != samples.n:
                raise ValueError(f"{setting.label}: sets of {key_sets.n_samples} samples, but the task has {samples.n}")
            group = file.create_group(f"sets/{setting.label}")
            group.attrs.update(
                formulation=setting.formulation,
                selection=setting.selection,
                threshold=float(setting.threshold),
                rule=rule,
                k=geometry.key_count(setting.threshold),
            )
            group.create_dataset("indptr", data=key_sets.indptr.astype(np.int64), compression="gzip")
            group.create_dataset("neurons", data=key_sets.neurons, compression="gzip")


@dataclass(frozen=True)
class KeyNeurons:
    """A key neuron file: its record, its samples, and the sets of each setting, read when asked for."""

    path: Path
    model: str
    checkpoint: str
    task: str
    geometry: Geometry
    samples: Samples
    settings: tuple[Setting, ...]
    routed_tokens: np.ndarray
    options: dict[str, Any]

    def sets(self, formulation: str, selection: str, threshold: float) -> KeySets:
        """The key sets of one setting. Raises KeyError, naming the stored settings, for one that is not stored."""
        label = Setting(formulation, selection, threshold).label
        stored = [setting.label for setting in self.settings]
        if label not in stored:
            raise KeyError(f"{self.path} has no key sets for {label}; stored: {', '.join(stored)}")
        with h5py.File(self.path, "r") as file:
            group = file[f"sets/{label}"]
            return KeySets(group["indptr"][()], group["neurons"][()])


def read(path: str | Path) -> KeyNeurons:
    """Open a key neuron file. Raises ValueError for a file of another schema version, naming it."""
    with h5py.File(path, "r") as file:
        version = file.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {version}, but this code reads {SCHEMA_VERSION}; "
                "delete the file so that its stage runs again"
            )
        found: list[Setting] = []

        def collect(_: str, item: h5py.Group | h5py.Dataset) -> None:
            if "threshold" in item.attrs:
                found.append(
                    Setting(item.attrs["formulation"], item.attrs["selection"], float(item.attrs["threshold"]))
                )

        file["sets"].visititems(collect) if "sets" in file else None
        return KeyNeurons(
            path=Path(path),
            model=file.attrs["model"],
            checkpoint=file.attrs["checkpoint"],
            task=file.attrs["task"],
            geometry=Geometry.from_dict(json.loads(file.attrs["geometry"])),
            samples=Samples(
                id=file["samples/id"].asstr()[()],
                domain=file["samples/domain"].asstr()[()],
                correct=file["samples/correct"][()],
                response_tokens=file["samples/response_tokens"][()],
            ),
            settings=tuple(sorted(found)),
            routed_tokens=file["routing/tokens"][()],
            options=json.loads(file.attrs["options"]),
        )
