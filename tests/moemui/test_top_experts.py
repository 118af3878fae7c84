"""The ten most frequent experts: chance by hand and by counting, pooled tasks, ties, experts that are never active."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.experts import top_experts
from moemui.experts.top_experts import by_chance, pooled


def test_chance_by_hand():
    # both of 2 shared experts among the first 2 of 4: one of six ways; 1 expected
    assert by_chance(n_experts=4, n_shared_experts=2, n_top=2, n_shared=2) == (1, pytest.approx(1 / 6))
    # DeepSeek-V2-Lite's shape: 52 shared of 1,716; ten shared ones in the top ten
    expected, p = by_chance(n_experts=1716, n_shared_experts=52, n_top=10, n_shared=10)
    assert expected == pytest.approx(10 * 52 / 1716)
    assert p == pytest.approx(comb(52, 10) / comb(1716, 10))
    assert by_chance(n_experts=5, n_shared_experts=0, n_top=3, n_shared=0) == (0, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_p_counts_the_ways(n_experts, data):
    shared = data.draw(st.integers(0, n_experts))
    top = data.draw(st.integers(0, n_experts))
    found = data.draw(st.integers(max(0, top + shared - n_experts), min(shared, top)))
    ways = sum(comb(shared, x) * comb(n_experts - shared, top - x) for x in range(found, min(shared, top) + 1))
    _, p = by_chance(n_experts=n_experts, n_shared_experts=shared, n_top=top, n_shared=found)
    assert p == pytest.approx(ways / comb(n_experts, top))


@pytest.mark.parametrize("counts", [(4, 2, 2, 3), (4, 5, 2, 1), (4, 3, 3, 1), (4, 2, 5, 2), (0, 0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="a part is no larger than its whole"):
        by_chance(**dict(zip(("n_experts", "n_shared_experts", "n_top", "n_shared"), counts, strict=True)))


def frequencies(by_task, n_samples=None, checkpoint="s9", order=9):
    """expert_frequency rows: task → expert → (frequency, expert MUI)."""
    rows = []
    for task, experts in by_task.items():
        ranked = sorted(experts, key=lambda name: (-experts[name][0], -experts[name][1], list(experts).index(name)))
        for expert, (often, used) in experts.items():
            rows.append(
                {
                    "model": "ds",
                    "checkpoint": checkpoint,
                    "tokens": order * 1e3,
                    "order": order,
                    "task": task,
                    "formulation": "projection",
                    "selection": "pairs",
                    "threshold": 0.001,
                    "rule": "topk",
                    "variant": "main",
                    "expert": expert,
                    "layer": 0,
                    "kind": "shared" if "-S" in expert else "routed",
                    "n_samples": (n_samples or {}).get(task, 10),
                    "frequency": often,
                    "expert_mui": used,
                    "rank": ranked.index(expert) + 1,
                    "routed_tokens": 5,
                }
            )
    return pd.DataFrame(rows)


TASKS = {
    "add": {"L0-E0": (1.0, 0.2), "L0-E1": (0.0, 0.0), "L0-S1": (0.4, 0.4)},
    "sort": {"L0-E0": (0.1, 0.1), "L0-E1": (0.2, 0.3), "L0-S1": (0.4, 0.8)},
}


def test_tasks_are_pooled_by_their_samples():
    found = pooled(frequencies=frequencies(TASKS, n_samples={"add": 10, "sort": 30})).set_index("expert")
    # active in 10 + 3, 0 + 6 and 4 + 12 of 40 samples
    assert found["frequency"].tolist() == pytest.approx([13 / 40, 6 / 40, 16 / 40])
    assert found["expert_mui"].tolist() == pytest.approx([0.15, 0.15, 0.6])
    assert found["rank"].tolist() == [2, 3, 1]
    assert found["n_samples"].tolist() == [40] * 3
    assert found["routed_tokens"].tolist() == [10] * 3
    assert set(found["task"]) == {"all"}


def test_equal_counts_tie_whatever_the_tasks_sizes_and_then_expert_mui_and_the_number_decide():
    experts = {
        "a": {"L0-E0": (0.1, 0.1), "L0-E1": (0.3, 0.1), "L0-E2": (0.2, 0.3)},
        "b": {"L0-E0": (0.3, 0.1), "L0-E1": (0.1, 0.1), "L0-E2": (0.2, 0.1)},
    }
    found = pooled(frequencies=frequencies(experts)).set_index("expert")["rank"]
    assert found.to_dict() == {"L0-E0": 2, "L0-E1": 3, "L0-E2": 1}


def test_rows_by_hand():
    found = top_experts.rows(frequencies=frequencies(TASKS), count=2).set_index("task")
    assert list(found.index) == ["add", "sort", "all"]
    add = found.loc["add"]
    assert add["experts"] == "L0-E0; L0-S1"
    assert add[["n_experts", "n_shared_experts", "n_top", "n_shared"]].tolist() == [3, 1, 2, 1]
    assert (add["expected_shared"], add["p_greater"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (add["frequency_shared"], add["frequency_routed"]) == (0.4, 1.0)
    assert (add["expert_mui_shared"], add["expert_mui_routed"]) == (0.4, 0.2)
    assert found["note"].eq("").all()
    # three equal p
    assert found["q_greater"].tolist() == pytest.approx([2 / 3] * 3)


def test_an_expert_that_is_never_active_is_not_among_the_most_frequent():
    found = top_experts.rows(frequencies=frequencies({"add": TASKS["add"]})).set_index("task")
    row = found.loc["add"]
    assert (row["experts"], row["n_top"]) == ("L0-E0; L0-S1", 2)
    assert row["note"] == "only 2 experts are active in any sample"


def test_a_task_named_all_is_refused():
    named = frequencies({"all": TASKS["add"], "sort": TASKS["sort"]})
    with pytest.raises(ValueError, match="a task is named 'all', which stands for all tasks together; rename it"):
        top_experts.rows(frequencies=named)


def test_no_active_expert_is_said():
    nothing = {"add": dict.fromkeys(("L0-E0", "L0-S1"), (0.0, 0.0))}
    row = top_experts.rows(frequencies=frequencies(nothing)).set_index("task").loc["add"]
    assert (row["n_top"], row["experts"], row["p_greater"], row["q_greater"]) == (0, "", 1, 1)
    assert row["note"] == "no expert is active in any sample"
    assert pd.isna(row["frequency_routed"])


def test_a_model_without_shared_experts_and_one_that_is_all_top_are_not_tested():
    plain = {"add": {f"L0-E{i}": (0.5, 0.1) for i in range(12)}}
    small = {"add": {"L0-E0": (0.5, 0.1), "L0-S1": (0.5, 0.1)}}
    many = {"add": {f"L0-E{i}": (0.5, 0.1) for i in range(12)} | {"L0-S1": (0.9, 0.1)}}
    table = pd.concat(
        [frequencies(plain).assign(model="olmoe"), frequencies(small).assign(model="small"), frequencies(many)]
    )
    found = top_experts.rows(frequencies=table).set_index(["model", "task"])
    assert found.loc[("olmoe", "add"), "note"] == "no shared experts"
    assert found.loc[("small", "add"), "note"] == "all 2 experts are among the most frequent"
    assert found.loc[[("olmoe", "add"), ("small", "add")], "p_greater"].tolist() == [1, 1]
    # the only testable rows are those of ds: 1 shared of 13 experts in the top 10, alike on the task and on all
    assert found.loc["ds", "q_greater"].tolist() == pytest.approx([10 / 13] * 2)
    assert found.loc[("ds", "add"), "experts"].startswith("L0-S1; L0-E0; L0-E1")


def test_p_is_the_share_of_random_tops_with_as_many_shared_experts():
    rng, runs = np.random.default_rng(0), 4000
    shared = np.arange(40) < 6
    drawn = np.array([shared[rng.permutation(40)[:10]].sum() for _ in range(runs)])
    expected, p = by_chance(n_experts=40, n_shared_experts=6, n_top=10, n_shared=3)
    assert drawn.mean() == pytest.approx(expected, abs=0.06)
    assert (drawn >= 3).mean() == pytest.approx(p, abs=0.02)


def test_no_rows_give_an_empty_table():
    assert len(top_experts.rows(frequencies=frequencies(TASKS).iloc[:0])) == 0
