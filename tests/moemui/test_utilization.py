"""MUI of a task: its rows by hand, experts against a loop over them, cells that lack something."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui import utilization
from moemui.mui.rarefaction import frequency_counts, mui_at
from moemui.mui.utilization import common_samples, expert_mui_at


def test_mui_is_a_share_of_all_neurons():
    assert utilization.mui(n_key=3, n_neurons=12) == 0.25
    with pytest.raises(ValueError, match="13 key neurons of 12"):
        utilization.mui(n_key=13, n_neurons=12)
    with pytest.raises(ValueError, match="0 key neurons of 0"):
        utilization.mui(n_key=0, n_neurons=0)


@pytest.mark.parametrize(
    ("counts", "m"),
    [
        ([200, 40, 0], 20), ([200, 40, 1, 9], 20), ([25, 200], 12), ([9, 4, 1], 2), ([3], 1), ([1, 0], 1), ([0], None),
        ([], None),
    ],
)  # fmt: skip
def test_common_samples_is_half_of_the_smallest_but_for_cells_with_hardly_any(counts, m):
    assert common_samples(counts) == m


# One layer of two routed experts of 3 neurons and a shared one of 4; layer 3 of the model.
MIXED = Geometry((Layer(3, 2, 1, 3, 4, 1),))
PROJECTION = Setting("projection", "pairs", 0.1)


@pytest.fixture
def file(tmp_path):
    def make(geometry=MIXED, correct=(1, 0, 1), lists=((0, 6), (0, 7), ()), incomplete=0, undefined=0):
        indptr = np.concatenate([[0], np.cumsum([len(own) for own in lists])]).astype(np.int64)
        n = len(lists)
        path = tmp_path / "key_neurons.h5"
        write(
            path,
            model="m",
            checkpoint="c",
            task="t",
            geometry=geometry,
            samples=Samples(
                id=np.array([f"t-{i}" for i in range(n)], dtype=object),
                domain=np.array(["math"] * n, dtype=object),
                correct=np.array(correct, dtype=np.int8),
                response_tokens=np.arange(1, n + 1, dtype=np.int32),
            ),
            sets={PROJECTION: KeySets(indptr, np.array([u for own in lists for u in own], dtype=np.int32))},
            routed_tokens=np.zeros((len(geometry.layers), geometry.layers[0].routed), dtype=np.int64),
            incomplete={PROJECTION: incomplete},
            undefined={PROJECTION: undefined},
        )
        return read(path)

    return make


def rows(key_neurons, common_m):
    frame = utilization.rows(key_neurons=key_neurons, tokens=1e6, order=2, common_m=common_m)
    return frame.set_index(["samples", "scope"])


def test_rows_of_a_file_by_hand(file):
    found = rows(file(), {"all": 2, "correct": 2})
    assert found.index.tolist() == [(s, x) for s in ("all", "correct") for x in ("total", "routed", "shared", "layer")]
    assert found.loc["all", "n_key"].tolist() == [3, 1, 2, 3]
    assert found.loc["all", "n_neurons"].tolist() == [10, 6, 4, 10]
    assert found.loc["all", "mui"].tolist() == pytest.approx([0.3, 1 / 6, 0.5, 0.3])
    assert found.loc["all", "n_samples"].unique().tolist() == [3]  # the sample with the empty set counts
    assert found.loc["all", "n_response_tokens"].unique().tolist() == [6]
    assert found.loc[("all", "layer"), "layer"] == 3
    # unions of the three pairs: {0,6,7}, {0,6}, {0,7}: 7/3 neurons of 10
    assert found.loc[("all", "total"), "mui_at_m"] == pytest.approx(7 / 30)
    assert found.loc[("all", "total"), ["q1", "q2"]].tolist() == [2, 1]
    assert found.loc["correct", "n_key"].tolist() == [2, 1, 1, 2]
    assert found.loc["all", "note"].eq("fewer than 2·m = 4 samples, so no interval over samples").all()
    total = found.loc[("all", "total")]
    half = (total["mui_at_m_high"] - total["mui_at_m_low"]) / 2
    assert half <= 1.96 * total["mui_at_m_se"] + 1e-9


def test_no_correct_answers_keep_a_row_with_a_reason(file):
    found = rows(file(correct=(0, 0, -1)), {"all": 3})
    assert found.loc["correct", "n_samples"].eq(0).all()
    assert found.loc["correct", "mui"].isna().all()
    assert found.loc["correct", "n_key"].isna().all()
    assert found.loc["correct", "note"].unique().tolist() == ["no correct answers"]
    assert found.loc["all", "mui_at_m"].tolist() == pytest.approx(found.loc["all", "mui"].tolist())


def test_where_nothing_was_graded_no_answer_is_called_wrong(file):
    found = rows(file(correct=(-1, -1, -1)), {"all": 1})
    assert found.loc["correct", "note"].unique().tolist() == ["no sample was graded"]
    empty = rows(file(correct=(), lists=()), {})
    assert empty["note"].groupby("samples").unique().map(list).to_dict() == {
        "all": ["no samples"],
        "correct": ["no sample was graded"],
    }


@pytest.mark.parametrize(("n", "given"), [(3, False), (4, True), (5, True)])
def test_below_twice_the_common_m_there_is_no_interval_over_samples(file, n, given):
    """The jackknife over samples does not hold there; MUI at m itself is exact."""
    made = file(correct=(1,) * n, lists=[[s, 6 + s % 3] for s in range(n)])
    found = rows(made, {"all": 2}).loc["all"].drop(index="layer")
    assert found["mui_at_m"].notna().all()
    assert found["mui_at_m_low"].notna().all()
    names = ["mui_at_m_sample_se", "mui_at_m_sample_low", "mui_at_m_sample_high"]
    assert found[names].notna().eq(given).all(axis=None)
    note = "" if given else "fewer than 2·m = 4 samples, so no interval over samples"
    assert found["note"].unique().tolist() == [note]


def test_a_cell_with_fewer_samples_than_the_common_m_says_so(file):
    found = rows(file(), {"all": 3, "correct": 3})
    assert found.loc["correct", "mui_at_m"].isna().all()
    assert found.loc[("correct", "total"), "note"] == "fewer than 3 samples, so not comparable at the common m"
    assert rows(file(), {}).loc[("all", "total"), "note"] == "no common m"


def test_one_sample_has_mui_but_no_interval_and_no_asymptote(file):
    found = rows(file(correct=(1,), lists=((0, 6),)), {"all": 1, "correct": 1}).loc[("all", "total")]
    assert (found["mui"], found["mui_at_m"]) == (0.2, 0.2)
    assert pd.isna(found[["mui_at_m_low", "mui_at_m_high", "mui_at_m_se", "chao2", "chao2_low"]]).all()
    assert found["note"] == "one sample: no interval and no asymptote"


def test_empty_responses_everywhere_are_a_mui_of_zero(file):
    found = rows(file(lists=((), (), ())), {"all": 3, "correct": 2})
    assert found["mui"].tolist() == [0.0] * 8
    assert found["chao2_high"].tolist() == [0.0] * 8


@pytest.mark.parametrize(
    ("layer", "scopes"),
    [(Layer(0, 2, 0, 5, 0, 1), ["total", "routed", "layer"]), (Layer(0, 0, 1, 0, 10, 0), ["total", "shared", "layer"])],
)
def test_a_scope_without_neurons_has_no_row(file, layer, scopes):
    found = rows(file(Geometry((layer,))), {"all": 3, "correct": 2})
    assert found.loc["all"].index.tolist() == scopes


def test_saturation_rows_start_at_one_sample_and_end_at_the_union(file):
    found = utilization.saturation_rows(key_neurons=file(), tokens=None, order=0)
    assert found["m"].tolist() == [1, 2, 3]
    assert found["mui"].tolist() == pytest.approx([4 / 30, 7 / 30, 3 / 10])
    assert (found["low"] <= found["mui"]).all()
    assert (found["mui"] <= found["high"]).all()


def test_saturation_points_are_few_and_hold_both_ends():
    points = utilization.saturation_points(10_000)
    assert (points[0], points[-1]) == (1, 10_000)
    assert len(points) <= 40
    assert utilization.saturation_points(0) == []


def test_noise_over_samples_by_hand(file):
    # {0, 6}, {0, 7}, {} at m = 1: 2, 2 and 0 neurons; the jackknife is a mean's variance: s²/n = (4/3)/3 = 4/9
    found = rows(file(), {"all": 1}).loc["all"]
    assert found["mui_at_m_sample_se"].tolist()[:3] == pytest.approx([2 / 3 / 10, 1 / 3 / 6, 1 / 3 / 4])
    total = found.loc["total"]
    assert total["mui_at_m"] == pytest.approx(4 / 30)
    # Student's t of 2 degrees of freedom: 4.3027
    assert total["mui_at_m_sample_high"] == pytest.approx(4 / 30 + 4.3027 * 2 / 30, abs=1e-5)
    assert total["mui_at_m_sample_low"] == 0.0
    assert pd.isna(found.loc["layer", "mui_at_m_sample_se"])


def test_identical_samples_vary_in_nothing(file):
    found = rows(file(lists=((0, 6), (0, 6), (0, 6))), {"all": 1, "correct": 1}).loc[("all", "total")]
    assert (found["mui"], found["mui_at_m"], found["chao2"]) == (0.2, 0.2, 0.2)
    assert found[["mui_at_m_se", "mui_at_m_sample_se"]].tolist() == [0.0, 0.0]
    assert found["note"] == ""


def test_sets_that_may_lack_neurons_say_so_in_every_row(file):
    made = file(incomplete=2)
    note = "2 of 3 sample × layer cells reach the end of what is stored, so sets are lower bounds"
    found = rows(made, {"all": 1})
    assert found.loc["all", "note"].unique().tolist() == [note]
    assert found.loc["correct", "note"].unique().tolist() == [f"no common m; {note}"]
    curve = utilization.saturation_rows(key_neurons=made, tokens=None, order=0)
    assert curve["note"].unique().tolist() == [note]


def test_sets_that_are_undefined_in_some_cells_say_so_in_every_row(file):
    made = file(undefined=1)
    note = "in 1 of 3 sample × layer cells the highest score is not positive, so no neuron is key there"
    found = rows(made, {"all": 1, "correct": 1})
    assert found["note"].unique().tolist() == [note]
    curve = utilization.saturation_rows(key_neurons=made, tokens=None, order=0)
    assert curve["note"].unique().tolist() == [note]
    both = utilization.saturation_rows(key_neurons=file(undefined=1, incomplete=2), tokens=None, order=0)
    assert both["note"].str.contains("lower bounds; in 1 of 3").all()


def test_experts_over_their_own_neurons_by_hand(file):
    # experts of 3, 3 and 4 neurons; neuron 0 in two of three samples, 6 and 7 in one each
    sets = file().sets(*PROJECTION)
    found = expert_mui_at(sets=sets, geometry=MIXED, m=2)
    # of two samples the first expert's neuron is always in one, the shared expert's two in 2/3 each
    assert found.estimate.tolist() == pytest.approx([1 / 3, 0.0, (2 / 3 + 2 / 3) / 4])
    # shared: Q1 = 2, Q2 = 0, Chao2 = 2 + (2/3)·2·1/2 = 8/3; variance 2·(2/3)² − (4/3)²/(8/3) = 8/9 − 2/3 = 2/9
    assert found.se.tolist() == pytest.approx([0.0, 0.0, np.sqrt(2 / 9) / 4])
    assert found.low[1] == found.high[1] == 0.0
    assert expert_mui_at(sets=sets, geometry=MIXED, m=3).estimate.tolist() == pytest.approx([1 / 3, 0.0, 2 / 4])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.data())
def test_experts_at_once_are_each_expert_alone(seed, n, data):
    geometry = Geometry((Layer(0, 3, 0, 2, 0, 1), Layer(2, 2, 2, 4, 3, 1)))
    m = data.draw(st.integers(1, n))
    generator = np.random.default_rng(seed)
    matrix = generator.random((n, geometry.neurons)) < generator.random(geometry.neurons)
    sets = KeySets(np.concatenate([[0], np.cumsum(matrix.sum(axis=1))]), np.nonzero(matrix)[1])
    found = np.array(expert_mui_at(sets=sets, geometry=geometry, m=m)).T
    for expert, (first, end) in enumerate(itertools.pairwise(geometry.expert_offsets)):
        counts = frequency_counts(incidence=matrix[:, first:end].sum(axis=0), n=n)
        alone = mui_at(counts=counts, m=m, n_neurons=int(end - first))
        assert found[expert].tolist() == pytest.approx(list(alone), abs=1e-7)


def test_experts_of_one_sample_have_no_interval_and_none_can_be_drawn_from_nothing(file):
    one = file(correct=(1,), lists=((0, 6),)).sets(*PROJECTION)
    found = expert_mui_at(sets=one, geometry=MIXED, m=1)
    assert found.estimate.tolist() == pytest.approx([1 / 3, 0.0, 1 / 4])
    assert np.isnan([found.se, found.low, found.high]).all()
    with pytest.raises(ValueError, match="m is 1; rarefaction draws 1 to n = 0"):
        expert_mui_at(sets=file(correct=(), lists=()).sets(*PROJECTION), geometry=MIXED, m=1)
