"""Exposure: a regression by hand, separation by linear programming, limits of the likelihood, coverage, notes."""

from math import log, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from moemui.experts import exposure
from moemui.experts.exposure import limit, profile_interval, regression, separation


def cells(*groups):
    """Arrays key, shared, tokens from (shared, tokens, key experts, experts)."""
    key = [i < found for _, _, found, n in groups for i in range(n)]
    shared = [kind for kind, _, _, n in groups for _ in range(n)]
    tokens = [seen for _, seen, _, n in groups for _ in range(n)]
    return {
        "key": np.array(key, dtype=bool),
        "shared": np.array(shared, dtype=bool),
        "tokens": np.array(tokens, dtype=np.int64),
    }


# Odds of being key: routed 1/4 and 1, shared 1 and 4, at log(1 + tokens) = 0 and log 4. All coefficients are exact.
ADDITIVE = cells((False, 0, 2, 10), (False, 3, 5, 10), (True, 0, 5, 10), (True, 3, 8, 10))


def binomial(key, n):
    """Log-likelihood of a share at its maximum."""
    return special.xlogy(key, key / n) + special.xlogy(n - key, 1 - key / n)


def test_a_regression_by_hand():
    found = regression(**ADDITIVE)
    assert found.log_odds_shared == pytest.approx(log(4), abs=1e-6)
    assert found.log_odds_tokens == pytest.approx(1, abs=1e-6)
    # n·p·q is 1.6 and 2.5 on both levels of tokens, so the variance of shared is 1 / (2 · 1.6 · 2.5 / 4.1)
    assert found.wald_p == pytest.approx(2 * stats.norm.sf(log(4) / sqrt(4.1 / 8)), rel=1e-5)
    # without shared: 7 of 20 and 13 of 20
    gain = binomial(2, 10) + 2 * binomial(5, 10) + binomial(8, 10) - binomial(7, 20) - binomial(13, 20)
    assert found.likelihood_ratio_p == pytest.approx(stats.chi2.sf(2 * gain, 1), rel=1e-6)
    # which predicts 7/20 and 13/20 of the ten shared experts at each; 13 are key
    assert found.expected_key_shared == pytest.approx(10, abs=1e-5)
    assert (found.separation, found.separation_by_tokens, found.note) == ("none", "none", "")


def random_experts(rng, n=150, effect=1.5):
    shared = np.arange(n) < 40
    tokens = np.round(np.exp(rng.normal(4, 1, n) + shared)).astype(np.int64)
    odds = -3 + effect * shared + 0.5 * np.log1p(tokens)
    return {"key": rng.random(n) < special.expit(odds), "shared": shared, "tokens": tokens}


def minus_log_likelihood(parameters, key, design):
    return -special.log_expit(np.where(key, 1, -1) * (design @ parameters)).sum()


def design_of(shared, tokens):
    return np.column_stack([np.ones(len(shared)), shared, np.log1p(tokens)])


def test_the_regression_maximises_the_likelihood_and_its_interval_is_where_it_falls_by_1_92():
    data = random_experts(np.random.default_rng(4))
    key, design = data["key"], design_of(data["shared"], data["tokens"])
    best = optimize.minimize(minus_log_likelihood, np.zeros(3), args=(key, design), method="Nelder-Mead",
                             options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000})  # fmt: skip
    found = regression(**data)
    assert [found.log_odds_shared, found.log_odds_tokens] == pytest.approx(best.x[1:], abs=1e-5)
    for column, ends in (
        (1, (found.log_odds_shared_low, found.log_odds_shared_high)),
        (2, (found.log_odds_tokens_low, found.log_odds_tokens_high)),
    ):
        assert ends[0] < best.x[column] < ends[1]
        for end in ends:

            def held(others, column=column, end=end):
                return minus_log_likelihood(np.insert(others, column, end), key, design)

            fall = optimize.minimize(held, np.delete(best.x, column), method="Nelder-Mead",
                                     options={"xatol": 1e-8, "fatol": 1e-10}).fun - best.fun  # fmt: skip
            assert 2 * fall == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-4)


def by_linear_programming(key, tokens, group):
    """Konis 2007: is there a direction that no expert contradicts and some confirm, or that all confirm?"""
    signs = np.where(key, 1.0, -1.0)[:, None]
    design = np.column_stack([np.equal.outer(group, np.unique(group)), tokens]).astype(float)
    design = design[:, : np.linalg.matrix_rank(design)] if np.ptp(tokens) == 0 else design
    confirmed = signs * design
    bounds = [(-1, 1)] * design.shape[1]
    some = optimize.linprog(-confirmed.sum(axis=0), A_ub=-confirmed, b_ub=np.zeros(len(key)), bounds=bounds)
    # the margin as one more variable, to be as large as it can be
    wide = np.column_stack([-confirmed, np.ones(len(key))])
    margin = optimize.linprog([0] * design.shape[1] + [-1], A_ub=wide, b_ub=np.zeros(len(key)),
                              bounds=[*bounds, (None, 1)])  # fmt: skip
    if -margin.fun > 1e-7:
        return "complete"
    return "quasi-complete" if -some.fun > 1e-7 else "none"


experts = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=14)


@settings(max_examples=150, deadline=None)
@given(experts, st.booleans())
def test_separation_is_what_linear_programming_finds(found, one_group):
    key, shared, tokens = (np.array(column) for column in zip(*found, strict=True))
    group = np.zeros(len(key), dtype=int) if one_group else shared.astype(int)
    assert separation(key=key, tokens=tokens, group=group).kind == by_linear_programming(key, tokens, group)


@settings(max_examples=60, deadline=None)
@given(experts)
def test_the_likelihood_has_the_limit_that_a_long_climb_comes_near(found):
    key, shared, tokens = (np.array(column) for column in zip(*found, strict=True))
    highest = limit(key=key, tokens=tokens, group=shared.astype(int)).log_likelihood
    design = design_of(shared, tokens)

    def gradient(parameters, key, design):
        return design.T @ (special.expit(design @ parameters) - key)

    climbed = optimize.minimize(minus_log_likelihood, np.zeros(3), args=(key, design), jac=gradient, method="L-BFGS-B",
                                options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10})  # fmt: skip
    assert -climbed.fun <= highest + 1e-7
    assert -climbed.fun == pytest.approx(highest, abs=2e-3)


def test_complete_separation_has_no_estimate_but_a_likelihood_ratio_of_the_limits():
    # every shared expert is key and no routed one, though some routed ones saw as many tokens
    data = cells((True, 9, 2, 2), (False, 9, 0, 2), (False, 4, 0, 4))
    found = regression(**data)
    # with shared the limit is certainty, 0; without it 2 of 4 at 9 tokens, and certainty below
    assert found.likelihood_ratio_p == pytest.approx(stats.chi2.sf(-2 * binomial(2, 4), 1))
    assert (found.separation, found.separation_by_tokens) == ("complete", "quasi-complete")
    assert found.expected_key_shared == pytest.approx(1)
    assert np.isnan([found.log_odds_shared, found.log_odds_shared_low, found.wald_p, found.log_odds_tokens]).all()
    assert found.note == (
        "complete separation: no estimate and no Wald p; the likelihood-ratio p is taken at the likelihood's limit; "
        "tokens alone separate as well (quasi-complete)"
    )


def test_tokens_that_tell_key_experts_apart_leave_nothing_to_shared():
    # as in small models: the shared experts saw all tokens, no routed one as many, and only the shared ones are key
    found = regression(**cells((True, 90, 3, 3), (False, 40, 0, 5), (False, 10, 0, 20)))
    assert (found.separation, found.separation_by_tokens) == ("complete", "complete")
    assert (found.likelihood_ratio_p, found.expected_key_shared) == (1, 3)


def test_quasi_complete_separation_by_kind_leaves_the_routed_experts_likelihood():
    # shared experts all key; the routed ones overlap: 1 of 4 key at 0 tokens, 2 of 4 at 3
    data = cells((True, 9, 2, 2), (False, 0, 1, 4), (False, 3, 2, 4))
    found = regression(**data)
    together = np.zeros(10, dtype=int)
    assert found.separation == "quasi-complete"
    assert found.separation_by_tokens == "none"
    highest = limit(key=data["key"], tokens=data["tokens"], group=data["shared"].astype(int)).log_likelihood
    assert highest == pytest.approx(binomial(1, 4) + binomial(2, 4))
    without = limit(key=data["key"], tokens=data["tokens"], group=together).log_likelihood
    best = optimize.minimize(
        minus_log_likelihood, np.zeros(2), args=(data["key"], design_of(data["shared"], data["tokens"])[:, [0, 2]])
    )
    assert without == pytest.approx(-best.fun, abs=1e-6)
    assert found.likelihood_ratio_p == pytest.approx(stats.chi2.sf(2 * (highest - without), 1))


def test_experts_that_barely_overlap_have_wide_but_finite_intervals():
    # one key expert at 1,534 tokens, one that is not at 1,541: far from separated only to the eye of an integer
    data = cells((True, 5409, 1, 3), (False, 1541, 0, 1), (False, 1534, 1, 1), (False, 700, 0, 100))
    found = regression(**data)
    assert found.separation == "none"
    assert found.log_odds_tokens_high > 100
    assert np.isfinite([found.log_odds_shared_low, found.log_odds_tokens_low, found.log_odds_tokens_high]).all()
    design = design_of(data["shared"], data["tokens"])
    assert profile_interval(key=data["key"], design=design, column=1) == pytest.approx(
        (found.log_odds_shared_low, found.log_odds_shared_high), rel=1e-5
    )


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (cells((False, 3, 1, 4)), "no shared experts"),
        (cells((True, 3, 1, 4)), "no routed experts"),
        (cells((True, 3, 0, 1), (False, 1, 0, 4)), "no key expert"),
        (cells((True, 3, 1, 1), (False, 1, 4, 4)), "every expert is key"),
        (
            cells((True, 3, 1, 2), (False, 1, 1, 4)),
            "all experts of a kind saw equally many tokens: shared and tokens can't be told apart",
        ),
    ],
)
def test_what_can_not_be_regressed_says_why(data, note):
    found = regression(**data)
    assert found.note == note
    assert np.isnan([found.log_odds_shared, found.wald_p, found.likelihood_ratio_p, found.log_odds_tokens]).all()
    assert np.isnan(found.expected_key_shared)
    assert (found.separation, found.separation_by_tokens) == ("", "")


def test_negative_tokens_are_refused():
    with pytest.raises(ValueError, match="routed -1 tokens; counts of tokens are 0 or more"):
        regression(**ADDITIVE | {"tokens": ADDITIVE["tokens"] - 1})


@pytest.mark.simulation
def test_the_profile_interval_covers_the_coefficient():
    rng, runs, hits = np.random.default_rng(0), 400, 0
    for _ in range(runs):
        data = random_experts(rng)
        low, high = profile_interval(
            key=data["key"], design=design_of(data["shared"], data["tokens"]), column=exposure.SHARED
        )
        hits += low <= 1.5 <= high
    assert 0.92 <= hits / runs <= 0.98


@pytest.mark.simulation
def test_the_likelihood_ratio_p_keeps_its_level_where_tokens_explain_everything():
    rng, runs, hits = np.random.default_rng(1), 600, 0
    for _ in range(runs):
        data = random_experts(rng, effect=0)
        with_shared, without = (
            limit(key=data["key"], tokens=data["tokens"], group=group).log_likelihood
            for group in (data["shared"].astype(int), np.zeros(150, dtype=int))
        )
        hits += stats.chi2.sf(2 * (with_shared - without), 1) < 0.05
    assert 0.03 <= hits / runs <= 0.08


def frequencies(data, tasks=("add",), checkpoint="s9", variant="main"):
    """expert_frequency rows of one checkpoint: the same key experts and tokens on every task."""
    return pd.DataFrame(
        [
            {
                "model": "ds",
                "checkpoint": checkpoint,
                "tokens": 9e3,
                "order": 1,
                "task": task,
                "formulation": "projection",
                "selection": "pairs",
                "threshold": 0.001,
                "rule": "topk",
                "variant": variant,
                "expert": f"L0-E{i:03}",
                "kind": "shared" if data["shared"][i] else "routed",
                "frequency": float(data["key"][i]),
                "routed_tokens": data["tokens"][i],
            }
            for task in tasks
            for i in range(len(data["key"]))
        ]
    )


def test_rows_add_up_the_tokens_of_a_sets_tasks():
    found = exposure.rows(frequencies=frequencies(ADDITIVE, tasks=("add", "sort"))).set_index("task_set")
    assert found.loc["add", "log_odds_shared"] == pytest.approx(log(4), abs=1e-6)
    assert found.loc["add", "log_odds_tokens"] == pytest.approx(1, abs=1e-6)
    # over both tasks tokens are 0 and 6
    assert found.loc["all", "log_odds_tokens"] == pytest.approx(log(4) / log(7), abs=1e-6)
    assert found.loc["all", ["n_experts", "n_shared", "n_key", "n_key_shared"]].tolist() == [40, 20, 20, 13]


def test_rows_correct_the_likelihood_ratio_within_a_setting_and_leave_gaps_alone():
    plain = cells((False, 3, 1, 4))
    table = pd.concat([frequencies(ADDITIVE), frequencies(plain).assign(model="olmoe"),
                       frequencies(random_experts(np.random.default_rng(4)), variant="ungated")])  # fmt: skip
    found = exposure.rows(frequencies=table).set_index(["model", "variant"])
    assert found["likelihood_ratio_q"].dropna().tolist() == found["likelihood_ratio_p"].dropna().tolist()
    olmoe = found.loc[("olmoe", "main")]
    assert pd.isna(olmoe["likelihood_ratio_q"])
    assert olmoe["note"] == "no shared experts"
    # two tests in one setting: the smaller p doubles, up to the larger one
    both = pd.concat([frequencies(ADDITIVE), frequencies(random_experts(np.random.default_rng(4)), checkpoint="s99")])
    p, q = (
        exposure.rows(frequencies=both)[name].sort_values() for name in ("likelihood_ratio_p", "likelihood_ratio_q")
    )
    assert q.tolist() == pytest.approx([min(2 * p.iloc[0], p.iloc[1]), p.iloc[1]])


def test_no_rows_give_an_empty_table():
    assert len(exposure.rows(frequencies=frequencies(ADDITIVE).iloc[:0])) == 0
