"""Measures of sets of samples, against the analyses of whole tasks that they must agree with."""

import numpy as np
import pytest

from moemui.diversity import lexical
from moemui.diversity.set_measures import measures
from moemui.experts import key_experts as experts
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import KeyNeurons, Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

# Layer 1: E0 has neurons 0-2, E1 3-5, S1 6-9; layer 2: E0 10-11 and S1 12-15
GEOMETRY = Geometry((Layer(1, 2, 1, 3, 4, 1), Layer(2, 1, 1, 2, 4, 1)))
CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
TEXTS = ["a b c", "a b", "c c c d", "", "b a é"]


def made_up(task, lists, cut=0):
    """Key neurons of a task without a file: the same sets at both settings, the experts' without neurons above 9."""
    ends = np.concatenate([[0], np.cumsum([len(own) for own in lists])])
    every = KeySets(ends, np.array([u for own in lists for u in own], dtype=np.int32))
    few = [[u for u in own if u < 10] for own in lists]
    smaller = KeySets(
        np.concatenate([[0], np.cumsum([len(own) for own in few])]),
        np.array([u for own in few for u in own], dtype=int),
    )
    n = len(lists)

    class Held(KeyNeurons):
        def sets(self, *setting):
            return {CURVES: every, EXPERTS: smaller}[Setting(*setting)]

    samples = Samples(
        np.array([f"{task}/{i}" for i in range(n)]), np.array(["math"] * n), np.ones(n, int), np.ones(n, int)
    )
    incomplete = {CURVES: cut, EXPERTS: 0}
    none = np.zeros((2, 2), dtype=int)
    return Held("", "m", "c", task, GEOMETRY, samples, "main", (CURVES, EXPERTS), incomplete, none, {})


FILES = [made_up("t", [(0, 1, 6), (2, 6, 12), ()]), made_up("u", [(3, 6, 15), (0, 15)])]


def found(n=2, texts=TEXTS, files=FILES, expert_setting=EXPERTS, threshold=0.6):
    listed = measures(
        key_neurons=files,
        texts=texts,
        n=n,
        curve_setting=CURVES,
        expert_setting=expert_setting,
        expert_threshold=threshold,
    )
    return {(measure.name, measure.setting): measure for measure in listed}


def test_neurons_and_experts_by_hand():
    every = found()
    sets = np.array([[0, 1], [1, 3], [2, 4], [2, 2]])
    # unions {0 1 2 6 12}, {2 3 6 12 15}, {0 15}, {} of 16 neurons
    assert every["mui", CURVES.label].of(sets).tolist() == [5 / 16, 5 / 16, 2 / 16, 0]
    assert every["mui", EXPERTS.label].of(sets).tolist() == [4 / 16, 3 / 16, 1 / 16, 0]
    # experts at the smaller setting: 0 {E0 S1}, 1 {E0 S1}, 3 {E1 S1}, 4 {E0}; two samples, so key is active in both
    assert every["active_experts", EXPERTS.label].of(sets).tolist() == [2, 3, 1, 0]
    assert every["key_expert_proportion", EXPERTS.label].of(sets).tolist() == [2 / 5, 1 / 5, 0, 0]


def test_order_levels_and_notes():
    every = found(files=[made_up("t", [(0, 1, 6), (2, 6, 12), ()], cut=3), FILES[1]])
    assert [(measure.level, measure.name) for measure in every.values()] == [
        ("neuron", "mui"), ("neuron", "mui"), ("expert", "key_expert_proportion"), ("expert", "active_experts"),
        ("lexical", "distinct_1"), ("lexical", "distinct_2"), ("lexical", "compression_ratio"),
    ]  # fmt: skip
    assert [measure.direction for measure in every.values()] == [1, 1, 0, 1, 1, 1, -1]
    cut = "t: 3 of 6 sample × layer cells reach the end of what is stored, so sets are lower bounds"
    assert [every["mui", setting.label].note for setting in (CURVES, EXPERTS)] == [cut, ""]
    assert every["distinct_1", ""].note == "expected among 2 1-grams of a set"  # of the texts "" and "a b"
    assert every["compression_ratio", ""].note == "of the first 4 bytes of a set"  # "", a line break, "a b"


def test_one_setting_for_both_is_measured_once():
    every = found(expert_setting=CURVES)
    assert [name for name, setting in every if setting] == ["mui", "key_expert_proportion", "active_experts"]


def test_text_is_measured_at_the_length_that_every_set_has():
    every = found(n=3)
    sets = np.array([[0, 1, 2], [4, 2, 3]])
    texts = [[TEXTS[i] for i in one] for one in sets]
    at = 0 + 2 + 3
    expected = [lexical.distinct_n(texts=own, n=1, at=at) for own in texts]
    assert every["distinct_1", ""].of(sets).tolist() == pytest.approx(expected)
    expected = [lexical.compression_ratio(texts=own, at=0 + 3 + 5 + 2) for own in texts]
    assert every["compression_ratio", ""].of(sets).tolist() == expected


def test_texts_too_short_have_no_measure_and_say_so():
    every = found(n=1)
    assert every["distinct_1", ""].of is None
    assert every["distinct_2", ""].note == "a set of 1 may hold no 2-gram"
    assert (every["compression_ratio", ""].of, every["compression_ratio", ""].note) == (
        None,
        "a set of 1 may hold no text",
    )


def test_agrees_with_the_analyses_of_a_whole_task():
    rng = np.random.default_rng(2)
    file = made_up("t", [np.flatnonzero(rng.random(16) < 0.3).tolist() for _ in range(40)])
    every = found(files=[file], texts=["a"] * 40, threshold=0.4)
    whole = np.arange(40)[None]
    assert every["mui", CURVES.label].of(whole) == len(file.sets(*CURVES).union()) / 16
    active = experts.activity(sets=file.sets(*EXPERTS), geometry=GEOMETRY)
    key = experts.key_experts(frequency=active.mean(axis=0), expert_threshold=0.4)
    assert 0 < key.mean() < 1
    assert every["key_expert_proportion", EXPERTS.label].of(whole) == key.mean()
    assert every["active_experts", EXPERTS.label].of(whole) == active.any(axis=0).sum()
