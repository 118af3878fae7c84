"""Comparisons of MUI: which pairs, numbers by hand, the family's correction, and studies that lack something."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_cells import SETTING, cell
from scipy import stats
from statsmodels.stats.multitest import multipletests

from moemui.geometry import Geometry, Layer
from moemui.mui import comparisons, differences
from moemui.mui.comparisons import NONE_SHOWN, planned, rows

ORDER = {"olmoe": ["early", "late"], "deepseek": ["early", "late"]}


def random_lists(seed, n=30, chance=0.2, neurons=10):
    generator = np.random.default_rng(seed)
    return [np.flatnonzero(own).tolist() for own in generator.random((n, neurons)) < chance]


def study(**changes):
    """Two models, two checkpoints, two tasks."""
    return [
        cell(model, checkpoint, task, random_lists([m, c, t], **changes))
        for m, model in enumerate(ORDER)
        for c, checkpoint in enumerate(ORDER[model])
        for t, task in enumerate(("sums", "facts"))
    ]


def compare(files, order=ORDER, settings=(SETTING,)):
    return rows(files=files, order=order, settings=settings)


def only(files, kind, order=ORDER, task=None):
    found = compare(files, order)
    found = found[(found["kind"] == kind) & (found["task_a"] == (task or files[0].task))]
    assert len(found) == 1
    return found.iloc[0]


def test_pairs_of_each_kind():
    names = {
        kind: [(pair.a.path.as_posix(), pair.b.path.as_posix()) for pair in pairs]
        for kind, pairs in planned(files=study(), order=ORDER).items()
    }
    assert names == {
        "tasks": [(f"{model}/late/sums", f"{model}/late/facts") for model in ORDER],
        "checkpoints": [(f"{m}/early/{t}", f"{m}/late/{t}") for m in ORDER for t in ("sums", "facts")],
        "models": [(f"olmoe/late/{task}", f"deepseek/late/{task}") for task in ("sums", "facts")],
    }
    found = compare(study())
    assert found["kind"].value_counts().to_dict() == {"checkpoints": 6, "models": 3, "tasks": 2}
    assert found.groupby("kind")["paired"].unique().map(list).to_dict() == {
        "tasks": [False],
        "checkpoints": [True],
        "models": [True],
    }


def independent(before, after, m):
    """Interval and p of a difference whose variances add, with Student's t of the smaller cell's samples less one."""
    cells = [differences.paired_mui(cells=[one.sets(*SETTING)], n_neurons=[10], m=m) for one in (before, after)]
    estimate = cells[1].estimates[0] - cells[0].estimates[0]
    error = np.sqrt(sum(one.covariance[0, 0] for one in cells))
    t = stats.t(min(one.n_samples for one in cells) - 1)
    change = (estimate, estimate - t.ppf(0.975) * error, estimate + t.ppf(0.975) * error)
    return SimpleNamespace(change=change, p=2 * t.sf(abs(estimate) / error))


def test_tasks_by_hand():
    # two of a's samples hold neuron 0 and in half of the pairs neuron 1; any two of b hold 2 of the 10 neurons
    a = cell("olmoe", "late", "sums", [[0, 1], [0], [0], [0]])
    b = cell("olmoe", "late", "facts", [[2], [3], [4], [5], [6]])
    found = only([a, b], "tasks")
    assert (found["m"], found["n_a"], found["n_b"]) == (2, 4, 5)
    assert (found["mui_a"], found["mui_b"], found["difference"]) == pytest.approx((0.15, 0.2, 0.05))
    expected = independent(a, b, m=2)
    assert found["p"] == pytest.approx(expected.p)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx(expected.change[1:])


def test_checkpoints_are_paired_by_id_whatever_their_order():
    lists = random_lists(1)
    early = cell("olmoe", "early", "sums", lists)
    turned = [f"sums/{i}" for i in reversed(range(30))]
    late = cell("olmoe", "late", "sums", [[*own, 9] if 9 not in own else own for own in lists[::-1]], ids=turned)
    found = only([early, late], "checkpoints")
    same = differences.paired_mui(
        cells=[early.sets(*SETTING), late.sets(*SETTING).subset(np.ones(30, bool))], n_neurons=[10, 10], m=15
    )
    assert (found["mui_a"], found["mui_b"]) == pytest.approx(tuple(same.estimates))
    assert found["paired"]


def test_models_of_other_shapes_compare_as_shares_of_their_own_neurons():
    wide = Geometry((Layer(0, 2, 0, 10, 0, 1),))
    lists = random_lists(2, chance=0.02)
    found = only(
        [cell("olmoe", "late", "sums", lists), cell("deepseek", "late", "sums", lists, geometry=wide)], "models"
    )
    assert found["mui_b"] == pytest.approx(found["mui_a"] / 2)
    assert found["difference"] == pytest.approx(-found["mui_a"] / 2)
    assert found["verdict"] == "lower"


def test_one_m_for_a_kind_over_the_whole_study():
    files = study()
    files[-1] = cell("deepseek", "late", "facts", random_lists(9, n=20))
    found = compare(files).groupby("kind")["m"].unique().map(list)
    assert found.to_dict() == {"tasks": [10], "checkpoints": [10], "models": [10]}


def test_the_other_way_round_is_the_same_with_the_other_sign():
    there = compare(study()).set_index(["kind", "task_a"]).loc["models"]
    back = compare(study(), order=dict(reversed(ORDER.items()))).set_index(["kind", "task_a"]).loc["models"]
    assert there["difference"].to_dict() == pytest.approx((-back["difference"]).to_dict())
    assert there["difference_low"].to_dict() == pytest.approx((-back["difference_high"]).to_dict())
    assert there["p"].to_dict() == pytest.approx(back["p"].to_dict())
    swapped = {"higher": "lower", "lower": "higher", NONE_SHOWN: NONE_SHOWN}
    assert there["verdict"].to_dict() == back["verdict"].map(swapped).to_dict()


def test_mean_over_tasks_by_hand():
    found = compare(study())
    models = found[found["kind"] == "models"].set_index("task_a")
    tasks = models.drop(index="mean")
    assert models.loc["mean", "difference"] == pytest.approx(tasks["difference"].mean())
    # variances of independent tasks add; both intervals are Student's with 29 degrees of freedom
    half = (tasks["difference_high"] - tasks["difference_low"]) / 2
    mean = models.loc["mean"]
    assert (mean["difference_high"] - mean["difference_low"]) / 2 == pytest.approx(np.hypot(*half) / 2)
    assert (mean["n_a"], mean["n_b"]) == (60, 60)


def test_q_and_verdicts_of_a_family_by_hand():
    records = [
        {"p": p, "difference": d} for p, d in ((0.01, 0.1), (0.04, -0.1), (np.nan, 0.2), (0.03, -0.2), (0.9, 0.0))
    ]
    judged = comparisons._judged(records)
    # p·4/rank from the largest down: 0.9, then 0.04·4/3, 0.03·4/2 no lower than it, 0.01·4
    assert [record["q"] for record in judged if record["p"] == record["p"]] == pytest.approx(
        [0.04, 0.16 / 3, 0.16 / 3, 0.9]
    )
    assert [record["verdict"] for record in judged] == ["higher", NONE_SHOWN, "", NONE_SHOWN, NONE_SHOWN]


def test_q_is_corrected_within_kind_and_setting():
    other = SETTING._replace(threshold=0.001)
    files = [
        cell(file.model, file.checkpoint, file.task, random_lists(number), settings=(SETTING, other))
        for number, file in enumerate(study())
    ]
    found = compare(files, settings=(SETTING, other))
    for _, family in found.groupby(["kind", "threshold"]):
        assert family["q"].tolist() == pytest.approx(multipletests(family["p"], method="fdr_bh")[1].tolist())
    assert found["threshold"].nunique() == 2


def test_the_same_answers_twice_show_no_difference():
    lists = random_lists(3)
    found = only([cell("olmoe", name, "sums", lists) for name in ("early", "late")], "checkpoints")
    assert (found["difference"], found["p"], found["verdict"]) == (0.0, 1.0, NONE_SHOWN)


def test_identical_samples_have_a_difference_but_no_interval():
    files = [cell("olmoe", "late", "sums", [[0]] * 12), cell("olmoe", "late", "facts", [[1, 2]] * 12)]
    found = only(files, "tasks")
    assert found["difference"] == pytest.approx(0.1)
    assert found[["difference_low", "difference_high", "p", "q"]].isna().all()
    assert (found["verdict"], found["note"]) == ("", comparisons.NO_VARIATION)


def test_empty_responses_everywhere_are_no_difference():
    files = [cell("olmoe", "late", task, [[]] * 12) for task in ("sums", "facts")]
    found = only(files, "tasks")
    assert (found["mui_a"], found["mui_b"], found["p"], found["verdict"]) == (0.0, 0.0, 1.0, NONE_SHOWN)


def test_a_task_with_one_sample_is_left_out_with_a_reason():
    files = [
        cell("olmoe", checkpoint, task, random_lists([c, n], n=n))
        for c, checkpoint in enumerate(("early", "late"))
        for task, n in (("sums", 30), ("facts", 1))
    ]
    found = compare(files)
    facts = found[(found["task_a"] == "facts") | (found["task_b"] == "facts")]
    assert facts["difference"].isna().all()
    few = "fewer than 2·m = 30 samples, so no comparison"
    assert dict(zip(facts["kind"], facts["note"], strict=True)) == {
        "tasks": few,
        "checkpoints": f"samples in both: 1, so they are compared as independent; {few}",
    }
    mean = found[found["task_a"] == "mean"].iloc[0]
    assert mean["note"] == "without facts"
    assert (
        mean["difference"]
        == found[(found["kind"] == "checkpoints") & (found["task_a"] == "sums")]["difference"].iloc[0]
    )


def test_without_samples_nothing_is_compared_and_every_row_says_so():
    found = compare([cell("olmoe", name, "sums", []) for name in ("early", "late")])
    assert found["difference"].isna().all()
    assert found["m"].isna().all()
    assert found.set_index("task_a")["note"].to_dict() == {
        "sums": "samples in both: 0, so they are compared as independent; no samples, so no comparison",
        "mean": "without sums; no task has an interval",
    }


@pytest.mark.parametrize(
    ("files", "kinds"),
    [
        ([cell("olmoe", "late", "sums", random_lists(0))], set()),
        ([cell("olmoe", "late", task, random_lists(0)) for task in ("sums", "facts")], {"tasks"}),
        ([cell("olmoe", name, "sums", random_lists(0)) for name in ("early", "late")], {"checkpoints"}),
        ([cell(model, "late", "sums", random_lists(0)) for model in ORDER], {"models"}),
    ],
    ids=["a single cell", "a single checkpoint", "a single task", "a single checkpoint of two models"],
)
def test_what_there_is_only_one_of_is_not_compared(files, kinds):
    assert set(compare(files)["kind"]) == kinds


def test_other_samples_are_compared_as_independent():
    early = cell("olmoe", "early", "sums", random_lists(0))
    late = cell("olmoe", "late", "sums", random_lists(1), ids=[f"other/{i}" for i in range(30)])
    found = only([early, late], "checkpoints")
    expected = independent(early, late, m=15)
    assert not found["paired"]
    assert found["p"] == pytest.approx(expected.p)
    assert found["note"] == "samples in both: 0, so they are compared as independent"


def test_partly_shared_samples_are_compared_over_what_they_share():
    early = cell("olmoe", "early", "sums", random_lists(0))
    late = cell("olmoe", "late", "sums", random_lists(1), ids=[f"sums/{i + 10}" for i in range(30)])
    found = only([early, late], "checkpoints")
    assert (found["paired"], found["n_a"], found["n_b"], found["m"]) == (True, 20, 20, 10)
    assert found["note"] == "over the 20 samples that both have, of 30 and 30"


def test_sets_that_may_lack_neurons_say_so():
    files = [
        cell("olmoe", "early", "sums", random_lists(0)),
        cell("olmoe", "late", "sums", random_lists(1), incomplete=7),
    ]
    note = "7 of 30 sample × layer cells reach the end of what is stored, so sets are lower bounds"
    assert only(files, "checkpoints")["note"] == f"second cell: {note}"
    assert only(files, "checkpoints", task="mean")["note"] == "sets of some tasks are lower bounds"


def test_sets_that_are_undefined_in_some_cells_say_so():
    files = [cell("olmoe", name, "sums", random_lists(seed)) for seed, name in enumerate(("early", "late"))]
    files[0] = replace(files[0], undefined={SETTING: 4})
    note = "in 4 of 30 sample × layer cells the highest score is not positive, so no neuron is key there"
    assert only(files, "checkpoints")["note"] == f"first cell: {note}"
    assert only(files, "checkpoints", task="mean")["note"] == "sets of some tasks are undefined in some cells"


def test_a_pair_with_fewer_than_twice_m_samples_is_not_compared():
    """Nine samples don't lower m. They suffice for MUI at m = 9, but not for its noise."""
    sizes = {"sums": 30, "facts": 20, "words": 9, "names": 19}
    files = [cell("olmoe", "late", task, random_lists([n], n=n)) for task, n in sizes.items()]
    found = compare(files)
    assert found["m"].unique().tolist() == [9]  # of the 19
    few = found["task_b"].eq("words") | found["task_a"].eq("words")
    assert found["p"].isna().tolist() == few.tolist()
    assert found.loc[few, "note"].unique().tolist() == ["fewer than 2·m = 18 samples, so no comparison"]
    twelve = [cell("olmoe", "late", task, random_lists([n], n=n)) for task, n in (("a", 24), ("b", 24), ("c", 9))]
    assert compare(twelve)["p"].notna().tolist() == [True, False, False]


def test_cells_that_the_order_does_not_know_and_repeated_ones_are_refused():
    with pytest.raises(ValueError, match="of olmoe final; order names"):
        compare([cell("olmoe", "final", "sums", [[0], [1]])])
    with pytest.raises(ValueError, match="olmoe late sums is given twice"):
        compare([cell("olmoe", "late", "sums", [[0], [1]])] * 2)
