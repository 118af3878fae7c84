"""Ranking against sorting everything, with ties on purpose, and however the slots are grouped."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.scores.ranking import Slots, rank_neurons, rank_pairs, rank_per_token, to_arrays


@st.composite
def problems(draw):
    """A few samples with a few tokens, each using some of 4 routed experts of 3 neurons and one shared of 5.

    Scores come from a handful of values, so ties are the rule.
    """
    samples = draw(st.integers(1, 4))
    values = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0])
    routed, shared = [], []
    for sample in range(samples):
        for token in range(draw(st.integers(0, 4))):
            for expert in draw(st.sets(st.integers(0, 3), min_size=1, max_size=3)):
                routed.append((expert, sample, token, draw(st.lists(values, min_size=3, max_size=3))))
            shared.append((4, sample, token, draw(st.lists(values, min_size=5, max_size=5))))
    routed.sort(key=lambda slot: slot[0])  # as they come from the dispatch: ordered by expert
    return samples, draw(st.integers(1, 20)), routed, shared


def slots(items, width):
    scores = torch.tensor([item[3] for item in items], dtype=torch.float32).reshape(-1, width)
    return Slots(
        scores,
        scores.amax(1),
        torch.tensor([item[1] for item in items], dtype=torch.int64),
        torch.tensor([item[2] for item in items], dtype=torch.int64),
        torch.tensor([item[0] * 3 for item in items], dtype=torch.int64),
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_sorting_everything(problem):
    samples, ranks, routed, shared = problem
    half = len(routed) // 2
    groups = [slots(routed[:half], 3), slots(routed[half:], 3), slots(shared, 5)]
    everything = [
        (sample, -value, token, expert * 3 + j)
        for expert, sample, token, values in routed + shared
        for j, value in enumerate(values)
    ]
    pairs = [a.numpy() for a in to_arrays(rank_pairs(groups, samples, ranks), samples, ranks)]
    neurons = [a.numpy() for a in to_arrays(rank_neurons(groups, samples, ranks), samples, ranks)]
    for sample in range(samples):
        mine = sorted(item[1:] for item in everything if item[0] == sample)
        compare(pairs, sample, mine[:ranks])
        best: dict[int, tuple[float, int, int]] = {}
        for item in mine:  # sorted, so the first is the highest score at its first token
            best.setdefault(item[2], item)
        compare(neurons, sample, sorted(best.values())[:ranks])
    found = {tuple(entry) for entry in zip(*(a.tolist() for a in rank_per_token(groups, samples, ranks)), strict=True)}
    ranked: dict[tuple[int, int], int] = {}
    for sample, token in {(item[0], item[2]) for item in everything}:
        alone = sorted(item[1:] for item in everything if item[0] == sample and item[2] == token)
        for rank, (_, _, neuron) in enumerate(alone[:ranks]):
            ranked[sample, neuron] = min(rank, ranked.get((sample, neuron), ranks))
    assert found == {(sample, neuron, rank) for (sample, neuron), rank in ranked.items()}


@st.composite
def divided(draw):
    """Slots of few experts and many tokens, so that bounds prune, and places to cut them at, also inside an expert.

    One to two samples, ranks, the slots of 2 routed experts of 3 neurons and of 1 shared one of 5, and cuts of each.
    """
    samples, tokens = draw(st.integers(1, 2)), draw(st.integers(1, 12))
    values = st.integers(-20, 20).map(float)
    rows = {}
    for kind, experts, width in (("routed", (0, 1), 3), ("shared", (2,), 5)):
        rows[kind] = [
            (expert, sample, token, draw(st.lists(values, min_size=width, max_size=width)))
            for expert in experts
            for sample in range(samples)
            for token in sorted(draw(st.sets(st.integers(0, tokens - 1), min_size=kind == "shared")))
        ]
    cuts = {kind: sorted(draw(st.lists(st.integers(0, len(items)), max_size=5))) for kind, items in rows.items()}
    return samples, draw(st.integers(1, 6)), rows, cuts


def cut(items, width, places):
    """The slots in groups that end at the given places and at the end."""
    ends = [*places, len(items)]
    return [slots(items[start:end], width) for start, end in zip([0, *ends], ends, strict=False)]


def ranked_all_ways(groups, samples, ranks):
    """Neurons, tokens and scores by pairs and by neurons, then the entries per token, as lists."""
    found = [to_arrays(rank(groups, samples, ranks), samples, ranks) for rank in (rank_pairs, rank_neurons)]
    found.append(rank_per_token(groups, samples, ranks))
    return [[values.tolist() for values in arrays] for arrays in found]


@settings(max_examples=300, deadline=None)
@given(divided())
def test_groups_never_change_a_rank(problem):
    samples, ranks, rows, cuts = problem
    whole = [slots(rows["routed"], 3), slots(rows["shared"], 5)]
    parts = cut(rows["routed"], 3, cuts["routed"]) + cut(rows["shared"], 5, cuts["shared"])
    assert ranked_all_ways(parts, samples, ranks) == ranked_all_ways(whole, samples, ranks)


def test_an_expert_in_two_groups_counts_its_neurons_once():
    # Neuron 0 leads both groups; counted twice, it would raise the bound above neuron 1's 5.
    rows = [(0, 0, 0, [10.0, 0, 0, 0]), (0, 0, 1, [9.0, 0, 0, 0]), (0, 0, 2, [0, 5.0, 4, 3])]
    for places in ([], [1], [2], [1, 2]):
        neuron, token, score = to_arrays(rank_neurons(cut(rows, 4, places), 1, 2), 1, 2)
        assert (neuron.tolist(), token.tolist(), score.tolist()) == ([[0, 1]], [[0, 2]], [[10.0, 5.0]])


def test_entries_per_token_come_by_sample_rank_and_neuron():
    group = slots([(0, 0, 0, [1.0, 3.0, 2.0]), (0, 0, 1, [1.0, 0.5, 3.0]), (0, 1, 0, [1.0, 1.0, 0.0])], 3)
    sample, neuron, rank = rank_per_token([group], 2, 2)
    assert sample.tolist() == [0, 0, 0, 1, 1]
    assert neuron.tolist() == [1, 2, 0, 0, 1]  # neuron 2 is second for token 0 and first for token 1
    assert rank.tolist() == [0, 0, 1, 0, 1]


def compare(arrays, sample, expected):
    neuron, token, score = (array[sample] for array in arrays)
    n = len(expected)
    assert neuron[:n].tolist() == [item[2] for item in expected]
    assert token[:n].tolist() == [item[1] for item in expected]
    np.testing.assert_array_equal(score[:n], np.array([-item[0] for item in expected], dtype=np.float32))
    assert (neuron[n:] == -1).all()
    assert (token[n:] == -1).all()
