"""The utility law (SPEC section 8): performance against MUI over models, as a line and as a logarithm.

    linear       performance = a + b·MUI
    logarithmic  performance = a + b·ln MUI

Ordinary least squares (statsmodels). It takes MUI as exact and every point as equally certain: the intervals that each
point has of its own are ignored, which biases slopes towards 0 where MUI is noisy. Points are of three scopes: models
(the last checkpoint of each), the trained checkpoints of one model (a path, no independent draws: intervals and p are
too good), and the paper's printed figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.tools.eval_measures import aicc

from moemui.key_neurons.settings import Setting
from moemui.mui.dynamics import MEAN
from moemui.statistics.intervals import CONFIDENCE, mean_of_estimates
from moemui.tables.laws import UTILITY_CURVE, UTILITY_LAW

FORMS = ("linear", "logarithmic")
FEWEST = 4  # points: a line has two parameters, and an interval of R² takes a third degree of freedom
FEW = 10
DISTINCT = 2.0  # difference of AICc from which forms are told apart (Burnham & Anderson 2002)
PERMUTATIONS = 9999
# The paper's default (SPEC section 3); which selection its figures were made with is not printed.
PUBLISHED_SETTING = Setting("projection", "not printed", 0.001)


class Mean(NamedTuple):
    """A mean over tasks with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def mean_over_tasks(*, values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> Mean:
    """`intervals.mean_of_estimates` of the tasks of a checkpoint."""
    return Mean(*mean_of_estimates(values=values, lows=lows, highs=highs))


def at(*, table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The rows of a table at one setting; none where it was not measured."""
    chosen = np.isclose(table["threshold"], setting.threshold, rtol=1e-9, atol=0)
    for name in ("formulation", "selection", "rule", "variant"):
        chosen &= (table[name] == getattr(setting, name)).to_numpy(dtype=bool)
    return table[chosen]


def parquet_filter(*, setting: Setting) -> list[tuple[str, str, str | float]]:
    """What `at` keeps, as the filters of pandas.read_parquet: a table of millions of rows is never whole in memory."""
    same: list[tuple[str, str, str | float]] = [
        (name, "==", getattr(setting, name)) for name in ("formulation", "selection", "rule", "variant")
    ]
    near = setting.threshold * 1e-9
    return [*same, ("threshold", ">=", setting.threshold - near), ("threshold", "<=", setting.threshold + near)]


def last(*, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model's last checkpoint in training order."""
    return table[table["order"] == table.groupby("model", sort=False)["order"].transform("max")]


def cells(
    *, utilization: pd.DataFrame, performance: pd.DataFrame, setting: Setting, scope: str = "total"
) -> pd.DataFrame:
    """MUI at the common m, and accuracy, of every model × checkpoint × task; a value that is missing there is NaN.

    Columns: model, checkpoint, order, tokens, task, common_m, mui and accuracy with _low and _high. MUI's interval is
    that over samples: `rarefaction` tells what Colwell's takes for granted. scope: of MUI, as in `utilization` (total,
    shared, routed). No rows where the setting or the scope was not measured.
    """
    rows = at(table=utilization, setting=setting)
    rows = rows[(rows["samples"] == "all") & (rows["scope"] == scope)].drop(columns="mui")
    rows = rows.rename(
        columns={"mui_at_m": "mui"} | {f"mui_at_m_sample_{end}": f"mui_{end}" for end in ("low", "high")}
    )
    key, ends = ["model", "checkpoint", "task"], ("", "_low", "_high")
    measured = rows[[*key, "order", "tokens", "common_m", *(f"mui{end}" for end in ends)]]
    return measured.merge(performance[[*key, *(f"accuracy{end}" for end in ends)]], on=key, how="left")


def means(*, cells: pd.DataFrame, of: Sequence[str] = ("accuracy", "mui")) -> pd.DataFrame:
    """Means over tasks: one row for each model × checkpoint of `cells`, its task `mean`.

    Taken over the tasks that every model × checkpoint given has, with all values of `of`, so that all rows speak of
    the same tasks; no rows where there is no such task. Columns: model, checkpoint, order, tokens, task, n_tasks, and
    those of `of` with _low and _high. Tasks have samples of their own, so they are independent given the model.
    """
    complete = cells.dropna(subset=list(of))
    shared = complete.groupby("task").size() == len(cells.drop_duplicates(["model", "checkpoint"]))
    records = []
    kept = complete[complete["task"].isin(shared[shared].index)]
    for _, group in kept.groupby(["model", "checkpoint"], sort=False):
        record = {name: group[name].iloc[0] for name in ("model", "checkpoint", "order", "tokens")}
        record |= {"task": MEAN, "n_tasks": len(group)}
        for name in of:
            names = (name, f"{name}_low", f"{name}_high")
            value, low, high = (group[column].to_numpy(dtype=float) for column in names)
            record |= dict(zip(names, mean_over_tasks(values=value, lows=low, highs=high), strict=True))
        records.append(record)
    columns = ["model", "checkpoint", "order", "tokens", "task", "n_tasks"]
    return pd.DataFrame(records, columns=[*columns, *(f"{name}{end}" for name in of for end in ("", "_low", "_high"))])


def different_m(*, common_m: pd.Series) -> str:
    """Why MUI can't be compared over models, as words: it was measured at several m; empty where it was at one.

    common_m: that of each model's cells, missing values left out. A union grows with the number of samples.
    """
    found = sorted(set(common_m.dropna().astype(int)))
    if len(found) < 2:
        return ""
    return f"models have MUI at m = {', '.join(map(str, found))}; give all models the same number of samples"


class Law(NamedTuple):
    """A fitted law. slope and r_squared with 95 % intervals; aicc is NaN with fewer than five points."""

    intercept: float
    slope: float
    slope_low: float
    slope_high: float
    slope_p: float
    r_squared: float
    r_squared_low: float
    r_squared_high: float
    aicc: float


def obstacle(*, mui: np.ndarray, performance: np.ndarray, form: str) -> str:
    """Why the law can't be fitted to these points, as words; empty where it can."""
    if len(mui) < FEWEST:
        return f"needs {FEWEST} points, found {len(mui)}"
    for name, values in (("MUI", mui), ("performance", performance)):
        if np.ptp(values) == 0:
            return f"all points have the same {name}"
    if form == "logarithmic" and mui.min() <= 0:
        return f"MUI is 0 at {int((mui <= 0).sum())} points, which have no logarithm"
    return ""


def _model(mui: np.ndarray, performance: np.ndarray, form: str) -> tuple[Any, np.ndarray]:
    if form not in FORMS:
        raise ValueError(f"the form is {form!r}; a utility law is {' or '.join(FORMS)}")
    if reason := obstacle(mui=mui, performance=performance, form=form):
        raise ValueError(f"no {form} law: {reason}; leave this fit out")
    x = np.log(mui) if form == "logarithmic" else mui
    return sm.OLS(performance, sm.add_constant(x)).fit(), x


def fit(*, mui: np.ndarray, performance: np.ndarray, form: str) -> Law:
    """The law through points, float64 (n,) each, by ordinary least squares.

    R²'s interval is the square of that of Pearson's correlation (Fisher's z, scipy), from 0 where that one contains 0.
    It holds its level with six points already, where a BCa or percentile bootstrap over points covers 81 to 87 %.
    AICc counts intercept, slope and residual variance. Raises ValueError, saying why, where `obstacle` names a reason.
    """
    done, x = _model(mui, performance, form)
    slope_low, slope_high = done.conf_int(alpha=1 - CONFIDENCE)[1]
    ends = np.array(stats.pearsonr(x, performance).confidence_interval(CONFIDENCE))
    squares = np.sort(ends**2)
    criterion = float(aicc(done.llf, len(x), 3)) if len(x) > 4 else np.nan
    return Law(
        intercept=float(done.params[0]),
        slope=float(done.params[1]),
        slope_low=float(slope_low),
        slope_high=float(slope_high),
        slope_p=float(done.pvalues[1]),
        r_squared=float(done.rsquared),
        r_squared_low=0.0 if ends[0] <= 0 <= ends[1] else float(squares[0]),
        r_squared_high=float(squares[1]),
        aicc=criterion,
    )


def curve(*, mui: np.ndarray, performance: np.ndarray, form: str, points: int = 40) -> pd.DataFrame:
    """The fitted law over the range of the points' MUI, with the 95 % band of the mean: mui, performance, low, high.

    Raises ValueError as `fit`.
    """
    done, _ = _model(mui, performance, form)
    at_mui = np.linspace(mui.min(), mui.max(), points)
    x = np.log(at_mui) if form == "logarithmic" else at_mui
    drawn = done.get_prediction(sm.add_constant(x)).summary_frame(alpha=1 - CONFIDENCE)
    return pd.DataFrame(
        {"mui": at_mui, "performance": drawn["mean"], "low": drawn["mean_ci_lower"], "high": drawn["mean_ci_upper"]}
    )


def rank_correlation(*, first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float]:
    """Spearman's correlation of paired values (n,), n ≥ 3, and its two-sided permutation p (scipy; exact to n = 7).

    The usual p rests on many points, and here there are few. NaN twice where all values of one side are equal.
    """
    if len(first) != len(second) or len(first) < 3:
        raise ValueError(f"{len(first)} and {len(second)} values; a rank correlation takes three or more pairs")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan, np.nan
    ranks, others = stats.rankdata(first), stats.rankdata(second)
    others = (others - others.mean()) / np.linalg.norm(others - others.mean())

    def statistic(values: np.ndarray, axis: int = -1) -> np.ndarray:
        centred = values - values.mean(axis=axis, keepdims=True)
        return np.moveaxis(centred, axis, -1) @ others / np.linalg.norm(ranks - ranks.mean())

    found = stats.permutation_test(
        (ranks,), statistic, permutation_type="pairings", n_resamples=PERMUTATIONS, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.statistic), float(found.pvalue)


def rows(
    *,
    utilization: pd.DataFrame,
    performance: pd.DataFrame,
    published: pd.DataFrame,
    setting: Setting,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `utility_law` and `utility_curve` at one setting.

    published: as `published.load` gives it. Two rows, one a form, for every scope, model and task, the mean over tasks
    first; a fit that can't be had keeps its rows, with a note, so over models that have MUI at different m. Curves are
    of the means and of the published figures.
    """
    if MEAN in set(utilization["task"]):
        raise ValueError(f"a task is named {MEAN!r}, which stands for the mean over tasks; rename it")
    records: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for identity, points, what, barrier, notes in _groups(utilization, performance, published, setting):
        mui, accuracy = (points[name].to_numpy(dtype=float) for name in ("mui", "accuracy"))
        found = _forms(mui, accuracy, what, barrier, notes, seed)
        records += [identity | {"form": form} | record for form, record in found.items()]
        if barrier or (identity["task"] != MEAN and identity["scope"] != "published"):
            continue
        for form in FORMS:
            if not obstacle(mui=mui, performance=accuracy, form=form):
                drawn = curve(mui=mui, performance=accuracy, form=form)
                drawn = drawn.rename(columns={"low": "performance_low", "high": "performance_high"})
                for place, values in enumerate(drawn.itertuples(index=False)):
                    point = dict(zip(drawn.columns, values, strict=True))
                    curves.append({**identity, **point, "form": form, "point": place, "note": ""})
    return UTILITY_LAW.frame(records), UTILITY_CURVE.frame(curves)


Group = tuple[dict[str, Any], pd.DataFrame, str, str, list[str]]


def _groups(
    utilization: pd.DataFrame, performance: pd.DataFrame, published: pd.DataFrame, setting: Setting
) -> Iterator[Group]:
    """Identity, points (mui, accuracy), what a point is called, why they have no fit, and notes."""
    own = cells(utilization=utilization, performance=performance, setting=setting)
    trained = own[own["tokens"] != 0]
    scopes = [("models", "", last(table=own), "models")]
    scopes += [("checkpoints", str(m), group, "checkpoints") for m, group in trained.groupby("model", sort=False)]
    for scope, model, group, what in scopes:
        identity = {"scope": scope, "model": model, **setting._asdict()}
        notes = ["checkpoints of one model are no independent points"] if scope == "checkpoints" else []
        mean, tasks = means(cells=group), sorted(group["task"].unique())
        left_out = len(tasks) - (int(mean["n_tasks"].iloc[0]) if len(mean) else 0)
        aside = [f"{left_out} of {len(tasks)} tasks lack a value at one of the points"] if left_out else []
        known = group.dropna(subset=["mui", "accuracy"])
        yield identity | {"task": MEAN}, mean, what, different_m(common_m=known["common_m"]), notes + aside
        for task in tasks:
            points = known[known["task"] == task]
            yield identity | {"task": task}, points, what, different_m(common_m=points["common_m"]), notes
    yield from _published(published)


def _published(published: pd.DataFrame) -> Iterator[Group]:
    names = {"performance_percent": "accuracy", "mui_percent": "mui"}
    rows = published[published["metric"].isin(list(names))]
    rows = rows.assign(metric=rows["metric"].map(names), value=rows["value"] / 100)
    for (figure, task), group in rows.groupby(["figure", "task"], sort=False):
        points = group.pivot(index="model", columns="metric", values="value")
        path = figure == "trajectory"
        model = points.index[0].rsplit("-", 1)[0] if path else ""
        notes = ["checkpoints of one model are no independent points"] if path else []
        identity = {"scope": "published", "model": model, "task": task, **PUBLISHED_SETTING._asdict()}
        yield identity, points, "checkpoints" if path else "models", "", ["the paper's printed figures", *notes]


def _forms(
    mui: np.ndarray, performance: np.ndarray, what: str, barrier: str, notes: Sequence[str], seed: int
) -> Mapping[str, dict[str, Any]]:
    """The measured columns of `utility_law` for each form; with a barrier there is no fit and no rank correlation."""
    n, gap = len(mui), float("nan")
    correlation = (gap, gap)
    if n >= FEWEST and not barrier:
        correlation = rank_correlation(first=mui, second=performance, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for form in FORMS:
        lacking = obstacle(mui=mui, performance=performance, form=form).replace("points, found", f"{what}, found")
        reason = "; ".join(filter(None, [lacking, barrier]))
        law = Law(*[gap] * len(Law._fields)) if reason else fit(mui=mui, performance=performance, form=form)
        said = [reason or (f"only {n} {what}" if n < FEW else ""), *notes]
        record = {"n_points": n, **law._asdict(), "better": None, "spearman": correlation[0]}
        found[form] = record | {"spearman_p": correlation[1], "note": "; ".join(filter(None, said))}
    criteria = {form: record["aicc"] for form, record in found.items()}
    apart = abs(criteria["linear"] - criteria["logarithmic"])
    for form, record in found.items():
        if apart >= DISTINCT:
            record["better"] = criteria[form] == min(criteria.values())
            continue
        if np.isnan(record["slope"]):
            continue  # the note says already why there is no fit
        if np.isfinite(apart):
            reason = f"the forms' AICc differ by {apart:.1f} only, so neither is better"
        else:
            reason = f"AICc takes {FEWEST + 1} points" if n == FEWEST else "the other form has no fit to compare with"
        record["note"] = "; ".join(filter(None, [record["note"], reason]))
    return found
