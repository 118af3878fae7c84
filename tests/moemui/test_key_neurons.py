"""Key neurons against a brute-force oracle, by hand, and through the file."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.analyses import selection
from moemui.analyses.key_neurons import Samples, read, routed_tokens, write
from moemui.analyses.key_sets import KeySets
from moemui.analyses.selection import joined, select, select_per_token
from moemui.analyses.settings import Setting
from moemui.geometry import Geometry, Layer

# Layer 0: 2 routed experts of 4 neurons; layer 2: 1 routed of 4 and 1 shared of 6. 8 + 10 = 18 neurons, 4 experts.
GEOMETRY = Geometry((Layer(0, 2, 0, 4, 0, 1), Layer(2, 1, 1, 4, 6, 1)))


def ranked(*samples):
    """Neurons (samples, layers, ranks) and falling scores beside them."""
    neuron = np.array(samples, dtype=np.int32)
    return {"neuron": neuron, "score": np.broadcast_to(-np.arange(neuron.shape[2], dtype=np.float32), neuron.shape)}


def as_lists(sets):
    return [sets.neurons[a:b].tolist() for a, b in zip(sets.indptr[:-1], sets.indptr[1:], strict=True)]


def test_by_hand_two_layers_repeats_and_an_exhausted_layer():
    # η = 0.3: k = floor(0.3·8) = 2 and floor(0.3·10) = 3; layer 2 starts at flat number 8
    sets = select(
        **ranked(
            [[5, 1, 0], [9, 9, 2]],  # 9 for two tokens counts once
            [[3, -1, -1], [-1, -1, -1]],
            [[-1, -1, -1], [-1, -1, -1]],  # an empty response
        ),
        geometry=GEOMETRY,
        threshold=0.3,
    )
    assert as_lists(sets) == [[1, 5, 10, 17], [3], []]
    assert sets.n_samples == 3
    assert sets.neurons.dtype == np.int32
    assert sets.incidence(18).tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert sets.union().tolist() == [1, 3, 5, 10, 17]


def test_no_samples_give_no_sets():
    empty = np.empty((0, 2, 3), dtype=np.int32)
    sets = select(neuron=empty, score=empty.astype(np.float32), geometry=GEOMETRY, threshold=0.3)
    assert (sets.n_samples, sets.union().tolist(), sets.incidence(18).sum()) == (0, [], 0)


@st.composite
def ranked_entries(draw):
    shape = (draw(st.integers(0, 5)), 2, 4)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    neuron = np.stack([generator.integers(0, m, size=(shape[0], 4)) for m in (8, 10)], axis=1).astype(np.int32)
    filled = generator.integers(0, 5, size=shape[:2])
    neuron[np.arange(4) >= filled[..., None]] = -1
    return neuron, -np.sort(generator.integers(0, 3, size=shape).astype(np.float32), axis=2)


@settings(max_examples=60, deadline=None)
@given(ranked_entries(), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.4]), st.integers(1, 3))
def test_select_matches_a_loop_over_samples_and_layers(entries, threshold, at_once):
    neuron, score = entries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SAMPLES_AT_ONCE", at_once)
        sets = select(neuron=neuron, score=score, geometry=GEOMETRY, threshold=threshold)
    k = GEOMETRY.key_count(threshold)
    expected = [
        sorted({offset + int(j) for row, n, offset in zip(sample, k, (0, 8), strict=True) for j in row[:n] if j >= 0})
        for sample in neuron
    ]
    assert as_lists(sets) == expected


@settings(max_examples=40, deadline=None)
@given(ranked_entries(), st.integers(0, 2**32 - 1))
def test_set_algebra(entries, seed):
    neuron, score = entries
    sets = select(neuron=neuron, score=score, geometry=GEOMETRY, threshold=0.3)
    mask = np.random.default_rng(seed).random(sets.n_samples) < 0.5
    lists = as_lists(sets)
    assert as_lists(sets.subset(mask)) == [own for own, kept in zip(lists, mask, strict=True) if kept]
    assert (sets.incidence(18, mask) + sets.incidence(18, ~mask)).tolist() == sets.incidence(18).tolist()
    assert np.flatnonzero(sets.incidence(18)).tolist() == sets.union().tolist() == sorted(set().union(*lists))
    assert [lists[s] for s in sets.sample_of] == [lists[s] for s, own in enumerate(lists) for _ in own]


def test_smaller_threshold_gives_subsets():
    entries = ranked([[5, 1, 0], [9, 3, 2]])
    small, large = (set(select(**entries, geometry=GEOMETRY, threshold=t).union()) for t in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rule": "best"}, "rule is 'best'; allowed: topk"),
        ({"threshold": 0.5}, r"threshold 0.5 needs k = 5 ranked entries .* largest stored k is 3; .*thresholds"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"score": np.zeros((1, 2, 2), dtype=np.float32)}, r"shape \(1, 2, 3\) and scores \(1, 2, 2\)"),
        (ranked([[5, 8, 0], [0, 1, 2]]), "sample 0, layer 0, rank 1: neuron 8 is outside the layer's 8 neurons"),
        (ranked([[5, 1, 0], [0, -2, 2]]), "sample 0, layer 2, rank 1: neuron -2 is outside"),
        (ranked([[5, 1, 0], [-1, 1, 2]]), "sample 0, layer 2, rank 0: scores are NaN or not in falling order"),
        ({"score": np.full((1, 2, 3), np.nan, dtype=np.float32)}, "scores are NaN or not in falling order"),
        ({"score": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}, "not in falling order; the store is damaged"),
    ],
)
def test_select_refuses(change, text):
    arguments = {**ranked([[5, 1, 0], [9, 3, 2]]), "geometry": GEOMETRY, "threshold": 0.3} | change
    with pytest.raises(ValueError, match=text):
        select(**arguments)


def test_only_used_ranks_are_checked():
    entries = ranked([[5, 1, 0], [9, 3, 2]])
    score = entries["score"].copy()
    score[0, 0, 2] = np.nan  # beyond k = 2 of layer 0
    assert select(neuron=entries["neuron"], score=score, geometry=GEOMETRY, threshold=0.3).union().tolist() == [
        1, 5, 10, 11, 17,
    ]  # fmt: skip


# Sample 0: layer 0 holds neuron 5 at rank 0, neurons 1 and 3 at rank 1; layer 2 holds neuron 9 at rank 2. Sample 1:
# nothing. Sample 2: layer 2 holds neuron 0 at rank 0.
PER_TOKEN = {
    "neuron": np.array([5, 1, 3, 9, 0], dtype=np.int32),
    "rank": np.array([0, 1, 1, 2, 0], dtype=np.int32),
    "counts": np.array([[3, 1], [0, 0], [0, 1]], dtype=np.int32),
    "geometry": GEOMETRY,
    "largest": 0.3,
}


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.35, [[1, 3, 5, 17], [], [8]]),  # above the stored one, but with the same k
        (0.3, [[1, 3, 5, 17], [], [8]]),  # k = 2 and 3
        (0.25, [[1, 3, 5], [], [8]]),  # k = 2 and 2
        (0.2, [[5], [], [8]]),  # k = 1 and 2
        (0.001, [[5], [], [8]]),  # k = 1 and 1
    ],
)
def test_per_token_by_hand(threshold, expected):
    sets = select_per_token(**PER_TOKEN, threshold=threshold)
    assert as_lists(sets) == expected
    assert (sets.neurons.dtype, sets.indptr.dtype) == (np.int32, np.int64)


def test_per_token_without_samples():
    nothing = {**PER_TOKEN, "neuron": np.empty(0, int), "rank": np.empty(0, int), "counts": np.empty((0, 2), int)}
    assert select_per_token(**nothing, threshold=0.3).n_samples == 0


def test_parts_of_a_task_join_in_order():
    sets = select_per_token(**PER_TOKEN, threshold=0.3)
    both = joined([sets, sets], GEOMETRY)
    assert as_lists(both) == [*as_lists(sets), *as_lists(sets)]
    assert (both.neurons.dtype, both.indptr.dtype) == (np.int32, np.int64)
    assert joined([], GEOMETRY).n_samples == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"threshold": 0.4}, r"threshold 0\.4 is above 0\.3, the largest stored; choose a smaller one, or add"),
        ({"largest": 0.2}, r"threshold 0\.25 is above 0\.2"),  # one layer's k is the same, the other's is not
        ({"rank": np.array([0, 1, 1, 2])}, r"5 neurons, 4 ranks and counts of 5 in shape \(3, 2\) do not belong"),
        ({"counts": np.array([[3, 1, 1]])}, r"counts must be \(samples, 2 layers\)"),
        ({"neuron": np.array([5, 1, 8, 9, 0])}, "entry 2 holds neuron 8 at rank 1, but its layer 0 has 8 neurons"),
        ({"neuron": np.array([5, 1, 3, 9, -1])}, "entry 4 holds neuron -1 at rank 0, but its layer 2 has 10 neurons"),
        ({"rank": np.array([0, -1, 1, 2, 0])}, "entry 1 holds neuron 1 at rank -1, .*; the store is damaged, extract"),
    ],
)
def test_select_per_token_refuses(change, text):
    with pytest.raises(ValueError, match=text):
        select_per_token(**{**PER_TOKEN, "threshold": 0.25, **change})


def test_masks_and_geometries_that_do_not_fit_are_refused():
    sets = KeySets(np.array([0, 1, 2]), np.array([3, 30]))
    with pytest.raises(ValueError, match=r"boolean mask of shape \(2,\)"):
        sets.subset(np.array([0, 1]))
    with pytest.raises(ValueError, match="key neuron 30 is outside the model's 18 neurons"):
        sets.incidence(18)


def test_routed_tokens_leave_shared_experts_out_and_pad():
    tokens = np.array([[[1, 2], [3, 9]], [[10, 20], [30, 90]]], dtype=np.int32)
    assert routed_tokens(tokens=tokens, geometry=GEOMETRY).tolist() == [[11, 22], [33, 0]]


SAMPLES = Samples(
    id=np.array(["a-0", "ä-1", "a-2"], dtype=object),
    domain=np.array(["math"] * 3, dtype=object),
    correct=np.array([1, 0, -1], dtype=np.int8),
    response_tokens=np.array([4, 0, 2], dtype=np.int32),
)
SETS = KeySets(np.array([0, 2, 2, 5]), np.array([0, 17, 1, 2, 3], dtype=np.int32))
RECORD = {
    "model": "tiny",
    "checkpoint": "step-00000",
    "task": "addition",
    "geometry": GEOMETRY,
    "samples": SAMPLES,
    "routed_tokens": np.array([[4, 2], [6, 0]]),
}


def test_a_file_gives_back_what_was_written(tmp_path):
    settings_ = {
        Setting("projection", "pairs", 0.001): SETS,
        Setting("glu", "neurons", 0.0008): KeySets(np.zeros(4, dtype=np.int64), np.empty(0, dtype=np.int32)),
    }
    write(tmp_path / "k.h5", **RECORD, sets=settings_, options={"alignment": "next_token"})
    found = read(tmp_path / "k.h5")
    assert (found.model, found.checkpoint, found.task, found.geometry) == ("tiny", "step-00000", "addition", GEOMETRY)
    assert found.samples.id.tolist() == ["a-0", "ä-1", "a-2"]
    assert found.samples.correct.tolist() == [1, 0, -1]
    assert found.samples.response_tokens.tolist() == [4, 0, 2]
    assert (found.samples.n, found.samples.task_domain) == (3, "math")
    assert found.settings == (Setting("glu", "neurons", 0.0008), Setting("projection", "pairs", 0.001))
    assert as_lists(found.sets("projection", "pairs", 0.001)) == [[0, 17], [], [1, 2, 3]]
    assert as_lists(found.sets("glu", "neurons", 0.0008)) == [[], [], []]
    assert found.routed_tokens.tolist() == [[4, 2], [6, 0]]
    assert found.options == {"alignment": "next_token"}


def test_the_layout_on_disk_is_the_documented_one(tmp_path):
    write(tmp_path / "k.h5", **RECORD, sets={Setting("projection", "pairs", 0.3): SETS})
    with h5py.File(tmp_path / "k.h5") as file:
        group = file["sets/topk/projection/pairs/0.3"]
        assert dict(group.attrs) | {"k": group.attrs["k"].tolist()} == {
            "formulation": "projection",
            "selection": "pairs",
            "threshold": 0.3,
            "rule": "topk",
            "incomplete": 0,
            "k": [2, 3],
        }
        assert group["indptr"].dtype == np.int64
        assert group["neurons"].compression == "gzip"
        assert (file.attrs["n_samples"], file.attrs["variant"]) == (3, "main")
        assert file["samples/id"].asstr()[1] == "ä-1"
        assert file["samples/correct"].dtype == np.int8
        assert file["routing/tokens"].dtype == np.int64


def test_a_setting_that_is_not_stored_is_named_with_those_that_are(tmp_path):
    write(tmp_path / "k.h5", **RECORD, sets={Setting("projection", "pairs", 0.001): SETS})
    with pytest.raises(KeyError, match=r"no key sets for glu/pairs/0\.001; stored: projection/pairs/0\.001"):
        read(tmp_path / "k.h5").sets("glu", "pairs", 0.001)


def test_another_schema_version_is_refused_by_name(tmp_path):
    write(tmp_path / "k.h5", **RECORD, sets={})
    with h5py.File(tmp_path / "k.h5", "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(ValueError, match=r"k\.h5: schema_version is 99, but this code reads 2; delete the file"):
        read(tmp_path / "k.h5")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"sets": {Setting("glu", "pairs", 0.1): KeySets(np.array([0]), np.empty(0))}},
            "glu/pairs/0.1: sets of 0 samp",
        ),
        ({"sets": {("glu", "pairs", 0.1): SETS, ("glu", "pairs", 0.1 + 1e-9): SETS}}, "two settings print alike"),
        ({"sets": {}, "routed_tokens": np.zeros((2, 3))}, r"shape \(2, 3\); it must be \(2 layers, 2 experts\)"),
    ],
)
def test_write_refuses(change, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        write(tmp_path / "k.h5", **(RECORD | change))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": ["a", "a"]}, "sample ids repeat"),
        ({"correct": [0, 2]}, r"correct holds \[2\]; allowed: 1 correct, 0 not correct, -1 not graded"),
        ({"domain": ["x"]}, r"lengths \[1, 2\]; all must be equal"),
    ],
)
def test_samples_refuse(change, text):
    good = {"id": ["a", "b"], "domain": ["x", "y"], "correct": [0, 1], "response_tokens": [1, 1]}
    with pytest.raises(ValueError, match=text):
        Samples(**{name: np.array(values) for name, values in (good | change).items()})
    assert Samples(**{name: np.array(values) for name, values in good.items()}).task_domain == "mixed"
