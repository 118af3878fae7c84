"""Where a trajectory over trained checkpoints turns (SPEC section 8): one change of slope, and how sure it is.

The axis is the position in training order, so slopes are per checkpoint: every study has it, and phases are told step
by step on it too. Tokens would bend a trajectory whose checkpoints are spaced by equal ratios.

The change point is the checkpoint at which a line from the first checkpoint to it and one from it to the last leave the
smallest sum of squares (ruptures: dynamic programming over its continuous piecewise linear cost). Resamples of a whole
trajectory, all checkpoints at once because they answered the same samples, give every interval: for MUI normal ones
with the covariance of `differences.paired_mui`, for accuracy bootstrap samples with as much noise as unseen changes
of answers may make (`intervals.paired_proportions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import ruptures

from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.mui import differences
from moemui.mui.dynamics import FEWEST_GRADED, MEAN, Cell, Course, courses
from moemui.statistics.intervals import CONFIDENCE, RESAMPLES
from moemui.tables.dynamics import CHANGE_POINTS

FEWEST = 4  # with three checkpoints there is one place for a change point, so nothing to estimate
TOO_FEW = f"fewer than {FEWEST} trained checkpoints, so no change point is sought"
NO_CHANGE = "no change of slope: a straight line is not rejected"
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
VALUES_AT_ONCE = 2**22  # bounds the memory of resampling
COINS = 4  # pseudo-samples right or wrong by chance: between two checkpoints one is lost and one gained on average


class _Chords(ruptures.costs.CostCLinear):
    """ruptures' continuous linear cost, with change points allowed one checkpoint from either end."""

    def __init__(self) -> None:
        super().__init__()
        self.min_size = 1  # it asks for three, which leaves no choice of change point below seven checkpoints

    def error(self, start: int, end: int) -> float:
        """Sum of squares about the chord; a first segment of one checkpoint is none, so it costs too much."""
        return float("inf") if end < 2 else float(super().error(start, end))


class Trajectory(NamedTuple):
    """Values at K checkpoints, float64, (K,), and resamples of them all together, float64, (resamples, K)."""

    estimates: np.ndarray
    resampled: np.ndarray


class Turn(NamedTuple):
    """A change point: position among the checkpoints, 1 to K−2, and the slopes per checkpoint on either side."""

    position: int
    slope_before: float
    slope_after: float


def turn(*, values: np.ndarray) -> Turn:
    """The one change of slope of a trajectory: float64, (K,), K ≥ 4. The earliest where several fit alike.

    Raises ValueError for fewer values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"a trajectory has {len(values)} values; a change point takes {FEWEST} or more")
    found = ruptures.Dynp(custom_cost=_Chords(), min_size=1, jump=1).fit_predict(values, n_bkps=1)
    position = found[0] - 1  # ruptures counts the checkpoints up to and with the change point
    before = (values[position] - values[0]) / position
    after = (values[-1] - values[position]) / (len(values) - 1 - position)
    return Turn(position, float(before), float(after))


def no_change(*, trajectory: Trajectory) -> float:
    """p-value of a straight line against one change of slope, wherever it is.

    The statistic is the largest |slope after − slope before| over its standard error, over all possible change points.
    Such a difference is 0 on any straight line, so its distribution under one is that of the resamples' deviations from
    the estimates, the same largest ratio of each; p = (1 + how many reach the observed one) / (1 + resamples).
    Differences without noise can't be judged and are left out; where none has any, p is 1 for a straight line and NaN
    for another trajectory. Written here: ruptures tests nothing.
    """
    last = len(trajectory.estimates) - 1
    contrasts = np.zeros((last - 1, last + 1))
    for k in range(1, last):
        contrasts[k - 1, [0, k, last]] = 1 / k, -1 / k - 1 / (last - k), 1 / (last - k)
    noise = (trajectory.resampled - trajectory.estimates) @ contrasts.T
    observed, errors = contrasts @ trajectory.estimates, noise.std(axis=0)
    rounding = 1e-12 * float(np.abs(trajectory.estimates).max())
    noisy = errors > rounding
    if not noisy.any():
        return 1.0 if (np.abs(observed) <= rounding).all() else float("nan")
    largest = np.abs(noise[:, noisy] / errors[noisy]).max(axis=1)
    reached = int((largest >= np.abs(observed[noisy] / errors[noisy]).max()).sum())
    return (1 + reached) / (1 + len(noise))


def mui_trajectory(*, paired: differences.PairedMui, seed: Sequence[int], resamples: int = RESAMPLES) -> Trajectory:
    """MUI at several checkpoints with normal resamples of their joint jackknife distribution."""
    draws = np.random.default_rng(seed).multivariate_normal(
        paired.estimates, paired.covariance, size=resamples, method="eigh", check_valid="ignore"
    )
    return Trajectory(paired.estimates, draws)


def accuracy_trajectory(*, correct: np.ndarray, seed: Sequence[int], resamples: int = RESAMPLES) -> Trajectory:
    """Accuracy at several checkpoints with bootstrap resamples of the samples, whole rows at a time.

    correct: 0 or 1, (samples, K), the same samples at each checkpoint. Answers that never changed would leave no noise
    at all, so each resample has that of four answers right or wrong by chance as well, which adds to the variance of a
    change what Bonett and Price do: 2 / n². A resample may therefore lie outside 0..1. Raises ValueError without
    samples.
    """
    n = len(correct)
    if n == 0:
        raise ValueError("there is nothing to resample; give at least one sample")
    values = np.asarray(correct, dtype=float)
    generator = np.random.default_rng(seed)
    at_once = max(1, VALUES_AT_ONCE // n)
    parts = [
        generator.multinomial(n, np.full(n, 1 / n), size=min(at_once, resamples - start)) @ values / n
        for start in range(0, resamples, at_once)
    ]
    coins = generator.binomial(COINS, 0.5, size=(resamples, values.shape[1])) - COINS / 2
    return Trajectory(values.mean(axis=0), np.concatenate(parts) + coins / n)


def mean_trajectory(*, trajectories: Sequence[Trajectory]) -> Trajectory:
    """Mean over tasks, whose samples are independent. Raises ValueError for none."""
    if not trajectories:
        raise ValueError("there is no trajectory to average; give at least one")
    return Trajectory(
        np.mean([one.estimates for one in trajectories], axis=0),
        np.mean([one.resampled for one in trajectories], axis=0),
    )


def _found(trajectory: Trajectory, orders: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """The measured columns of a row, for 4 checkpoints or more."""
    estimate = turn(values=trajectory.estimates)
    turns = [turn(values=values) for values in trajectory.resampled]
    positions, before, after = (np.array(values) for values in zip(*turns, strict=True))
    peak, peaks = int(trajectory.estimates.argmax()), trajectory.resampled.argmax(axis=1)
    p = no_change(trajectory=trajectory)
    if np.isnan(p):
        note = "no resample differs, so there is no test against a straight line"
    else:
        note = "" if p <= 1 - CONFIDENCE else NO_CHANGE
    low, high = _ends(positions)
    peak_low, peak_high = _ends(peaks)
    return {
        "change_checkpoint": names[estimate.position],
        "change_order": orders[estimate.position],
        "low_order": orders[low],
        "high_order": orders[high],
        "share_at_estimate": float((positions == estimate.position).mean()),
        "slope_before": estimate.slope_before,
        "slope_after": estimate.slope_after,
        **dict(zip(("slope_before_low", "slope_before_high"), np.quantile(before, ENDS), strict=True)),
        **dict(zip(("slope_after_low", "slope_after_high"), np.quantile(after, ENDS), strict=True)),
        "p_no_change": p,
        "p_rise_then_fall": float(((before > 0) & (after < 0)).mean()),
        "peak_checkpoint": names[peak],
        "peak_order": orders[peak],
        "peak_low_order": orders[peak_low],
        "peak_high_order": orders[peak_high],
        "note": note,
    }


def _ends(positions: np.ndarray) -> tuple[int, int]:
    """95 % interval of positions, which are whole: the ends are rounded outward."""
    low = np.quantile(positions, ENDS[0], method="lower")
    return int(low), int(np.quantile(positions, ENDS[1], method="higher"))


def _nothing(note: str) -> dict[str, Any]:
    text = dict.fromkeys(("change_checkpoint", "peak_checkpoint"), "")
    gaps = {name: None for name in CHANGE_POINTS.names if name not in _GIVEN and name not in text}
    return {**gaps, **text, "note": note}


_GIVEN = ("model", "task", *Setting._fields, "measure", "n_checkpoints", "n_samples", "common_m", "lag_to_mean", "note")


class _Task(NamedTuple):
    """A task's trajectory of one measure, or the reason why it has none."""

    trajectory: Trajectory | None
    orders: tuple[int, ...]
    n_samples: int | None
    common_m: int | None
    note: str


def _mui(
    files: dict[int, KeyNeurons], setting: Setting, common_m: int | None, seed: Sequence[int], resamples: int
) -> _Task:
    orders = tuple(files)
    aligned = differences.aligned(cells=[(file.samples.id, file.sets(*setting)) for file in files.values()])
    if aligned is None or common_m is None:
        return _Task(None, orders, None, None, "fewer than two samples are at all trained checkpoints")
    n = len(aligned.ids)
    if n < 2 * common_m:
        few = f"samples at all trained checkpoints: {n}, fewer than 2 · {common_m}"
        return _Task(None, orders, n, None, f"{few}, so MUI has no interval and no change point is sought")
    widths = [file.geometry.neurons for file in files.values()]
    paired = differences.paired_mui(cells=aligned.sets, n_neurons=widths, m=common_m)
    return _Task(mui_trajectory(paired=paired, seed=seed, resamples=resamples), orders, n, common_m, "")


def _accuracy(files: dict[int, KeyNeurons], seed: Sequence[int], resamples: int) -> _Task:
    columns = [pd.Series(file.samples.correct, index=file.samples.id) for file in files.values()]
    answers = pd.concat(columns, axis=1, join="inner").to_numpy()
    graded = answers[(answers >= 0).all(axis=1)]
    if not len(graded):
        return _Task(None, tuple(files), None, None, "no sample is graded at all trained checkpoints")
    if len(graded) < FEWEST_GRADED:
        few = f"graded at all trained checkpoints: {len(graded)}, fewer than {FEWEST_GRADED}"
        return _Task(None, tuple(files), len(graded), None, f"{few}, so no change point is sought")
    trajectory = accuracy_trajectory(correct=graded, seed=seed, resamples=resamples)
    return _Task(trajectory, tuple(files), len(graded), None, "")


def _mean(tasks: dict[str, _Task], orders: tuple[int, ...]) -> _Task:
    """Mean over the tasks that have a trajectory over all trained checkpoints."""
    whole = {name: task for name, task in tasks.items() if task.trajectory is not None and task.orders == orders}
    if not whole:
        return _Task(None, orders, None, None, "no task has a trajectory over all trained checkpoints")
    notes = [f"without {name}" for name in tasks if name not in whole]
    common_m = next(task.common_m for task in whole.values())
    trajectory = mean_trajectory(trajectories=[task.trajectory for task in whole.values() if task.trajectory])
    n = sum(task.n_samples or 0 for task in whole.values())
    return _Task(trajectory, orders, n, common_m, "; ".join(notes))


def rows(
    *, cells: Iterable[Cell], settings: Sequence[Setting], seed: int = 0, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """The table `change_points`: for each model, setting and measure (mui, accuracy), each task and the mean.

    Only trained checkpoints count; with fewer than 4 of them a row says so and holds no change point, nor does one with
    fewer than 2·m samples (mui) or 10 graded ones (accuracy) at all of them; the mean leaves it out. A change point
    that a straight line explains as well keeps its row, with a note, and has no lag to the mean's. The table has no
    rows for a model without trained checkpoints. Key sets of one task are in memory at a time, of all its checkpoints.
    Raises ValueError as `dynamics.courses`.
    """
    opened = list(cells)
    records: list[dict[str, Any]] = []
    for setting in settings:
        for course in courses(cells=opened, variant=setting.variant):
            trained = {
                task: {order: file for order, file in files.items() if order not in course.untrained}
                for task, files in course.tasks.items()
            }
            for measure in ("mui", "accuracy"):
                tasks = {}
                for number, (task, files) in enumerate(trained.items()):
                    if len(files) < FEWEST:
                        tasks[task] = _Task(None, tuple(files), None, None, TOO_FEW)
                    elif measure == "mui":
                        tasks[task] = _mui(files, setting, course.common_m, [seed, number, 1], resamples)
                    else:
                        tasks[task] = _accuracy(files, [seed, number], resamples)
                identity = {"model": course.model, **setting._asdict(), "measure": measure}
                records += _records(identity, {task: one for task, one in tasks.items() if one.orders}, course)
    return CHANGE_POINTS.frame(records)


def _records(identity: dict[str, Any], tasks: dict[str, _Task], course: Course) -> list[dict[str, Any]]:
    orders = tuple(order for order in course.checkpoints if order not in course.untrained)
    if not tasks:
        return []
    records = []
    for name, task in {**tasks, MEAN: _mean(tasks, orders)}.items():
        too_few = name == MEAN and len(orders) < FEWEST
        if task.trajectory is None:
            found = _nothing(TOO_FEW if too_few else task.note)
        else:
            found = _found(task.trajectory, task.orders, [course.checkpoints[order] for order in task.orders])
            found["note"] = "; ".join(note for note in (task.note, found["note"]) if note)
        sizes = {"n_checkpoints": len(task.orders), "n_samples": task.n_samples, "common_m": task.common_m}
        records.append({**identity, "task": name, **sizes, **found})
    turned = {record["task"]: record for record in records if (record["p_no_change"] or 1.0) <= 1 - CONFIDENCE}
    for record in records:
        both = record["task"] != MEAN and record["task"] in turned and MEAN in turned
        record["lag_to_mean"] = (
            orders.index(record["change_order"]) - orders.index(turned[MEAN]["change_order"]) if both else None
        )
    return records
