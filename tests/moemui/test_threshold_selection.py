"""Which threshold is chosen, and why, from small made-up effects of masking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moemui.checks import masking_effects
from moemui.checks.masking_effects import Condition
from moemui.checks.threshold_selection import (
    ALL_MODELS,
    chosen_threshold,
    mean_over_cells,
    rows,
    stability,
)
from moemui.key_neurons.settings import Setting
from moemui.tables.masking import MASKING_EFFECT
from moemui.tables.threshold_selection import THRESHOLD_SELECTION

SETTING = ("projection", "pairs")
NEURONS = 10_000  # 0.1 % of them are 10


def effects(separations, model="m", control="expert", p=0.001, rule="topk"):
    """separations: by threshold, one value a task: nats/token for each 0.1 % of the neurons masked."""
    records = []
    for threshold, values in separations.items():
        masked = int(NEURONS * threshold * 5)
        for task, value in enumerate(values):
            records.append(
                {
                    "model": model,
                    "checkpoint": "c",
                    "task": f"t{task}",
                    **Setting(*SETTING, threshold, rule)._asdict(),
                    "control": control,
                    "n_masked": masked,
                    "share_masked": masked / NEURONS,
                    "nll_difference": value * masked / 10,
                    "nll_difference_p": p,
                    "nll_separation_per_1000_neurons": value * 100,
                }
            )
    return pd.DataFrame(records)


def correlations(pairs, rule="topk"):
    """The table sensitivity as far as it is read. pairs: {(η, η): Spearman of MUI}."""
    return pd.DataFrame(
        [
            {
                "measure": measure,
                "setting_a": Setting(*SETTING, a, rule).label,
                "setting_b": Setting(*SETTING, b, rule).label,
                "spearman": value if measure == "mui" else 0.0,
            }
            for (a, b), value in pairs.items()
            for measure in ("mui", "key_expert_proportion")
        ],
        columns=["measure", "setting_a", "setting_b", "spearman"],
    )


STEADY = correlations({(0.001, 0.002): 0.99, (0.001, 0.01): 0.95, (0.002, 0.01): 0.97})
# Separations that fall from 0.002 to both sides, the same fall in every task but for a little.
PEAK = {
    0.001: [0.10, 0.21, 0.30, 0.41],
    0.002: [0.20, 0.30, 0.40, 0.50],
    0.01: [0.05, 0.16, 0.25, 0.36],
}


def one(table, threshold, model=ALL_MODELS, control="expert"):
    found = table[(table["threshold"] == threshold) & (table["model"] == model) & (table["control"] == control)]
    assert len(found) == 1
    return found.iloc[0]


def test_the_best_of_the_stable_thresholds_is_chosen():
    found = rows(masking_effect=effects(PEAK), sensitivity=STEADY)
    assert found["model"].tolist() == ["m"] * 3 + [ALL_MODELS] * 3
    assert found["chosen"].tolist() == [False, True, False] * 2
    assert found["eligible"].all()
    best, other = one(found, 0.002), one(found, 0.001)
    assert best["separation"] == pytest.approx(0.35)
    assert (best["behind_best"], best["behind_best_low"], best["behind_best_high"]) == (0, 0, 0)
    assert other["behind_best"] == pytest.approx(0.095)  # 0.1, 0.09, 0.1, 0.09
    half = stats.t.ppf(0.975, 3) * np.std([0.1, 0.09, 0.1, 0.09], ddof=1) / 2
    assert other["behind_best_low"] == pytest.approx(0.095 - half)
    assert best["note"] == "chosen: the best separation of the eligible thresholds"
    assert other["note"] == "not chosen: separation is behind that of 0.002"
    assert best["n_cells"] == 4
    assert (best["spearman_neighbours"], best["spearman_others"]) == pytest.approx((0.97, 0.98))
    assert chosen_threshold(selection=found, setting=(*SETTING, "auto")) == 0.002


def test_of_thresholds_that_are_as_good_the_one_nearest_to_the_papers_is_chosen():
    uneven = {**PEAK, 0.001: [0.30, 0.18, 0.42, 0.35], 0.002: [0.20, 0.30, 0.40, 0.50]}
    found = rows(masking_effect=effects(uneven), sensitivity=STEADY)
    assert one(found, 0.001)["separation"] < one(found, 0.002)["separation"]
    assert one(found, 0.001)["chosen"]
    assert one(found, 0.001)["note"] == (
        "chosen: not shown to be behind 0.002, and nearest to the paper's 0.001 of those as good"
    )
    assert one(found, 0.002)["note"] == (
        "not chosen: the best separation, but 0.001 is as good and nearer to the paper's 0.001"
    )


def test_of_two_that_are_as_near_the_smaller_is_chosen():
    same = [0.1, 0.3, 0.2]
    found = rows(masking_effect=effects({0.0005: same, 0.002: same}), sensitivity=correlations({(0.0005, 0.002): 0.95}))
    assert one(found, 0.0005)["chosen"]
    assert one(found, 0.002)["note"].startswith("not chosen: not shown to be behind 0.0005, but 0.0005 is as good")


def test_a_threshold_that_ranks_otherwise_than_its_neighbours_is_not_eligible():
    shaky = correlations({(0.001, 0.002): 0.85, (0.001, 0.01): 0.99, (0.002, 0.01): 0.97})
    found = rows(masking_effect=effects(PEAK), sensitivity=shaky)
    assert found["eligible"].tolist() == [False, False, True] * 2
    assert one(found, 0.01)["chosen"]
    assert one(found, 0.002)["note"] == (
        "not eligible: ranks of MUI are not stable, Spearman 0.850 with 0.001, below 0.9"
    )
    assert one(found, 0.002)["behind_best"] < 0  # an ineligible one may well separate better
    assert rows(masking_effect=effects(PEAK), sensitivity=shaky, stable_spearman=0.8)["eligible"].all()


def test_neighbours_are_those_that_are_stored_masked_or_not():
    """0.005 was not masked, but MUI is known there."""
    known = correlations({(0.001, 0.005): 0.5, (0.001, 0.01): 0.99, (0.005, 0.01): 0.95})
    found = rows(masking_effect=effects({key: PEAK[key] for key in (0.001, 0.01)}), sensitivity=known)
    assert found["eligible"].tolist() == [False, True] * 2
    assert one(found, 0.001)["spearman_neighbours"] == 0.5


def test_stability_compares_settings_that_differ_in_the_threshold_alone():
    other = correlations({(0.001, 0.002): 0.1}, rule="global_topk")
    crossed = pd.DataFrame(
        [
            {"measure": "mui", "setting_a": "glu/pairs/0.001", "setting_b": "projection/pairs/0.002", "spearman": 0.2},
            {"measure": "mui", "setting_a": "glu/pairs/0.001", "setting_b": "projection/pairs/0.001", "spearman": 0.3},
        ]
    )
    together = pd.concat([STEADY, other, crossed], ignore_index=True)
    found = stability(sensitivity=together, setting=Setting(*SETTING, 0.001))
    assert found == (0.99, pytest.approx(0.97), 0.002, "")
    assert stability(sensitivity=together, setting=Setting(*SETTING, 0.002, "global_topk")).neighbours == 0.1
    nothing = stability(sensitivity=together, setting=Setting("glu", "pairs", 0.001))
    assert np.isnan(nothing[:3]).all()
    assert nothing.note == "MUI is known at no other threshold, so its stability is not"


def test_models_of_different_sizes_weigh_alike_and_are_judged_apart():
    mirrored = dict(zip(PEAK, reversed(PEAK.values()), strict=True))  # 0.05.. at 0.001, 0.1.. at 0.01
    tables = [effects(PEAK, "a"), effects({**mirrored, 0.01: [0.9, 1.0, 1.11, 1.2]}, "b")]
    found = rows(masking_effect=pd.concat(tables, ignore_index=True), sensitivity=STEADY)
    assert one(found, 0.002, "a")["chosen"]
    assert one(found, 0.01, "b")["chosen"]
    together = one(found, 0.01)
    assert together["n_cells"] == 8
    assert together["separation"] == pytest.approx(
        (one(found, 0.01, "a")["separation"] + one(found, 0.01, "b")["separation"]) / 2
    )


def test_controls_are_judged_apart_and_auto_takes_the_one_asked_for():
    reversed_peak = {0.001: PEAK[0.002], 0.002: PEAK[0.001], 0.01: PEAK[0.01]}
    both = pd.concat([effects(PEAK), effects(reversed_peak, control="frequency")], ignore_index=True)
    found = rows(masking_effect=both, sensitivity=STEADY)
    assert chosen_threshold(selection=found, setting=(*SETTING, "auto", "topk", "main")) == 0.002
    assert chosen_threshold(selection=found, setting=(*SETTING, "auto"), control="frequency") == 0.001
    assert chosen_threshold(selection=found, setting=(*SETTING, "auto"), model="m") == 0.002


def test_cells_that_lack_a_threshold_are_left_out_and_said():
    gaps = {**PEAK, 0.002: [np.nan, 0.30, 0.40, 0.50]}
    found = rows(masking_effect=effects(gaps), sensitivity=STEADY)
    assert found["n_cells"].unique().tolist() == [3]
    assert one(found, 0.002)["separation"] == pytest.approx(0.4)
    assert one(found, 0.001)["separation"] == pytest.approx((0.21 + 0.3 + 0.41) / 3)
    assert one(found, 0.001)["note"] == (
        "not chosen: separation is behind that of 0.002; 1 of 4 cells lack a threshold and are left out"
    )


def test_significant_cells_are_counted_after_benjamini_hochberg():
    # p = 0.01, 0.04, 0.04, 0.9: q = 0.04, 0.053, 0.053, 0.9
    table = effects({0.001: [0.1, 0.2], 0.002: [0.3, 0.4]}).assign(nll_difference_p=[0.01, 0.04, 0.04, 0.9])
    found = rows(masking_effect=table, sensitivity=STEADY)
    assert [one(found, threshold)["n_significant"] for threshold in (0.001, 0.002)] == [1, 0]
    lower = table.assign(nll_difference=-0.1)  # significant the other way round
    assert rows(masking_effect=lower, sensitivity=STEADY)["n_significant"].sum() == 0


def test_key_neurons_that_cost_no_more_are_not_eligible():
    found = rows(masking_effect=effects({0.001: [-0.1, 0.05], 0.002: [0.0, 0.0]}), sensitivity=STEADY)
    assert not found["eligible"].any()
    assert not found["chosen"].any()
    assert found["behind_best"].isna().all()
    assert found["note"].unique().tolist() == [
        "not eligible: masking key neurons costs no more than masking the control; no threshold is eligible, so there "
        "is no best one"
    ]
    with pytest.raises(ValueError, match=r"auto has none to take for projection/pairs of all models \(0.001: not elig"):
        chosen_threshold(selection=found, setting=(*SETTING, "auto"))


def test_a_single_threshold_is_not_chosen():
    found = rows(masking_effect=effects({0.001: PEAK[0.001]}), sensitivity=STEADY)
    assert not found["chosen"].any()
    assert one(found, 0.001)["note"] == (
        "not chosen: only one threshold was masked, so there is nothing to choose from"
    )
    with pytest.raises(ValueError, match=r"only one threshold was masked.*; name a threshold"):
        chosen_threshold(selection=found, setting=(*SETTING, "auto"))


def test_a_single_task_says_nothing_about_which_is_better():
    found = rows(masking_effect=effects({key: values[:1] for key, values in PEAK.items()}), sensitivity=STEADY)
    assert one(found, 0.001)["chosen"]
    assert found["separation_low"].isna().all()
    assert found["note"].str.endswith("one cell: no interval").all()


def test_no_masking_gives_no_rows_and_auto_says_so():
    found = rows(masking_effect=MASKING_EFFECT.frame([]), sensitivity=STEADY)
    assert len(found) == 0
    assert found.columns.tolist() == THRESHOLD_SELECTION.names
    with pytest.raises(ValueError, match=r"auto finds no masking of projection/pairs/global_topk for all models; mask"):
        chosen_threshold(selection=found, setting=(*SETTING, "auto", "global_topk"))


def test_without_correlations_nothing_is_eligible():
    found = rows(masking_effect=effects(PEAK), sensitivity=STEADY[:0])
    assert not found["eligible"].any()
    assert found["note"].str.startswith("not eligible: MUI is known at no other threshold").all()
    unknown = rows(masking_effect=effects(PEAK), sensitivity=STEADY.assign(spearman=np.nan))
    assert unknown["spearman_neighbours"].isna().all()
    assert unknown["note"].str.startswith("not eligible: MUI has no rank correlation with another threshold").all()


def test_effects_without_references_are_said():
    found = rows(masking_effect=effects({key: [np.nan] for key in PEAK}), sensitivity=STEADY)
    assert found["n_cells"].unique().tolist() == [0]
    assert found["note"].str.startswith("not eligible: no cell has a reference answer's likelihood").all()


def test_a_real_table_of_effects_goes_in():
    """From outcomes to the choice: key neurons raise the nll by 1 for 5 neurons, and by 1.2 for 10; random by none."""
    generator = np.random.default_rng(0)
    correct, nll = np.ones(40, dtype=np.int8), generator.lognormal(size=40)
    tables = []
    for task in range(4):
        for threshold, masked, rise in ((0.001, 5, 1.0 + 0.01 * task), (0.002, 10, 1.2 + 0.01 * task)):
            spread = generator.random(masked)
            controls = [
                Condition(name, masked, correct, nll + generator.normal(0, 0.01, 40), seed, spread)
                for name in ("random", "matched")
                for seed in range(5)
            ]
            conditions = [Condition("none", 0, correct, nll), Condition("key", masked, correct, nll + rise, -1, spread)]
            tables.append(
                masking_effects.rows(
                    model="m",
                    checkpoint="c",
                    task=f"t{task}",
                    setting=Setting(*SETTING, threshold),
                    n_neurons=1000,
                    conditions=[*conditions, *controls],
                )[1]
            )
    found = rows(masking_effect=pd.concat(tables, ignore_index=True), sensitivity=STEADY)
    # 0.1 % of 1,000 neurons is one: 1.015 / 5 and 1.215 / 10
    assert one(found, 0.001)["separation"] == pytest.approx(0.203, abs=0.002)
    assert one(found, 0.002, control="frequency")["separation"] == pytest.approx(0.1215, abs=0.002)
    assert chosen_threshold(selection=found, setting=(*SETTING, "auto")) == 0.001
    assert one(found, 0.001)["n_significant"] == 4


def test_a_mean_over_cells_by_hand():
    assert mean_over_cells(values=np.array([1.0, 3.0]))[0] == 2
    # standard error 1, t with one degree of freedom
    assert mean_over_cells(values=np.array([1.0, 3.0]))[1] == pytest.approx(2 - stats.t.ppf(0.975, 1))
    assert mean_over_cells(values=np.array([0.5, 0.5, 0.5])) == (0.5, 0.5, 0.5)
    assert mean_over_cells(values=np.array([2.0]))[0] == 2
    assert np.isnan(mean_over_cells(values=np.array([2.0]))[1:]).all()
    assert np.isnan(mean_over_cells(values=np.empty(0))).all()


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_at_most_one_is_chosen_and_it_is_eligible(cells, spearman):
    table = effects({eta: [cell[i] for cell in cells] for i, eta in enumerate(PEAK)})
    known = correlations(dict(zip([(0.001, 0.002), (0.001, 0.01), (0.002, 0.01)], spearman, strict=True)))
    found = rows(masking_effect=table, sensitivity=known)
    for _, own in found.groupby("model"):
        assert own["chosen"].sum() == own["eligible"].any()
        assert (own["eligible"] | ~own["chosen"]).all()
        assert (own["note"] != "").all()


def test_a_spearman_that_can_not_be_is_refused():
    with pytest.raises(ValueError, match=r"stable_spearman is 90; a rank correlation lies between -1 and 1"):
        rows(masking_effect=effects(PEAK), sensitivity=STEADY, stable_spearman=90)
