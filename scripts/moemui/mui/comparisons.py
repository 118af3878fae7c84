"""Is MUI higher here than there? Tasks, checkpoints and models compared at one number of samples m (SPEC section 4).

Every comparison is a difference with its interval, p and q, over all samples, correct or not. Kinds:
tasks: every pair of tasks at a model's last checkpoint. checkpoints: a model's last one against each earlier one, by
task and in the mean. models: the last checkpoints of every pair of models, by task and in the mean; models of other
shapes compare as shares of their own neurons. m is one number for all of a kind in the study, half of the smallest n,
for the reasons that `utilization.common_samples` gives; a pair of which a cell has fewer than 2·m is not compared.
Cells that share half of the smaller one's samples or more, by id, are compared in pairs over these; others as
independent. The noise is that of the samples, see `differences`; where a single sample brings many neurons of its own,
no interval can know of the next one like it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.mui.differences import Difference, PairedMui, aligned, difference, mean_difference, paired_mui
from moemui.mui.utilization import common_samples, incomplete, undefined
from moemui.tables.comparisons import COMPARISONS

KINDS = ("tasks", "checkpoints", "models")
MEAN = "mean"
SIGNIFICANCE = 0.05
NONE_SHOWN = "no difference shown"
NO_VARIATION = "nothing varies over the samples, so there is no interval and no p"


class Pair(NamedTuple):
    """Two cells to compare: their files, whether sample by sample, how many samples of each, and what to know of it."""

    a: KeyNeurons
    b: KeyNeurons
    paired: bool
    n_a: int
    n_b: int
    note: str


def planned(*, files: Sequence[KeyNeurons], order: Mapping[str, Sequence[str]]) -> dict[str, list[Pair]]:
    """All pairs by kind, the same in every setting. A kind is empty where there is nothing to compare with.

    files: one a cell. order: the checkpoints of every model in training order.
    Raises ValueError for a model or checkpoint that `order` does not name, or two files of one cell.
    """
    cells: dict[tuple[str, str], dict[str, KeyNeurons]] = {}
    for file in files:
        if file.checkpoint not in order.get(file.model, ()):
            raise ValueError(
                f"{file.path} is of {file.model} {file.checkpoint}; order names {dict(order)}, so add it there"
            )
        if file.task in cells.setdefault((file.model, file.checkpoint), {}):
            raise ValueError(f"{file.model} {file.checkpoint} {file.task} is given twice; give each cell once")
        cells[file.model, file.checkpoint][file.task] = file
    found: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    models = [model for model in order if any((model, name) in cells for name in order[model])]
    trained = {model: [name for name in order[model] if (model, name) in cells] for model in models}
    last = {model: cells[model, trained[model][-1]] for model in models}
    for model in models:
        found["tasks"] += [_independent(a, b) for a, b in itertools.combinations(last[model].values(), 2)]
        for name in trained[model][:-1]:
            found["checkpoints"] += _by_task(cells[model, name], last[model])
    for first, second in itertools.combinations(models, 2):
        found["models"] += _by_task(last[first], last[second])
    return found


def _by_task(one: Mapping[str, KeyNeurons], other: Mapping[str, KeyNeurons]) -> Iterator[Pair]:
    """Pairs of the same task. Sample ids tell which samples are the same."""
    for task in one:
        if task not in other:
            continue
        a, b = one[task], other[task]
        shared = len(np.intersect1d(a.samples.id, b.samples.id))
        least, most = sorted((a.samples.n, b.samples.n))
        if shared >= 2 and 2 * shared >= least:
            note = (
                ""
                if shared == most
                else f"over the {shared} samples that both have, of {a.samples.n} and {b.samples.n}"
            )
            yield Pair(a, b, True, shared, shared, note)
        else:
            yield _independent(a, b, f"samples in both: {shared}, so they are compared as independent")


def _independent(a: KeyNeurons, b: KeyNeurons, note: str = "") -> Pair:
    return Pair(a, b, False, a.samples.n, b.samples.n, note)


class _Result(NamedTuple):
    mui: tuple[float, float]
    difference: Difference


def rows(
    *, files: Sequence[KeyNeurons], order: Mapping[str, Sequence[str]], settings: Sequence[Setting]
) -> pd.DataFrame:
    """The table `comparisons`: settings × kinds × pairs, and the mean over tasks for checkpoints and models.

    files, order: as to `planned`. m is what `utilization.common_samples` finds; a pair with fewer than 2·m samples
    keeps its row, with a note. The mean is over the tasks whose difference has an interval; its note
    names the others. q is Benjamini–Hochberg over the rows of a kind and setting that have a p.
    """
    records: list[dict[str, Any]] = []
    for kind, pairs in planned(files=files, order=order).items():
        m = common_samples(n for pair in pairs for n in (pair.n_a, pair.n_b))
        for setting in settings:
            singles: dict[Path, PairedMui] = {}
            compared = [(pair, _compared(pair, setting, m, singles)) for pair in pairs]
            found = [_record(kind, setting, m, pair, result) for pair, result in compared]
            if kind != "tasks":
                found += _means(kind, setting, m, compared)
            records += _judged(found)
    return COMPARISONS.frame(records)


def _compared(pair: Pair, setting: Setting, m: int | None, singles: dict[Path, PairedMui]) -> _Result | None:
    """The difference of a pair; None where it has too few samples. singles: MUI of cells on their own, kept."""
    if m is None or min(pair.n_a, pair.n_b) < 2 * m:
        return None
    widths = [pair.a.geometry.neurons, pair.b.geometry.neurons]
    if pair.paired:
        common = aligned(cells=[(file.samples.id, file.sets(*setting)) for file in (pair.a, pair.b)])
        if common is None:
            raise ValueError(f"{pair.a.path} and {pair.b.path} share no two samples, yet were planned as paired")
        both = paired_mui(cells=common.sets, n_neurons=widths, m=m)
    else:
        for file, width in zip((pair.a, pair.b), widths, strict=True):
            if file.path not in singles:
                singles[file.path] = paired_mui(cells=[file.sets(*setting)], n_neurons=[width], m=m)
        a, b = singles[pair.a.path], singles[pair.b.path]
        both = PairedMui(
            np.concatenate([a.estimates, b.estimates]),
            np.diag([a.covariance[0, 0], b.covariance[0, 0]]),
            min(a.n_samples, b.n_samples),
        )
    a_mui, b_mui = both.estimates.tolist()
    return _Result((a_mui, b_mui), difference(paired=both, before=0, after=1))


def _record(kind: str, setting: Setting, m: int | None, pair: Pair, result: _Result | None) -> dict[str, Any]:
    notes = [pair.note, *_of_sets(pair, setting, incomplete), *_of_sets(pair, setting, undefined)]
    if result is None:
        notes.append(
            "no samples, so no comparison" if m is None else f"fewer than 2·m = {2 * m} samples, so no comparison"
        )
    return {
        **_identity(kind, setting, m, pair),
        "task_a": pair.a.task,
        "task_b": pair.b.task,
        "n_a": pair.n_a,
        "n_b": pair.n_b,
        "paired": pair.paired,
        **_numbers(result, notes),
    }


def _of_sets(pair: Pair, setting: Setting, noted: Callable[[KeyNeurons, Setting], str]) -> list[str]:
    """What `noted` (of `utilization`) says of the cells' sets, each with the cell's name."""
    found = [(name, noted(file, setting)) for name, file in (("first cell", pair.a), ("second cell", pair.b))]
    return [f"{name}: {note}" for name, note in found if note]


def _identity(kind: str, setting: Setting, m: int | None, pair: Pair) -> dict[str, Any]:
    cells = {"model_a": pair.a.model, "checkpoint_a": pair.a.checkpoint}
    cells |= {"model_b": pair.b.model, "checkpoint_b": pair.b.checkpoint}
    return {"kind": kind, **setting._asdict(), "m": m, **cells}


def _numbers(result: _Result | None, notes: Sequence[str]) -> dict[str, Any]:
    """The measured columns; q and verdict come with the family."""
    gap = np.nan
    mui, change, p = (gap, gap), (gap, gap, gap), gap
    notes = list(notes)
    if result is not None:
        mui, change, p = result.mui, result.difference.change, result.difference.p
        notes += [NO_VARIATION] if np.isnan(p) else []
    return {
        **dict(zip(("mui_a", "mui_b"), mui, strict=True)),
        **dict(zip(("difference", "difference_low", "difference_high"), change, strict=True)),
        "p": p,
        "note": "; ".join(filter(None, notes)),
    }


def _means(
    kind: str, setting: Setting, m: int | None, compared: Sequence[tuple[Pair, _Result | None]]
) -> list[dict[str, Any]]:
    """The mean over tasks of each pair of checkpoints, in the order of the pairs."""
    groups: dict[tuple[str, ...], list[tuple[Pair, _Result | None]]] = {}
    for pair, result in compared:
        key = (pair.a.model, pair.a.checkpoint, pair.b.model, pair.b.checkpoint)
        groups.setdefault(key, []).append((pair, result))
    records = []
    for members in groups.values():
        known = [(pair, result) for pair, result in members if result is not None and not np.isnan(result.difference.p)]
        tasks = {pair.a.task for pair, _ in known}
        notes = [f"without {pair.a.task}" for pair, _ in members if pair.a.task not in tasks]
        mean = None
        if known:
            mui = np.mean([result.mui for _, result in known], axis=0)
            together = mean_difference(differences=[result.difference for _, result in known])
            mean = _Result((float(mui[0]), float(mui[1])), together)
        else:
            notes.append("no task has an interval")
        for noted, said in ((incomplete, "are lower bounds"), (undefined, "are undefined in some cells")):
            if any(_of_sets(pair, setting, noted) for pair, _ in known):
                notes.append(f"sets of some tasks {said}")
        records.append(
            {
                **_identity(kind, setting, m, members[0][0]),
                "task_a": MEAN,
                "task_b": MEAN,
                "n_a": sum(pair.n_a for pair, _ in known),
                "n_b": sum(pair.n_b for pair, _ in known),
                "paired": all(pair.paired for pair, _ in members),
                **_numbers(mean, notes),
            }
        )
    return records


def _judged(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of one family with q and verdict."""
    tested = [record for record in records if not np.isnan(record["p"])]
    q = stats.false_discovery_control([record["p"] for record in tested], method="bh") if tested else []
    for record in records:
        record |= {"q": np.nan, "verdict": ""}
    for record, value in zip(tested, q, strict=True):
        direction = "higher" if record["difference"] > 0 else "lower"
        record |= {"q": float(value), "verdict": direction if value <= SIGNIFICANCE else NONE_SHOWN}
    return records
