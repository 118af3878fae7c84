"""Dynamics: phases by hand, the noise band, pairing by id, means over tasks, steps that have no phase."""

import numpy as np
import pandas as pd
import pytest

from moemui.analyses import dynamics
from moemui.analyses.dynamics import Change, mui_change, paired_differences, phase
from moemui.analyses.key_neurons import Samples
from moemui.tables.catalog import TABLES

UP, DOWN, NOISE = Change(0.2, 0.1, 0.3), Change(-0.2, -0.3, -0.1), Change(0.1, -0.1, 0.3)


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


def test_mui_variances_add():
    found = mui_change(before=(0.2, 0.03), after=(0.3, 0.04))
    assert found == pytest.approx((0.1, 0.1 - 1.959964 * 0.05, 0.1 + 1.959964 * 0.05), abs=1e-6)


def utilization(values, se=0.001, common_m=40, tokens=None):
    """Rows of one model: {checkpoint: {task: MUI}} in training order; other scopes beside them as decoys."""
    fill = {"string": "made up", "int64": 0, "float64": np.nan}
    rows = []
    for order, (checkpoint, by_task) in enumerate(values.items()):
        for task, value in by_task.items():
            for chosen, scope in (("all", "total"), ("all", "routed"), ("correct", "total")):
                real = (chosen, scope) == ("all", "total")
                rows.append(
                    {column.name: fill.get(column.dtype) for column in TABLES["utilization"].columns}
                    | {"model": "m", "checkpoint": checkpoint, "order": order, "task": task, "common_m": common_m}
                    | {"tokens": 1e6 * (order + 1) if tokens is None else tokens[order], "threshold": 0.001}
                    | {"formulation": "projection", "selection": "pairs", "rule": "topk", "variant": "main"}
                    | {"samples": chosen, "scope": scope}
                    | {"mui_at_m": value if real else 0.9, "mui_at_m_se": se}
                )
    return TABLES["utilization"].frame(rows)


LOW, HIGH = [1] * 5 + [0] * 35, [1] * 30 + [0] * 10


def test_rows_by_hand_a_mean_that_hides_two_tasks():
    table = utilization({"s1": {"add": 0.2, "sort": 0.2}, "s2": {"add": 0.3, "sort": 0.17}})
    answers = {
        ("m", "s1", "add"): samples(LOW),
        ("m", "s2", "add"): samples(HIGH),
        ("m", "s1", "sort"): samples(LOW),
        ("m", "s2", "sort"): samples(HIGH),
    }
    found = dynamics.rows(utilization=table, answers=answers).set_index("task")
    assert found["phase"].to_dict() == {"add": "Accumulating", "sort": "Evolving", "mean": "Accumulating"}
    assert found["d_mui"].to_dict() == pytest.approx({"add": 0.1, "sort": -0.03, "mean": 0.035})
    assert found["d_accuracy"].tolist() == pytest.approx([25 / 40] * 3)
    assert found["n_samples"].to_dict() == {"add": 40, "sort": 40, "mean": 80}
    assert found.loc[["add", "sort"], "differs_from_mean"].tolist() == [False, True]
    assert found["differs_from_mean"].isna().tolist() == [False, False, True]
    assert found["common_m"].tolist() == [40] * 3
    # each step's margin is 1.96·√2·se, the mean's half of √2 of it
    single, mean = (found.loc[task, "d_mui_high"] - found.loc[task, "d_mui"] for task in ("add", "mean"))
    assert single == pytest.approx(1.959964 * 2**0.5 * 0.001, rel=1e-5)
    assert mean == pytest.approx(single / 2**0.5)
    # tasks are resampled apart, so the mean's interval is narrower
    width = found["d_accuracy_high"] - found["d_accuracy_low"]
    assert width["mean"] < 0.9 * width["add"]


def test_unchanged_answers_are_flat():
    table = utilization({"s1": {"add": 0.2}, "s2": {"add": 0.3}})
    answers = {("m", s, "add"): samples(LOW) for s in ("s1", "s2")}
    assert dynamics.rows(utilization=table, answers=answers)["phase"].tolist() == ["Flat", "Flat"]


def test_a_few_changed_answers_are_flat():
    table = utilization({"s1": {"add": 0.2}, "s2": {"add": 0.3}})
    answers = {("m", "s1", "add"): samples(LOW), ("m", "s2", "add"): samples([0, *LOW[1:-3], 1, 1, 1])}
    assert dynamics.rows(utilization=table, answers=answers)["phase"].tolist() == ["Flat", "Flat"]


def test_the_step_from_the_untrained_checkpoint_has_differences_but_no_phase():
    table = utilization({"s0": {"add": 0.5}, "s1": {"add": 0.2}, "s2": {"add": 0.3}}, tokens=[0, 1e6, 2e6])
    answers = {("m", s, "add"): samples(a) for s, a in (("s0", LOW), ("s1", HIGH), ("s2", LOW))}
    found = dynamics.rows(utilization=table, answers=answers).set_index(["from_checkpoint", "task"])
    first = found.loc[("s0", "add")]
    assert (first["phase"], first["to_checkpoint"]) == ("", "s1")
    assert first["d_mui"] == pytest.approx(-0.3)
    assert first["note"] == "leaves the untrained checkpoint, whose MUI is an artefact of initialisation"
    assert pd.isna(first["differs_from_mean"])
    assert found.loc[("s1", "add"), ["phase", "note"]].tolist() == ["Coarsening", ""]


def test_what_is_not_known_has_no_phase_and_a_reason():
    table = utilization({"s1": {"add": 0.2, "sort": 0.2}, "s2": {"add": 0.3, "sort": 0.3}})
    table.loc[table["task"] == "sort", "mui_at_m_se"] = np.nan
    answers = {("m", s, t): samples([-1, -1] if t == "add" else HIGH) for s in ("s1", "s2") for t in ("add", "sort")}
    found = dynamics.rows(utilization=table, answers=answers).set_index("task")
    assert found["phase"].tolist() == ["", "", ""]
    assert found.loc["add", "note"] == "no sample is graded at both checkpoints"
    assert found.loc["sort", "note"] == "MUI at the common m has no interval at one of the checkpoints"
    assert found.loc["mean", "note"] == "no task has both changes"


def test_a_task_absent_at_one_checkpoint_is_not_in_the_step():
    table = utilization({"s1": {"add": 0.2, "sort": 0.2}, "s2": {"add": 0.3}})
    answers = {("m", "s1", "add"): samples(LOW), ("m", "s2", "add"): samples(HIGH)}
    found = dynamics.rows(utilization=table, answers=answers)
    assert found["task"].tolist() == ["add", "mean"]


def test_a_single_checkpoint_has_no_step():
    assert len(dynamics.rows(utilization=utilization({"s1": {"add": 0.2}}), answers={})) == 0


def test_rows_repeat_with_their_seed():
    table = utilization({"s1": {"add": 0.2}, "s2": {"add": 0.3}})
    answers = {("m", "s1", "add"): samples(LOW), ("m", "s2", "add"): samples(HIGH)}
    first, again = (dynamics.rows(utilization=table, answers=answers, seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)


def test_refusals():
    table = utilization({"s1": {"add": 0.2}, "s2": {"add": 0.3}})
    with pytest.raises(ValueError, match="m add: no answers given for checkpoint s1"):
        dynamics.rows(utilization=table, answers={})
    other = table.copy()
    other.loc[other["checkpoint"] == "s2", "common_m"] = 30
    with pytest.raises(ValueError, match="s1 and s2 have MUI at m = 40 and 30; compute utilization of both with one"):
        dynamics.rows(utilization=other, answers={})
    same = table.assign(order=0)
    with pytest.raises(ValueError, match="m: two checkpoints have the same order"):
        dynamics.rows(utilization=same, answers={})
    with pytest.raises(ValueError, match="a task is named 'mean'"):
        dynamics.rows(utilization=utilization({"s1": {"mean": 0.2}}), answers={})
