"""What generalization out of distribution makes of one seed's measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.out_of_distribution import Settings
from moemui.models.synthetic_variants import IN_DISTRIBUTION, KINDS

FEWEST_STEPS = 5  # of a task: with four, two predictors and a mean leave one degree of freedom
ROUNDING = 1e-9  # share of a variable's spread that is left by rounding alone

_CELLS = "over tasks and steps later than `after` of the settings, each task's mean taken out"
_PARTIAL = "partial correlation of MUI and OOD accuracy given accuracy as trained"
EFFECTS = {
    "mui_given_accuracy": Meaning(
        f"{_PARTIAL}, {_CELLS}; OOD accuracy is a task's mean over its kinds of problems, and accuracy is the outcome "
        "that the settings name; negative: of two cells with equal accuracy, that with lower MUI does better OOD"
    ),
    "mui_given_accuracy_within": Meaning(f"{_PARTIAL}, within each task, averaged over tasks by Fisher's z"),
    "mui_given_accuracy_changes": Meaning(
        f"{_PARTIAL}, of changes from one kept step later than `after` to the next, each task's mean change taken out"
    ),
    "mui_given_accuracy_same_step": Meaning(f"{_PARTIAL}, {_CELLS}, and each step's mean over tasks too"),
    "mui_given_exact": Meaning(f"{_PARTIAL}, {_CELLS}; both accuracies are shares of whole answers"),
    "mui_given_likelihood": Meaning(f"{_PARTIAL}, {_CELLS}; log-likelihood takes the place of both accuracies"),
    **{
        f"mui_given_accuracy_{kind}": Meaning(f"{_PARTIAL}, {_CELLS}; of {kind} problems alone, for tasks with such")
        for kind in KINDS
    },
    "mui_alone": Meaning(f"plain correlation of MUI and OOD accuracy, {_CELLS}"),
    "accuracy_alone": Meaning(f"plain correlation of accuracy as trained and OOD accuracy, {_CELLS}"),
    "accuracy_given_mui": Meaning(
        f"partial correlation of accuracy as trained and OOD accuracy given MUI, {_CELLS}"
    ),
    "predicted_by_accuracy": Meaning(
        "share of the squared error of OOD accuracy that accuracy as trained saves: each step is predicted from a "
        "regression on all others with an intercept a task, against the prediction by each task's mean over the others"
    ),
    "gain_of_mui": Meaning("what adding MUI to that regression adds to this share; negative: predictions get worse"),
    "gain_of_time": Meaning(
        "the same of adding the logarithm of the step in MUI's place: what any clock gains, since a step left out lies "
        "between two that are not"
    ),
    "spread": Meaning(
        "standard deviation of OOD accuracy over steps later than `after`, root mean square over tasks: whether there "
        "is anything to predict; in the outcome's unit"
    ),
}  # fmt: skip


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """The effects of one seed's measurements, with a note where one is not defined."""
    graded = _cells(measurements, settings.after, settings.outcome)
    found = {
        "mui_given_accuracy": partial(graded, "mui", "ood", ("accuracy",)),
        "mui_given_accuracy_within": _within(graded),
        "mui_given_accuracy_changes": partial(_changes(graded), "mui", "ood", ("accuracy",)),
        "mui_given_accuracy_same_step": partial(graded, "mui", "ood", ("accuracy",), ("task", "step")),
        "mui_given_exact": partial(_cells(measurements, settings.after, "accuracy"), "mui", "ood", ("accuracy",)),
        "mui_given_likelihood": partial(
            _cells(measurements, settings.after, "log_likelihood"), "mui", "ood", ("accuracy",)
        ),
        "mui_alone": partial(graded, "mui", "ood"),
        "accuracy_alone": partial(graded, "accuracy", "ood"),
        "accuracy_given_mui": partial(graded, "accuracy", "ood", ("mui",)),
        **_predictions(graded),
        "spread": _spread(graded),
    }
    for kind in KINDS:
        own = _cells(measurements, settings.after, settings.outcome, (kind,))
        found[f"mui_given_accuracy_{kind}"] = partial(own, "mui", "ood", ("accuracy",))
    return found


def partial(
    cells: pd.DataFrame, a: str, b: str, given: Sequence[str] = (), means: Sequence[str] = ("task",)
) -> tuple[float, str]:
    """Correlation of two columns once a regression on others, and the means of groups, are taken out; and a note.

    given: columns of the regression. means: columns whose every value has an intercept of its own. NaN, with a note,
    for too few cells, or where nothing of a column is left.
    """
    design = _design(cells, given, means)
    freedom = len(cells) - (np.linalg.matrix_rank(design) if len(cells) else 0)
    if freedom < 2:
        return float("nan"), f"{len(cells)} cells leave {freedom} degrees of freedom; a correlation needs 2"
    left = {}
    for name in (a, b):
        values = cells[name].to_numpy()
        left[name] = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        if np.linalg.norm(left[name]) <= ROUNDING * np.linalg.norm(values):
            return float("nan"), f"nothing varies in {name} beyond {', '.join((*given, *means))}"
    return float(np.corrcoef(left[a], left[b])[0, 1]), ""


def _cells(measurements: pd.DataFrame, after: int, outcome: str, kinds: Sequence[str] = KINDS) -> pd.DataFrame:
    """A row a task and step later than `after`: task, step, mui, accuracy (as trained), ood (mean over its kinds)."""
    trained = measurements[measurements["step"] > after]
    by = ["task", "step"]
    other = trained[trained["part"].isin(kinds)]
    mean = series(other, outcome, [*by, "part"]).groupby(level=by).mean()
    columns = {
        "mui": series(trained, "mui", by), "accuracy": series(trained, outcome, by, part=IN_DISTRIBUTION), "ood": mean
    }  # fmt: skip
    return pd.DataFrame(columns).dropna(subset=["ood"]).reset_index()


def _changes(cells: pd.DataFrame) -> pd.DataFrame:
    """From each kept step to the next one, of each task."""
    ordered = cells.sort_values(["task", "step"])
    numbers = ordered.groupby("task")[["mui", "accuracy", "ood"]].diff()
    return ordered[["task", "step"]].join(numbers).dropna()


def _design(cells: pd.DataFrame, given: Sequence[str], means: Sequence[str]) -> np.ndarray:
    """Columns of a regression: (cells, columns)."""
    groups = [pd.get_dummies(cells[name]).to_numpy(float) for name in means]
    return np.column_stack([*groups, cells[list(given)].to_numpy(float)])


def _within(cells: pd.DataFrame) -> tuple[float, str]:
    """Partial correlations of the single tasks, averaged by Fisher's z; tasks without one are left out and named."""
    values, without = [], []
    for task, own in cells.groupby("task"):
        value = partial(own, "mui", "ood", ("accuracy",))[0] if len(own) >= FEWEST_STEPS else float("nan")
        if np.isnan(value):
            without.append(str(task))
        else:
            values.append(np.arctanh(np.clip(value, ROUNDING - 1, 1 - ROUNDING)))
    note = f"not defined for {', '.join(without)}" if without else ""
    return (float(np.tanh(np.mean(values))) if values else float("nan")), note or ("" if values else "there is no task")


def _predictions(cells: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """What accuracy, and MUI beside it, save of the squared error of predictions for steps left out of the fit."""
    names = ("predicted_by_accuracy", "gain_of_mui", "gain_of_time")
    if cells["step"].nunique() < FEWEST_STEPS:
        note = f"{cells['step'].nunique()} steps; predictions of steps left out need {FEWEST_STEPS}"
        return dict.fromkeys(names, (float("nan"), note))
    cells = cells.assign(time=np.log(cells["step"]))
    alone, accuracy, both, timed = (
        _left_out_error(cells, given) for given in ((), ("accuracy",), ("accuracy", "mui"), ("accuracy", "time"))
    )
    if alone == 0:
        return dict.fromkeys(names, (float("nan"), "OOD accuracy does not vary, so there is nothing to predict"))
    saved = (1 - accuracy / alone, (accuracy - both) / alone, (accuracy - timed) / alone)
    return {name: (value, "") for name, value in zip(names, saved, strict=True)}


def _left_out_error(cells: pd.DataFrame, given: Sequence[str]) -> float:
    """Sum of squared errors of OOD accuracy, each step predicted from the others."""
    design, ood, step = _design(cells, given, ("task",)), cells["ood"].to_numpy(), cells["step"].to_numpy()
    error = 0.0
    for left_out in np.unique(step):
        own = step == left_out
        weights = np.linalg.lstsq(design[~own], ood[~own], rcond=None)[0]
        error += float(((ood[own] - design[own] @ weights) ** 2).sum())
    return error


def _spread(cells: pd.DataFrame) -> tuple[float, str]:
    variances = cells.groupby("task")["ood"].var()
    if variances.notna().any():
        return float(np.sqrt(variances.mean())), ""
    return float("nan"), "a spread needs two steps later than `after`"
