"""Experts: frequencies, key experts and ranks by hand; the bootstrap by enumeration."""

import itertools

import numpy as np
import pytest

from moemui.analyses import experts
from moemui.analyses.key_neurons import Samples, read, write
from moemui.analyses.key_sets import KeySets
from moemui.analyses.settings import Setting
from moemui.geometry import Geometry, Layer

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


@pytest.fixture
def file(tmp_path):
    def make(sets, n):
        write(
            tmp_path / "k.h5",
            model="m",
            checkpoint="c",
            task="t",
            geometry=GEOMETRY,
            samples=Samples(
                id=np.array([f"t-{i}" for i in range(n)], dtype=object),
                domain=np.array(["math"] * n, dtype=object),
                correct=np.ones(n, dtype=np.int8),
                response_tokens=np.full(n, 4, dtype=np.int32),
            ),
            sets={Setting("projection", "pairs", 0.1): sets},
            routed_tokens=np.array([[12, 8], [20, 0]]),
        )
        return read(tmp_path / "k.h5")

    return make


def test_rows_of_a_file_by_hand(file):
    frequencies, proportions = experts.rows(key_neurons=file(SETS, 5), tokens=0, order=0)
    assert frequencies["expert"].tolist() == ["L1-E0", "L1-E1", "L1-S1", "L2-E0", "L2-S1"]
    assert frequencies["layer"].tolist() == [1, 1, 1, 2, 2]
    assert frequencies["kind"].tolist() == ["routed", "routed", "shared", "routed", "shared"]
    assert frequencies["is_key"].tolist() == [False, False, True, False, False]
    assert frequencies["rank"].tolist() == [2, 3, 1, 5, 4]
    assert frequencies["routed_tokens"].tolist() == [12, 8, 20, 20, 20]
    assert proportions[["n_experts", "n_key", "n_key_shared"]].values.tolist() == [[5, 1, 1]]
    assert proportions["proportion"].tolist() == [0.2]
    assert proportions["proportion_low"][0] <= 0.2 <= proportions["proportion_high"][0]
    assert experts.top(frequencies=frequencies, count=2)["expert"].tolist() == ["L1-S1", "L1-E0"]


def test_one_sample_has_a_proportion_without_interval(file):
    _, proportions = experts.rows(key_neurons=file(KeySets(np.array([0, 1]), np.array([0])), 1), tokens=0, order=0)
    assert proportions["proportion"].tolist() == [0.2]
    assert proportions["proportion_low"].isna().all()
    assert proportions["note"].tolist() == ["one sample: no interval"]


def test_a_task_without_samples_is_refused_by_name(file):
    with pytest.raises(ValueError, match="m c t has no samples"):
        experts.rows(key_neurons=file(KeySets(np.array([0]), np.empty(0, dtype=int)), 0), tokens=0, order=0)
