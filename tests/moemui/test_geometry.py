"""The numbering of neurons and experts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.geometry import Geometry, Layer

# Layer 1: two routed experts of 3 and one shared of 3; layer 4: one routed of 2 and one shared of 5.
GEOMETRY = Geometry((Layer(1, 2, 1, 3, 3, 1), Layer(4, 1, 1, 2, 5, 1)))


def test_counts():
    assert GEOMETRY.neurons == 9 + 7
    assert GEOMETRY.experts == 5
    assert GEOMETRY.layer_offsets.tolist() == [0, 9, 16]
    assert GEOMETRY.expert_offsets.tolist() == [0, 3, 6, 9, 11, 16]


def test_names_and_kinds():
    assert GEOMETRY.expert_names == ("L1-E0", "L1-E1", "L1-S1", "L4-E0", "L4-S1")
    assert GEOMETRY.expert_is_shared.tolist() == [False, False, True, False, True]
    assert GEOMETRY.neuron_is_shared.sum() == 3 + 5


def test_neurons_to_experts_and_layers():
    neurons = np.array([0, 2, 3, 8, 9, 10, 11, 15])
    assert GEOMETRY.expert_of(neurons).tolist() == [0, 0, 1, 2, 3, 3, 4, 4]
    assert GEOMETRY.layer_of(neurons).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(("threshold", "expected"), [(0.001, [1, 1]), (0.34, [3, 2]), (1.0, [9, 7])])
def test_key_count_is_the_floor_but_at_least_one(threshold, expected):
    assert GEOMETRY.key_count(threshold).tolist() == expected


def test_key_count_is_not_lost_to_rounding():
    thousand = Geometry((Layer(0, 8, 0, 1000, 0, 1),))
    assert [int(thousand.key_count(k / 8000)[0]) for k in range(1, 200)] == list(range(1, 200))


def test_key_count_refuses_a_percentage():
    with pytest.raises(ValueError, match=r"threshold is 10; it is a share"):
        GEOMETRY.key_count(10)


def test_round_trip():
    assert Geometry.from_dict(GEOMETRY.to_dict()) == GEOMETRY
