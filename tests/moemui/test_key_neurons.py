"""Key sets and their algebra against plain Python sets, and through the file, which other readers must understand."""

import itertools
import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, routed_tokens, write
from moemui.key_neurons.key_sets import KeySets, joined
from moemui.key_neurons.settings import Setting

# Layer 0: 2 routed experts of 4 neurons; layer 2: 1 routed of 4 and 1 shared of 6. 8 + 10 = 18 neurons, 4 experts.
GEOMETRY = Geometry((Layer(0, 2, 0, 4, 0, 1), Layer(2, 1, 1, 4, 6, 1)))


def as_lists(sets):
    return [sets.neurons[a:b].tolist() for a, b in zip(sets.indptr[:-1], sets.indptr[1:], strict=True)]


@st.composite
def some_sets(draw):
    own = draw(st.lists(st.sets(st.integers(0, 17), max_size=6), max_size=6))
    return of(own), own


def of(lists):
    indptr = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return KeySets(indptr, np.array([j for own in lists for j in sorted(own)], dtype=np.int32))


def union_of(lists, mask):
    return set().union(*(own for own, chosen in zip(lists, mask, strict=True) if chosen))


@settings(max_examples=100, deadline=None)
@given(some_sets(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1 / 3, 0.5, 0.6, 1.0]), st.integers(1, 7))
def test_set_algebra_is_that_of_python_sets(made, seed, share, at_once):
    sets, lists = made
    one, other = np.random.default_rng(seed).random((2, sets.n_samples)) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moemui.key_neurons.key_sets.ENTRIES_AT_ONCE", at_once)
        every = sets.incidence(18)
        assert (sets.incidence(18, one) + sets.incidence(18, ~one)).tolist() == every.tolist()
    assert every.tolist() == [sum(j in own for own in lists) for j in range(18)]
    assert as_lists(sets.subset(one)) == [sorted(own) for own, kept in zip(lists, one, strict=True) if kept]
    assert [sorted(lists[s]) for s in sets.sample_of] == [sorted(own) for own in lists for _ in own]
    a, b = union_of(lists, one), union_of(lists, other)
    assert sets.union().tolist() == sorted(set().union(*lists))
    assert sets.union(one).tolist() == sorted(a)
    assert sets.difference(one, other).tolist() == sorted(a - b)
    assert sets.symmetric_difference(one, other).tolist() == sorted(a ^ b)
    if a | b:
        assert sets.jaccard(one, other) == len(a & b) / len(a | b)
    if one.any():
        chosen = [own for own, kept in zip(lists, one, strict=True) if kept]
        assert sets.intersection(one).tolist() == sorted(set.intersection(*chosen))
        assert sets.intersection(one, share=share).tolist() == [
            j for j in range(18) if (q := sum(j in own for own in chosen)) and q / len(chosen) >= share
        ]
    assert sets.union(one).dtype == np.int32
    sets.check(18)


def test_set_algebra_by_hand():
    sets = of([{1, 2, 3}, {2, 3}, set(), {3, 9}])
    first, last = np.array([True, True, False, False]), np.array([False, False, True, True])
    assert sets.intersection(first).tolist() == [2, 3]
    assert sets.intersection().tolist() == []  # the empty set counts
    assert sets.intersection(share=0.75).tolist() == [3]
    assert sets.intersection(share=0.5).tolist() == [2, 3]
    assert sets.difference(first, last).tolist() == [1, 2]
    assert sets.symmetric_difference(first, last).tolist() == [1, 2, 9]
    assert sets.jaccard(first, last) == 1 / 4
    hundred = of([{4}] * 7 + [set()] * 93)
    assert hundred.intersection(share=0.07).tolist() == [4]  # 7 of 100, though 0.07 · 100 > 7 in floating point


def test_tasks_join_in_order():
    one, other = of([{1, 2}, set()]), KeySets(np.array([0, 1]), np.array([2**40]))
    both = joined([one, other])
    assert as_lists(both) == [[1, 2], [], [2**40]]
    assert (both.neurons.dtype, both.indptr.dtype) == (np.int64, np.int64)
    assert joined([one, one]).neurons.dtype == np.int32
    assert joined([]).n_samples == 0


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (lambda sets, none: sets.intersection(none), "there are no samples to intersect; choose at least one"),
        (lambda sets, none: sets.intersection(share=0.0), "share is 0.0; it is a share of the samples, above 0"),
        (lambda sets, none: sets.jaccard(none, none), "no sample of either mask has a key neuron"),
        (lambda sets, none: sets.difference(none, none[:1]), r"bool of shape \(1,\); it must be a boolean mask"),
    ],
)
def test_questions_without_an_answer_are_refused(question, text):
    sets = of([{1}, {2}])
    with pytest.raises(ValueError, match=text):
        question(sets, np.zeros(2, dtype=bool))
    assert sets.union(np.zeros(2, dtype=bool)).tolist() == []


@pytest.mark.parametrize(
    ("indptr", "neurons", "text"),
    [
        ([0, 2, 4], [1, 2, 5, 5], "key set of sample 1 holds neuron 5 at place 1; a set must be ascending, each"),
        ([0, 0, 2], [4, 3], "key set of sample 1 holds neuron 3 at place 1"),
        ([0, 1, 2], [4, 18], "sample 1 holds neuron 18 at place 0; .* inside the model's 18"),
        ([0, 1, 2], [-1, 3], "sample 0 holds neuron -1 at place 0"),
        ([0, 1, 3], [4, 5], r"indptr is \[0, 1, 3\] … \[3\]; it must rise from 0 to the 2 entries"),
        ([0, 2, 1, 2], [4, 5], "must rise from 0"),
        ([1, 2, 2], [4, 5], "must rise from 0"),
        ([], [], "must rise from 0"),
        ([0, 1, 1], [4.0], "neurons are float64; they must be whole numbers"),
    ],
)
def test_sets_that_are_none_are_refused(indptr, neurons, text):
    with pytest.raises(ValueError, match=text):
        KeySets(np.array(indptr, dtype=np.int64), np.array(neurons)).check(18)
    of([{5}, {1, 17}, set(), {17}]).check(18)


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
ANY = Setting("glu", "pairs", 0.2)
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
            "undefined": 0,
            "k": [2, 3],
        }
        assert group["indptr"].dtype == np.int64
        assert group["neurons"].compression == "gzip"
        assert (file.attrs["n_samples"], file.attrs["variant"]) == (3, "main")
        assert file["samples/id"].asstr()[1] == "ä-1"
        assert file["samples/correct"].dtype == np.int8
        assert file["routing/tokens"].dtype == np.int64


def test_the_file_holds_numbers_and_text_alone(tmp_path):
    """Read by HDF5's own calls: what any language has, as types that any language has."""
    write(tmp_path / "k.h5", **RECORD, sets={Setting("projection", "pairs", 0.3): SETS}, options={"head": "raw"})
    file = h5py.h5f.open(bytes(tmp_path / "k.h5"), h5py.h5f.ACC_RDONLY)
    found = []

    def visit(name, item):
        for number in range(h5py.h5a.get_num_attrs(item)):
            found.append((name, h5py.h5a.open(item, index=number).get_type()))
        if isinstance(item, h5py.h5d.DatasetID):
            found.append((name, item.get_type()))
            filters = item.get_create_plist()
            assert {filters.get_filter(i)[0] for i in range(filters.get_nfilters())} <= {h5py.h5z.FILTER_DEFLATE}

    visit(b"/", h5py.h5o.open(file, b"/"))
    h5py.h5o.visit(file, lambda name: visit(name, h5py.h5o.open(file, name)))
    assert len(found) > 20
    for name, kind in found:
        if isinstance(kind, h5py.h5t.TypeStringID):
            assert kind.get_cset() == h5py.h5t.CSET_UTF8, name
        else:
            assert isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID), name

    def numbers(name, length, kind):
        into = np.empty(length, dtype=kind)
        h5py.h5d.open(file, name).read(h5py.h5s.ALL, h5py.h5s.ALL, into)
        return into.tolist()

    indptr = numbers(b"sets/topk/projection/pairs/0.3/indptr", 4, np.int64)
    neurons = numbers(b"sets/topk/projection/pairs/0.3/neurons", indptr[-1], np.int32)
    assert [neurons[a:b] for a, b in itertools.pairwise(indptr)] == [[0, 17], [], [1, 2, 3]]


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump of HDF5's command line tools is not installed")
def test_a_reader_in_another_language_understands_the_file(tmp_path):
    write(tmp_path / "k.h5", **RECORD, sets={Setting("projection", "pairs", 0.3): SETS})

    def dumped(*what):
        command = ["h5dump", "-y", *what, str(tmp_path / "k.h5")]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return re.search(r"DATA \{\s*(.*?)\s*\}", text, re.DOTALL)[1]

    assert dumped("-d", "sets/topk/projection/pairs/0.3/neurons") == "0, 17, 1, 2, 3"
    assert dumped("-d", "sets/topk/projection/pairs/0.3/indptr") == "0, 2, 2, 5"
    assert dumped("-a", "sets/topk/projection/pairs/0.3/formulation") == '"projection"'
    assert dumped("-d", "samples/id").startswith('"a-0", "')


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
        (
            {"sets": {("glu", "pairs", 0.1): KeySets(SETS.indptr, np.array([0, 17, 2, 1, 3]))}},
            "glu/pairs/0.1: the key set of sample 2 holds neuron 1 at place 1; a set must be ascending, each neu",
        ),
        ({"sets": {Setting("glu", "pairs", 0.1, "topk", "other"): SETS}}, "this file is of the variant main; write it"),
        ({"sets": {}, "incomplete": {Setting("glu", "pairs", 0.1): 1}}, "glu/pairs/0.1: 1 incomplete cells; there are"),
        (
            {"sets": {ANY: SETS}, "incomplete": {ANY: 7}},
            "glu/pairs/0.2: 7 incomplete cells; there are 6 cells in each of the settings glu/pairs/0.2",
        ),
        (
            {"sets": {ANY: SETS}, "undefined": {ANY: 7}},
            "glu/pairs/0.2: 7 undefined cells; there are 6 cells in each of the settings glu/pairs/0.2",
        ),
        ({"sets": {}, "routed_tokens": np.zeros((2, 3))}, r"shape \(2, 3\); it must be \(2 layers, 2 experts\)"),
    ],
)
def test_write_refuses_and_leaves_no_file(change, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        write(tmp_path / "k.h5", **(RECORD | change))
    assert not (tmp_path / "k.h5").exists()


def test_incomplete_cells_are_given_back(tmp_path):
    write(tmp_path / "k.h5", **RECORD, sets={ANY: SETS, ANY._replace(rule="top_score"): SETS}, incomplete={ANY: 6})
    assert read(tmp_path / "k.h5").incomplete == {ANY: 6, ANY._replace(rule="top_score"): 0}


def test_undefined_cells_are_given_back_and_files_without_the_count_have_none(tmp_path):
    other = ANY._replace(rule="top_score")
    write(tmp_path / "k.h5", **RECORD, sets={ANY: SETS, other: SETS}, undefined={other: 5})
    assert read(tmp_path / "k.h5").undefined == {ANY: 0, other: 5}
    with h5py.File(tmp_path / "k.h5", "a") as file:
        del file["sets/top_score/glu/pairs/0.2"].attrs["undefined"]
    assert read(tmp_path / "k.h5").undefined == {ANY: 0, other: 0}


MIXED = Samples(
    id=np.array(["a", "b", "c", "d"], dtype=object),
    domain=np.array(["math", "facts", "math", "facts"], dtype=object),
    correct=np.array([1, 1, 0, -1], dtype=np.int8),
    response_tokens=np.array([0, 5, 9, 20], dtype=np.int32),
)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({}, "abcd"),
        ({"correct": True}, "ab"),
        ({"correct": False}, "c"),  # d is not graded
        ({"domain": "math"}, "ac"),
        ({"min_tokens": 5}, "bcd"),
        ({"max_tokens": 9}, "abc"),
        ({"min_tokens": 5, "max_tokens": 9}, "bc"),
        ({"correct": True, "domain": "math", "min_tokens": 1}, ""),
    ],
)
def test_samples_by_what_is_asked(which, expected):
    mask = MIXED.where(**which)
    assert "".join(MIXED.id[mask]) == expected
    assert as_lists(of([{1}, {2}, {3}, {4}]).subset(mask)) == [["abcd".index(name) + 1] for name in expected]


def test_samples_that_no_question_can_find_are_refused():
    with pytest.raises(ValueError, match="no sample is of the domain 'maths'; domains: facts, math"):
        MIXED.where(domain="maths")
    with pytest.raises(ValueError, match="no response has 9 tokens or more and 5 or fewer; widen the range"):
        MIXED.where(min_tokens=9, max_tokens=5)


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
