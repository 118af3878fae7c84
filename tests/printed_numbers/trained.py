"""What the topics on MUI, training and experts may print, counted from the tables."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from moemui.report.views import Choice
from printed_numbers.reading import (
    Expected,
    at,
    at_limit,
    cells,
    chance,
    ends,
    fixed,
    in_words,
    interval,
    last,
    mean,
    models,
    numbers,
    of,
    percent,
    plain,
    some,
)

Tables = dict[str, pd.DataFrame]
PHASES = ("Accumulating", "Evolving", "Coarsening", "Collapsing", "Flat")
NO_DIFFERENCE = "no difference shown"


def measured(tables: Tables, choice: Choice) -> dict[str, dict[str, pd.DataFrame]]:
    """model → for accuracy and mui the rows of its last checkpoint, of the tasks that have it at every checkpoint."""
    total = of(at(tables["utilization"], choice.curves), samples="all", scope="total")
    columns = {"mui_at_m": "mui", "mui_at_m_sample_low": "mui_low", "mui_at_m_sample_high": "mui_high"}
    total = total.drop(columns="mui").rename(columns=columns)
    right = tables["performance"][["model", "checkpoint", "task", "accuracy", "accuracy_low", "accuracy_high"]]
    every = total.merge(right, on=["model", "checkpoint", "task"], how="left")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for model in models(every):
        own, kept = of(every, model=model), {}
        for name in ("accuracy", "mui"):
            tasks = [task for task in own["task"].unique() if of(own, task=task)[name].notna().all()
                     and len(of(own, task=task)) == own["checkpoint"].nunique()]  # fmt: skip
            kept[name] = last(own)[last(own)["task"].isin(tasks)]
        found[model] = kept | {"all": last(own)}
    return found


def utilization(tables: Tables, choice: Choice) -> Expected:
    found, ms = Expected(), set()
    for model, kept in measured(tables, choice).items():
        counts = {name: len(kept[name]) for name in ("accuracy", "mui")}
        said = [number for name, count in counts.items() if count for number in percent(*mean(kept[name], name))]
        if any(counts.values()):
            said += [str(count) for count in dict.fromkeys(counts.values()) if count]
        said += ends(kept["mui"], "mui") if len(kept["mui"]) else []
        found.groups[model] = said
        ms |= set(kept["all"]["common_m"].dropna().astype(int))
    found.always = [*map(str, sorted(ms)), *in_words(choice.curves)]
    return found


def comparisons(tables: Tables, choice: Choice) -> Expected:
    rows = at(tables["comparisons"], choice.curves)
    places = tables["utilization"].drop_duplicates(["model", "checkpoint"])
    start = {(row["model"], row["checkpoint"]) for _, row in places.iterrows() if row["tokens"] == 0}
    order = {(row["model"], row["checkpoint"]): row["order"] for _, row in places.iterrows()}
    firsts = [(row["model_a"], row["checkpoint_a"]) for _, row in rows.iterrows()]
    rows = rows.assign(order=[order[first] for first in firsts], start=[first in start for first in firsts])
    rows = rows[~rows["start"] & (rows["verdict"] != "")]
    found, sentences = Expected(), 0
    for kind in ("tasks", "models", "checkpoints"):
        own = rows[(rows["kind"] == kind) & (rows["task_a"] != "mean")]
        shown = int((own["verdict"] != NO_DIFFERENCE).sum())
        sentences += len(own) > 0
        if shown < len(own):
            found.always += [str(shown), str(len(own)), str(len(own) - shown)]
        elif len(own) > 1:
            found.always += [str(len(own))]
    means = rows[(rows["task_a"] == "mean") & (rows["kind"] != "tasks")]
    pairs, steps = of(means, kind="models"), of(means, kind="checkpoints")
    newest = steps.groupby("model_b")["order"].transform("max")
    listed = pd.concat([pairs, steps[steps["order"] == newest]])
    if sentences + len(listed) > 8:
        found.always += [str(len(listed)), str(int((listed["verdict"] != NO_DIFFERENCE).sum()))]
    else:
        found.always += [number for _, row in listed.iterrows() for number in percent(*cells(row, "difference"))]
    ms = [of(rows, kind=kind)["m"].dropna().iloc[0] for kind in dict.fromkeys(rows["kind"])]
    found.always += [str(m) for m in (ms if len(set(ms)) > 1 else ms[:1])]
    found.always += [*in_words(choice.curves), "5"]
    return found


def as_in_paper(course: list[str]) -> int:
    moves = [phase for phase, _ in itertools.groupby(phase for phase in course if phase != "Flat")]
    if moves == ["Accumulating", "Evolving"]:
        return 1
    return 0 if len(moves) < 2 and set(moves) <= {"Accumulating", "Evolving"} else -1


def phases(tables: Tables, choice: Choice) -> Expected:
    rows = at(tables["phases"], choice.curves)
    rows, found, outcomes = rows[rows["phase"] != ""], Expected(), []
    for model in models(rows):
        own = of(rows, model=model)
        steps = own[own["task"] != "mean"]
        said = [str(len(steps)), *some(*(int((steps["phase"] == phase).sum()) for phase in PHASES))]
        course = of(own, task="mean").sort_values("from_order")["phase"]
        outcomes += [as_in_paper(list(course))] * bool(len(course))
        apart = of(at(tables["phase_divergence"], choice.curves), model=model)
        known = apart[apart["n_differ"].notna()]
        if len(known):
            said += [str(int(known["n_differ"].sum())), str(int(known["n_tasks"].sum()))]
        masked = apart[apart["mean_masks"].notna()]["mean_masks"]
        said += [str(int(masked.sum())), str(len(masked))] if len(masked) else []
        turn = of(at(tables["change_points"], choice.curves), model=model, task="mean", measure="mui")
        said += _turn(turn.iloc[0]) if len(turn) else []
        found.groups[model] = said
    if outcomes:
        found.always += [str(outcomes.count(1)), str(len(outcomes)), *some(outcomes.count(-1), outcomes.count(0))]
    found.always += ["0", *in_words(choice.curves)]
    return found


def _turn(row: pd.Series) -> list[str]:
    if pd.isna(row["p_no_change"]):
        return numbers(row["note"])
    if row["p_no_change"] >= 0.05 or pd.isna(row["change_order"]):
        return chance(row["p_no_change"])
    known = pd.notna(row["low_order"]) and pd.notna(row["high_order"])
    slopes = [number for name in ("slope_before", "slope_after") for number in percent(*cells(row, name))]
    return [*chance(row["p_no_change"]), *(["95"] if known else []), *slopes]


def saturated(cell: pd.Series) -> int:
    """1: nothing is left within the whole interval of the asymptote, −1: certainly something is."""
    if cell["mui"] >= 0.95 * cell["chao2_high"]:
        return 1
    return -1 if cell["mui"] < 0.95 * cell["chao2_low"] else 0


def asymptotes(tables: Tables, choice: Choice) -> pd.DataFrame:
    rows = last(of(at(tables["utilization"], choice.curves), samples="all", scope="total"))
    rows = rows[rows["mui"].notna() & (rows["chao2_low"].fillna(0) > 0)]
    return rows.assign(outcome=[saturated(row) for _, row in rows.iterrows()], seen=rows["mui"] / rows["chao2"])


def saturation(tables: Tables, choice: Choice) -> Expected:
    rows, found = asymptotes(tables, choice), Expected(always=["95"])
    for model in models(rows):
        own = of(rows, model=model)
        missing, done, undecided = (int((own["outcome"] == outcome).sum()) for outcome in (-1, 1, 0))
        far = own.sort_values("seen", kind="stable").iloc[0]
        said = [*percent(far["mui"]), str(far["n_samples"]), *percent(*cells(far, "chao2"))]
        found.groups[model] = [str(missing), str(len(own)), *some(done, undecided), *said]
    return found


def key_experts(tables: Tables, choice: Choice) -> Expected:
    every = last(at(tables["key_experts"], choice.experts))
    limit = choice.expert_threshold
    found = Expected(always=[plain(limit), *in_words(choice.experts)])
    for model in models(at_limit(every, limit)):
        grid = of(every, model=model)
        own = at_limit(grid, limit)
        said = [*percent(*mean(own, "proportion")), str(own["n_experts"].iloc[0]), str(len(own))]
        said += ends(own, "proportion")
        before = of(at_limit(at(tables["key_experts"], choice.experts), limit), model=model, tokens=0)
        before = before[before["order"] < own["order"].iloc[0]]
        said += percent(*mean(before, "proportion")) if len(before) else []
        said += [str(own["n_experts"].sum()), str(own["n_undecided"].sum()), plain(limit)]
        others = sorted(other for other in grid["expert_threshold"].unique() if not np.isclose(other, limit))
        for other in dict.fromkeys([*others[:1], *others[-1:]]):
            said += [*percent(*mean(at_limit(grid, other), "proportion")), plain(other)]
        found.groups[model] = said
    return found


def structure(tables: Tables, choice: Choice) -> Expected:
    found = Expected(always=["5"])
    for name, count in (
        ("expert_overlap", _overlap),
        ("specialization_summary", _domains),
        ("coactivation_summary", _together),
    ):
        for model in models(tables[name]):
            rows = at(last(of(tables[name], model=model)), choice.experts)
            rows = at_limit(rows, choice.expert_threshold) if "expert_threshold" in rows else rows
            found.groups.setdefault(model, []).extend(count(rows))
    return found


def _overlap(rows: pd.DataFrame) -> list[str]:
    rows = rows[rows["jaccard"].notna()]
    if rows.empty:
        return []
    said = ends(rows, "jaccard") or percent(*cells(rows.iloc[0], "jaccard")) * min(len(rows), 2)
    return [*said, str(int((rows["q_within_kind"] < 0.05).sum())), str(len(rows))]


def _domains(rows: pd.DataFrame) -> list[str]:
    counts, bits = [], []
    for _, row in rows[rows["n_testable"] > 0].iterrows():
        counts += [str(row["n_specialised"]), str(row["n_testable"])]
        bits += interval(*cells(row, "mean_mutual_information"), 3)
        bits.append(fixed(row["mean_mutual_information_expected"], 3))
    return counts + bits


def _together(rows: pd.DataFrame) -> list[str]:
    rows = rows[(rows["pairs"] == "all") & (rows["n_testable_within"] > 0)]
    if rows.empty:
        return []
    row = rows.iloc[0]
    tested, together, apart = (row[f"n_{name}_within"] for name in ("testable", "together", "apart"))
    said = [str(tested), str(row["n_compared"]), str(together), *some(apart, tested - together - apart)]
    if pd.notna(row["mean_phi_within"]) and pd.notna(row["p_within"]):
        said += [fixed(row[name], 3) for name in ("mean_phi_within", "chance_low", "chance_high")]
        said += chance(row["p_within"])
    return said
