"""Sensitivity: every pair of settings over the cells of both, every pair of η_expert, and the heat map."""

import numpy as np
import pandas as pd
import pytest

from moemui.checks import sensitivity
from moemui.checks.sensitivity import differs_in
from moemui.key_neurons.settings import Setting


def cells(values, column):
    """Rows of a table: setting → one value a task, all of one checkpoint, or (checkpoint, task) → value."""
    rows = []
    for setting, found in values.items():
        listed = found if isinstance(found, dict) else {("c", f"t{i}"): value for i, value in enumerate(found)}
        for (checkpoint, task), value in listed.items():
            identity = {"model": "m", "checkpoint": checkpoint, "task": task}
            rows.append(identity | setting._asdict() | {column: value})
    return pd.DataFrame(rows, columns=["model", "checkpoint", "task", *Setting._fields, column])


def at(threshold, **parts):
    return Setting(**{"formulation": "projection", "selection": "pairs", "threshold": threshold} | parts)


def frames(values, proportions, expert_threshold=0.6):
    """The columns of utilization and key_experts that are read."""
    total = cells(values, "mui_at_m").assign(samples="all", scope="total")
    others = [
        total.assign(scope="routed", mui_at_m=total["mui_at_m"] ** 2),
        total.assign(samples="correct", mui_at_m=0.1),
    ]
    key_experts = cells(proportions, "proportion").assign(expert_threshold=expert_threshold)
    return {"utilization": pd.concat([total, *others]), "key_experts": key_experts}


def test_rows_compare_every_pair_of_settings_over_the_cells_of_both():
    values = {at(0.001): [0.1, 0.2, 0.3, 0.4], at(0.002): [0.2, 0.4, 0.6, 0.8], at(0.01): [0.4, 0.3, 0.2]}
    found = sensitivity.rows(**frames(values, {at(0.001): [0.1, 0, 0.2], at(0.002): [0.2, 0, 0.4]}))
    found = found.set_index(["measure", "setting_a", "setting_b"])
    assert len(found) == 4
    first = found.loc[("mui", "projection/pairs/0.001", "projection/pairs/0.002")]
    assert (first["pearson"], first["cosine"], first["n_cells"]) == (pytest.approx(1), pytest.approx(1), 4)
    assert first["kendall"] == pytest.approx(1)
    assert (first["n_clusters"], first["differs_in"]) == (1, "threshold")
    short = found.loc[("mui", "projection/pairs/0.001", "projection/pairs/0.01")]
    assert (short["spearman"], short["kendall"], short["n_cells"]) == (pytest.approx(-1), pytest.approx(-1), 3)
    assert "1 of 4 cells lack one of the two settings" in short["note"]
    experts = found.loc[("key_expert_proportion", "projection/pairs/0.001", "projection/pairs/0.002")]
    assert experts["cosine"] == pytest.approx(1)


def test_settings_are_paired_in_order_of_their_threshold_not_of_its_digits():
    values = {at(t): [0.1, 0.3, 0.2] for t in (0.01, 0.00005, 0.002)}
    found = sensitivity.rows(**frames(values, {}))
    pairs = list(zip(found["setting_a"], found["setting_b"], strict=True))
    labels = [f"projection/pairs/{t}" for t in ("5e-05", "0.002", "0.01")]
    assert pairs == [(labels[0], labels[1]), (labels[0], labels[2]), (labels[1], labels[2])]


@pytest.mark.parametrize(
    ("parts", "difference"),
    [
        ({}, ""),
        ({"formulation": "glu"}, "formulation"),
        ({"selection": "neurons"}, "selection"),
        ({"rule": "top_score"}, "rule"),
        ({"variant": "ungated"}, "variant"),
        ({"formulation": "glu", "threshold": 0.01}, "formulation, threshold"),
    ],
)
def test_what_differs_is_named(parts, difference):
    assert differs_in(a=at(0.001), b=at(**{"threshold": 0.001} | parts)) == difference


def test_a_variant_of_some_checkpoints_is_compared_on_these():
    tasks = [f"t{i}" for i in range(4)]
    rng = np.random.default_rng(0)
    every = {(f"c{c}", task): rng.random() for c in range(6) for task in tasks}
    some = {cell: value + 0.1 for cell, value in every.items() if cell[0] in ("c0", "c5")}
    values = {at(0.001): every, at(0.002): every, at(0.001, variant="ungated"): some}
    found = sensitivity.rows(**frames(values, {})).set_index(["setting_a", "setting_b"])
    full = found.loc[("projection/pairs/0.001", "projection/pairs/0.002")]
    assert (full["n_cells"], full["n_clusters"], full["note"]) == (24, 6, "")
    assert full["pearson_clustered_low"] == pytest.approx(1)
    part = found.loc[("projection/pairs/0.001", "projection/pairs/0.001/ungated")]
    assert (part["n_cells"], part["n_clusters"], part["differs_in"]) == (8, 2, "variant")
    assert part["pearson"] == pytest.approx(1)
    assert part["note"] == (
        "2 checkpoints in common, an interval over whole ones needs 5; 16 of 24 cells lack one of the two settings"
    )
    assert pd.isna(part["pearson_clustered_low"])


def test_a_gap_in_mui_takes_its_cell_out_of_the_pair():
    values = {at(0.001): [0.1, np.nan, 0.3, 0.4, 0.2], at(0.002): [0.2, 0.9, 0.6, 0.8, 0.4]}
    found = sensitivity.rows(**frames(values, {})).iloc[0]
    assert (found["n_cells"], found["pearson"]) == (4, pytest.approx(1))


def test_one_setting_has_no_pair():
    assert len(sensitivity.rows(**frames({at(0.001): [0.1, 0.2]}, {at(0.001): [0.1, 0.2]}))) == 0
    assert len(sensitivity.rows(**frames({}, {}))) == 0


def grid():
    """Proportions of one setting at three η_expert."""
    values = {0.4: [0.4, 0.5, 0.6, 0.7, 0.9], 0.6: [0.2, 0.25, 0.3, 0.35, 0.45], 0.8: [0.1, 0.0, 0.1, 0.0, 0.0]}
    return pd.concat(
        [cells({at(0.001): v}, "proportion").assign(expert_threshold=t) for t, v in reversed(values.items())]
    )


def test_settings_are_compared_at_one_expert_threshold_of_the_grid():
    other = grid().assign(threshold=0.002)
    other["proportion"] = [0.0, 0.1, 0.0, 0.1, 0.2, *range(5), 4, 3, 2, 1, 0]
    other["proportion"] /= 10
    tables = frames({}, {}) | {"key_experts": pd.concat([grid(), other])}
    assert sensitivity.rows(**tables)["pearson"].tolist() == pytest.approx(
        [np.corrcoef([0.2, 0.25, 0.3, 0.35, 0.45], range(5))[0, 1]]
    )
    assert sensitivity.rows(**tables, expert_threshold=0.4)["spearman"].tolist() == pytest.approx([-1])


def test_an_expert_threshold_that_is_not_in_the_grid_is_refused():
    tables = frames({}, {}) | {"key_experts": grid()}
    with pytest.raises(ValueError, match=r"no rows at η_expert = 0\.5, only at 0\.4, 0\.6, 0\.8; ask for one of these"):
        sensitivity.rows(**tables, expert_threshold=0.5)


def test_expert_thresholds_are_compared_pair_by_pair():
    found = sensitivity.expert_threshold_rows(key_experts=grid())
    assert found["setting"].tolist() == ["projection/pairs/0.001"] * 3
    found = found.set_index(["expert_threshold_a", "expert_threshold_b"])
    assert list(found.index) == [(0.4, 0.6), (0.4, 0.8), (0.6, 0.8)]
    assert found.loc[(0.4, 0.6), "pearson"] == pytest.approx(1)
    a, b = np.array([0.4, 0.5, 0.6, 0.7, 0.9]), np.array([0.1, 0, 0.1, 0, 0])
    assert found.loc[(0.4, 0.8), "cosine"] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    # of 10 pairs 6 are untied in b: of these (t0, t1), (t0, t3), (t0, t4), (t2, t3), (t2, t4) fall and (t1, t2) rises
    assert found.loc[(0.4, 0.8), "kendall"] == pytest.approx((1 - 5) / np.sqrt(10 * 6))


def test_one_expert_threshold_has_no_pair():
    one = grid().query("expert_threshold == 0.6")
    assert len(sensitivity.expert_threshold_rows(key_experts=one)) == 0
    assert len(sensitivity.expert_threshold_rows(key_experts=one.iloc[:0])) == 0
