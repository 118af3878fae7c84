"""Experts: frequencies, key experts and ranks by hand; the bootstrap by enumeration, its coverage by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moemui.experts import key_experts as experts
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.statistics import intervals

# Layer 1: E0 has neurons 0-2, E1 3-5, S1 6-9; layer 2: E0 10-11 and S1 12-15
GEOMETRY = Geometry((Layer(1, 2, 1, 3, 4, 1), Layer(2, 1, 1, 2, 4, 1)))
LISTS = ((0, 1, 6), (2, 6, 7), (6, 12), (), (3, 6))
SETS = KeySets(np.array([0, 3, 6, 8, 8, 10]), np.array([u for own in LISTS for u in own]))
ACTIVITY = experts.activity(sets=SETS, geometry=GEOMETRY)


def test_activity_frequency_and_expert_mui_by_hand():
    assert ACTIVITY.astype(int).tolist() == [
        [1, 0, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
    ]
    assert experts.frequency(activity=ACTIVITY).tolist() == [0.4, 0.2, 0.8, 0.0, 0.2]
    assert experts.expert_mui(sets=SETS, geometry=GEOMETRY).tolist() == [1.0, 1 / 3, 0.5, 0.0, 0.25]


def test_an_expert_exactly_at_the_threshold_is_key():
    share = experts.frequency(activity=np.arange(200)[:, None] < [119, 120])
    assert experts.key_experts(frequency=share, expert_threshold=0.6).tolist() == [False, True]


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_that_is_no_frequency_is_refused(threshold):
    with pytest.raises(ValueError, match=f"expert threshold is {threshold}"):
        experts.key_experts(frequency=np.array([0.5]), expert_threshold=threshold)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        experts.frequency(activity=np.empty((0, 3), dtype=bool))


def test_ranks_break_ties_by_expert_mui_then_by_number():
    often = np.array([0.5, 0.9, 0.5, 0.5])
    used = np.array([0.1, 0.0, 0.3, 0.1])
    assert experts.ranks(frequency=often, expert_mui=used).tolist() == [3, 1, 2, 4]


def test_proportion_interval_matches_all_resamples_of_three():
    activity = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]], dtype=bool)
    every = [activity[list(draw)].mean(axis=0) >= 0.6 for draw in itertools.product(range(3), repeat=3)]
    expected = np.quantile([key.mean() for key in every], [0.025, 0.975])
    assert experts.proportion_interval(activity=activity, seed=1, resamples=5000) == pytest.approx(tuple(expected))


def test_proportion_interval_repeats_with_its_seed_and_needs_two_samples():
    generator = np.random.default_rng(0)
    activity = generator.random((30, 50)) < 0.6
    once, again = (experts.proportion_interval(activity=activity, seed=4, resamples=300) for _ in range(2))
    share = (activity.mean(axis=0) >= 0.6).mean()
    assert once == again
    assert once[0] < once[1]
    assert 0 <= once[0] <= share + 0.1
    with pytest.raises(ValueError, match="found 1 samples"):
        experts.proportion_interval(activity=activity[:1], seed=0)


def test_frequency_intervals_are_wilsons():
    low, high = experts.frequency_interval(activity=ACTIVITY)
    expected = [intervals.wilson(successes=k, trials=5) for k in (2, 1, 4, 0, 1)]
    assert np.stack([low, high], axis=1) == pytest.approx(np.array(expected))
    with pytest.raises(ValueError, match="a frequency has no interval"):
        experts.frequency_interval(activity=ACTIVITY[:0])


def test_undecided_experts_are_those_whose_interval_holds_the_threshold():
    # Wilson of 50, 51, 69 and 70 of 100: up to 0.596, up to 0.606, from 0.594, from 0.604
    activity = np.arange(100)[:, None] < [0, 50, 51, 60, 69, 70, 100]
    found = experts.undecided(activity=activity, expert_threshold=0.6)
    assert found.tolist() == [False, False, True, True, True, False, False]


def test_a_resample_makes_an_expert_key_as_often_as_its_binomial_count_says():
    activity = np.arange(20)[:, None] < [0, 9, 11, 12, 20]
    found = experts.resampled_key(activity=activity, expert_thresholds=[0.5, 0.6], seed=2, resamples=4000)
    # key from 10 and from 12 of 20 active samples on; 4.5 standard errors of 4,000 resamples are 0.036
    chance = [stats.binom.sf(needed - 1, 20, activity.mean(axis=0)) for needed in (10, 12)]
    assert found.mean(axis=1) == pytest.approx(np.array(chance), abs=0.036)


def test_an_expert_far_from_every_threshold_keeps_its_side():
    activity = np.random.default_rng(0).random((2000, 3)) < [0.1, 0.45, 0.9]
    found = experts.resampled_key(activity=activity, expert_thresholds=[0.45, 0.46], seed=0, resamples=200)
    assert not found[:, :, 0].any()
    assert found[:, :, 2].all()
    assert 0 < found[0, :, 1].mean() < 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6))
def test_fewer_experts_are_key_at_a_higher_threshold_in_every_resample(seed, n, count):
    activity = np.random.default_rng(seed).random((n, count)) < 0.5
    found = experts.resampled_key(activity=activity, expert_thresholds=[0.2, 0.5, 0.9], seed=seed, resamples=50)
    assert (found[0] >= found[1]).all()
    assert (found[1] >= found[2]).all()
    alone = experts.resampled_key(activity=activity, expert_thresholds=[0.5], seed=seed, resamples=50)
    assert (alone[0] == found[1]).all()


@pytest.mark.simulation
def test_proportion_intervals_cover_where_frequencies_are_spread_out():
    generator = np.random.default_rng(5)
    true = (np.arange(300) + 0.5) / 300
    bounds, covered = stats.norm.ppf(true), 0
    for number in range(300):
        # samples differ in how many experts they use, so experts' frequencies err together
        latent = np.sqrt(0.5) * (generator.normal(size=(150, 1)) + generator.normal(size=(150, 300)))
        low, high = experts.proportion_interval(activity=latent < bounds, seed=number, resamples=400)
        covered += low <= (true >= 0.6).mean() <= high
    assert 0.92 <= covered / 300 <= 0.98


OTHER = Setting("glu", "pairs", 0.1)


@pytest.fixture
def file(tmp_path):
    def make(sets, n, task="t", checkpoint="c"):
        write(
            tmp_path / f"{checkpoint}-{task}.h5",
            model="m",
            checkpoint=checkpoint,
            task=task,
            geometry=GEOMETRY,
            samples=Samples(
                id=np.array([f"t-{i}" for i in range(n)], dtype=object),
                domain=np.array(["math"] * n, dtype=object),
                correct=np.ones(n, dtype=np.int8),
                response_tokens=np.full(n, 4, dtype=np.int32),
            ),
            sets={Setting("projection", "pairs", 0.1): sets, OTHER: sets},
            routed_tokens=np.array([[12, 8], [20, 0]]),
        )
        return read(tmp_path / f"{checkpoint}-{task}.h5")

    return make


MAIN = Setting("projection", "pairs", 0.1)


def rows(file, common_m=5, **options):
    return experts.rows(key_neurons=file, tokens=0, order=0, common_m=common_m, settings=[MAIN], **options)


def test_rows_of_a_file_by_hand(file):
    frequencies, proportions = rows(file(SETS, 5))
    assert frequencies["expert"].tolist() == ["L1-E0", "L1-E1", "L1-S1", "L2-E0", "L2-S1"]
    assert frequencies["layer"].tolist() == [1, 1, 1, 2, 2]
    assert frequencies["kind"].tolist() == ["routed", "routed", "shared", "routed", "shared"]
    assert frequencies["is_key"].tolist() == [False, False, True, False, False]
    assert frequencies["rank"].tolist() == [2, 3, 1, 5, 4]
    assert frequencies["routed_tokens"].tolist() == [12, 8, 20, 20, 20]
    assert frequencies["frequency_low"][2] == pytest.approx(intervals.wilson(successes=4, trials=5)[0])
    assert frequencies["note"].eq("").all()
    assert proportions[["n_experts", "n_key", "n_key_shared", "n_undecided"]].values.tolist() == [[5, 1, 1, 4]]
    assert proportions["proportion"].tolist() == [0.2]
    assert proportions["proportion_low"][0] <= 0.2 <= proportions["proportion_high"][0]
    assert experts.top(frequencies=frequencies, count=2)["expert"].tolist() == ["L1-S1", "L1-E0"]


def test_expert_mui_at_the_common_m_by_hand(file):
    frequencies, _ = rows(file(SETS, 5), common_m=1)
    # of a single sample: the mean number of the expert's neurons in a key set, over its width
    assert frequencies["expert_mui_at_m"].tolist() == pytest.approx([3 / 15, 1 / 15, 5 / 20, 0, 1 / 20])
    assert (frequencies["expert_mui_at_m_low"] <= frequencies["expert_mui_at_m"]).all()
    assert (frequencies["common_m"] == 1).all()
    everything, _ = rows(file(SETS, 5), common_m=5)
    assert everything["expert_mui_at_m"].tolist() == pytest.approx(everything["expert_mui"].tolist())


@pytest.mark.parametrize(
    ("common_m", "note"), [(None, "no common m"), (6, "fewer than 6 samples, so not comparable at the common m")]
)
def test_without_a_common_m_that_fits_expert_mui_is_not_compared(file, common_m, note):
    frequencies, _ = rows(file(SETS, 5), common_m=common_m)
    assert frequencies["expert_mui_at_m"].isna().all()
    assert frequencies["note"].eq(note).all()
    assert frequencies["expert_mui"].tolist() == [1.0, 1 / 3, 0.5, 0.0, 0.25]


def test_the_grid_of_thresholds_is_for_main_settings_and_holds_the_main_threshold(file):
    frequencies, proportions = experts.rows(
        key_neurons=file(SETS, 5), tokens=0, order=0, common_m=5, settings=[MAIN, OTHER], main_settings=[MAIN],
        expert_threshold=0.5, expert_thresholds=[0.4, 0.9, 0.2],
    )  # fmt: skip
    found = proportions.set_index(["formulation", "expert_threshold"])["n_key"].to_dict()
    # frequencies are 0.4, 0.2, 0.8, 0 and 0.2
    assert found == {
        ("projection", 0.2): 4, ("projection", 0.4): 2, ("projection", 0.5): 1, ("projection", 0.9): 0, ("glu", 0.5): 1,
    }  # fmt: skip
    assert frequencies.loc[frequencies["is_key"], "expert"].tolist() == ["L1-S1", "L1-S1"]


def test_one_sample_has_no_intervals_over_samples(file):
    frequencies, proportions = rows(file(KeySets(np.array([0, 1]), np.array([0])), 1), common_m=1)
    assert proportions["proportion"].tolist() == [0.2]
    assert proportions[["proportion_low", "proportion_high"]].isna().all(axis=None)
    assert proportions["note"].tolist() == ["one sample: no interval"]
    assert frequencies["expert_mui_at_m"].tolist() == pytest.approx([1 / 3, 0, 0, 0, 0])
    assert frequencies["expert_mui_at_m_low"].isna().all()
    assert frequencies["note"].eq("one sample: no interval").all()


def test_identical_samples_and_empty_key_sets_have_no_noise(file):
    same = KeySets(np.arange(0, 11, 2), np.tile([0, 6], 5))
    nothing = KeySets(np.zeros(6, dtype=int), np.empty(0, dtype=int))
    for sets, share in ((same, 0.4), (nothing, 0.0)):
        frequencies, proportions = rows(file(sets, 5))
        ends = proportions[["proportion", "proportion_low", "proportion_high"]]
        assert ends.values.tolist() == [[share, share, share]]
        assert frequencies["frequency"].isin([0.0, 1.0]).all()


def test_a_task_without_samples_is_refused_by_name(file):
    with pytest.raises(ValueError, match="m c t has no samples"):
        rows(file(KeySets(np.array([0]), np.empty(0, dtype=int)), 0))


def test_activities_of_a_checkpoint_are_those_of_its_tasks(file):
    files = [file(SETS, 5, task="a"), file(KeySets(np.array([0, 1]), np.array([12])), 1, task="b")]
    first, second = experts.activities(key_neurons=files, setting=MAIN)
    assert (first == ACTIVITY).all()
    assert second.tolist() == [[False, False, False, False, True]]


def test_activities_of_several_checkpoints_tasks_twice_or_nothing_are_refused(file):
    one = file(SETS, 5)
    with pytest.raises(ValueError, match="there is no key neuron file"):
        experts.activities(key_neurons=[], setting=MAIN)
    with pytest.raises(ValueError, match="are of the tasks t, t; give each task once"):
        experts.activities(key_neurons=[one, one], setting=MAIN)
    with pytest.raises(ValueError, match="are of m c, m late; give those of one checkpoint"):
        experts.activities(key_neurons=[one, file(SETS, 5, checkpoint="late")], setting=MAIN)
    empty = file(KeySets(np.array([0]), np.empty(0, dtype=int)), 0, task="empty")
    with pytest.raises(ValueError, match="m c empty has no samples"):
        experts.activities(key_neurons=[one, empty], setting=MAIN)
