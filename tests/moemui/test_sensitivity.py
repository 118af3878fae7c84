"""Sensitivity: Anscombe's quartet, hand-worked cosines, what can't be correlated."""

import numpy as np
import pytest

from moemui.analyses import sensitivity
from moemui.analyses.sensitivity import correlations
from moemui.analyses.settings import Setting
from moemui.tables.catalog import TABLES

X = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5.0])
Y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])


def test_anscombes_first_set():
    # R: cor.test(anscombe$x1, anscombe$y1): r = 0.8164205, p = 0.00217; Spearman's rho = 0.8181818
    found = correlations(a=X, b=Y, seed=0)
    assert found["pearson"] == pytest.approx(0.8164205, abs=1e-7)
    assert found["pearson_p"] == pytest.approx(0.00217, abs=1e-5)
    assert found["spearman"] == pytest.approx(0.8181818, abs=1e-7)
    for name in ("pearson", "spearman"):
        assert -1 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 1
    assert (found["n_cells"], found["note"]) == (11, "")


def test_cosine_by_hand():
    assert correlations(a=np.array([1.0, 0, 0]), b=np.array([1.0, 1, 0]), seed=0)["cosine"] == pytest.approx(0.5**0.5)


def test_a_monotone_curve_has_perfect_ranks_in_every_resample():
    found = correlations(a=X, b=np.exp(X), seed=0)
    assert [found["spearman"], found["spearman_low"], found["spearman_high"]] == pytest.approx([1, 1, 1])
    assert found["pearson"] < 0.8


def test_the_interval_repeats_with_its_seed():
    first, again = (correlations(a=X, b=Y, seed=3) for _ in range(2))
    assert first == again
    assert first["pearson_low"] != correlations(a=X, b=Y, seed=4)["pearson_low"]


@pytest.mark.parametrize(
    ("a", "b", "note", "has_cosine"),
    [
        ([1, 2], [2, 1], "2 cells in common, a correlation or cosine needs 3", False),
        ([], [], "0 cells in common, a correlation or cosine needs 3", False),
        ([1, 1, 1, 1], [1, 2, 3, 4], "a vector is constant: no correlation", True),
        ([0, 0, 0], [1, 2, 3], "a vector is constant: no correlation; a vector is zero: no cosine", False),
    ],
)
def test_what_has_no_correlation_says_why(a, b, note, has_cosine):
    found = correlations(a=np.array(a, dtype=float), b=np.array(b, dtype=float), seed=0)
    assert found["note"] == note
    assert np.isnan([found["pearson"], found["pearson_p"], found["spearman"], found["spearman_high"]]).all()
    assert np.isnan(found["cosine"]) != has_cosine


def test_three_cells_have_a_correlation_but_no_interval():
    found = correlations(a=np.array([1.0, 2, 4]), b=np.array([1.0, 3, 2]), seed=0)
    assert found["spearman"] == pytest.approx(0.5)
    assert np.isnan([found["pearson_low"], found["spearman_high"]]).all()
    assert found["note"] == "too few cells for an interval: resamples are constant"


@pytest.mark.parametrize("b", [np.array([1.0, 2]), np.array([1.0, np.nan, 3])])
def test_vectors_over_other_cells_or_with_gaps_are_refused(b):
    with pytest.raises(ValueError, match="both must be finite and over the same cells"):
        correlations(a=np.array([1.0, 2, 3]), b=b, seed=0)


def blank(table, **values):
    fill = {"string": "made up", "int64": 1, "float64": 0.0, "bool": False}
    return {column.name: fill.get(column.dtype) for column in TABLES[table].columns} | values


def frames(values, proportions):
    """utilization and key_experts rows: setting's threshold → value a task."""
    identity = {"model": "m", "checkpoint": "c"} | dict(Setting("projection", "pairs", 0)._asdict())
    del identity["threshold"]
    utilization = [
        blank("utilization", **identity, task=f"t{i}", threshold=t, samples=samples, scope=scope, mui_at_m=value * part)
        for t, column in values.items()
        for i, value in enumerate(column)
        for samples, scope, part in (("all", "total", 1), ("all", "routed", 0.5), ("correct", "total", 0.1))
    ]
    key_experts = [
        blank("key_experts", **identity, task=f"t{i}", threshold=t, expert_threshold=0.6, proportion=value)
        for t, column in proportions.items()
        for i, value in enumerate(column)
    ]
    return {
        "utilization": TABLES["utilization"].frame(utilization),
        "key_experts": TABLES["key_experts"].frame(key_experts),
    }


def test_rows_compare_every_pair_of_settings_over_the_cells_of_both():
    values = {0.001: [0.1, 0.2, 0.3, 0.4], 0.002: [0.2, 0.4, 0.6, 0.8], 0.01: [0.4, 0.3, 0.2]}
    found = sensitivity.rows(**frames(values, {0.001: [0.1, 0, 0.2], 0.002: [0.2, 0, 0.4]}))
    found = found.set_index(["measure", "setting_a", "setting_b"])
    assert len(found) == 4
    first = found.loc[("mui", "projection/pairs/0.001", "projection/pairs/0.002")]
    assert (first["pearson"], first["cosine"], first["n_cells"]) == (pytest.approx(1), pytest.approx(1), 4)
    short = found.loc[("mui", "projection/pairs/0.001", "projection/pairs/0.01")]
    assert (short["spearman"], short["n_cells"]) == (pytest.approx(-1), 3)
    assert "1 cells lack one of the two settings" in short["note"]
    experts = found.loc[("key_expert_proportion", "projection/pairs/0.001", "projection/pairs/0.002")]
    assert experts["cosine"] == pytest.approx(1)


def test_one_setting_has_no_pair():
    assert len(sensitivity.rows(**frames({0.001: [0.1, 0.2]}, {0.001: [0.1, 0.2]}))) == 0


def test_several_expert_thresholds_are_refused():
    tables = frames({0.001: [0.1]}, {0.001: [0.1, 0.2]})
    tables["key_experts"]["expert_threshold"] = [0.5, 0.6]
    with pytest.raises(ValueError, match=r"expert thresholds \[0\.5, 0\.6\]; pass the rows of one"):
        sensitivity.rows(**tables)
