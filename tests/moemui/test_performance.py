"""Performance rows by hand."""

import numpy as np
import pytest

from moemui.analyses.key_neurons import Samples
from moemui.analyses.performance import row
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
