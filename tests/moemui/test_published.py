"""Published figures beside own ones: matching by name, shares and percent, ranks and their agreement."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from moemui.key_neurons.settings import Setting
from moemui.laws import published

CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
NAMES = ("performance", "utilization", "key_experts", "expert_frequency")


def beside(tables):
    return published.rows(
        **{name: tables[name] for name in NAMES}, curve_setting=CURVES, expert_setting=EXPERTS, expert_threshold=0.6
    )


def renamed(tables, models=None, checkpoints=None, tasks=None):
    """The study's tables with other names of models, checkpoints, tasks."""
    maps = {"model": models or {}, "checkpoint": checkpoints or {}, "task": tasks or {}}
    return {
        name: tables[name].assign(**{column: tables[name][column].replace(names) for column, names in maps.items()})
        for name in NAMES
    }


def test_the_table_is_as_the_paper_prints_it():
    table = published.load()
    assert list(table.columns) == ["figure", "model", "task", "metric", "value"]
    percent = table["metric"].str.endswith("_percent")
    assert table[percent]["value"].between(1, 100).all()
    assert table[~percent]["value"].between(0, 1).all()
    assert set(table["figure"]) == {"mui_performance", "trajectory", "key_expert_proportion", "top_experts"}
    assert not table.duplicated(["figure", "model", "task", "metric"]).any()


def test_models_of_other_names_stand_beside_nothing(study_tables):
    found, agreement = beside(study_tables)
    assert found.empty
    assert agreement.empty


def test_empty_tables_stand_beside_nothing(empty_tables):
    found, agreement = beside(empty_tables)
    assert found.empty
    assert agreement.empty


def test_own_values_of_the_same_name(study_tables):
    tables = renamed(
        study_tables,
        models={"tiny-olmoe": "OLMoE", "tiny-deepseek": "DeepSeek-V2-Lite"},
        checkpoints={"step-00400": "1T"},
        tasks={"facts": "math"},
    )
    found, agreement = beside(tables)
    rows = found.set_index(["published_model", "task", "metric"])
    assert set(rows.index) == {
        ("OLMoE-1T", "mean", "performance"),
        ("OLMoE-1T", "mean", "mui"),
        ("DeepSeek-V2-Lite", "mean", "performance"),
        ("DeepSeek-V2-Lite", "mean", "mui"),
        ("DeepSeek-V2-Lite", "MATH", "key_expert"),
    }
    row = rows.loc[("OLMoE-1T", "mean", "performance")]
    assert (row["model"], row["checkpoint"], row["figure"]) == ("OLMoE", "1T", "trajectory")
    assert row["published"] == pytest.approx(0.174)
    assert row["own"] == pytest.approx(0.55)  # 100, 110, 120 of 200
    assert row["own_low"] < 0.55 < row["own_high"]
    assert row["difference"] == pytest.approx(0.55 - 0.174)
    # the model of that name is taken at its last checkpoint: 155, 165, 175 of 200
    last = rows.loc[("DeepSeek-V2-Lite", "mean", "performance")]
    assert (last["checkpoint"], last["own"]) == ("step-00800", pytest.approx(0.825))
    keys = study_tables["key_experts"].query("model == 'tiny-deepseek' and task == 'facts' and order == 3")
    own = keys[np.isclose(keys["threshold"], 0.001)]["proportion"].item()
    assert rows.loc[("DeepSeek-V2-Lite", "MATH", "key_expert"), "own"] == pytest.approx(own)
    assert (agreement["n_common"] == 1).all()
    assert set(agreement["note"]) == {"a rank correlation takes 3, found 1"}


def test_a_trajectory_agrees_by_rank(study_tables):
    order = {"step-00000": "4T", "step-00100": "3T", "step-00400": "1T", "step-00800": "0.5T"}  # backwards
    found, agreement = beside(renamed(study_tables, models={"tiny-olmoe": "OLMoE"}, checkpoints=order))
    rows = found[found["metric"] == "performance"].set_index("checkpoint")
    assert rows["published_rank"].to_dict() == {"4T": 1, "3T": 2, "1T": 3, "0.5T": 4}
    assert rows["own_rank"].to_dict() == {"4T": 4, "3T": 3, "1T": 2, "0.5T": 1}
    row = agreement.set_index("metric").loc["performance"]
    assert (row["model"], row["n_common"]) == ("OLMoE", 4)
    assert (row["spearman"], row["spearman_p"]) == pytest.approx((-1.0, 2 / 24))
    assert row["mean_difference"] == pytest.approx(rows["difference"].mean())
    mui = found[found["metric"] == "mui"]
    oracle = stats.spearmanr(mui["published"], mui["own"]).statistic
    assert agreement.set_index("metric").loc["mui", "spearman"] == pytest.approx(oracle)


def test_models_are_ranked_among_those_that_both_have(study_tables):
    names = {"tiny-olmoe": "GPT-OSS-20B", "tiny-deepseek": "Qwen3-Next"}
    tables = renamed(study_tables, models=names)
    tables["utilization"]["mui_at_m"] = 0.25
    found, agreement = beside(tables)
    rows = found[found["metric"] == "mui"].set_index("model")
    assert rows["published_rank"].to_dict() == {"GPT-OSS-20B": 2, "Qwen3-Next": 1}  # 9.1 and 25.7 %
    assert rows["own_rank"].to_dict() == {"GPT-OSS-20B": 1, "Qwen3-Next": 1}  # equal values share the best place
    row = agreement.set_index("metric").loc["mui"]
    assert (row["n_common"], row["mean_difference"]) == (2, pytest.approx(0.25 - (0.091 + 0.257) / 2))


def test_ranks_of_models_that_have_mui_at_different_m_say_so(study_tables):
    tables = renamed(study_tables, models={"tiny-olmoe": "GPT-OSS-20B", "tiny-deepseek": "Qwen3-Next"})
    first = tables["utilization"]["model"] == "GPT-OSS-20B"
    tables["utilization"].loc[first, "common_m"] = 40
    found, agreement = beside(tables)
    note = "models have MUI at m = 40, 200; give all models the same number of samples"
    notes = found[found["figure"] == "mui_performance"].groupby("metric")["note"].unique().map(list).to_dict()
    assert notes == {"mui": [note], "performance": [""]}
    row = agreement.set_index("metric").loc["mui"]
    assert row["note"] == f"a rank correlation takes 3, found 2; {note}"
    assert np.isnan(row["spearman"])


def test_three_models_at_different_m_have_no_rank_correlation(study_tables):
    names = {"tiny-olmoe": "GPT-OSS-20B", "tiny-deepseek": "Qwen3-Next"}
    tables = renamed(study_tables, models=names)
    for name in NAMES:
        extra = tables[name][tables[name]["model"] == "Qwen3-Next"].assign(model="DeepSeek-V2-Lite")
        tables[name] = pd.concat([tables[name], extra], ignore_index=True)
    _, agreement = beside(tables)
    assert agreement.set_index(["figure", "metric"]).loc[("mui_performance", "mui"), "spearman"] != 0
    tables["utilization"].loc[tables["utilization"]["model"] == "Qwen3-Next", "common_m"] = 40
    _, agreement = beside(tables)
    rows = agreement[agreement["figure"] == "mui_performance"].set_index("metric")
    assert rows["n_common"].to_dict() == {"performance": 3, "mui": 3}
    assert rows["spearman"].isna().to_dict() == {"performance": False, "mui": True}
    assert rows.loc["mui", "note"].startswith("models have MUI at m = 40, 200")


def test_a_task_that_is_not_graded_has_its_mui_in_the_mean(study_tables):
    tables = renamed(study_tables, models={"tiny-olmoe": "Qwen3-Next"})
    gap = ["accuracy", "accuracy_low", "accuracy_high"]
    own = tables["performance"]["model"] == "Qwen3-Next"
    tables["performance"].loc[own & (tables["performance"]["task"] == "facts"), gap] = np.nan
    found, _ = beside(tables)
    rows = found.set_index("metric")
    cells = tables["utilization"].query(
        "model == 'Qwen3-Next' and order == 3 and scope == 'total' and samples == 'all'"
    )
    mui = cells[np.isclose(cells["threshold"], 0.01) & (cells["formulation"] == "projection")]["mui_at_m"]
    assert len(mui) == 3
    assert rows.loc["mui", "own"] == pytest.approx(mui.mean())
    assert rows.loc["performance", "own"] == pytest.approx((150 + 160) / 2 / 200)
    assert set(rows["note"]) == {"mean of performance over 2 tasks, of MUI over 3"}


def test_experts_of_the_same_name(study_tables):
    # of GPT-OSS-20B's ten printed experts the made-up study has L2-E1 alone
    found, agreement = beside(renamed(study_tables, models={"tiny-olmoe": "GPT-OSS-20B"}, tasks={"facts": "mmlu"}))
    rows = found[found["figure"] == "top_experts"].set_index("metric")
    assert rows["expert"].to_dict() == {"frequency": "L2-E1", "expert_mui": "L2-E1"}
    assert rows["published"].to_dict() == {"frequency": 0.998, "expert_mui": 0.09}
    assert rows["own"].to_dict() == pytest.approx({"frequency": 0.44, "expert_mui": 0.22})  # 0.1·(1 + 1 + 2) + 0.04
    assert "no interval" in rows.loc["expert_mui", "note"]
    assert set(agreement[agreement["figure"] == "top_experts"]["model"]) == {"GPT-OSS-20B"}


def test_a_missing_value_stands_beside_nothing(study_tables):
    tables = renamed(study_tables, models={"tiny-olmoe": "Qwen3-Next"})
    gap = ["accuracy", "accuracy_low", "accuracy_high"]
    tables["performance"].loc[tables["performance"]["model"] == "Qwen3-Next", gap] = np.nan
    found, _ = beside(tables)
    assert found["metric"].tolist() == ["mui"]  # MUI takes no grades
    assert found["note"].tolist() == ["mean of performance over 0 tasks, of MUI over 3"]
    tables["utilization"]["mui_at_m"] = np.nan
    assert beside(tables)[0].empty
