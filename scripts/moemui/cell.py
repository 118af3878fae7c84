"""A measured cell (model, checkpoint, task) in a notebook: load it, and ask for the MUI of any of its samples.

    import moemui
    cell = moemui.load("results/demo/tiny-olmoe/step-1000/sorting")
    cell.mui(correct=True)

Nothing is measured here: the modules that the workflow asks are asked, with samples and setting by keyword.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui import scored
from moemui.asked import OF_SAMPLES, USUAL, known, mask_of, setting_of, share, whole
from moemui.experts import key_experts
from moemui.exports.sets import incidences
from moemui.geometry import Geometry
from moemui.key_neurons import files
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import MAIN, Setting
from moemui.mui import utilization
from moemui.mui.differences import paired_mui
from moemui.mui.rarefaction import frequency_counts, mui_at
from moemui.scores.remote import is_url
from moemui.statistics.intervals import CONFIDENCE

KEY_NEURONS = "key_neurons.h5"
STORE = re.compile(r"contributions(?:-(?P<number>\d+)-of-(?P<count>\d+))?\.zarr")
GROUPS = ("kind", "layer", "expert")
GAP = (np.nan, np.nan)
Which = Iterable[Any] | None


class Mui(NamedTuple):
    """Expected MUI of m of n samples, 0..1, and its 95 % interval over samples: the jackknife's, with Student's t.

    The interval is NaN for m above n/2, where the noise can't be told from so few samples, and note says so.
    setting: as printed, such as projection/pairs/0.001. note: what to know about interval and key sets; may be empty.
    """

    value: float
    low: float
    high: float
    m: int
    n_samples: int
    n_neurons: int
    setting: str
    note: str


@dataclass(frozen=True, repr=False)
class Cell:
    """The key neurons of one task on one checkpoint, sample by sample. Made by `load`.

    Each method takes, all optional:
    which: sample ids, or a boolean mask over the rows of `samples`. correct (True or False), domain, min_tokens,
    max_tokens: as `moemui.key_neurons.files.Samples.where`. Samples fit all that is given; given nothing, all do.
    formulation, selection, threshold, rule: what makes a neuron key. What is left out is as `load` was told, else as in
    the paper (projection, pairs, 0.001, topk) where that is stored, else the only one stored.

    Raises ValueError for samples and settings that are not there, TypeError for other keywords and for values of
    another type. Frames say in `attrs` which setting, how many samples, and what to know about them (note).
    """

    key_neurons: KeyNeurons
    told: Mapping[str, Any]

    def __repr__(self) -> str:
        about = self.key_neurons
        names = f"{about.model} {about.checkpoint} {about.task}"
        names += "".join(f", {part}" for part in (about.variant, self._shard) if part not in (MAIN, ""))
        return f"<Cell {names}: {about.samples.n} samples, {about.geometry.neurons} neurons>"

    @property
    def geometry(self) -> Geometry:
        """The model's layers, experts and neurons."""
        return self.key_neurons.geometry

    @property
    def _shard(self) -> str:
        return self.key_neurons.shard if isinstance(self.key_neurons, scored.Scored) else ""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings stored. Of a contributions.zarr at one threshold; all up to its largest can be asked for."""
        return self.key_neurons.settings

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row a sample: id, domain, correct (missing where it was not graded), response_tokens."""
        found = self.key_neurons.samples
        correct = pd.Series(found.correct == 1, dtype="boolean").mask(found.correct < 0)
        return pd.DataFrame(
            {"id": found.id, "domain": found.domain, "correct": correct, "response_tokens": found.response_tokens}
        )

    def mui(
        self, which: Which = None, *, m: int | None = None, by: str | None = None, **asked: Any
    ) -> Mui | pd.DataFrame:
        """MUI of the samples, or with m the expected MUI of m of them (exact rarefaction).

        by: "kind", "layer" or "expert" gives a frame instead, a row each, over its own neurons: n_neurons, n_key (of
        all the samples), mui, low, high. By layer and by expert there is no interval over samples, so low and high are
        NaN. Raises ValueError where no sample is left, and unless 1 ≤ m ≤ n.
        """
        if by is not None and by not in GROUPS:
            raise ValueError(f"by is {by!r}; allowed are {', '.join(GROUPS)}")
        sets, setting, about = self._asked(which, asked)
        n, neurons = _some(sets), self.geometry.neurons
        drawn, incidence = n if m is None else whole("m", m), sets.incidence(neurons)
        why = _without(n, drawn) if by in (None, "kind") else f"no interval over samples by {by}"
        note = "; ".join(filter(None, [why, about]))
        if by is None:
            value, *_ = mui_at(counts=frequency_counts(incidence=incidence, n=n), m=drawn, n_neurons=neurons)
            low, high = GAP if why else _over_samples(sets, np.ones(neurons, dtype=bool), drawn)
            return Mui(value, low, high, drawn, n, neurons, setting.label, note)
        rows = []
        for name, part in self._parts(by):
            own = incidence[part]
            value, *_ = mui_at(counts=frequency_counts(incidence=own, n=n), m=drawn, n_neurons=len(own))
            low, high = GAP if why else _over_samples(sets, part, drawn)
            rows.append((name, len(own), int((own > 0).sum()), value, low, high))
        found = pd.DataFrame(rows, columns=[by, "n_neurons", "n_key", "mui", "low", "high"])
        return _about(found, setting=setting.label, n_samples=n, m=drawn, note=note)

    def union(self, which: Which = None, **asked: Any) -> pd.DataFrame:
        """The neurons that are key in at least one of the samples: layer, expert, kind, neuron (index inside the
        expert), incidence (in how many), n_samples, share.
        """
        sets, setting, note = self._asked(which, asked)
        found = incidences(sets=sets, geometry=self.geometry)
        return _about(found, setting=setting.label, n_samples=sets.n_samples, note=note)

    def key_experts(
        self,
        which: Which = None,
        *,
        eta: float = key_experts.EXPERT_THRESHOLD,
        **asked: Any,
    ) -> pd.DataFrame:
        """The experts that are active in a share of `eta` of the samples or more, the most frequent first: expert,
        layer, kind, frequency with its 95 % interval (Wilson) low and high, expert_mui.

        Raises ValueError where no sample is left, and unless 0 < eta ≤ 1.
        """
        sets, setting, note = self._asked(which, asked)
        n, geometry, eta = _some(sets), self.geometry, share("eta", eta)
        active = key_experts.activity(sets=sets, geometry=geometry)
        often, used = key_experts.frequency(activity=active), key_experts.expert_mui(sets=sets, geometry=geometry)
        low, high = key_experts.frequency_interval(activity=active)
        found = pd.DataFrame(
            {
                "expert": geometry.expert_names,
                "layer": np.array([layer.index for layer in geometry.layers])[geometry.expert_layer],
                "kind": np.where(geometry.expert_is_shared, "shared", "routed"),
                "frequency": often,
                "low": low,
                "high": high,
                "expert_mui": used,
            }
        )
        order = np.argsort(key_experts.ranks(frequency=often, expert_mui=used))
        is_key = key_experts.key_experts(frequency=often, expert_threshold=eta)
        found = found.iloc[order[is_key[order]]].reset_index(drop=True)
        return _about(found, setting=setting.label, n_samples=n, eta=eta, note=note)

    def _parts(self, by: str) -> list[tuple[Any, Any]]:
        """The names of the model's parts, and where the neurons of each stand."""
        geometry, shared = self.geometry, self.geometry.neuron_is_shared
        if by == "kind":
            return [(name, mask) for name, mask in (("routed", ~shared), ("shared", shared)) if mask.any()]
        names: Sequence[Any] = geometry.expert_names
        offsets = geometry.expert_offsets
        if by == "layer":
            names, offsets = [layer.index for layer in geometry.layers], geometry.layer_offsets
        return [(name, slice(*ends)) for name, ends in zip(names, pairwise(offsets), strict=True)]

    def _asked(self, which: Which, asked: Mapping[str, Any]) -> tuple[KeySets, Setting, str]:
        """The key sets of the samples asked for, their setting, and what to know about them."""
        parts, file = known({**self.told, **asked}, (*OF_SAMPLES, *USUAL)), self.key_neurons
        setting = setting_of(file, {part: parts[part] for part in USUAL if part in parts})
        mask = file.samples.where(**{key: parts[key] for key in OF_SAMPLES if key in parts})
        mask &= mask_of(which, file.samples.id)
        sets = file.sets(*setting)
        notes = [utilization.incomplete(file, setting), utilization.undefined(file, setting)]
        if not mask.all():  # what is counted is not known by sample
            notes = [f"of all {len(mask)} samples together, {note}" for note in notes if note]
        if self._shard:
            notes.insert(0, f"{self._shard} alone, so not all samples of the task")
        return sets.subset(mask), setting, "; ".join(filter(None, notes))


def load(path: str | Path, **told: Any) -> Cell:
    """A cell from its folder, results/STUDY/MODEL/CHECKPOINT/TASK, its key_neurons.h5 or its contributions.zarr.

    A folder that lacks key_neurons.h5 is read from its contributions.zarr or all its shards, a store on S3 by its URL,
    s3://bucket/prefix/contributions.zarr. Domains and correctness of a store's samples stand in responses.jsonl; where
    it lies neither beside the store nor in the folder above, no sample counts as graded. told: formulation, selection,
    threshold or rule, for all methods that are not told another one.

    Raises FileNotFoundError for a path that holds neither, ValueError for missing shards and for a file that is none of
    these, TypeError for other keywords, and as `moemui.key_neurons.files.read` and `moemui.scores.store.Contributions`.
    """
    told = known(told, tuple(USUAL))
    if is_url(path):
        return Cell(scored.of_stores([path]), told)
    place = Path(path)
    if place.is_file():
        return Cell(_of_file(place), told)
    if STORE.fullmatch(place.name) and place.is_dir():
        return Cell(scored.of_stores([place]), told)
    if (place / KEY_NEURONS).is_file():
        return Cell(_of_file(place / KEY_NEURONS), told)
    found = {store: match for store in place.glob("*.zarr") if (match := STORE.fullmatch(store.name))}
    if not found:
        raise FileNotFoundError(
            f"{place} holds no {KEY_NEURONS} and no contributions.zarr; give a folder "
            "results/STUDY/MODEL/CHECKPOINT/TASK"
        )
    stores = sorted(found, key=lambda store: int(found[store]["number"] or 0))
    counts = {int(match["count"] or 1) for match in found.values()}
    if counts != {len(stores)}:
        raise ValueError(
            f"{place} holds {', '.join(store.name for store in stores)}, which are not all shards of one number; wait "
            "for the others, or delete what is left of another number"
        )
    return Cell(scored.of_stores(stores), told)


def _of_file(path: Path) -> KeyNeurons:
    try:
        return files.read(path)
    except OSError as error:
        raise ValueError(f"{path} is no whole HDF5 file ({error}); give key_neurons.h5 or make it again") from error


def _without(n: int, m: int) -> str:
    """Why m of n samples have no interval over samples; empty where they have one."""
    if n == 1:
        return "one sample, so no interval over samples"
    return (
        "" if n >= 2 * m else f"m = {m} is above half of {n} samples, so no interval over samples; ask for m={n // 2}"
    )


def _over_samples(sets: KeySets, part: np.ndarray, m: int) -> tuple[float, float]:
    """The interval over samples of MUI(m) of the neurons under a mask (neurons,), as the table `utilization` has it."""
    inside = part[sets.neurons]
    own = KeySets(np.concatenate([[0], np.cumsum(inside)])[sets.indptr], sets.neurons[inside])
    found, scale = paired_mui(cells=[own], n_neurons=[len(part)], m=m), len(part) / int(part.sum())
    value, error = scale * float(found.estimates[0]), scale * float(np.sqrt(max(0.0, found.covariance[0, 0])))
    margin = float(stats.t.ppf(0.5 + CONFIDENCE / 2, sets.n_samples - 1)) * error
    return max(value - margin, 0.0), min(value + margin, 1.0)


def _some(sets: KeySets) -> int:
    if sets.n_samples == 0:
        raise ValueError("no sample is left of those asked for, and one is needed; ask for others")
    return sets.n_samples


def _about(frame: pd.DataFrame, **what: Any) -> pd.DataFrame:
    frame.attrs.update(what)
    return frame
