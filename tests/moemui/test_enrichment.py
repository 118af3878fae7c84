"""Enrichment: Fisher's tea tasting, the paper-sized table, empty margins, families of tests, the baseline."""

from math import comb, log, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from moemui.experts import enrichment
from moemui.experts.enrichment import (
    always_key,
    corrected_log_odds,
    cross_table,
    default_task_sets,
    false_discovery,
    fisher,
    log_odds_change,
)

COUNTS = ("shared_key", "shared_other", "routed_key", "routed_other")


def test_fishers_tea_tasting():
    # R: fisher.test(TeaTasting): p-value = 0.4857, 95 % interval 0.2117329 621.9337505, odds ratio 6.408309; its root
    # search is coarse, so the interval's ends are held to their definition as well
    found = fisher(shared_key=3, shared_other=1, routed_key=1, routed_other=3)
    assert found.p_greater == pytest.approx(17 / 70)
    assert found.p_two_sided == pytest.approx(34 / 70)
    assert found.odds_ratio_conditional == pytest.approx(6.408309, rel=1e-4)
    assert (found.low, found.high) == pytest.approx((0.2117329, 621.9337505), rel=0.01)
    ways = np.array([1, 16, 36, 16, 1])
    at_low, at_high = ways * found.low ** np.arange(5), ways * found.high ** np.arange(5)
    assert at_low[3:].sum() / at_low.sum() == pytest.approx(0.025)
    assert at_high[:4].sum() / at_high.sum() == pytest.approx(0.025)
    assert found.odds_ratio == 9
    # Wald: the log of 9 has the standard error √(2/3 + 2)
    assert found.odds_ratio_low == pytest.approx(9 * np.exp(-1.959964 * np.sqrt(8 / 3)))
    assert found.odds_ratio_high == pytest.approx(9 * np.exp(1.959964 * np.sqrt(8 / 3)))
    # Haldane–Anscombe: 3.5²/1.5²; its log has the standard error √(2/3.5 + 2/1.5)
    assert found.odds_ratio_corrected == pytest.approx(49 / 9)
    assert found.odds_ratio_corrected_low == pytest.approx(49 / 9 * np.exp(-1.959964 * np.sqrt(2 / 3.5 + 2 / 1.5)))
    assert (found.odds_ratio_note, found.note) == ("", "")


def test_every_shared_and_no_routed_expert_key_has_an_infinite_odds_ratio():
    found = fisher(shared_key=24, shared_other=0, routed_key=0, routed_other=1536)
    assert found.p_greater == pytest.approx(1 / comb(1560, 24))  # 1.7e-53
    assert np.isnan([found.odds_ratio, found.odds_ratio_conditional, found.high]).all()
    assert found.low > 50
    assert found.odds_ratio_note == "infinite"
    assert found.odds_ratio_corrected == pytest.approx(24.5 * 1536.5 / 0.25)


def test_no_shared_expert_key_has_an_odds_ratio_of_zero():
    found = fisher(shared_key=0, shared_other=2, routed_key=5, routed_other=5)
    assert (found.odds_ratio, found.odds_ratio_conditional, found.low, found.p_greater) == (0, 0, 0, 1)
    assert found.high > 0
    assert found.odds_ratio_note == "zero"
    assert np.isnan([found.odds_ratio_low, found.odds_ratio_high]).all()
    assert found.odds_ratio_corrected == pytest.approx(0.5 * 5.5 / (2.5 * 5.5))


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((0, 0, 3, 5), "no shared experts"),
        ((1, 1, 0, 0), "no routed experts"),
        ((0, 2, 0, 8), "no key expert"),
        ((2, 0, 8, 0), "every expert is key"),
        ((0, 0, 0, 8), "no shared experts, no key expert"),
    ],
)
def test_an_empty_margin_gives_p_one_and_no_odds_ratio(counts, note):
    names = ("shared_key", "shared_other", "routed_key", "routed_other")
    found = fisher(**dict(zip(names, counts, strict=True)))
    assert (found.p_greater, found.p_two_sided, found.note, found.testable) == (1.0, 1.0, note, False)
    assert np.isnan([found.odds_ratio, found.odds_ratio_conditional, found.odds_ratio_corrected]).all()


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="holds a negative count"):
        fisher(shared_key=-1, shared_other=1, routed_key=1, routed_other=1)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 6)] * 4))
def test_p_greater_is_the_hypergeometric_tail(counts):
    a, b, c, d = counts
    tail = sum(comb(a + b, x) * comb(c + d, a + c - x) for x in range(a, min(a + b, a + c) + 1))
    found = fisher(shared_key=a, shared_other=b, routed_key=c, routed_other=d)
    assert found.p_greater == pytest.approx(tail / comb(a + b + c + d, a + c))


def test_experts_of_a_task_set_are_those_key_on_every_task_and_count_once():
    keys = [np.array([1, 1, 0, 1], dtype=bool), np.array([1, 0, 0, 1], dtype=bool)]
    both = always_key(keys=keys)
    assert both.tolist() == [True, False, False, True]
    assert cross_table(key=both, shared=np.array([False, False, False, True])) == {
        "shared_key": 1,
        "shared_other": 0,
        "routed_key": 1,
        "routed_other": 2,
    }
    with pytest.raises(ValueError, match="the task set is empty"):
        always_key(keys=[])


def test_the_corrected_log_odds_and_its_change_by_hand():
    before = dict(zip(COUNTS, (3, 1, 1, 3), strict=True))
    after = dict(zip(COUNTS, (2, 0, 0, 2), strict=True))
    assert corrected_log_odds(**before) == pytest.approx((log(49 / 9), sqrt(2 / 3.5 + 2 / 1.5)))
    assert corrected_log_odds(**after) == pytest.approx((log(25), sqrt(2 / 2.5 + 2 / 0.5)))
    margin = 1.959964 * sqrt(2 / 3.5 + 2 / 1.5 + 2 / 2.5 + 2 / 0.5)
    change = log(25) - log(49 / 9)
    assert log_odds_change(before=before, after=after) == pytest.approx((change, change - margin, change + margin))
    assert log_odds_change(before=after, after=before)[0] == pytest.approx(-change)


def tables_of(rng, shared, routed, share_shared, share_routed):
    """Counts of two independent binomial draws."""
    a, c = int(rng.binomial(shared, share_shared)), int(rng.binomial(routed, share_routed))
    return dict(zip(COUNTS, (a, shared - a, c, routed - c), strict=True))


@pytest.mark.simulation
def test_intervals_cover_the_odds_ratio_and_its_change():
    rng, runs = np.random.default_rng(0), 1500
    first, second = np.log((0.6 / 0.4) / (0.2 / 0.8)), np.log((0.5 / 0.5) / (0.3 / 0.7))
    hits = dict.fromkeys(("wald", "corrected", "exact", "change"), 0)
    for _ in range(runs):
        before, after = tables_of(rng, 80, 120, 0.6, 0.2), tables_of(rng, 80, 120, 0.5, 0.3)
        found = fisher(**before)
        hits["wald"] += log(found.odds_ratio_low) <= first <= log(found.odds_ratio_high)
        hits["corrected"] += log(found.odds_ratio_corrected_low) <= first <= log(found.odds_ratio_corrected_high)
        hits["exact"] += log(found.low) <= first <= log(found.high)
        _, low, high = log_odds_change(before=before, after=after)
        hits["change"] += low <= second - first <= high
    assert {name: 0.92 <= count / runs <= 0.98 for name, count in hits.items()} == dict.fromkeys(hits, True)


@pytest.mark.simulation
def test_the_change_of_experts_that_stay_what_they_were_is_covered_too_often():
    # nine experts in ten stay key or not key: what the docstring says of the same physical experts
    rng, runs, hits = np.random.default_rng(0), 800, 0
    shared = np.arange(200) < 80
    often = np.where(shared, 0.6, 0.2)
    for _ in range(runs):
        key = rng.random(200) < often
        later = np.where(rng.random(200) < 0.9, key, rng.random(200) < often)
        tables = [cross_table(key=found, shared=shared) for found in (key, later)]
        _, low, high = log_odds_change(before=tables[0], after=tables[1])
        hits += low <= 0 <= high
    assert hits / runs > 0.99


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("ab"), st.booleans()), max_size=30))
def test_false_discovery_is_benjamini_hochberg_within_each_family(tests):
    p, family, tested = ([row[i] for row in tests] for i in range(3))
    q = false_discovery(p=p, family=family, tested=tested)
    for name in "ab":
        places = [i for i in range(len(p)) if family[i] == name and tested[i]]
        if places:
            expected = multipletests([p[i] for i in places], method="fdr_bh")[1]
            assert [q[i] for i in places] == pytest.approx(list(expected))
    assert all(q[i] == p[i] for i in range(len(p)) if not tested[i])


def test_task_sets_are_each_task_each_pair_and_all_and_none_twice():
    assert default_task_sets(["a"]) == {"all": ("a",)}
    assert default_task_sets(["a", "b"]) == {"all": ("a", "b"), "a": ("a",), "b": ("b",)}
    found = default_task_sets(["a", "b", "c"])
    assert list(found) == ["all", "a", "b", "c", "a + b", "a + c", "b + c"]
    assert found["a + c"] == ("a", "c")
    assert len(default_task_sets([f"t{i}" for i in range(12)])) == 1 + 12 + 66
    assert len(default_task_sets([f"t{i}" for i in range(13)])) == 1 + 13


def test_a_task_named_all_is_refused():
    with pytest.raises(ValueError, match="a task is named 'all', which stands for all tasks together; rename it"):
        default_task_sets(["add", "all", "sort"])
    cells = [("ds", "s9", 9e3, {"all": {"L0-E0": 1.0, "L0-S1": 1.0}})]
    with pytest.raises(ValueError, match="a task is named 'all'"):
        enrichment.rows(frequencies=frequencies(cells, tasks=("all",)))


def frequencies(cells, tasks=("add", "sort"), shared=("L0-S1",), threshold=0.001, variant="main", tokens_of=None):
    """expert_frequency rows: cells are (model, checkpoint, tokens, {task: {expert: frequency}})."""
    rows = []
    for order, (model, checkpoint, tokens, by_task) in enumerate(cells):
        for task in tasks:
            for rank, (expert, often) in enumerate(by_task[task].items(), start=1):
                rows.append(
                    {
                        "model": model,
                        "checkpoint": checkpoint,
                        "tokens": tokens,
                        "order": order,
                        "task": task,
                        "formulation": "projection",
                        "rule": "topk",
                        "variant": variant,
                        "selection": "pairs",
                        "threshold": threshold,
                        "expert": expert,
                        "kind": "shared" if expert in shared else "routed",
                        "frequency": often,
                        "rank": rank,
                        "routed_tokens": (tokens_of or {}).get(expert, 7),
                    }
                )
    return pd.DataFrame(rows)


ROUTED = [f"L0-E{i}" for i in range(9)]
EARLY = {"add": dict.fromkeys(ROUTED, 0.1) | {"L0-S1": 1.0}, "sort": dict.fromkeys(ROUTED, 0.0) | {"L0-S1": 0.9}}
LATE = {
    "add": dict.fromkeys(ROUTED, 0.1) | {"L0-E0": 0.7, "L0-E1": 0.8, "L0-S1": 1.0},
    "sort": dict.fromkeys(ROUTED, 0.1) | {"L0-E0": 0.6, "L0-E2": 0.9, "L0-S1": 0.6},
}


def test_rows_by_hand_with_the_untrained_checkpoint_beside():
    found = enrichment.rows(frequencies=frequencies([("ds", "s0", 0, EARLY), ("ds", "s9", 9e3, LATE)]))
    found = found.set_index(["checkpoint", "task_set"])
    counts = found[["shared_key", "shared_other", "routed_key", "routed_other"]]
    assert counts.loc[("s9", "all")].tolist() == [1, 0, 1, 8]
    assert counts.loc[("s9", "add")].tolist() == [1, 0, 2, 7]
    assert counts.loc[("s0", "all")].tolist() == [1, 0, 0, 9]
    # one shared expert among ten: p = share of key experts
    assert found.loc[("s9", "all"), "p_greater"] == pytest.approx(0.2)
    assert found.loc[("s9", "all"), "p_greater_baseline"] == pytest.approx(0.1)
    assert found.loc[("s9", "all"), "odds_ratio_corrected_baseline"] == pytest.approx(1.5 * 9.5 / (0.5 * 0.5))
    assert found["is_baseline"].tolist() == [True] * 3 + [False] * 3
    assert found.loc[("s9", "all"), "n_tasks"] == 2
    last = found.loc["s9"]
    assert last["note"].eq("").all()
    assert last.loc["all", "tasks"] == "add; sort"
    assert last.loc["all", "log_odds_change"] == pytest.approx(log(1.5 * 8.5 / (0.5 * 1.5)) - log(1.5 * 9.5 / 0.25))
    assert last.loc["all", "log_odds_change_low"] < last.loc["all", "log_odds_change"]
    start = found.loc["s0"]
    assert start["note"].eq("no change from the untrained checkpoint: it is this one").all()
    assert start["log_odds_change"].isna().all()
    # p: 0.1 three times, 0.2, 0.3, 0.3 → Benjamini–Hochberg 0.1·6/3, 0.2·6/4, 0.3·6/6
    assert found["q_greater"].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.3, 0.3, 0.3])


def test_a_model_without_shared_experts_is_said_and_leaves_the_family_alone():
    plain = {task: dict.fromkeys(ROUTED[:3], 0.7) for task in ("add", "sort")}
    cells = [("ds", "s0", 0, EARLY), ("olmoe", "main", np.nan, plain)]
    found = enrichment.rows(frequencies=frequencies(cells)).set_index(["model", "task_set"])
    olmoe = found.loc[("olmoe", "all")]
    assert olmoe["note"] == "no shared experts, every expert is key; no untrained checkpoint"
    assert (olmoe["p_greater"], olmoe["q_greater"], olmoe["odds_ratio_note"]) == (1, 1, "undefined")
    assert not olmoe["is_baseline"]
    assert pd.isna(olmoe["p_greater_baseline"])
    assert found.loc[("ds", "all"), "q_greater"] == pytest.approx(0.1)


def test_settings_are_families_of_their_own():
    cells = [("ds", "s0", 0, EARLY)]
    both = pd.concat([frequencies(cells), frequencies([("ds", "s0", 0, LATE)], threshold=0.01)])
    found = enrichment.rows(frequencies=both).set_index(["threshold", "task_set"])
    assert found.loc[0.001, "q_greater"].tolist() == pytest.approx([0.1] * 3)
    assert found.loc[0.01, "q_greater"].tolist() == pytest.approx([0.3] * 3)


def test_named_task_sets_need_all_their_tasks():
    found = enrichment.rows(
        frequencies=frequencies([("ds", "s0", 0, EARLY)]), task_sets={"pair": ["add", "sort"], "more": ["add", "code"]}
    )
    assert found["task_set"].tolist() == ["pair"]


def test_a_single_task_is_the_whole_set():
    found = enrichment.rows(frequencies=frequencies([("ds", "s0", 0, EARLY)], tasks=("add",)))
    assert found["task_set"].tolist() == ["all"]


def test_pairs_are_rows_and_their_key_experts_are_those_of_both_tasks():
    third = LATE | {"copy": dict.fromkeys(ROUTED, 0.0) | {"L0-E2": 0.9, "L0-S1": 0.9}}
    found = enrichment.rows(frequencies=frequencies([("ds", "s9", 9e3, third)], tasks=("add", "copy", "sort")))
    found = found.set_index("task_set")
    assert list(found.index) == ["all", "add", "copy", "sort", "add + copy", "add + sort", "copy + sort"]
    assert found["routed_key"].tolist() == [0, 2, 1, 2, 0, 1, 1]
    assert found.loc["copy + sort", "n_tasks"] == 2


def test_too_many_tasks_for_pairs_is_said():
    tasks = [f"t{i:02}" for i in range(13)]
    found = enrichment.rows(
        frequencies=frequencies([("ds", "s9", 9e3, dict.fromkeys(tasks, LATE["add"]))], tasks=tasks)
    ).set_index("task_set")
    assert len(found) == 14
    assert found.loc["all", "note"].startswith("13 tasks: pairs are tested up to 12 only")
    assert "pairs" not in found.loc["t00", "note"]


def test_a_variant_without_gate_weighting_is_a_family_and_a_baseline_of_its_own():
    main = frequencies([("ds", "s0", 0, EARLY), ("ds", "s9", 9e3, LATE)])
    # without gate weights some routed experts are key before training as well
    ungated = frequencies([("ds", "s0", 0, LATE), ("ds", "s9", 9e3, LATE)], variant="ungated")
    alone = enrichment.rows(frequencies=main)
    both = enrichment.rows(frequencies=pd.concat([main, ungated]))
    pd.testing.assert_frame_equal(both[both["variant"] == "main"].reset_index(drop=True), alone)
    other = both[both["variant"] == "ungated"].set_index(["checkpoint", "task_set"])
    assert other.loc[("s9", "all"), "p_greater_baseline"] == pytest.approx(0.2)
    assert other.loc[("s9", "all"), "log_odds_change"] == 0


def test_a_variant_that_the_untrained_checkpoint_lacks_has_no_change_and_says_so():
    main = frequencies([("ds", "s0", 0, EARLY), ("ds", "s9", 9e3, LATE)])
    ungated = frequencies([("ds", "s9", 9e3, LATE)], variant="ungated")
    found = enrichment.rows(frequencies=pd.concat([main, ungated])).set_index(["variant", "checkpoint", "task_set"])
    row = found.loc[("ungated", "s9", "all")]
    assert row["note"] == "the untrained checkpoint lacks this setting or task set"
    assert pd.isna(row["log_odds_change"])
    assert pd.isna(row["p_greater_baseline"])


def test_an_untrained_checkpoint_without_key_experts_leaves_no_change():
    nothing = {task: dict.fromkeys([*ROUTED, "L0-S1"], 0.1) for task in ("add", "sort")}
    found = enrichment.rows(frequencies=frequencies([("ds", "s0", 0, nothing), ("ds", "s9", 9e3, LATE)]))
    found = found.set_index(["checkpoint", "task_set"])
    assert found.loc[("s9", "all"), "note"] == "no change from the untrained checkpoint: no key expert there"
    assert found.loc[("s0", "all"), "note"] == "no key expert"
    assert found["log_odds_change"].isna().all()


def test_tasks_with_other_experts_are_refused():
    strange = {"add": {"L0-E0": 0.1}, "sort": {"L0-E1": 0.1}}
    with pytest.raises(ValueError, match="the tasks have different experts"):
        enrichment.rows(frequencies=frequencies([("ds", "s0", 0, strange)]))


def test_no_rows_give_an_empty_table():
    nothing = frequencies([("ds", "s0", 0, EARLY)]).iloc[:0]
    assert len(enrichment.rows(frequencies=nothing)) == 0
