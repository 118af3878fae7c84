"""Specialisation: information by hand and by enumeration, the tests against scipy's, false alarms by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moemui.experts import specialization
from moemui.experts.specialization import expected_information, independence, mutual_information, selectivity
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.statistics.intervals import wilson

# Four routed experts and one shared one of a neuron each, so neuron and expert numbers are the same
GEOMETRY = Geometry((Layer(0, 4, 1, 1, 1, 1),))
MAIN = Setting("projection", "pairs", 0.1)


@pytest.fixture
def checkpoint(tmp_path):
    def make(tasks):
        """Files of a checkpoint: task → (domain, the experts that are active in each of its samples)."""
        for task, (domain, samples) in tasks.items():
            write(
                tmp_path / f"{task}.h5",
                model="m",
                checkpoint="c",
                task=task,
                geometry=GEOMETRY,
                samples=Samples(
                    id=np.array([f"{task}-{i}" for i in range(len(samples))], dtype=object),
                    domain=np.array([domain] * len(samples), dtype=object),
                    correct=np.ones(len(samples), dtype=np.int8),
                    response_tokens=np.ones(len(samples), dtype=np.int32),
                ),
                sets={
                    MAIN: KeySets(
                        np.cumsum([0, *map(len, samples)]), np.array([e for own in samples for e in own], dtype=int)
                    )
                },
                routed_tokens=np.zeros((1, 4), dtype=int),
            )
        return [read(tmp_path / f"{task}.h5") for task in tasks]

    return make


def rows(files):
    return specialization.rows(key_neurons=files, tokens=0, order=0, setting=MAIN)


def test_mutual_information_by_hand():
    active, sizes = np.array([[4, 0], [2, 2], [3, 1], [0, 0], [4, 4]]), np.array([4, 4])
    # 3 of 4 and 1 of 4: a bit less the entropy of a quarter, 2 − ¾·log2(3)
    expected = [1, 0, 1 - (2 - 0.75 * np.log2(3)), 0, 0]
    assert mutual_information(active=active, sizes=sizes) == pytest.approx(np.array(expected))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(any), min_size=2, max_size=5))
def test_mutual_information_is_g_over_2n_bits_and_never_negative(counts):
    active, idle = np.array(counts).T
    found = mutual_information(active=active, sizes=active + idle)
    assert 0 <= found <= 1
    if active.any() and idle.any():
        g = stats.chi2_contingency([active, idle], correction=False, lambda_="log-likelihood").statistic
        assert found == pytest.approx(g / (2 * np.log(2) * (active + idle).sum()), abs=1e-12)
    else:
        assert found == 0


@pytest.mark.parametrize("n_active", [1, 3, 5])
def test_expected_information_is_the_mean_over_all_ways_to_deal_out_domains(n_active):
    sizes = np.array([3, 2, 1])
    domain = np.repeat([0, 1, 2], sizes)
    ways = []
    for chosen in itertools.combinations(range(6), n_active):
        active = np.bincount(domain[list(chosen)], minlength=3)
        ways.append(mutual_information(active=active, sizes=sizes))
    assert expected_information(n_active=n_active, sizes=sizes) == pytest.approx(np.mean(ways))


def test_expected_information_of_many_samples_is_the_miller_madow_term():
    found = expected_information(n_active=4000, sizes=np.array([5000, 3000, 2000]))
    assert found == pytest.approx(2 / (2 * 10_000 * np.log(2)), rel=0.01)


def test_selectivity_is_0_by_chance_and_1_where_the_domain_decides():
    sizes, active = np.array([50, 50]), np.array([[50, 0], [25, 25], [1, 0], [40, 10]])
    totals = active.sum(axis=1)
    information = mutual_information(active=active, sizes=sizes)
    expected = np.array([expected_information(n_active=int(total), sizes=sizes) for total in totals])
    found = selectivity(information=information, expected=expected, n_active=totals, n=100)
    # a single active sample always lies in one domain, so its information is all chance
    assert found[:3] == pytest.approx([1, 0, 0])
    assert found[3] == pytest.approx((information[3] - expected[3]) / (1 - expected[3]))
    alone = np.array([expected_information(n_active=1, sizes=np.array([1, 1]))])
    assert selectivity(information=np.ones(1), expected=alone, n_active=np.ones(1), n=2).tolist() == [0]


def test_with_many_expected_samples_the_test_is_the_g_test():
    active, sizes = np.array([[30, 20, 10], [20, 20, 21], [0, 0, 0], [60, 50, 40]]), np.array([60, 50, 40])
    found = independence(active=active, sizes=sizes, seed=0)
    for row in (0, 1):
        table = [active[row], sizes - active[row]]
        assert found.p[row] == stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue
    assert found.p[2:].tolist() == [1, 1]
    assert not found.monte_carlo.any()


@pytest.mark.parametrize("active", [(3, 0, 0), (2, 1, 0), (1, 1, 1), (5, 4, 1)])
def test_with_few_expected_samples_p_is_that_of_all_tables_with_the_margins(active):
    counts, sizes = np.array([active]), np.array([5, 4, 4])
    every = [c for c in itertools.product(*(range(n + 1) for n in sizes)) if sum(c) == sum(active)]
    weight = stats.multivariate_hypergeom(sizes, sum(active)).pmf(every)
    as_large = (
        mutual_information(active=np.array(every), sizes=sizes) >= mutual_information(active=counts, sizes=sizes) - 1e-9
    )
    found = independence(active=counts, sizes=sizes, seed=3)
    assert found.monte_carlo.all()
    assert found.p[0] == pytest.approx(weight[as_large].sum(), abs=0.02)  # four standard errors of 9,999 tables


@pytest.mark.simulation
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_experts_that_ignore_domains_are_called_specialised_in_5_percent(share):
    generator, sizes = np.random.default_rng(1), np.array([80, 60, 40, 40])
    active = generator.binomial(sizes, share, size=(3000, 4))
    p = independence(active=active, sizes=sizes, seed=0).p
    # p-values of rare experts are discrete, so fewer than 5 % of them are below 0.05
    assert (p < 0.05).mean() <= 0.06
    if share == 0.3:
        assert (p < 0.05).mean() >= 0.04


def test_over_represented_domains_are_those_of_fishers_test():
    active, sizes = np.array([[18, 2, 3], [9, 9, 2], [5, 5, 5]]), np.array([20, 20, 20])
    for row, found in zip(active, specialization.over_represented(active=active, sizes=sizes), strict=True):
        p = []
        for domain in range(3):
            here, elsewhere = row[domain], row.sum() - row[domain]
            table = [[here, 20 - here], [elsewhere, 40 - elsewhere]]
            p.append(stats.fisher_exact(table, alternative="greater").pvalue)
        assert found.tolist() == (stats.false_discovery_control(p) < 0.05).tolist()
    assert specialization.over_represented(active=active, sizes=sizes)[0].tolist() == [True, False, False]


def study(checkpoint):
    """Expert 0 is active on math alone, 1 half of the time on both, 2 in one sample, 3 never, the shared one always."""
    math = [(0, 1, 4), (0, 4)] * 10
    code = [(1, 4), (4,)] * 9 + [(1, 2, 4), (4,)]
    return rows(checkpoint({"sums": ("math", math), "python": ("code", code), "more": ("math", math)}))


def test_rows_of_a_checkpoint_by_hand(checkpoint):
    frame, summary = study(checkpoint)
    found = frame.set_index("expert")
    assert found["kind"].tolist() == ["routed"] * 4 + ["shared"]
    assert found["n_active"].tolist() == [40, 30, 1, 0, 60]
    assert found[["n_samples", "n_domains"]].drop_duplicates().values.tolist() == [[60, 2]]
    one_third = np.log2(3) - 2 / 3
    assert found.loc["L0-E0", "mutual_information"] == pytest.approx(one_third)
    assert found.loc["L0-E0", "selectivity"] == pytest.approx(1)
    assert found.loc["L0-E1", ["mutual_information", "selectivity"]].tolist() == pytest.approx([0, 0])
    assert found["domains"].tolist() == ["math", "", "", "", ""]
    assert found["top_domain"].tolist() == ["math", "code", "code", "", ""]  # of equal ones the first by name
    assert found.loc["L0-E2", ["frequency_top", "frequency_elsewhere"]].tolist() == [1 / 20, 0]
    ends = ["frequency_top_low", "frequency_top_high", "frequency_elsewhere_low", "frequency_elsewhere_high"]
    wilsons = [*wilson(successes=1, trials=20), *wilson(successes=0, trials=40)]
    assert found.loc["L0-E2", ends].tolist() == pytest.approx(wilsons)
    assert found["note"].tolist() == [
        "", "", "p from 9,999 random tables: few samples expected", "active in no sample", "active in every sample"
    ]  # fmt: skip
    assert found[["p", "q"]].iloc[3:].values.tolist() == [[1, 1], [1, 1]]
    # the G test of a table that holds nothing but 40 and 20: G = 120 ln 2 · I
    g = 120 * np.log(2) * one_third
    assert found.loc["L0-E0", "p"] == pytest.approx(stats.chi2.sf(g, 1))
    assert found.loc["L0-E0", "q"] == pytest.approx(3 * stats.chi2.sf(g, 1))
    counts = ["n_experts", "n_active", "n_testable", "n_specialised"]
    assert summary[["kind", *counts]].values.tolist() == [["routed", 4, 3, 3, 1], ["shared", 1, 1, 0, 0]]
    mean = frame["mutual_information"][:3].mean()
    assert summary["mean_mutual_information"][0] == pytest.approx(mean)
    assert summary["mean_mutual_information_low"][0] <= mean <= summary["mean_mutual_information_high"][0]
    assert summary["note"].tolist() == ["", "no testable expert"]


def test_one_domain_is_not_tested_and_says_so(checkpoint):
    frame, summary = rows(checkpoint({"sums": ("math", [(0, 4), (4,)] * 5)}))
    assert frame["note"].tolist() == ["one domain: no test"] + ["active in no sample"] * 3 + ["active in every sample"]
    assert frame[["p", "q"]].eq(1).all(axis=None)
    assert frame[["mutual_information", "selectivity"]].eq(0).all(axis=None)
    assert frame["frequency_top"].isna().all()
    assert summary["note"].tolist() == ["one domain: no test", "one domain: no test"]


@pytest.mark.parametrize("samples", [[(0, 4)], [()], [()] * 4, [(0, 4)] * 4])
def test_a_sample_a_task_empty_key_sets_and_identical_samples_have_a_result(checkpoint, samples):
    frame, summary = rows(checkpoint({"sums": ("math", samples), "python": ("code", [(1, 4)] * len(samples))}))
    assert frame[["p", "q", "selectivity"]].notna().all(axis=None)
    assert frame.loc[frame["top_domain"] == "", "note"].ne("").all()
    assert summary["n_testable"].tolist() == [
        sum(0 < total < 2 * len(samples) for total in frame["n_active"][:4]),
        int(0 < frame["n_active"][4] < 2 * len(samples)),
    ]


def test_two_samples_can_prove_nothing(checkpoint):
    frame, _ = rows(checkpoint({"sums": ("math", [(0,)]), "python": ("code", [(1,)])}))
    found = frame.set_index("expert").loc["L0-E0"]
    assert found["mutual_information"] == 1
    assert found["mutual_information_expected"] == 1
    assert (found["p"], found["selectivity"]) == (1, 0)
