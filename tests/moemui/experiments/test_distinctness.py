"""Distinctness of experts: hand-worked tables, and oracles that go another way to the same number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.experiments.shared_inhibition import distinctness

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("use", "bits"),
    [
        ([[5, 0], [0, 5]], 1.0),  # the expert names the task
        ([[5, 0], [0, 50]], 1.0),  # tasks count alike, whatever their tokens
        ([[2, 2], [7, 7]], 0.0),
        ([[3, 1], [1, 3]], 1 - 0.8112781244591328),  # H(1/2) − H(1/4)
        ([[4, 4, 0, 0], [0, 0, 4, 4]], 1.0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.log2(3)),
    ],
)
def test_routing_information_by_hand(use, bits):
    assert distinctness.routing_information(use=np.array(use, dtype=float)) == pytest.approx(bits, abs=1e-12)


def test_routing_information_is_the_double_sum_of_the_definition():
    use = RANDOM.integers(0, 9, size=(4, 6)) + 1.0
    joint = use / use.sum(axis=1, keepdims=True) / 4
    expert, task = joint.sum(axis=0), joint.sum(axis=1)
    slow = sum(
        joint[t, e] * np.log2(joint[t, e] / (task[t] * expert[e])) for t, e in itertools.product(range(4), range(6))
    )
    assert distinctness.routing_information(use=use) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("use", [[[1.0, 2.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, -1.0]]])
def test_tasks_without_slots_have_no_information(use):
    with pytest.raises(ValueError, match="each takes at least one"):
        distinctness.routing_information(use=np.array(use))


@pytest.mark.parametrize(
    ("n_tasks", "experts", "top_k", "bits"), [(6, 32, 8, 2.0), (2, 32, 8, 1.0), (6, 30, 6, np.log2(5)), (6, 4, 4, 0.0)]
)
def test_highest_information_by_hand(n_tasks, experts, top_k, bits):
    assert distinctness.highest_information(n_tasks=n_tasks, experts=experts, top_k=top_k) == pytest.approx(bits)


def test_highest_information_refuses_what_cannot_be():
    with pytest.raises(ValueError, match=r"5 of 4 experts a token.*1 ≤ k ≤ E"):
        distinctness.highest_information(n_tasks=2, experts=4, top_k=5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 7))
def test_no_routing_of_k_different_experts_a_token_tells_more_than_the_highest(seed, n_tasks, experts):
    generator = np.random.default_rng(seed)
    top_k = int(generator.integers(1, experts + 1))
    use = np.zeros((n_tasks, experts))
    for task, _ in itertools.product(range(n_tasks), range(int(generator.integers(1, 4)))):
        use[task, generator.permutation(experts)[:top_k]] += 1
    highest = distinctness.highest_information(n_tasks=n_tasks, experts=experts, top_k=top_k)
    assert distinctness.routing_information(use=use) <= highest + 1e-9


def test_chance_deals_out_whole_samples():
    # Of the three ways to deal two samples on each expert to two tasks, one separates the experts: 1 bit, else 0.
    slots = np.array([[9.0, 0], [9, 0], [0, 9], [0, 9]])
    found = distinctness.information_by_chance(slots=slots, task=np.array([0, 0, 1, 1]), draws=3000, seed=1)
    assert found == pytest.approx(1 / 3, abs=0.04)
    # Two samples are dealt to two tasks in one way: chance gives all that there is.
    found = distinctness.information_by_chance(slots=slots[1:3], task=np.array([0, 1]), draws=5, seed=1)
    assert found == pytest.approx(1)


def test_chance_is_nothing_where_samples_are_alike_and_needs_a_draw():
    slots, task = np.tile([3.0, 1, 2], (6, 1)), np.array([0, 0, 1, 1, 2, 2])
    assert distinctness.information_by_chance(slots=slots, task=task, draws=10, seed=0) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="draws is 0; at least 1"):
        distinctness.information_by_chance(slots=slots, task=task, draws=0, seed=0)


def test_sums_by_task():
    np.testing.assert_array_equal(
        distinctness.by_task(np.array([[1, 2], [3, 4], [5, 6]]), np.array([1, 0, 1])), [[3, 4], [6, 8]]
    )


def test_adjusted_by_hand():
    assert distinctness.adjusted(found=0.5, chance=0.2, highest=0.8) == pytest.approx(0.5)
    assert distinctness.adjusted(found=0.1, chance=0.2, highest=0.7) == pytest.approx(-0.2)
    assert np.isnan(distinctness.adjusted(found=0.2, chance=0.2, highest=0.2))


def test_key_overlap_by_hand():
    key = np.zeros((4, 8), dtype=bool)
    key[0, [0, 1]] = key[1, [1, 2]] = key[2, [4, 5]] = True
    found = distinctness.key_overlap(key=key, expert=np.repeat([0, 1], 4))
    assert distinctness.pairs(4)[:3] == [(0, 1), (0, 2), (0, 3)]
    assert found.jaccard[0] == pytest.approx(1 / 3)
    # Two of four neurons each: 0, 1 or 2 in common in 1, 4 and 1 of 6 cases, with 4, 3 and 2 in the union.
    assert found.chance[0] == pytest.approx((4 * 1 / 3 + 1 * 2 / 2) / 6)
    assert (found.jaccard[1], found.chance[1]) == (0, 0)  # other experts: nothing in common, nor by chance
    assert (found.jaccard[2], found.chance[2]) == (0, 0)  # the fourth task has no key neuron
    alone = distinctness.key_overlap(key=key[[3, 3]], expert=np.repeat([0, 1], 4))
    assert np.isnan([alone.jaccard[0], alone.chance[0]]).all()


def test_cka_is_normalised_hsic():
    outputs = RANDOM.normal(size=(3, 20, 4))
    centring = np.eye(20) - 1 / 20
    grams = [centring @ each @ each.T @ centring for each in outputs]
    hsic = np.array([[np.trace(a @ b) for b in grams] for a in grams])
    slow = hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))
    np.testing.assert_allclose(distinctness.linear_cka(outputs), slow, atol=1e-12)


def test_cka_ignores_rotation_scale_and_offset_and_nothing_else():
    states = RANDOM.normal(size=(500, 5)) * [1, 2, 3, 4, 5]
    rotation, _ = np.linalg.qr(RANDOM.normal(size=(5, 5)))
    stretched = states * [5, 4, 3, 2, 1]
    other = RANDOM.normal(size=(500, 5))
    found = distinctness.linear_cka(np.stack([states, -7 * states @ rotation + 3, stretched, other]))
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] < 0.9
    assert found[0, 3] < 0.05
    np.testing.assert_allclose(found, found.T)


def test_cka_refuses_one_state_and_outputs_that_never_change():
    with pytest.raises(ValueError, match="outputs on 1 states; similarity needs two"):
        distinctness.linear_cka(np.ones((2, 1, 3)))
    outputs = RANDOM.normal(size=(2, 9, 3))
    outputs[1] = 0.25
    with pytest.raises(ValueError, match="expert 1 never change"):
        distinctness.linear_cka(outputs)


def test_mean_over_pairs_leaves_the_diagonal_out():
    assert distinctness.mean_over_pairs(np.array([[9, 1, 2], [1, 9, 6], [2, 6, 9]])) == 3
    assert np.isnan(distinctness.mean_over_pairs(np.ones((1, 1))))


def test_tau_by_hand():
    effects = np.array([[1, 0, 0], [3, 3, 3], [2, 1, -5], [0, -1, 0]])
    np.testing.assert_allclose(distinctness.tau(effects), [1, 0, 0.75, np.nan])
    with pytest.raises(ValueError, match="on 1 tasks; selectivity needs two"):
        distinctness.tau(np.ones((2, 1)))


def test_masking_selectivity_weighs_experts_by_their_harm():
    effects = np.array([[9.0, 0, 0], [1, 1, 1], [0, -1, 0]])
    assert distinctness.masking_selectivity(effects) == pytest.approx((9 * 1 + 3 * 0) / 12)
    assert np.isnan(distinctness.masking_selectivity(-effects[:1]))
