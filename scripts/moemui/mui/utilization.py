"""MUI of a task: total, routed, shared, by layer and by expert, at its own and at a common number of samples (SPEC 4).

The statistics stand in `rarefaction`; here they meet the model's geometry and become rows of tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui.geometry import Geometry
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui.differences import paired_mui
from moemui.mui.rarefaction import (
    absent,
    chao2,
    frequency_counts,
    mui_at,
    saturation_curve,
    unseen,
)
from moemui.statistics.intervals import CONFIDENCE, Z
from moemui.tables.table import conform
from moemui.tables.utilization import SATURATION, UTILIZATION

ONE_SAMPLE = "one sample: no interval and no asymptote"
# Fewer samples than this don't lower the common m: one task with one correct answer would leave no other comparable.
LEAST = 10


def mui(*, n_key: int, n_neurons: int) -> float:
    """MUI = |∪ K(s)| / Σ M_l, in 0..1. Raises ValueError for no neurons or more key neurons than neurons."""
    if not 0 <= n_key <= n_neurons or n_neurons == 0:
        raise ValueError(f"{n_key} key neurons of {n_neurons}; there must be a neuron, and no more key ones")
    return n_key / n_neurons


class ExpertMui(NamedTuple):
    """Expected MUI of every expert at m samples, its standard error and 95 % interval: float64, (experts,), 0..1."""

    estimate: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray


def expert_mui_at(*, sets: KeySets, geometry: Geometry, m: int) -> ExpertMui:
    """`mui_at` of every expert over its own neurons, all in one pass: MUI_e(m) = Σ_{u∈e} (1 − α_{q_u}) / width of e.

    At m = n it is expert MUI itself (SPEC section 5). An expert that no sample uses has 0, 0, 0, 0: no neuron of it is
    known to be ever key. Standard error and interval are NaN with a single sample.
    Raises ValueError unless 1 ≤ m ≤ n, and as `KeySets.incidence` for sets of another geometry.
    """
    n, widths = sets.n_samples, np.diff(geometry.expert_offsets)
    incidence = sets.incidence(geometry.neurons)
    used = np.flatnonzero(incidence)  # few of a model's neurons, so nothing below is of the model's size
    often, expert = incidence[used], geometry.expert_of(used)
    present = (1.0 - absent(n=n, m=m))[often]

    def per_expert(values: np.ndarray) -> np.ndarray:
        # without a key neuron bincount gives integers, whatever the weights
        return np.bincount(expert, weights=values, minlength=geometry.experts).astype(float)

    expected, squares = per_expert(present), per_expert(present**2)
    estimate = expected / widths
    if n < 2:
        gap = np.full(geometry.experts, np.nan)
        return ExpertMui(estimate, gap, gap, gap)
    added = unseen(q1=per_expert(often == 1), q2=per_expert(often == 2), n=n)
    asymptote = np.minimum(np.bincount(expert, minlength=geometry.experts) + added, widths)
    variance = squares - np.divide(expected**2, asymptote, out=np.zeros_like(expected), where=asymptote > 0)
    error = np.sqrt(np.maximum(variance, 0.0)) / widths
    return ExpertMui(estimate, error, np.maximum(estimate - Z * error, 0.0), np.minimum(estimate + Z * error, 1.0))


def saturation_points(n: int, points: int = 25) -> list[int]:
    """Numbers of samples at which a curve is drawn: 1 to n, at most about `points`, spaced by equal ratios."""
    return sorted({round(m) for m in np.geomspace(1, n, points)}) if n else []


def common_samples(counts: Iterable[int]) -> int | None:
    """The common m of many cells: half of the smallest of their numbers of samples that is LEAST or more.

    Half, and not all: neurons key in a single sample carry much of the noise of MUI(n), and the jackknife over samples
    can't see it at m = n. Between halves of one task, whose MUI is the same, a test at 5 % finds differences at m = n
    in up to 45 % of the splits; at m = n/2 in 4 % on average and 12 % at most. Where no cell has LEAST, the smallest
    from 2 on is halved; then m is 1; None where no cell has samples. A cell with fewer than 2·m has no interval over
    samples at this m, one with fewer than m no MUI at it, and its row says so.
    """
    listed = sorted(counts)
    smallest = next((n for least in (LEAST, 2, 1) for n in listed if n >= least), None)
    return None if smallest is None else max(1, smallest // 2)


def incomplete(key_neurons: KeyNeurons, setting: Setting) -> str:
    """A note where a setting's sets may lack neurons, because a cell's stored scores end before its rule does."""
    cut, cells = key_neurons.incomplete[setting], key_neurons.samples.n * len(key_neurons.geometry.layers)
    if not cut:
        return ""
    return f"{cut} of {cells} sample × layer cells reach the end of what is stored, so sets are lower bounds"


def undefined(key_neurons: KeyNeurons, setting: Setting) -> str:
    """A note where a setting's rule has no key set in some cells, as `top_score` without a positive score."""
    empty = key_neurons.undefined.get(setting, 0)
    if not empty:
        return ""
    cells = key_neurons.samples.n * len(key_neurons.geometry.layers)
    return f"in {empty} of {cells} sample × layer cells the highest score is not positive, so no neuron is key there"


class _Scope(NamedTuple):
    """Some of the model's neurons: the scope's name, its layer's index, and where they stand."""

    name: str
    layer: int | None
    neurons: slice | np.ndarray


def _scopes(geometry: Geometry) -> list[_Scope]:
    """Every scope that has neurons: total, routed, shared, and each layer."""
    shared = geometry.neuron_is_shared
    found = [_Scope("total", None, slice(None))]
    found += [_Scope(name, None, mask) for name, mask in (("routed", ~shared), ("shared", shared)) if mask.any()]
    # slices: a mask a layer would take layers × neurons bytes, 1.7 GB for DeepSeek-V3
    layers = zip(geometry.layers, geometry.layer_offsets[:-1], geometry.layer_offsets[1:], strict=True)
    return found + [_Scope("layer", layer.index, slice(first, end)) for layer, first, end in layers]


def rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    common_m: Mapping[str, int | None],
    settings: Sequence[Setting] | None = None,
) -> pd.DataFrame:
    """The rows of one task in the table `utilization`: settings × samples (all, correct) × scopes.

    common_m: m for `all` and for `correct`, see `common_samples`; None or absent leaves the comparison out, with a
    note. A cell of fewer than 2·m samples has MUI at m, but no interval over samples, with a note. A scope without
    neurons (shared of a routed-only model) has no row. A cell without samples keeps its row, with n_samples 0, no MUI
    and a note. Where sets may lack neurons or are undefined, every row of the setting has a note.
    """
    samples, geometry, records = key_neurons.samples, key_neurons.geometry, []
    masks = {"all": np.ones(samples.n, dtype=bool), "correct": samples.correct == 1}
    graded = bool((samples.correct >= 0).any())
    without = {"all": "no samples", "correct": "no correct answers" if graded else "no sample was graded"}
    scopes = _scopes(geometry)
    for setting in key_neurons.among(settings):
        stored = key_neurons.sets(*setting)
        about_sets = [incomplete(key_neurons, setting), undefined(key_neurons, setting)]
        for name, mask in masks.items():
            n, m = int(mask.sum()), common_m.get(name)
            sets = stored if mask.all() else stored.subset(mask)
            incidence = sets.incidence(geometry.neurons)
            noise, few = {}, ""
            if m is not None and n >= 2 * m:
                noise = _noise(sets, geometry, m)
            elif m is not None and n >= max(m, 2):
                few = f"fewer than 2·m = {2 * m} samples, so no interval over samples"
            for scope in scopes:
                counts = frequency_counts(incidence=incidence[scope.neurons], n=n)
                measured = _measures(counts, m, without[name]) | noise.get(scope.name, {})
                records.append(
                    {
                        "model": key_neurons.model,
                        "checkpoint": key_neurons.checkpoint,
                        "tokens": tokens,
                        "order": order,
                        "task": key_neurons.task,
                        "domain": samples.task_domain,
                        **setting._asdict(),
                        "samples": name,
                        "scope": scope.name,
                        "layer": scope.layer,
                        "n_samples": n,
                        "n_response_tokens": int(samples.response_tokens[mask].sum()),
                        "n_neurons": int(counts.sum()),
                        **measured,
                        "note": "; ".join(filter(None, [measured["note"], few, *about_sets])),
                    }
                )
    return UTILIZATION.frame(records)


def _noise(sets: KeySets, geometry: Geometry, m: int) -> dict[str, dict[str, float]]:
    """Standard error and interval of MUI(m) over samples, for the scopes total, routed and shared that have neurons.

    Routed and shared neurons are two cells of the same samples, whose sum is the total.
    """
    shared = geometry.neuron_is_shared
    masks = {name: mask for name, mask in (("routed", ~shared), ("shared", shared)) if mask.any()}
    parts = [sets] if len(masks) == 1 else [_within(sets, mask) for mask in masks.values()]
    found = paired_mui(cells=parts, n_neurons=[geometry.neurons] * len(parts), m=m)
    every = np.ones(len(parts))
    weights = {"total": every} | {name: every * (np.arange(len(parts)) == i) for i, name in enumerate(masks)}
    t = float(stats.t.ppf(0.5 + CONFIDENCE / 2, sets.n_samples - 1))
    noise = {}
    for name, weight in weights.items():
        scale = geometry.neurons / int(masks[name].sum()) if name in masks else 1.0
        value = scale * float(weight @ found.estimates)
        error = scale * float(np.sqrt(max(0.0, weight @ found.covariance @ weight)))
        ends = {"se": error, "low": max(value - t * error, 0.0), "high": min(value + t * error, 1.0)}
        noise[name] = {f"mui_at_m_sample_{end}": number for end, number in ends.items()}
    return noise


def _within(sets: KeySets, mask: np.ndarray) -> KeySets:
    """The key neurons under a mask (neurons,); numbers of neurons stay."""
    inside = mask[sets.neurons]
    return KeySets(np.concatenate([[0], np.cumsum(inside)])[sets.indptr], sets.neurons[inside])


def _measures(counts: np.ndarray, m: int | None, without: str) -> dict[str, Any]:
    """The measured columns of a `utilization` row, without the noise over samples; a gap has a note.

    without: the note of a cell without samples.
    """
    n, n_neurons = len(counts) - 1, int(counts.sum())
    gap = np.nan
    record: dict[str, Any] = {
        "n_key": None,
        "mui": gap,
        "common_m": m,
        **dict.fromkeys(("mui_at_m", "mui_at_m_low", "mui_at_m_high", "mui_at_m_se"), gap),
        **dict.fromkeys(("mui_at_m_sample_se", "mui_at_m_sample_low", "mui_at_m_sample_high"), gap),
        **dict.fromkeys(("chao2", "chao2_low", "chao2_high"), gap),
        "q1": None,
        "q2": None,
        "note": "",
    }
    if n == 0:
        return record | {"note": without}
    n_key = int(counts[1:].sum())
    record |= {"n_key": n_key, "mui": mui(n_key=n_key, n_neurons=n_neurons), "q1": int(counts[1])}
    record["q2"] = int(counts[2]) if n > 1 else 0
    notes = []
    if m is None or m > n:
        notes.append("no common m" if m is None else f"fewer than {m} samples, so not comparable at the common m")
    else:
        value, error, low, high = mui_at(counts=counts, m=m, n_neurons=n_neurons)
        record |= {"mui_at_m": value, "mui_at_m_se": error, "mui_at_m_low": low, "mui_at_m_high": high}
    if n < 2:
        notes.append(ONE_SAMPLE)
    else:
        asymptote = chao2(counts=counts, cap=n_neurons)
        record |= {"chao2": asymptote.estimate / n_neurons, "chao2_low": asymptote.low / n_neurons}
        record["chao2_high"] = asymptote.high / n_neurons
    return record | {"note": "; ".join(notes)}


def saturation_rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    settings: Sequence[Setting] | None = None,
    points: int = 25,
) -> pd.DataFrame:
    """The rows of one task in the table `saturation`: MUI(m) over all samples, total scope; none without samples.

    The last m is n itself. The band is Colwell's, see `rarefaction` for what it leaves out.
    """
    geometry, n, records = key_neurons.geometry, key_neurons.samples.n, []
    for setting in key_neurons.among(settings):
        sets: KeySets = key_neurons.sets(*setting)
        counts = frequency_counts(incidence=sets.incidence(geometry.neurons), n=n)
        one = ONE_SAMPLE if n == 1 else ""
        curve = saturation_curve(counts=counts, ms=saturation_points(n, points), n_neurons=geometry.neurons)
        records.append(
            curve.assign(
                model=key_neurons.model,
                checkpoint=key_neurons.checkpoint,
                tokens=np.nan if tokens is None else tokens,
                order=order,
                task=key_neurons.task,
                **setting._asdict(),
                n_samples=n,
                note="; ".join(filter(None, [one, incomplete(key_neurons, setting), undefined(key_neurons, setting)])),
            )
        )
    table = SATURATION
    return conform(pd.concat(records, ignore_index=True), table) if records else table.frame([])
