"""Performance rows by hand."""

import numpy as np
import pytest
from scipy import stats

from moemui.key_neurons.files import Samples
from moemui.mui.performance import row
from moemui.tables.catalog import TABLES

CELL = {"model": "a", "checkpoint": "b", "tokens": None, "order": 0, "task": "t"}


def samples(correct, lengths):
    n = len(correct)
    return Samples(
        id=np.array([str(i) for i in range(n)], dtype=object),
        domain=np.array(["math"] * n, dtype=object),
        correct=np.array(correct, dtype=np.int8),
        response_tokens=np.array(lengths, dtype=np.int32),
    )


def test_ungraded_samples_do_not_count_as_wrong():
    found = row(**CELL, samples=samples([1, 0, -1, 1], [3, 0, 2, 1]))
    assert (found["n_samples"], found["n_graded"], found["n_correct"]) == (4, 3, 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_low"] < 2 / 3 < found["accuracy_high"]
    assert (found["mean_response_tokens"], found["n_empty"], found["note"]) == (1.5, 1, "")
    assert len(TABLES["performance"].frame([found])) == 1


def test_nothing_graded_leaves_accuracy_out_with_a_note():
    found = TABLES["performance"].frame([row(**CELL, samples=samples([-1], [2]))])
    assert found["accuracy"].isna().all()
    assert found["note"].tolist() == ["no sample was graded"]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="a b t has no samples"):
        row(**CELL, samples=samples([], []))


def test_all_responses_empty_are_counted_and_graded_like_any_other():
    found = row(**CELL, samples=samples([0, 0, 0], [0, 0, 0]))
    assert (found["n_empty"], found["mean_response_tokens"], found["accuracy"]) == (3, 0.0, 0.0)
    assert found["accuracy_low"] == pytest.approx(0.0, abs=1e-12)
    assert found["accuracy_high"] > 0.5  # three wrong answers are little evidence


@pytest.mark.parametrize(("correct", "wrong"), [(1, 0), (7, 3), (0, 5), (81, 182)])
def test_accuracy_interval_is_scipys(correct, wrong):
    found = row(**CELL, samples=samples([1] * correct + [0] * wrong + [-1], [1] * (correct + wrong + 1)))
    expected = stats.binomtest(correct, correct + wrong).proportion_ci(method="wilson")
    assert found["accuracy_low"] == pytest.approx(expected.low, abs=1e-12)
    assert found["accuracy_high"] == pytest.approx(expected.high, abs=1e-12)
