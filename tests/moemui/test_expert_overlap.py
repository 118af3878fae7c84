"""Overlap of tasks' key experts: by hand, chance by enumeration, coverage by simulation, tasks without key experts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moemui.experts import expert_overlap
from moemui.experts.expert_overlap import chance, jaccard, jaccard_interval
from moemui.experts.key_experts import resampled_key
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

# Four routed experts and one shared one of a neuron each, so neuron and expert numbers are the same
GEOMETRY = Geometry((Layer(0, 4, 1, 1, 1, 1),))
MAIN = Setting("projection", "pairs", 0.1)


def mask(*members, of=6):
    return np.isin(np.arange(of), members)


@pytest.fixture
def checkpoint(tmp_path):
    def make(tasks):
        """Files of a checkpoint: task → the experts that are active in each of its samples."""
        for task, samples in tasks.items():
            write(
                tmp_path / f"{task}.h5",
                model="m",
                checkpoint="c",
                task=task,
                geometry=GEOMETRY,
                samples=Samples(
                    id=np.array([f"{task}-{i}" for i in range(len(samples))], dtype=object),
                    domain=np.array(["math"] * len(samples), dtype=object),
                    correct=np.ones(len(samples), dtype=np.int8),
                    response_tokens=np.ones(len(samples), dtype=np.int32),
                ),
                sets={
                    MAIN: KeySets(
                        np.cumsum([0, *map(len, samples)]), np.array([e for own in samples for e in own], dtype=int)
                    )
                },
                routed_tokens=np.zeros((1, 4), dtype=int),
            )
        return [read(tmp_path / f"{task}.h5") for task in tasks]

    return make


def rows(files, **options):
    return expert_overlap.rows(key_neurons=files, tokens=0, order=0, setting=MAIN, **options)


def test_jaccard_by_hand():
    assert jaccard(a=mask(0, 1, 2), b=mask(1, 2, 3)) == 0.5
    assert jaccard(a=mask(0), b=mask(1)) == 0
    assert np.isnan(jaccard(a=mask(), b=mask()))
    assert jaccard(a=np.stack([mask(0), mask(1)]), b=np.stack([mask(0), mask(0, 1)])).tolist() == [1, 0.5]


def test_chance_by_hand():
    # of 6 experts 3 and 3: overlaps 0 to 3 in 1, 9, 9 and 1 of 20 placements, Jaccard 0, 1/5, 2/4 and 1
    found = chance(a=mask(0, 1, 2), b=mask(1, 2, 3), strata=np.zeros(6, dtype=int))
    assert found.p == pytest.approx(10 / 20)
    assert found.jaccard == pytest.approx((9 / 5 + 9 / 2 + 1) / 20)
    assert found.testable


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=7))
def test_chance_is_what_all_placements_within_strata_give(experts):
    a, b, strata = (np.array(values) for values in zip(*experts, strict=True))
    placements = []
    by_stratum = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    choices = [itertools.combinations(inside, int(b[inside].sum())) for inside in by_stratum]
    for placed in itertools.product(*choices):
        placements.append(np.isin(np.arange(len(a)), [expert for part in placed for expert in part]))
    overlaps = np.array([(a & placed).sum() for placed in placements])
    found = chance(a=a, b=b, strata=strata)
    assert found.p == pytest.approx((overlaps >= (a & b).sum()).mean())
    assert found.testable == (len(set(overlaps)) > 1)
    if (a | b).any():
        assert found.jaccard == pytest.approx(np.mean([jaccard(a=a, b=placed) for placed in placements]))
    else:
        assert np.isnan(found.jaccard)


def test_chance_in_one_stratum_is_fishers_one_sided_test():
    a, b = mask(*range(10), of=60), mask(*range(4, 16), of=60)
    table = [[6, 4], [6, 44]]
    p = stats.fisher_exact(table, alternative="greater").pvalue
    assert chance(a=a, b=b, strata=np.zeros(60, dtype=int)).p == pytest.approx(p)


def test_experts_shared_by_k_tasks_by_hand():
    keys = [mask(0, 1, 2), mask(1, 2), mask(2, 5)]
    assert expert_overlap.shared_by(keys=keys).tolist() == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="there is no task"):
        expert_overlap.shared_by(keys=[])


def test_an_interval_leaves_resamples_without_key_experts_out_up_to_a_limit():
    draws = np.tile(mask(0, 1), (100, 1))
    draws[:4] = False
    assert jaccard_interval(draws_a=draws, draws_b=draws) == (1, 1)
    draws[:6] = False
    assert np.isnan(jaccard_interval(draws_a=draws, draws_b=draws)).all()


@pytest.mark.simulation
def test_jaccard_intervals_cover_where_frequencies_are_spread_out():
    generator = np.random.default_rng(3)
    true = (np.arange(300) + 0.5) / 300
    other, covered = generator.permutation(true), 0
    expected = jaccard(a=true >= 0.6, b=other >= 0.6)
    for number in range(200):
        draws = []
        for part, frequencies in enumerate((true, other)):
            # samples differ in how many experts they use, so experts' frequencies err together
            latent = np.sqrt(0.5) * (generator.normal(size=(150, 1)) + generator.normal(size=(150, 300)))
            active = latent < stats.norm.ppf(frequencies)
            draws.append(resampled_key(activity=active, expert_thresholds=[0.6], seed=(number, part), resamples=400)[0])
        low, high = jaccard_interval(draws_a=draws[0], draws_b=draws[1])
        covered += low <= expected <= high
    assert 0.92 <= covered / 200 <= 0.98


ALL = [(0, 1, 4)] * 10


def test_rows_of_a_checkpoint_by_hand(checkpoint):
    # key on a: 0, 1 and the shared 4; on b: 1, 2 and 4; on c: the shared one alone
    pairs, shared = rows(checkpoint({"a": ALL, "b": [(1, 2, 4)] * 10, "c": [(4,)] * 10}))
    assert pairs[["task_a", "task_b"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert pairs[["n_key_a", "n_key_b", "n_both"]].values.tolist() == [[3, 3, 2], [3, 1, 1], [3, 1, 1]]
    assert pairs["jaccard"].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 3])
    assert pairs[["jaccard_low", "jaccard_high"]].values.tolist() == [[0.5, 0.5], [1 / 3, 1 / 3], [1 / 3, 1 / 3]]
    # of 5 experts 3 and 3 have 2 or more in common in 7 of 10 placements, and 1 is among 3 in 3 of 5
    assert pairs["p"].tolist() == pytest.approx([0.7, 0.6, 0.6])
    assert pairs["q"].tolist() == pytest.approx([0.7, 0.7, 0.7])
    # the shared expert is key everywhere: of the routed ones 2 of 4 and 2 of 4 meet in 5/6, and c has none to place
    assert pairs["p_within_kind"].tolist() == pytest.approx([5 / 6, 1, 1])
    assert pairs["q_within_kind"].tolist() == pytest.approx([5 / 6, 1, 1])
    assert pairs["jaccard_expected_within_kind"].tolist() == pytest.approx([(1 / 5 + 4 * 2 / 4 + 1) / 6, 1 / 3, 1 / 3])
    assert pairs["note"].eq("").all()
    by_kind = {kind: group.set_index("k")["n_experts"].to_dict() for kind, group in shared.groupby("kind")}
    assert by_kind == {"routed": {0: 1, 1: 2, 2: 1, 3: 0}, "shared": {0: 0, 1: 0, 2: 0, 3: 1}}
    assert shared[["kind", "n_tasks", "n_kind"]].drop_duplicates().values.tolist() == [
        ["routed", 3, 4],
        ["shared", 3, 1],
    ]


def test_intervals_come_from_the_samples_of_both_tasks(checkpoint):
    half = [(0, 1)] * 12 + [(0,)] * 8  # expert 1 is active in just the 60 % that make it key
    pairs, _ = rows(checkpoint({"a": half, "b": ALL}))
    assert pairs[["jaccard_low", "jaccard", "jaccard_high"]].values.tolist() == [[1 / 3, 2 / 3, 2 / 3]]


def test_tasks_without_key_experts_or_with_one_sample_say_so(checkpoint):
    pairs, shared = rows(checkpoint({"none": [()] * 5, "empty": [(0,), (), ()], "one": [(0,)], "full": ALL}))
    found = pairs.set_index(["task_a", "task_b"])
    both = found.loc[("none", "empty")]
    assert both["note"] == "no key expert on task_a, no key expert on task_b, so no index"
    assert both[["jaccard", "jaccard_low", "jaccard_expected"]].isna().all()
    assert both[["p", "q", "p_within_kind", "q_within_kind"]].tolist() == [1, 1, 1, 1]
    assert found.loc[("none", "full"), "note"] == "no key expert on task_a"
    assert found.loc[("none", "full"), ["jaccard", "jaccard_low", "jaccard_high"]].tolist() == [0, 0, 0]
    assert found.loc[("one", "full"), "note"] == "a task of one sample: no interval"
    assert found.loc[("one", "full"), "jaccard"] == pytest.approx(1 / 3)
    assert found["q"].between(0, 1).all()
    assert shared.loc[shared["kind"] == "routed", "n_experts"].tolist() == [2, 1, 1, 0, 0]


def test_a_single_task_has_no_pair_and_still_counts_its_key_experts(checkpoint):
    pairs, shared = rows(checkpoint({"a": ALL}))
    assert len(pairs) == 0
    assert shared[["kind", "k", "n_experts"]].values.tolist() == [
        ["routed", 0, 2], ["routed", 1, 2], ["shared", 0, 0], ["shared", 1, 1]
    ]  # fmt: skip


def test_no_files_are_refused():
    with pytest.raises(ValueError, match="there is no key neuron file"):
        rows([])
