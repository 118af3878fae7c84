"""Utility law: regressions by hand and against NIST's certified values, means over tasks, and what has no fit."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from moemui.key_neurons.settings import Setting
from moemui.laws import laws, published
from moemui.tables.catalog import TABLES

SETTING = Setting("projection", "pairs", 0.01)
# NIST StRD, linear regression, data set Norris: y x
# fmt: off
NORRIS = np.array([
    0.1, 0.2, 338.8, 337.4, 118.1, 118.2, 888, 884.6, 9.2, 10.1, 228.1, 226.5, 668.5, 666.3, 998.5, 996.3, 449.1,
    448.6, 778.9, 777, 559.2, 558.2, 0.3, 0.4, 0.1, 0.6, 778.1, 775.5, 668.8, 666.9, 339.3, 338, 448.9, 447.5, 10.8,
    11.6, 557.7, 556, 228.3, 228.1, 998, 995.8, 888.8, 887.6, 119.6, 120.2, 0.3, 0.3, 0.6, 0.3, 557.6, 556.8, 339.3,
    339.1, 888, 887.2, 998.5, 999, 778.9, 779, 10.2, 11.1, 117.6, 118.3, 228.9, 229.2, 668.4, 669.1, 449.2, 448.9,
    0.2, 0.5,
]).reshape(-1, 2)
# fmt: on


def test_a_line_by_hand():
    # x̄ = 2.5, ȳ = 2; Sxx = 5, Sxy = 4, Syy = 4: b = 0.8, a = 0, residuals 0.2 −0.6 0.6 −0.2, SSR = 0.8
    found = laws.fit(mui=np.array([1.0, 2, 3, 4]), performance=np.array([1.0, 1, 3, 3]), form="linear")
    assert found.slope == pytest.approx(0.8)
    assert found.intercept == pytest.approx(0.0, abs=1e-12)
    assert found.r_squared == pytest.approx(1 - 0.8 / 4)
    half = 4.302653 * np.sqrt(0.8 / 2 / 5)  # t with two degrees of freedom, s² = SSR / 2
    assert (found.slope_low, found.slope_high) == pytest.approx((0.8 - half, 0.8 + half), rel=1e-6)
    assert np.isnan(found.aicc)  # four points leave nothing for the correction
    z, spread = np.arctanh(np.sqrt(0.8)), stats.norm.ppf(0.975)  # 1 / √(n − 3) = 1
    assert found.r_squared_low == 0  # tanh(z − 1.96) is below 0
    assert z - spread < 0
    assert found.r_squared_high == pytest.approx(np.tanh(z + spread) ** 2)


def test_norris_has_the_certified_values():
    found = laws.fit(mui=NORRIS[:, 1], performance=NORRIS[:, 0], form="linear")
    assert found.intercept == pytest.approx(-0.262323073774029, rel=1e-10)
    assert found.slope == pytest.approx(1.00211681802045, rel=1e-12)
    assert found.r_squared == pytest.approx(0.999993745883712, rel=1e-12)
    # certified standard deviation of the slope, 34 degrees of freedom
    assert found.slope_high - found.slope == pytest.approx(stats.t.ppf(0.975, 34) * 0.429796848199937e-03, rel=1e-9)


def test_the_logarithmic_law_is_a_line_in_the_logarithm():
    mui = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    exact = 0.3 + 0.2 * np.log(mui)
    noise = np.array([1, -1, 1, 1, -1, -1]) * 1e-3
    found = laws.fit(mui=mui, performance=exact + noise, form="logarithmic")
    assert (found.intercept, found.slope) == pytest.approx((0.3, 0.2), abs=5e-3)
    same = laws.fit(mui=np.log(mui), performance=exact + noise, form="linear")
    assert found == pytest.approx(same)
    # AICc by its definition: three parameters, residual variance SSR / n
    residuals = exact + noise - (found.intercept + found.slope * np.log(mui))
    likelihood = stats.norm.logpdf(residuals, scale=np.sqrt((residuals**2).mean())).sum()
    assert found.aicc == pytest.approx(-2 * likelihood + 2 * 3 * 6 / (6 - 3 - 1))
    assert found.aicc < laws.fit(mui=mui, performance=exact + noise, form="linear").aicc - 2


def test_the_curve_passes_the_means_with_its_narrowest_band():
    x, y = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.1, 0.3, 0.3])
    drawn = laws.curve(mui=x, performance=y, form="linear", points=31)
    middle = drawn.iloc[15]
    assert (middle["mui"], middle["performance"]) == pytest.approx((0.25, 0.2))
    # at the mean the band is ± t·s/√n
    assert middle["high"] - middle["performance"] == pytest.approx(4.302653 * np.sqrt(0.008 / 2) / 2, rel=1e-6)
    width = drawn["high"] - drawn["low"]
    assert width.idxmin() == 15
    assert drawn["mui"].iloc[[0, -1]].tolist() == [0.1, 0.4]


@pytest.mark.parametrize(
    ("mui", "performance", "form", "reason"),
    [
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], "linear", "needs 4 points, found 3"),
        ([0.2] * 4, [0.1, 0.2, 0.3, 0.4], "linear", "all points have the same MUI"),
        ([0.1, 0.2, 0.3, 0.4], [0.5] * 4, "linear", "all points have the same performance"),
        ([0.0, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.5], "logarithmic", "MUI is 0 at 1 points, which have no logarithm"),
        ([0.0, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.5], "linear", ""),
    ],
)
def test_what_has_no_fit_says_why(mui, performance, form, reason):
    points = {"mui": np.array(mui), "performance": np.array(performance), "form": form}
    assert laws.obstacle(**points) == reason
    if reason:
        with pytest.raises(ValueError, match=f"no {form} law: {reason}; leave this fit out"):
            laws.fit(**points)
    else:
        assert laws.fit(**points).slope > 0


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="the form is 'cubic'; a utility law is linear or logarithmic"):
        laws.fit(mui=np.arange(5.0), performance=np.arange(5.0), form="cubic")


def test_rank_correlation_counts_all_orders():
    # 24 orders of 4: only one gives 1 and one −1, so two-sided p = 2/24
    assert laws.rank_correlation(first=np.arange(4), second=np.array([1, 5, 6, 9.0]), seed=0) == pytest.approx(
        (1.0, 2 / 24)
    )
    first, second = np.array([1, 2, 3, 4, 5.0]), np.array([2, 1, 4, 3, 3.0])
    rho = stats.spearmanr(first, second).statistic
    every = [stats.spearmanr(first, order).statistic for order in itertools.permutations(second)]
    tail = min(np.mean(np.array(every) >= rho - 1e-12), np.mean(np.array(every) <= rho + 1e-12))
    assert laws.rank_correlation(first=first, second=second, seed=0) == pytest.approx((rho, 2 * tail))
    assert np.isnan(laws.rank_correlation(first=first, second=np.ones(5), seed=0)).all()
    with pytest.raises(ValueError, match="2 and 2 values; a rank correlation takes three or more pairs"):
        laws.rank_correlation(first=first[:2], second=second[:2], seed=0)


def test_mean_over_tasks_adds_distances_in_quadrature():
    ends = {"lows": np.array([0.17, 0.56]), "highs": np.array([0.26, 0.68])}
    mean = laws.mean_over_tasks(values=np.array([0.2, 0.6]), **ends)
    assert mean == pytest.approx((0.4, 0.4 - 0.05 / 2, 0.4 + 0.10 / 2))  # √(0.03² + 0.04²), √(0.06² + 0.08²)
    with pytest.raises(ValueError, match="a mean needs one or more finite values"):
        laws.mean_over_tasks(values=np.empty(0), lows=np.empty(0), highs=np.empty(0))


def study(models=5, checkpoints=3, tasks=("add", "sort"), curve=lambda mui: 0.2 + 2 * mui, skip=()):
    """Tables of a made-up study: MUI grows from model to model and checkpoint to checkpoint."""
    fill = {"string": "made up", "int64": 0, "float64": 0.5}
    mui_rows, accuracy_rows = [], []
    for i, order, (t, task) in itertools.product(range(models), range(checkpoints), enumerate(tasks)):
        if (i, task) in skip:
            continue
        mui = 0.02 * (i + 1) + 0.01 * order + 0.05 * t
        place = {"model": f"m{i}", "checkpoint": f"s{order}", "tokens": order * 1e6, "order": order, "task": task}
        accuracy = curve(mui) + 0.003 * ((i + order) % 2)
        for scope in ("total", "routed"):
            mui_rows.append(
                {c.name: fill.get(c.dtype) for c in TABLES["utilization"].columns}
                | {**place, **SETTING._asdict(), "samples": "all", "scope": scope, "common_m": 40}
                | dict.fromkeys(("mui", "mui_at_m", "mui_at_m_low", "mui_at_m_high"), mui if scope == "total" else 0.9)
                | {"mui_at_m_sample_low": mui - 0.004, "mui_at_m_sample_high": mui + 0.003}
            )
        accuracy_rows.append(
            {c.name: fill.get(c.dtype) for c in TABLES["performance"].columns}
            | place
            | {"accuracy": accuracy, "accuracy_low": accuracy - 0.03, "accuracy_high": accuracy + 0.04}
        )
    return {
        "utilization": TABLES["utilization"].frame(mui_rows),
        "performance": TABLES["performance"].frame(accuracy_rows),
    }


def by(frame, scope, model="", task="mean", form="linear"):
    """One row of `utility_law`."""
    rows = frame.query("scope == @scope and model == @model and task == @task and form == @form")
    assert len(rows) == 1
    return rows.iloc[0]


def fitted(tables, setting=SETTING):
    return laws.rows(**tables, published=published.load(), setting=setting)


def test_rows_of_models_and_of_checkpoints():
    found, drawn = fitted(study())
    over_models = by(found, "models")
    assert over_models["n_points"] == 5
    assert over_models["slope"] == pytest.approx(2, abs=0.05)
    assert over_models["note"].startswith("only 5 models")
    assert over_models["spearman"] == pytest.approx(1)
    assert by(found, "models", task="sort")["n_points"] == 5
    # two trained checkpoints of each model: the untrained one is no point
    single = by(found, "checkpoints", model="m0")
    assert single["n_points"] == 2
    assert pd.isna(single["slope"])
    assert single["note"] == "needs 4 checkpoints, found 2; checkpoints of one model are no independent points"
    points = drawn.query("scope == 'models' and form == 'linear'")
    assert len(points) == 40
    assert set(points["task"]) == {"mean"}
    assert points["mui"].iloc[0] == pytest.approx(0.02 + 0.02 + 0.025)  # first model, last checkpoint, mean of tasks
    other, none = fitted(study(), Setting("glu", "pairs", 0.01))
    assert set(other.query("scope == 'models'")["n_points"]) == {0}
    assert set(none["scope"]) == {"published"}


def test_the_interval_of_mui_is_that_over_samples():
    tables = study(models=1, checkpoints=1)
    found = laws.cells(**tables, setting=SETTING)
    assert (found["mui"] - found["mui_low"]).tolist() == pytest.approx([0.004, 0.004])
    assert (found["mui_high"] - found["mui"]).tolist() == pytest.approx([0.003, 0.003])
    mean = laws.means(cells=found)
    assert (mean["mui"] - mean["mui_low"]).tolist() == pytest.approx([0.004 * np.sqrt(2) / 2])
    # a cell of too few samples has MUI but no interval, and so has the mean
    tables["utilization"].loc[0, ["mui_at_m_sample_low", "mui_at_m_sample_high"]] = np.nan
    mean = laws.means(cells=laws.cells(**tables, setting=SETTING))
    assert mean["mui"].notna().all()
    assert mean[["mui_low", "mui_high"]].isna().all(axis=None)


def test_models_that_have_mui_at_different_m_have_no_law():
    tables = study(models=6)
    several = tables["utilization"]["model"].map({"m0": 15, "m1": 100}).fillna(40).astype("Int64")
    tables["utilization"]["common_m"] = several
    found, drawn = fitted(tables)
    for task in ("mean", "add", "sort"):
        row = by(found, "models", task=task)
        assert row[["slope", "r_squared", "spearman", "spearman_p", "aicc"]].isna().all()
        assert row["n_points"] == 6
        assert row["note"] == "models have MUI at m = 15, 40, 100; give all models the same number of samples"
    assert drawn.query("scope == 'models'").empty
    longer = study(models=1, checkpoints=6)
    longer["utilization"]["common_m"] = pd.array([15] * len(longer["utilization"]), dtype="Int64")
    assert by(fitted(longer)[0], "checkpoints", model="m0")["slope"] > 0  # one model has one m
    same = {name: pd.concat([table, tables[name][tables[name]["model"] != "m0"]]) for name, table in longer.items()}
    same["utilization"].loc[same["utilization"]["model"] == "m0", "common_m"] = 40
    assert "m = 40, 100; give" in by(fitted(same)[0], "models")["note"]


def test_a_point_without_mui_makes_no_difference_of_m():
    tables = study(models=6)
    first = tables["utilization"]["model"] == "m0"
    tables["utilization"].loc[first, ["mui_at_m"]] = np.nan
    tables["utilization"].loc[first, "common_m"] = 99
    found, _ = fitted(tables)
    assert by(found, "models", task="add")["slope"] > 0
    assert "different" not in by(found, "models", task="add")["note"]


def test_reading_at_a_setting_keeps_what_at_keeps(tmp_path):
    table = study()["utilization"]
    other = [table.assign(threshold=0.3 * 0.1), table.assign(rule="top_score"), table.assign(variant="same_token")]
    every = pd.concat([table, *other], ignore_index=True)
    every.to_parquet(tmp_path / "u.parquet")
    for setting in (SETTING, SETTING._replace(threshold=0.03), SETTING._replace(formulation="glu")):
        kept = pd.read_parquet(tmp_path / "u.parquet", filters=laws.parquet_filter(setting=setting))
        expected = laws.at(table=every, setting=setting)
        pd.testing.assert_frame_equal(kept, expected.reset_index(drop=True))
    assert len(laws.at(table=every, setting=SETTING._replace(threshold=0.03))) == len(table)


def test_the_better_form_is_named_only_where_it_is_clear():
    found, _ = fitted(study(models=9, curve=lambda mui: 0.9 + 0.2 * np.log(mui)))
    assert by(found, "models", form="logarithmic")["better"] is np.True_
    assert by(found, "models", form="linear")["better"] is np.False_
    unclear, _ = fitted(study())
    row = by(unclear, "published", task="mean")
    assert pd.isna(row["better"])
    assert "so neither is better" in row["note"]
    four, _ = fitted(study(models=4))
    assert "AICc takes 5 points" in by(four, "models")["note"]


def test_the_mean_is_over_the_tasks_that_all_models_have():
    tables = study(skip={(2, "sort")})
    found, _ = fitted(tables)
    mean, task = by(found, "models"), by(found, "models", task="add")
    assert mean["slope"] == pytest.approx(task["slope"])
    assert "1 of 2 tasks lack a value at one of the points" in mean["note"]
    assert by(found, "models", task="sort")["n_points"] == 4


def test_nothing_graded_a_single_model_and_empty_tables_have_rows_that_say_so():
    ungraded = study()
    ungraded["performance"][["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    found, _ = fitted(ungraded)
    assert "needs 4 models, found 0" in by(found, "models")["note"]
    alone, _ = fitted(study(models=1, checkpoints=1))
    assert by(alone, "models")["note"] == "needs 4 models, found 1"
    empty, _ = fitted({name: table.head(0) for name, table in study().items()})
    assert by(empty, "models")["note"] == "needs 4 models, found 0"
    named = study(tasks=("mean",))
    with pytest.raises(ValueError, match="a task is named 'mean'"):
        fitted(named)


def test_the_papers_figures_show_no_law_over_models():
    found, _ = fitted(study())
    row = by(found, "published")
    assert row["n_points"] == 8
    points = published.load().query("figure == 'mui_performance'")
    wide = points.pivot(index="model", columns="metric", values="value") / 100
    oracle = stats.linregress(wide["mui_percent"], wide["performance_percent"])
    assert (row["slope"], row["slope_p"]) == pytest.approx((oracle.slope, oracle.pvalue))
    assert row["r_squared"] == pytest.approx(oracle.rvalue**2)
    assert row["slope_p"] > 0.5
    path = by(found, "published", model="OLMoE", task="MBPP")
    assert path["n_points"] == 6
    assert "no independent points" in path["note"]


@pytest.mark.simulation
@pytest.mark.parametrize(("n", "rho"), [(8, 0.6), (8, 0.95), (30, 0.6)])
def test_intervals_hold_their_level(n, rho):
    rng = np.random.default_rng(n)
    draws, slopes, shares = 600, 0, 0
    for _ in range(draws):
        x = rng.normal(size=n)
        found = laws.fit(mui=x, performance=rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n), form="linear")
        slopes += found.slope_low <= rho <= found.slope_high
        shares += found.r_squared_low <= rho**2 <= found.r_squared_high
    assert 0.92 <= slopes / draws <= 0.98
    assert 0.92 <= shares / draws <= 0.98
