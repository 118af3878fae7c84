"""Dynamics: phases by hand, the noise band, pairing by id, means over tasks and what they hide, steps without phase."""

import itertools

import numpy as np
import pandas as pd
import pytest

from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons.files import Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui import differences, dynamics
from moemui.mui.dynamics import Cell, Change, paired_differences, phase
from moemui.statistics import intervals

UP, DOWN, NOISE = Change(0.2, 0.1, 0.3), Change(-0.2, -0.3, -0.1), Change(0.1, -0.1, 0.3)
SETTING = Setting("projection", "pairs", 0.01)
NEURONS = 400
GEOMETRY = Geometry((Layer(index=0, routed=4, shared=0, width=100, shared_width=0, top_k=1),))


@pytest.mark.parametrize(
    ("accuracy", "mui", "expected"),
    [
        (UP, UP, "Accumulating"),
        (UP, DOWN, "Evolving"),
        (DOWN, UP, "Coarsening"),
        (DOWN, DOWN, "Collapsing"),
        (NOISE, UP, "Flat"),
        (DOWN, NOISE, "Flat"),
        (UP, Change(0.1, 0.0, 0.2), "Flat"),  # the interval's ends belong to it
        (Change(-0.1, -0.2, 0.0), DOWN, "Flat"),
        (UP, dynamics.UNKNOWN, ""),
        (dynamics.UNKNOWN, NOISE, ""),
    ],
)
def test_phase(accuracy, mui, expected):
    assert phase(accuracy=accuracy, mui=mui) == expected


def samples(correct, ids=None):
    n = len(correct)
    return Samples(
        id=np.array([f"t-{i}" for i in range(n)] if ids is None else ids, dtype=object),
        domain=np.array(["math"] * n, dtype=object),
        correct=np.array(correct, dtype=np.int8),
        response_tokens=np.ones(n, dtype=np.int32),
    )


def test_differences_are_paired_by_id_and_leave_ungraded_samples_out():
    before = samples([0, 1, 0, -1], ids=["a", "b", "c", "d"])
    after = samples([1, 0, 1, -1, 1], ids=["d", "b", "a", "c", "e"])
    assert paired_differences(before=before, after=after).tolist() == [1, -1]  # a rises, b falls
    assert paired_differences(before=before, after=samples([1], ids=["z"])).tolist() == []


def own_neurons(n, size, every):
    """Key sets that share nothing: `size` neurons a sample, one more in each `every`-th; 0: in none."""
    sizes = [size + (every > 0 and s % max(every, 1) == 0) for s in range(n)]
    return [np.arange(i, j) for i, j in itertools.pairwise(np.cumsum([0, *sizes]))]


@pytest.fixture
def cell(tmp_path):
    """Make a cell: its key sets (a list of lists of neurons) and answers written to a file and opened again."""
    counter = itertools.count()

    def make(checkpoint, task, order, sets, correct, *, tokens=1e6, ids=None, model="m"):
        path = tmp_path / f"{next(counter)}.h5"
        indptr = np.cumsum([0, *map(len, sets)]).astype(np.int64)
        neurons = np.concatenate([np.empty(0), *sets]).astype(np.int32)
        key_neurons.write(
            path,
            model=model,
            checkpoint=checkpoint,
            task=task,
            geometry=GEOMETRY,
            samples=samples(correct, ids),
            sets={SETTING: KeySets(indptr, neurons)},
            routed_tokens=np.zeros((1, 4), dtype=np.int64),
        )
        return Cell(key_neurons.read(path), order, tokens)

    return make


def rows(cells):
    return dynamics.rows(cells=cells, settings=[SETTING])


LOW, HIGH = [1] * 5 + [0] * 35, [1] * 30 + [0] * 10
# 140, 330 and 88 of 400 neurons, so half as many in 20 of the 40 samples, which is the m; the samples with one more
# differ, or nothing would vary in a difference
FEW, MANY, FEWER = own_neurons(40, 3, 2), own_neurons(40, 8, 4), own_neurons(40, 2, 5)


@pytest.fixture
def opposite(cell):
    """Two tasks that get better, one with more neurons and one with fewer."""
    return [
        cell("s1", "add", 0, FEW, LOW),
        cell("s2", "add", 1, MANY, HIGH),
        cell("s1", "sort", 0, FEW, LOW),
        cell("s2", "sort", 1, FEWER, HIGH),
    ]


def test_rows_by_hand_a_mean_that_hides_two_tasks(opposite):
    found = rows(opposite).set_index("task")
    assert found["phase"].to_dict() == {"add": "Accumulating", "sort": "Evolving", "mean": "Accumulating"}
    assert found["d_mui"].to_dict() == pytest.approx({"add": 0.2375, "sort": -0.065, "mean": 0.08625})
    assert found["d_accuracy"].tolist() == pytest.approx([25 / 40] * 3)
    assert found["n_samples"].to_dict() == {"add": 40, "sort": 40, "mean": 80}
    assert found.loc[["add", "sort"], "differs_from_mean"].tolist() == [False, True]
    assert found["differs_from_mean"].isna().tolist() == [False, False, True]
    assert found["common_m"].tolist() == [20] * 3
    # 25 answers rise: (25 ± 1.96·√(27 − 25²/42)) / 42; the mean of two such has its ends 1/√2 as far off
    low = (25 - 1.959964 * np.sqrt(27 - 625 / 42)) / 42
    assert found.loc["add", "d_accuracy_low"] == pytest.approx(low)
    assert found.loc["mean", "d_accuracy_low"] == pytest.approx(0.625 - (0.625 - low) / np.sqrt(2))


def test_the_noise_band_of_mui_is_that_of_the_paired_jackknife(cell):
    generator = np.random.default_rng(0)
    draws = [[np.flatnonzero(row) for row in generator.random((40, NEURONS)) < share] for share in (0.02, 0.03)]
    cells = [
        cell(f"s{i}", "add", i, sets, answers) for i, (sets, answers) in enumerate(zip(draws, (LOW, HIGH), strict=True))
    ]
    found = rows(cells).set_index("task")
    sets = [one.key_neurons.sets(*SETTING) for one in cells]
    paired = differences.paired_mui(cells=sets, n_neurons=[NEURONS] * 2, m=20)
    expected = differences.difference(paired=paired, before=0, after=1)
    for task in ("add", "mean"):  # a mean of one task is that task
        assert found.loc[task, ["d_mui", "d_mui_low", "d_mui_high"]].tolist() == pytest.approx(list(expected.change))


def test_samples_are_paired_by_id_and_m_is_what_both_have(cell):
    order = np.random.default_rng(1).permutation(40)
    mixed = {"sets": [MANY[i] for i in order[:30]], "correct": [HIGH[i] for i in order[:30]]}
    ids = [f"t-{i}" for i in order[:30]]
    found = rows([cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, **mixed, ids=ids)]).set_index("task")
    kept = sorted(order[:30])
    plain = [
        cell("s1", "add", 0, [FEW[i] for i in kept], [LOW[i] for i in kept]),
        cell("s2", "add", 1, [MANY[i] for i in kept], [HIGH[i] for i in kept]),
    ]
    expected = rows(plain).set_index("task")
    columns = ["common_m", "n_samples", "d_mui", "d_mui_low", "d_mui_high", "d_accuracy"]
    assert found.loc["add", columns].tolist() == pytest.approx(expected.loc["add", columns].tolist())
    assert found.loc["add", "common_m"] == 15


def test_tasks_of_other_sizes_are_compared_at_half_of_the_smallest(cell):
    short = {"sets": own_neurons(20, 3, 2), "correct": LOW[:20]}
    cells = [cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, MANY, HIGH)]
    cells += [cell("s1", "sort", 0, **short), cell("s2", "sort", 1, **short)]
    found = rows(cells).set_index("task")
    assert found["common_m"].tolist() == [10, 10, 10]
    assert found.loc["add", "d_mui"] == pytest.approx(0.11875)  # nothing is shared: a quarter of the samples, a quarter


def test_unchanged_answers_are_flat(cell):
    found = rows([cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, MANY, LOW)])
    assert found["phase"].tolist() == ["Flat", "Flat"]


def test_a_few_changed_answers_are_flat(cell):
    changed = [0, *LOW[1:-3], 1, 1, 1]
    found = rows([cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, MANY, changed)])
    assert found["phase"].tolist() == ["Flat", "Flat"]


def test_unchanged_key_neurons_are_flat(cell):
    found = rows([cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, FEW, HIGH)])
    assert found["phase"].tolist() == ["Flat", "Flat"]
    assert found[["d_mui", "d_mui_low", "d_mui_high"]].to_numpy().tolist() == [[0, 0, 0]] * 2


def test_the_step_from_the_untrained_checkpoint_has_differences_but_no_phase(cell):
    cells = [
        cell("s0", "add", 0, MANY, LOW, tokens=0),
        cell("s1", "add", 1, FEW, HIGH),
        cell("s2", "add", 2, MANY, LOW),
    ]
    table = rows(cells)
    found = table.set_index(["from_checkpoint", "task"])
    first = found.loc[("s0", "add")]
    assert (first["phase"], first["to_checkpoint"]) == ("", "s1")
    assert first["d_mui"] == pytest.approx(-0.2375)
    assert first["note"] == "leaves the untrained checkpoint, whose MUI is an artefact of initialisation"
    assert pd.isna(first["differs_from_mean"])
    assert found.loc[("s1", "add"), ["phase", "note"]].tolist() == ["Coarsening", ""]
    apart = dynamics.divergence(phases=table).set_index("from_checkpoint")
    assert apart.loc["s0", ["mean_phase", "n_tasks", "differing", "note"]].tolist() == ["", 0, "", first["note"]]
    assert apart.loc["s0", ["n_agree", "n_differ", "mean_masks"]].isna().all()


def test_what_is_not_known_has_no_phase_and_a_reason(cell):
    regular, larger = own_neurons(40, 3, 0), own_neurons(40, 5, 0)
    cells = []
    for order, (sets, even) in enumerate(((FEW, regular), (MANY, larger))):
        cells.append(cell(f"s{order}", "add", order, sets, [-1] * 40))
        cells.append(cell(f"s{order}", "sort", order, even, HIGH))
    found = rows(cells).set_index("task")
    assert found["phase"].tolist() == ["", "", ""]
    assert found.loc["add", "note"] == "no sample is graded at both checkpoints"
    assert found.loc["sort", "note"] == "the change of MUI is the same without any one sample, so it has no interval"
    assert found.loc["mean", "note"] == (
        "d_accuracy over 1 of 2 tasks, without add; d_mui over 1 of 2 tasks, without sort; no task has both changes"
    )
    # what is known stays: the accuracy of the one, the MUI of the other
    known = found.loc[["add", "sort", "mean"], ["d_mui", "d_accuracy"]]
    assert known.loc["mean", "d_mui"] == known.loc["add", "d_mui"] == pytest.approx(0.2375)
    assert known.loc["mean", "d_accuracy"] == known.loc["sort", "d_accuracy"] == 0


def test_the_mean_has_its_change_of_mui_without_any_answer_graded(cell):
    cells = [cell("s1", "add", 0, FEW, [-1] * 40), cell("s2", "add", 1, MANY, [-1] * 40)]
    found = rows(cells).set_index("task")
    columns = ["common_m", "d_mui", "d_mui_low", "d_mui_high"]
    assert found.loc["mean", columns].tolist() == pytest.approx(found.loc["add", columns].tolist())
    assert (found.loc["mean", "d_mui_low"] > 0, found.loc["mean", "n_samples"]) == (True, 0)
    assert found.loc["mean", ["phase", "note"]].tolist() == [
        "", "d_accuracy over 0 of 1 tasks, without add; no task has both changes"
    ]  # fmt: skip


def test_the_phase_of_the_mean_is_that_of_the_tasks_with_both_changes(cell):
    """An ungraded task that uses far more neurons moves the mean's MUI, not its phase."""
    cells = [cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, FEWER, HIGH)]
    cells += [cell("s1", "sort", 0, FEW, [-1] * 40), cell("s2", "sort", 1, MANY, [-1] * 40)]
    found = rows(cells).set_index("task")
    assert found["d_mui"].to_dict() == pytest.approx({"add": -0.065, "sort": 0.2375, "mean": 0.08625})
    assert found["phase"].to_dict() == {"add": "Evolving", "sort": "", "mean": "Evolving"}
    assert found.loc["mean", "note"] == (
        "d_accuracy over 1 of 2 tasks, without sort; the phase is that of the 1 with both changes"
    )


@pytest.mark.parametrize(("graded", "phase"), [(9, ""), (10, "Accumulating")])
def test_a_handful_of_graded_answers_has_no_phase(cell, graded, phase):
    ungraded = [-1] * (40 - graded)
    cells = [cell("s1", "add", 0, FEW, [0] * graded + ungraded), cell("s2", "add", 1, MANY, [1] * graded + ungraded)]
    found = rows(cells).set_index("task")
    assert found["phase"].tolist() == [phase] * 2
    assert found.loc["add", "d_accuracy"] == 1
    if phase:
        assert found["note"].tolist() == ["", ""]
        assert 0 < found.loc["add", "d_accuracy_low"] < 0.6
    else:
        assert found.loc["add", "note"] == (
            "graded at both checkpoints: 9, fewer than 10, so the change of accuracy has no interval"
        )
        assert found[["d_accuracy_low", "d_accuracy_high"]].isna().all(axis=None)
        assert found.loc["mean", "note"].startswith("d_accuracy over 0 of 1 tasks, without add")


def test_one_answer_of_twenty_is_no_phase(cell):
    lone, rest = [0], [-1] * 19
    cells = [cell("s1", "add", 0, FEW[:20], lone + rest), cell("s2", "add", 1, MANY[:20], [1, *rest])]
    # another task, all of whose answers stay: the one answer must not reach the mean
    cells += [cell("s1", "sort", 0, FEW, LOW), cell("s2", "sort", 1, MANY, LOW)]
    found = rows(cells).set_index("task")
    assert found["phase"].to_dict() == {"add": "", "sort": "Flat", "mean": "Flat"}
    assert found.loc["mean", "d_accuracy"] == 0
    assert found.loc["mean", "note"] == (
        "d_accuracy over 1 of 2 tasks, without add; the phase is that of the 1 with both changes"
    )


@pytest.mark.parametrize(
    ("common", "d_mui", "reason"),
    [
        (40, 0.2625, ""),
        (30, 0.2625, "samples at both checkpoints: 30, fewer than 2 · 20, so the change of MUI has no interval"),
        (15, None, "samples at both checkpoints: 15, fewer than 2 · 20, so MUI is not comparable"),
    ],
)
def test_steps_with_fewer_common_samples_than_twice_m(cell, common, d_mui, reason):
    """Both cells have 40 samples, which makes m 20, but not the same ones."""
    few, many = own_neurons(40, 3, 0), own_neurons(40, 8, 4)
    first = 40 - common
    ids = [f"t-{first + i}" for i in range(40)]
    cells = [cell("s1", "add", 0, few, LOW), cell("s2", "add", 1, [*many[first:], *many[:first]], HIGH, ids=ids)]
    found = rows(cells).set_index("task").loc["add"]
    assert found["note"] == reason
    assert pd.isna(found["d_mui_low"]) == bool(reason)
    if d_mui is None:
        assert pd.isna(found["d_mui"])
        assert pd.isna(found["common_m"])
    else:
        assert found["d_mui"] == pytest.approx(d_mui, abs=0.003)
        assert found["common_m"] == 20


def binomial_rows(generator, n):
    answers = generator.random((2, n)) < 0.5
    return [samples(own) for own in answers.astype(int)]


@pytest.mark.simulation
@pytest.mark.parametrize("n", [10, 20, 40])
def test_accuracy_without_change_is_rarely_shown_to_change(n):
    """Answers right or wrong by chance at both checkpoints: nominal 5 % of the steps leave the noise band."""
    generator, left = np.random.default_rng(n), 0
    for _ in range(3000):
        before, after = binomial_rows(generator, n)
        low, high = intervals.paired_proportions(differences=paired_differences(before=before, after=after))
        left += low > 0 or high < 0
    assert 0.01 <= left / 3000 <= 0.065


def test_one_common_sample_is_too_few(cell):
    cells = [cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, [[0], [1]], [1, 1], ids=["t-0", "new"])]
    found = rows(cells).set_index("task").loc["add"]
    assert found["note"] == (
        "graded at both checkpoints: 1, fewer than 10, so the change of accuracy has no interval; fewer than two "
        "samples are at both checkpoints, so the change of MUI has no interval"
    )
    assert np.isnan(found["d_mui"])
    assert found["phase"] == ""


def test_empty_responses_and_no_correct_answer_are_flat(cell):
    nothing = [[]] * 40
    found = rows([cell(f"s{order}", "add", order, nothing, [0] * 40) for order in range(2)])
    assert found["phase"].tolist() == ["Flat", "Flat"]
    assert found["d_mui"].tolist() == [0, 0]


def test_a_task_absent_at_one_checkpoint_is_not_in_the_step(cell):
    cells = [cell("s1", "add", 0, FEW, LOW), cell("s2", "add", 1, MANY, HIGH), cell("s1", "sort", 0, FEW, LOW)]
    assert rows(cells)["task"].tolist() == ["add", "mean"]


def test_a_single_checkpoint_has_no_step(cell):
    assert len(rows([cell("s1", "add", 0, FEW, LOW)])) == 0


def test_rows_come_in_training_order(opposite):
    pd.testing.assert_frame_equal(rows(opposite), rows(opposite[::-1]))


def test_another_variant_is_left_out(opposite):
    found = dynamics.rows(cells=opposite, settings=[SETTING._replace(variant="raw")])
    assert len(found) == 0


def test_refusals(cell):
    first = cell("s1", "add", 0, FEW, LOW)
    with pytest.raises(ValueError, match="m: two checkpoints have the same order"):
        rows([first, cell("s2", "add", 0, FEW, LOW)])
    with pytest.raises(ValueError, match="m s1 add: given twice"):
        rows([first, first])
    with pytest.raises(ValueError, match="a task is named 'mean'"):
        rows([cell("s1", "mean", 0, FEW, LOW)])
    both, other = [first, cell("s2", "add", 1, FEW, LOW)], SETTING._replace(formulation="glu")
    with pytest.raises(KeyError, match=r"no key sets for glu/pairs/0.01; stored: projection/pairs/0.01"):
        dynamics.rows(cells=both, settings=[other])


def test_divergence_by_hand(opposite, cell):
    flat = [cell("s1", "zip", 0, FEW, LOW), cell("s2", "zip", 1, MANY, LOW)]
    (found,) = dynamics.divergence(phases=rows([*opposite, *flat])).to_dict("records")
    assert found["mean_phase"] == "Accumulating"
    assert [found[name] for name in ("n_tasks", "n_agree", "n_differ", "n_flat")] == [3, 1, 2, 1]
    assert found["differing"] == "sort=Evolving; zip=Flat"
    assert found["mean_masks"] is True
    (alone,) = dynamics.divergence(phases=rows(opposite[:2] + flat)).to_dict("records")
    assert (alone["mean_masks"], alone["differing"]) == (False, "zip=Flat")
    assert len(dynamics.divergence(phases=rows([]))) == 0
