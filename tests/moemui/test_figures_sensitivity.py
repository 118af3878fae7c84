"""The heat map of settings shows what the table says, both ways round."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report import figures_sensitivity
from moemui.report.figures_sensitivity import in_order
from moemui.report.views import NothingToShow


def test_cells_are_the_tables_spearman_and_cosine(study_tables, choice):
    figure = figures_sensitivity.settings(study_tables, choice)
    table = study_tables["sensitivity"]
    names = in_order({*table["setting_a"], *table["setting_b"]})
    for axes, (measure, statistic) in zip(
        figure.axes, (("mui", "spearman"), ("key_expert_proportion", "cosine")), strict=False
    ):
        matrix = np.asarray(axes.collections[0].get_array())
        rows = table[table["measure"] == measure].dropna(subset=[statistic])
        assert len(rows)
        for row in rows.to_dict("records"):
            first, second = names.index(row["setting_a"]), names.index(row["setting_b"])
            assert matrix[first, second] == matrix[second, first] == row[statistic]


def test_settings_stand_by_formulation_then_threshold():
    labels = {
        "activation/pairs/0.001",
        "projection/pairs/0.01",
        "projection/pairs/0.002",
        "projection/pairs/0.002/no_gate",
    }
    assert in_order(labels) == [
        "projection/pairs/0.002", "projection/pairs/0.01", "projection/pairs/0.002/no_gate", "activation/pairs/0.001",
    ]  # fmt: skip


def test_nothing_to_compare_is_said(empty_tables, choice):
    with pytest.raises(NothingToShow, match="No two settings can be compared"):
        figures_sensitivity.settings(empty_tables, choice)
