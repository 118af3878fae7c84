"""Random controls: as many in each expert, never a key neuron."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moemui.analyses.masking import by_layer, matched_random
from moemui.geometry import Geometry, Layer

GEOMETRY = Geometry((Layer(0, 3, 1, 8, 8, 1), Layer(2, 2, 0, 5, 0, 1)))  # 32 + 10 neurons


@given(st.sets(st.integers(0, 41)), st.integers(0, 5))
def test_controls_match_every_expert_and_share_no_neuron(key, seed):
    key = np.array(sorted(key), dtype=np.int64)
    control = matched_random(key=key, geometry=GEOMETRY, seed=seed)
    assert not set(control.tolist()) & set(key.tolist())
    assert len(set(control.tolist())) == len(control)
    widths = np.diff(GEOMETRY.expert_offsets)
    wanted = np.bincount(GEOMETRY.expert_of(key), minlength=GEOMETRY.experts)
    found = np.bincount(GEOMETRY.expert_of(control), minlength=GEOMETRY.experts)
    assert found.tolist() == np.minimum(wanted, widths - wanted).tolist()


def test_a_seed_gives_the_same_control_and_another_seed_another():
    key = np.arange(0, 32, 4)
    first, again, other = (matched_random(key=key, geometry=GEOMETRY, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_flat_numbers_become_indices_inside_the_layer():
    layers = by_layer(neurons=np.array([0, 31, 32, 41]), geometry=GEOMETRY)
    assert [layer.tolist() for layer in layers] == [[0, 31], [0, 9]]
