"""Controls: as many in each expert, never a key neuron, and of like activation frequency where that is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemui.checks.masking import NEAREST, balance, by_layer, masks, matched_on_frequency, matched_random
from moemui.geometry import Geometry, Layer

GEOMETRY = Geometry((Layer(0, 3, 1, 8, 8, 1), Layer(2, 2, 0, 5, 0, 1)))  # 32 + 10 neurons
WIDE = Geometry((Layer(0, 2, 1, 200, 100, 1),))  # 200 + 200 + 100 neurons
FREQUENCY = np.linspace(0, 1, 42)


def on_frequency(key, geometry, seed):
    return matched_on_frequency(key=key, frequency=np.linspace(0, 1, geometry.neurons), geometry=geometry, seed=seed)


def at_random(key, geometry, seed):
    return matched_random(key=key, geometry=geometry, seed=seed)


both = pytest.mark.parametrize("control_of", [at_random, on_frequency])


@both
@given(st.sets(st.integers(0, 41)), st.integers(0, 5))
def test_controls_match_every_expert_and_share_no_neuron(control_of, key, seed):
    key = np.array(sorted(key), dtype=np.int64)
    control = control_of(key, GEOMETRY, seed)
    assert control.dtype == np.int64
    assert control.tolist() == sorted(set(control.tolist()) - set(key.tolist()))
    widths = np.diff(GEOMETRY.expert_offsets)
    wanted = np.bincount(GEOMETRY.expert_of(key), minlength=GEOMETRY.experts)
    found = np.bincount(GEOMETRY.expert_of(control), minlength=GEOMETRY.experts)
    assert found.tolist() == np.minimum(wanted, widths - wanted).tolist()


@both
def test_a_seed_gives_the_same_control_and_another_seed_another(control_of):
    key = np.arange(0, 32, 4)
    first, again, other = (control_of(key, GEOMETRY, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@both
def test_no_key_neurons_have_no_control(control_of):
    assert control_of(np.empty(0, dtype=np.int64), GEOMETRY, 0).tolist() == []


@both
def test_an_expert_that_is_key_throughout_has_no_control(control_of):
    assert control_of(np.arange(8), GEOMETRY, 0).tolist() == []


def test_every_match_is_among_the_nearest_that_are_free():
    """One key neuron of frequency 0.5 among others of 0, 0.01, …: each of the five nearest is drawn, no other."""
    frequency = np.arange(500) / 500
    key = np.array([100])  # expert 0 holds neurons 0..199
    drawn = {
        int(matched_on_frequency(key=key, frequency=frequency, geometry=WIDE, seed=seed)[0]) for seed in range(200)
    }
    # Of two that are as near the higher one comes first: 101, 99, 102, 98, 103.
    assert drawn == {98, 99, 101, 102, 103}
    assert len(drawn) == NEAREST


def test_hardest_to_match_choose_first():
    """The busiest key neuron gets one of the busiest others, however many key neurons would be content with them."""
    frequency = np.full(500, 0.1)
    frequency[:10] = 0.2  # key, easily matched: 0.2 is nearer to 0.1 than to 0.9
    frequency[10] = 0.95  # key
    frequency[11:16] = 0.9
    for seed in range(20):
        control = matched_on_frequency(key=np.arange(11), frequency=frequency, geometry=WIDE, seed=seed)
        assert np.count_nonzero(np.isin(control, np.arange(11, 16))) == 1


def test_ties_fall_at_random():
    """Where all others are alike, every one of them is drawn for some seed."""
    frequency = np.zeros(42)
    drawn = {
        int(matched_on_frequency(key=np.array([0]), frequency=frequency, geometry=GEOMETRY, seed=seed)[0])
        for seed in range(200)
    }
    assert drawn == set(range(1, 8))


def test_matching_balances_what_random_controls_do_not():
    """Key neurons are busier than others, as in real models; the match closes nearly all of the gap."""
    generator = np.random.default_rng(0)
    frequency = generator.beta(1, 5, size=500)
    busy = np.argsort(-frequency + generator.normal(0, 0.3, 500))[:60]
    unmatched, matched = (
        [balance(key=frequency[busy], control=frequency[control]) for control in controls]
        for controls in (
            [matched_random(key=busy, geometry=WIDE, seed=seed) for seed in range(5)],
            [matched_on_frequency(key=busy, frequency=frequency, geometry=WIDE, seed=seed) for seed in range(5)],
        )
    )
    assert min(unmatched) > 0.3
    assert max(map(abs, matched)) < 0.1


@given(st.sets(st.integers(0, 199), min_size=1, max_size=60), st.integers(0, 3))
def test_no_match_is_much_worse_than_the_best_possible(key, seed):
    """Against the least total distance of any assignment, which scipy finds."""
    from scipy.optimize import linear_sum_assignment

    frequency = np.random.default_rng(0).random(500)
    key = np.array(sorted(key))
    control = matched_on_frequency(key=key, frequency=frequency, geometry=WIDE, seed=seed)
    others = np.setdiff1d(np.arange(200), key)
    cost = np.abs(frequency[key][:, None] - frequency[others])
    best = cost[linear_sum_assignment(cost)].mean()
    found = np.abs(frequency[key][:, None] - frequency[control])
    # 140 others at least lie in 0..1: a window of five is about 0.04 wide
    assert best - 1e-12 <= found[linear_sum_assignment(found)].mean() < best + 0.04


def test_balance_by_hand():
    # means 0.5 and 0.2, variances 0.02 and 0.02
    key, control = np.array([0.4, 0.6]), np.array([0.1, 0.3])
    assert balance(key=key, control=control) == pytest.approx(0.3 / np.sqrt(0.02))
    assert balance(key=control, control=key) == pytest.approx(-0.3 / np.sqrt(0.02))
    assert balance(key=np.array([0.5, 0.5]), control=np.array([0.5, 0.5])) == 0
    assert np.isnan(balance(key=np.array([0.5, 0.5]), control=np.array([0.4, 0.4])))
    assert np.isnan(balance(key=np.array([0.5]), control=control))


def test_masks_of_all_conditions_in_order():
    key = np.array([9, 1])
    found = list(masks(key=key, frequency=FREQUENCY, geometry=GEOMETRY, seeds=range(3, 5)))
    assert [(mask.condition, mask.seed) for mask in found] == [
        ("none", -1), ("key", -1), ("random", 3), ("random", 4), ("matched", 3), ("matched", 4),
    ]  # fmt: skip
    assert found[0].neurons.tolist() == []
    assert found[1].neurons.tolist() == [1, 9]
    assert found[3].neurons.tolist() == matched_random(key=key, geometry=GEOMETRY, seed=4).tolist()
    assert found[4].neurons.tolist() == on_frequency(key, GEOMETRY, 3).tolist()
    assert all(mask.neurons.dtype == np.int64 for mask in found)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_frequencies_that_are_no_shares_are_refused(wrong):
    frequency = FREQUENCY.copy()
    frequency[3] = wrong
    with pytest.raises(ValueError, match=r"frequencies of key neuron 1's expert are missing or outside 0\.\.1"):
        matched_on_frequency(key=np.array([1]), frequency=frequency, geometry=GEOMETRY, seed=0)
    with pytest.raises(ValueError, match=r"shape \(5,\); it must be \(42,\)"):
        matched_on_frequency(key=np.array([1]), frequency=np.zeros(5), geometry=GEOMETRY, seed=0)


def test_flat_numbers_become_indices_inside_the_layer():
    layers = by_layer(neurons=np.array([0, 31, 32, 41]), geometry=GEOMETRY)
    assert [layer.tolist() for layer in layers] == [[0, 31], [0, 9]]
