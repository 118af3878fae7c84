"""What figures and findings read alike: the same rows and the same means."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report import views
from moemui.report.views import MEAN


def test_mean_over_tasks_uses_tasks_complete_at_every_checkpoint(study_tables, choice):
    table = study_tables["performance"]
    gap = (table["model"] == "tiny-olmoe") & (table["task"] == "facts") & (table["order"] == 1)
    table.loc[gap, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    cells = views.trajectory(study_tables, choice)
    means = cells[(cells["task"] == MEAN) & (cells["model"] == "tiny-olmoe")]
    assert list(means["n_accuracy"]) == [2, 2, 2, 2]
    assert list(means["n_mui"]) == [3, 3, 3, 3]
    assert list(means["n_samples"]) == [600, 600, 600, 600]
    assert means["accuracy"].iloc[-1] == pytest.approx((150 + 160) / 2 / 200)
    single = cells[(cells["model"] == "tiny-olmoe") & (cells["order"] == 3)].set_index("task")
    assert means["mui"].iloc[-1] == pytest.approx(single["mui"].drop(MEAN).mean())
    assert list(single.loc[["addition", "facts"], "n_accuracy"]) == [1, 0]


def test_both_means_are_over_the_same_tasks_where_asked(study_tables, choice):
    table = study_tables["performance"]
    gap = (table["task"] == "facts") & (table["order"] == 1)
    table.loc[gap, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    cells = views.trajectory(study_tables, choice, both=True)
    means = cells[cells["task"] == MEAN]
    assert set(means["n_accuracy"]) == set(means["n_mui"]) == {2}


def test_top_experts_pool_the_samples_of_all_tasks(study_tables, choice):
    rows = study_tables["expert_frequency"]
    rows.loc[rows["task"] == "facts", "n_samples"] = 600  # of 1,000
    top = views.top_experts(rows, choice.experts)
    best = top[top["model"] == "tiny-olmoe"].iloc[0]
    assert best["expert"] == "L2-E3"
    assert best["frequency"] == pytest.approx((0.60 * 200 + 0.62 * 200 + 0.64 * 600) / 1000)
    assert list(top.groupby("model", sort=False).size()) == [10, 10]
