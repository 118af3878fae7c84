"""Key neurons (SPEC section 3): one sparse set a sample, and the HDF5 file that holds them.

Everything after this file is set algebra. A setting is (formulation, selection, threshold, rule, variant); a sample's
key set is the union over layers, as flat neuron numbers of `Geometry`.

The file holds numbers and UTF-8 text alone, gzip the only filter, so that any language with HDF5 reads it:

    /                                 attributes schema_version, n_samples: int64; model, checkpoint, task, variant:
                                      text; geometry, options: JSON text
    samples/id, samples/domain        text   (sample,)
    samples/correct                   int8   (sample,)                1 correct, 0 not, −1 not graded
    samples/response_tokens           int32  (sample,)
    routing/tokens                    int64  (layer, routed expert)   response tokens, summed over samples
    sets/{rule}/{formulation}/{selection}/{threshold}
                                      attributes formulation, selection, rule: text; threshold: float64; incomplete:
                                      int64, cells (sample × layer) whose sets may lack neurons; undefined: int64,
                                      cells that have no key set, as top_score without a positive score; k, with rule
                                      topk: int64 (layer,), the ranked entries taken of each layer
        indptr                        int64  (sample + 1,)            where each sample's neurons begin
        neurons                       int32 or int64  (entry,)        flat numbers from 0, ascending in a sample

Sample s's key set, both counted from 0, is neurons[indptr[s]] up to but without neurons[indptr[s + 1]]. In R:

    library(rhdf5)
    group <- "sets/topk/projection/pairs/0.001/"
    indptr <- h5read("key_neurons.h5", paste0(group, "indptr"), bit64conversion = "double")
    neurons <- h5read("key_neurons.h5", paste0(group, "neurons"))
    sample <- rep(seq_along(diff(indptr)), diff(indptr))
    incidence <- table(neurons)  # q_u of every neuron that is key in some sample
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moemui.geometry import Geometry
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import MAIN, Setting

SCHEMA_VERSION = 2


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

    def where(
        self,
        *,
        correct: bool | None = None,
        domain: str | None = None,
        min_tokens: int | None = None,
        max_tokens: int | None = None,
    ) -> np.ndarray:
        """The samples that fit all that is given, as a mask for `KeySets`: bool, (samples,); all of them for nothing.

        correct: True those answered correctly, False those that are not; samples that are not graded are neither.
        domain: a domain of the task. min_tokens, max_tokens: of the response, both included.
        Raises ValueError, naming the domains, for one that no sample has, and for a range of tokens that holds none.
        """
        mask = np.ones(self.n, dtype=bool)
        if correct is not None:
            mask &= self.correct == int(correct)
        if domain is not None:
            if domain not in (found := sorted(set(self.domain))):
                raise ValueError(f"no sample is of the domain {domain!r}; domains: {', '.join(found)}")
            mask &= np.asarray(self.domain == domain, dtype=bool)
        if min_tokens is not None and max_tokens is not None and min_tokens > max_tokens:
            raise ValueError(f"no response has {min_tokens} tokens or more and {max_tokens} or fewer; widen the range")
        if min_tokens is not None:
            mask &= self.response_tokens >= min_tokens
        if max_tokens is not None:
            mask &= self.response_tokens <= max_tokens
        return mask

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
    variant: str = MAIN,
    incomplete: Mapping[Setting, int] | None = None,
    undefined: Mapping[Setting, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a task's key sets of all settings as HDF5, to be opened with `read`.

    routed_tokens: int64, (layers, most routed experts of a layer), response tokens routed to each expert.
    variant: the name of the options of SPEC section 2 that the scores were made with; options: themselves (alignment,
    head, …), plain JSON types. incomplete: sample × layer cells in which a setting's sets may lack neurons, because as
    many as are stored were taken; undefined: those in which its rule has no key set, so that it is empty. Both are 0
    where a setting is not named.
    Raises ValueError for sets of another number of samples or another variant, thresholds that print alike, or a wrong
    shape.
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
    cells = samples.n * len(geometry.layers)
    for what, counts in (("incomplete", incomplete), ("undefined", undefined)):
        for setting, count in (counts or {}).items():
            if setting not in sets or not 0 <= count <= cells:
                raise ValueError(
                    f"{Setting(*setting).label}: {count} {what} cells; there are {cells} cells in each of the settings "
                    f"{', '.join(labels)}"
                )
    for raw, key_sets in sets.items():
        setting = Setting(*raw)
        if key_sets.n_samples != samples.n:
            raise ValueError(f"{setting.label}: sets of {key_sets.n_samples} samples, but the task has {samples.n}")
        if setting.variant != variant:
            raise ValueError(f"{setting.label}: this file is of the variant {variant}; write it to another file")
        try:
            key_sets.check(geometry.neurons)
        except ValueError as error:
            raise ValueError(f"{setting.label}: {error}") from error
    with h5py.File(path, "w") as file:
        file.attrs.update(
            schema_version=SCHEMA_VERSION,
            model=model,
            checkpoint=checkpoint,
            task=task,
            variant=variant,
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
            group = file.create_group(_where(setting))
            group.attrs.update(
                formulation=setting.formulation,
                selection=setting.selection,
                threshold=float(setting.threshold),
                rule=setting.rule,
                incomplete=(incomplete or {}).get(setting, 0),
                undefined=(undefined or {}).get(setting, 0),
            )
            if setting.rule == "topk":
                group.attrs["k"] = geometry.key_count(setting.threshold)
            group.create_dataset("indptr", data=key_sets.indptr.astype(np.int64), compression="gzip")
            group.create_dataset("neurons", data=key_sets.neurons, compression="gzip")


def _where(setting: Setting) -> str:
    return f"sets/{setting.rule}/{setting.formulation}/{setting.selection}/{setting.threshold:g}"


@dataclass(frozen=True)
class KeyNeurons:
    """A key neuron file: its record, its samples, and the sets of each setting, read when asked for.

    incomplete, undefined: by setting, the sample × layer cells that `write` was told of.
    """

    path: Path
    model: str
    checkpoint: str
    task: str
    geometry: Geometry
    samples: Samples
    variant: str
    settings: tuple[Setting, ...]
    incomplete: dict[Setting, int]
    routed_tokens: np.ndarray
    options: dict[str, Any]
    undefined: dict[Setting, int] = field(default_factory=dict)

    def sets(self, *setting: Any) -> KeySets:
        """The key sets of one setting, given part by part as to `Setting`.

        Raises KeyError, naming the stored settings, for one that is not stored.
        """
        wanted = Setting(*setting)
        with h5py.File(self.path, "r") as file:
            if wanted.variant != self.variant or _where(wanted) not in file:
                stored = ", ".join(stored.label for stored in self.settings)
                raise KeyError(f"{self.path} has no key sets for {wanted.label}; stored: {stored}")
            group = file[_where(wanted)]
            return KeySets(group["indptr"][()], group["neurons"][()])

    def among(self, settings: Iterable[Setting] | None) -> list[Setting]:
        """Those of some settings that are of this file's variant, in their order; all stored ones for None."""
        if settings is None:
            return list(self.settings)
        return [setting for setting in settings if setting.variant == self.variant]


def read(path: str | Path) -> KeyNeurons:
    """Open a key neuron file. Raises ValueError for a file of another schema version, naming it."""
    with h5py.File(path, "r") as file:
        version = file.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {version}, but this code reads {SCHEMA_VERSION}; "
                "delete the file so that its stage runs again"
            )
        incomplete: dict[Setting, int] = {}
        undefined: dict[Setting, int] = {}

        def collect(_: str, item: h5py.Group | h5py.Dataset) -> None:
            if "threshold" in item.attrs:
                about = item.attrs
                setting = Setting(
                    about["formulation"],
                    about["selection"],
                    float(about["threshold"]),
                    about["rule"],
                    file.attrs["variant"],
                )
                incomplete[setting] = int(about["incomplete"])
                undefined[setting] = int(about.get("undefined", 0))  # files of before the count was kept lack it

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
            variant=file.attrs["variant"],
            settings=tuple(sorted(incomplete)),
            incomplete=incomplete,
            undefined=undefined,
            routed_tokens=file["routing/tokens"][()],
            options=json.loads(file.attrs["options"]),
        )
