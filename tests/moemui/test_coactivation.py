"""Co-activation: by hand, against numpy, R's published examples and enumeration; confounding by task; coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moemui.experts import coactivation
from moemui.experts.coactivation import cross_tables, informative, moments, phi, phi_interval, within_tasks
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

# Two layers of two routed experts and one shared one, of a neuron each, so neuron and expert numbers are the same
GEOMETRY = Geometry((Layer(3, 2, 1, 1, 1, 1), Layer(4, 2, 1, 1, 1, 1)))
NAMES = ["L3-E0", "L3-E1", "L3-S1", "L4-E0", "L4-E1", "L4-S1"]
MAIN = Setting("projection", "pairs", 0.1)
# R's UCBAdmissions: admitted/rejected × men/women, six departments
BERKELEY = np.array(
    [
        [[512, 89], [313, 19]], [[353, 17], [207, 8]], [[120, 202], [205, 391]],
        [[138, 131], [279, 244]], [[53, 94], [138, 299]], [[22, 24], [351, 317]],
    ]
)  # fmt: skip
# R's example of mantelhaen.test: rabbits cured or not, treated late or at once, five doses of penicillin
RABBITS = np.array(
    [[[0, 6], [0, 5]], [[3, 3], [0, 6]], [[6, 0], [2, 4]], [[5, 1], [6, 0]], [[2, 0], [5, 0]]]
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    def make(tasks):
        """Files of a checkpoint: task → its samples × experts, whether active."""
        for task, activity in tasks.items():
            active = np.asarray(activity, dtype=bool).reshape(-1, 6)
            write(
                tmp_path / f"{task}.h5",
                model="m",
                checkpoint="c",
                task=task,
                geometry=GEOMETRY,
                samples=Samples(
                    id=np.array([f"{task}-{i}" for i in range(len(active))], dtype=object),
                    domain=np.array(["math"] * len(active), dtype=object),
                    correct=np.ones(len(active), dtype=np.int8),
                    response_tokens=np.ones(len(active), dtype=np.int32),
                ),
                sets={MAIN: KeySets(np.cumsum([0, *active.sum(axis=1)]), np.nonzero(active)[1])},
                routed_tokens=np.zeros((2, 2), dtype=int),
            )
        return [read(tmp_path / f"{task}.h5") for task in tasks]

    return make


def rows(files, **options):
    return coactivation.rows(key_neurons=files, tokens=0, order=0, setting=MAIN, **options)


def test_cross_tables_and_phi_by_hand():
    first = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=bool)
    second = np.array([[1, 1], [1, 1], [0, 0]], dtype=bool)
    found = cross_tables(active=[first, second], a=0, b=1)
    assert found.tolist() == [[[1, 1], [1, 1]], [[2, 0], [0, 1]]]
    assert phi(table=found).tolist() == [0, 1]
    assert phi(table=found.sum(axis=0)) == pytest.approx((3 * 2 - 1) / 12)  # margins 4, 3, 4 and 3
    assert np.isnan(phi(table=np.array([[2, 1], [0, 0]])))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=30))
def test_phi_is_the_correlation_of_being_active(pairs):
    active = np.array(pairs)
    found = phi(table=cross_tables(active=[active], a=0, b=1)[0])
    if active.all(axis=0).any() or (~active).all(axis=0).any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(active.T)[0, 1])


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("shares", "together"),
    [(((0.3, 0.4),), 0.2), (((0.02, 0.03),) * 4, 0.0), (((0.95, 0.93),) * 4, 0.0), (((0.9, 0.9), (0.05, 0.05)), 0.0)],
    ids=["one task", "rare", "frequent", "driven by tasks"],
)
def test_phi_intervals_cover(shares, together):
    cells = []
    for a, b in shares:
        both = a * b + together * np.sqrt(a * (1 - a) * b * (1 - b))
        cells.append([both, a - both, b - both, 1 - a - b + both])
    true = phi(table=np.mean(cells, axis=0).reshape(2, 2))
    generator, covered, tried = np.random.default_rng(11), 0, 0
    for number in range(500):
        found = np.array([generator.multinomial(200, each) for each in cells]).reshape(-1, 2, 2)
        if np.isnan(phi(table=found.sum(axis=0))):
            continue  # such a pair is not compared
        low, high = phi_interval(tables=found, seed=number, draws=500)
        covered, tried = covered + (low <= true <= high), tried + 1
    assert 0.92 <= covered / tried <= 0.98


def test_phi_interval_repeats_with_its_seed_and_widens_where_a_cell_is_empty():
    tables = np.array([[[190, 5], [5, 0]]])
    once, again = (phi_interval(tables=tables, seed=4) for _ in range(2))
    assert once == again
    assert once[0] < phi(table=tables[0]) < 0 < once[1]  # one sample without both would make it positive


def test_within_tasks_of_berkeley_admissions():
    # R: mantelhaen.test(UCBAdmissions, correct = FALSE): odds ratio 0.9046968, interval 0.7719074 1.0603298
    found = within_tasks(tables=BERKELEY)
    assert (found.odds_ratio, found.low, found.high) == pytest.approx((0.9046968, 0.7719074, 1.0603298), abs=1e-6)
    # and 1.4269 with the continuity correction; |Σ both − mean| is the same in both
    mean, variance, _ = moments(tables=BERKELEY)
    difference = abs(BERKELEY[:, 0, 0].sum() - mean)
    assert (difference - 0.5) ** 2 / variance == pytest.approx(1.4269, abs=1e-4)
    assert found.p == pytest.approx(stats.chi2.sf(difference**2 / variance, 1))
    assert found.note == ""


def test_within_tasks_of_penicillin_is_exact():
    # R: mantelhaen.test(Rabbits, exact = TRUE): p-value = 0.03994; mantelhaen.test(Rabbits): common odds ratio 7
    found = within_tasks(tables=RABBITS)
    assert found.p == pytest.approx(0.03994, abs=5e-6)
    assert found.odds_ratio == pytest.approx(7)
    assert found.note == "p within tasks exact: few samples expected"
    assert len(informative(tables=RABBITS)) == 3  # at two doses all rabbits fared alike or were all alike treated


def shuffles(active):
    """n_both for every way to shuffle expert b's samples within each task."""
    for orders in itertools.product(*(itertools.permutations(each[:, 1]) for each in active)):
        yield sum(int((each[:, 0] & np.array(order)).sum()) for each, order in zip(active, orders, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=4), min_size=1, max_size=2))
def test_exact_p_mean_and_variance_are_those_of_all_shuffles_within_tasks(tasks):
    active = [np.array(samples) for samples in tasks]
    tables = cross_tables(active=active, a=0, b=1)
    both = np.array(list(shuffles(active)))
    mean, variance, _ = moments(tables=tables)
    assert (mean, variance) == pytest.approx((both.mean(), both.var()))
    found = within_tasks(tables=tables)
    if not len(informative(tables=tables)):
        assert np.isnan(found.p)
        assert found.note == "in no task do both experts vary: no test within tasks"
        return
    values, counts = np.unique(both, return_counts=True)
    seen = counts[values == tables[:, 0, 0].sum()][0]
    assert found.p == pytest.approx(counts[counts <= seen].sum() / len(both))


def test_infinite_and_zero_odds_ratios_are_said():
    always = within_tasks(tables=np.array([[[30, 0], [0, 30]]]))
    assert np.isnan([always.odds_ratio, always.low, always.high]).all()
    assert always.note == "odds ratio within tasks infinite"
    assert always.p < 1e-10
    never = within_tasks(tables=np.array([[[0, 30], [30, 0]]]))
    assert never.odds_ratio == 0
    assert np.isnan([never.low, never.high]).all()
    assert never.note == "odds ratio within tasks 0: no interval"


def test_phi_within_is_the_correlation_left_after_the_tasks_means():
    generator = np.random.default_rng(2)
    active = [generator.random((n, 2)) < share for n, share in ((40, 0.8), (60, 0.2))]
    centred = np.concatenate([each - each.mean(axis=0) for each in active])
    tables = cross_tables(active=active, a=0, b=1)
    mean, _, spread = moments(tables=tables)
    expected = np.corrcoef(centred.T)[0, 1]
    assert (tables[:, 0, 0].sum() - mean) / spread == pytest.approx(expected)


def test_the_most_frequent_experts_vary_and_ties_go_by_number():
    active = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=bool)
    assert coactivation.most_frequent(active=active).tolist() == [4, 1, 2]
    assert coactivation.most_frequent(active=active, count=2).tolist() == [4, 1]


def noise(generator, n, shares):
    return generator.random((n, 6)) < np.array(shares)


def test_tasks_alone_look_like_co_activation_and_the_test_within_tasks_sees_through_it(checkpoint):
    generator = np.random.default_rng(7)
    # E0 of both layers are active on the first task; S1 of both are active together on either, E1 of both apart
    tasks = {
        "a": noise(generator, 100, [0.9, 0.5, 0.5, 0.9, 0, 0]),
        "b": noise(generator, 100, [0.1, 0.5, 0.5, 0.1, 0, 0]),
    }
    for active in tasks.values():
        active[:, 5] = active[:, 2] ^ (generator.random(100) < 0.1)
        active[:, 4] = ~active[:, 1] ^ (generator.random(100) < 0.1)
    pairs, summary = rows(checkpoint(tasks))
    found = pairs.set_index([pairs[["expert_a", "expert_b"]].min(axis=1), pairs[["expert_a", "expert_b"]].max(axis=1)])
    by_task = found.loc[("L3-E0", "L4-E0")]
    assert (by_task["verdict"], by_task["verdict_within"]) == ("together", "undecided")
    assert by_task["phi"] > 0.4
    assert abs(by_task["phi_within"]) < 0.2
    assert by_task["odds_ratio_within_low"] < 1 < by_task["odds_ratio_within_high"]
    true = found.loc[("L3-S1", "L4-S1")]
    assert (true["verdict"], true["verdict_within"]) == ("together", "together")
    assert (true["kind_a"], true["kind_b"], {true["layer_a"], true["layer_b"]}) == ("shared", "shared", {3, 4})
    assert true["odds_ratio_within_low"] > 5
    apart = found.loc[("L3-E1", "L4-E1")]
    assert (apart["verdict"], apart["verdict_within"]) == ("apart", "apart")
    total = summary.set_index("pairs").loc["all"]
    assert (total["n_pairs"], total["n_together_within"], total["n_apart_within"]) == (15, 1, 1)
    by_layer = summary.set_index("pairs")["n_pairs"]
    assert (by_layer["same_layer"], by_layer["across_layers"]) == (6, 9)


def test_a_pair_by_hand(checkpoint):
    # E0 and E1 of layer 3: both in 4 samples, alone in 1 and 1, neither in 4; the other experts never or always active
    block = [[1, 1]] * 4 + [[1, 0], [0, 1]] + [[0, 0]] * 4
    pairs, summary = rows(checkpoint({"a": [[a, b, 1, 0, 0, 0] for a, b in block]}))
    found = pairs.iloc[0]
    assert pairs[["expert_a", "expert_b"]].values.tolist() == [["L3-E0", "L3-E1"]]
    assert found[["n_samples", "n_a", "n_b", "n_both", "n_tasks_within"]].tolist() == [10, 5, 5, 4, 1]
    assert found[["expected", "expected_within", "lift"]].tolist() == pytest.approx([2.5, 2.5, 1.6])
    assert found[["phi", "phi_within"]].tolist() == pytest.approx([0.6, 0.6])
    # Fisher: (1 + 25) tables of 252 at each end
    assert found[["p", "q", "p_within", "q_within"]].tolist() == pytest.approx([52 / 252] * 4)
    assert found["odds_ratio_within"] == pytest.approx(16)
    assert found[["verdict", "verdict_within"]].tolist() == ["undecided", "undecided"]
    total = summary.set_index("pairs").loc["all"]
    assert total[["n_compared", "n_left_out", "n_always", "n_never"]].tolist() == [2, 0, 1, 3]
    # n_both of 10 samples with 5 and 5: variance 25·25/(100·9), Π = 2.5
    error = np.sqrt(625 / 900) / 2.5
    assert (total["chance_low"], total["chance_high"]) == pytest.approx((-1.959964 * error, 1.959964 * error))
    assert total["p_within"] == pytest.approx(2 * stats.norm.sf(0.6 / error))
    notes = summary.set_index("pairs")["note"]
    assert (notes["same_layer"], notes["across_layers"]) == ("", "no pair of experts to compare")


def test_count_limits_the_experts_and_says_how_many_are_left_out(checkpoint):
    generator = np.random.default_rng(0)
    pairs, summary = rows(checkpoint({"a": noise(generator, 50, [0.9, 0.8, 0.7, 0.3, 0.2, 0.1])}), count=3)
    assert set(pairs["expert_a"]) | set(pairs["expert_b"]) == {"L3-E0", "L3-E1", "L3-S1"}
    assert summary.loc[0, ["n_compared", "n_left_out", "n_pairs"]].tolist() == [3, 3, 3]


@pytest.mark.parametrize("activity", [[[1, 0, 1, 0, 0, 0]], [[1, 0, 1, 0, 0, 0]] * 5, [[0] * 6] * 4])
def test_one_sample_identical_samples_and_empty_key_sets_leave_no_pair(checkpoint, activity):
    pairs, summary = rows(checkpoint({"a": activity}))
    assert len(pairs) == 0
    assert summary["note"].eq("no pair of experts to compare").all()
    assert summary[["mean_phi", "mean_phi_within", "chance_low", "p_within"]].isna().all(axis=None)
    assert (summary["n_always"] + summary["n_never"]).eq(6).all()


def test_experts_that_vary_between_tasks_alone_are_not_tested_within_them(checkpoint):
    pairs, summary = rows(checkpoint({"a": [[1, 1, 0, 0, 0, 0]] * 5, "b": [[0] * 6] * 5}))
    found = pairs.iloc[0]
    assert found["note"] == "in no task do both experts vary: no test within tasks"
    assert (found["phi"], found["n_tasks_within"], found["verdict_within"]) == (1, 0, "undecided")
    assert found[["phi_within", "odds_ratio_within", "p_within", "q_within"]].isna().all()
    assert found["expected_within"] == 5
    assert summary["note"][0] == "in no task do both experts of a pair vary"


@pytest.mark.simulation
def test_independent_experts_stay_inside_the_chance_range_in_95_percent(checkpoint):
    generator, inside, shares = np.random.default_rng(9), [], [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]
    for _ in range(150):
        tasks = {"a": noise(generator, 40, shares), "b": noise(generator, 60, shares[::-1])}
        summary = rows(checkpoint(tasks))[1].iloc[0]
        inside.append(summary["chance_low"] <= summary["mean_phi_within"] <= summary["chance_high"])
    assert 0.92 <= np.mean(inside) <= 0.98
