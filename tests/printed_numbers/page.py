"""What the first screen and the limits may print, counted from the tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moemui.report.views import Choice
from printed_numbers import checked, trained
from printed_numbers.reading import at, at_limit, cells, fixed, last, mean, models, of, percent, plain, side, some

Tables = dict[str, pd.DataFrame]


def last_step(tables: Tables, choice: Choice, model: str) -> pd.Series | None:
    """The mean's last step between trained checkpoints, None without a phase."""
    start = tables["utilization"].query("tokens == 0 and model == @model")["order"]
    steps = of(at(tables["phases"], choice.curves), model=model, task="mean")
    steps = steps[~steps["from_order"].isin(start)].sort_values("from_order")
    return steps.iloc[-1] if len(steps) and steps["phase"].iloc[-1] else None


def shares(tables: Tables, choice: Choice) -> dict[str, list[float]]:
    rows = last(at_limit(at(tables["key_experts"], choice.experts), choice.expert_threshold))
    return {model: mean(of(rows, model=model), "proportion") for model in models(rows)}


def lost(tables: Tables, choice: Choice) -> dict[str, list[float]]:
    rows = of(checked.losses(tables, choice), control="expert")
    known = [model for model in models(tables["utilization"]) if model in set(rows["model"])]
    return {model: mean(of(rows, model=model), "loss_difference") for model in known}


def glance(tables: Tables, choice: Choice) -> dict[str, list[str]]:
    """model → the numbers of its row."""
    found = {}
    key = last(at_limit(at(tables["key_experts"], choice.experts), choice.expert_threshold))
    differences, asymptotes = lost(tables, choice), trained.asymptotes(tables, choice)
    for model, kept in trained.measured(tables, choice).items():
        experts = of(key, model=model)
        counts = [len(kept["accuracy"]), len(kept["mui"]), *([len(experts)] if len(experts) else [])]
        said = [str(count) for count in (counts[:1] if len(set(counts)) == 1 else counts)]
        said += [n for name in ("accuracy", "mui") if len(kept[name]) for n in percent(*mean(kept[name], name))]
        step = last_step(tables, choice, model)
        if step is not None:
            said += percent(*cells(step, "d_accuracy")) + percent(*cells(step, "d_mui"))
        said += percent(*mean(experts, "proportion")) + _beside(tables, choice, experts) if len(experts) else []
        place = {"model": model, "checkpoint": kept["all"]["checkpoint"].iloc[0], "task": "all"}
        for _, top in of(at(tables["top_composition"], choice.experts), **place).iterrows():
            if top["n_shared_experts"]:
                said += [str(top["n_shared"]), str(top["n_top"]), fixed(top["expected_shared"], 1)]
        own = of(tables["diagnostics"], model=model)
        for outcome in ("raised", "undecided", "not measured"):
            said += [n for flag in of(own, outcome=outcome)["flag"] for n in checked.FLAGS[flag]]
        said += [n for flag in own["flag"] for n in checked.FLAGS[flag]]
        cell = of(asymptotes, model=model)
        done, left, undecided = (int((cell["outcome"] == outcome).sum()) for outcome in (1, -1, 0))
        said += [str(done), str(len(cell))] if len(cell) else []
        own = kept["all"]
        said += [str(n) for n in sorted({own["n_samples"].min(), own["n_samples"].max()})]
        said += [str(m) for m in own["common_m"].dropna().unique()[:1]]
        said += [str(done), str(len(cell)), *some(left, undecided)] if len(cell) else []
        said += percent(*differences[model]) if model in differences else []
        found[model] = said
    return found


def headline(tables: Tables, choice: Choice) -> list[str]:
    """The numbers of the sentences at the top, where something is significant."""
    names = models(tables["utilization"])
    steps = {model: last_step(tables, choice, model) for model in names}
    steps = {model: step for model, step in steps.items() if step is not None}
    said: list[str] = []
    if len(names) <= 2:
        said += [n for step in steps.values() for name in ("d_accuracy", "d_mui") for n in percent(*cells(step, name))]
    elif steps:
        course = [step["phase"] for step in steps.values()]
        counts = [course.count(phase) for phase in trained.PHASES]
        said += [str(len(steps)), *(str(count) for count in counts if count), "95"]
    said += _concentration(tables, choice)
    differences = lost(tables, choice)
    signs = [side(*difference[1:]) for difference in differences.values()]
    if signs:
        said += [str(signs.count(1)), str(len(signs)), *some(signs.count(-1), signs.count(0))]
        said += _ends(differences)
    return said


def _concentration(tables: Tables, choice: Choice) -> list[str]:
    every = at(tables["key_experts"], choice.experts)
    rows, found = last(at_limit(every, choice.expert_threshold)), shares(tables, choice)
    if not found:
        return []
    said: list[str] = []
    if len(found) <= 2:
        for model, share in found.items():
            said += percent(*share) + _beside(tables, choice, of(rows, model=model))
    else:
        said += _ends(found)
        before = {model: _untrained(tables, choice, of(rows, model=model)) for model in found}
        signs = [_apart(found[model], mean(own, "proportion")) for model, own in before.items() if len(own)]
        said += [*some(signs.count(1), signs.count(-1), signs.count(0)), str(len(signs))] if signs else []
    said.append(plain(choice.expert_threshold))
    others: dict[float, list[float]] = {}
    for model in found:
        grid = of(last(every), model=model)
        limits = sorted(x for x in grid["expert_threshold"].unique() if not np.isclose(x, choice.expert_threshold))
        for limit in dict.fromkeys([*limits[:1], *limits[-1:]]):
            others.setdefault(limit, []).append(at_limit(grid, limit)["proportion"].mean())
    for limit in sorted(others):
        texts = [*percent(min(others[limit])), *percent(max(others[limit]))]
        said += [*dict.fromkeys(texts), plain(limit)]
    return [*said, plain(100 * choice.experts.threshold)]


def _untrained(tables: Tables, choice: Choice, rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of the untrained checkpoint before those of `rows`, on the same tasks."""
    every = at_limit(at(tables["key_experts"], choice.experts), choice.expert_threshold)
    start = of(every, model=rows["model"].iloc[0], tokens=0)
    return start[(start["order"] < rows["order"].iloc[0]) & start["task"].isin(rows["task"])]


def _apart(one: list[float], other: list[float]) -> int:
    return 1 if one[1] > other[2] else -1 if one[2] < other[1] else 0


def _beside(tables: Tables, choice: Choice, rows: pd.DataFrame) -> list[str]:
    """Key experts as a number of all, those that are shared, and the untrained share."""
    key, shared = rows["n_key"].mean(), rows["n_key_shared"].mean()
    said = [_whole(key), str(rows["n_experts"].iloc[0]), *([_whole(shared)] if shared else [])]
    start = _untrained(tables, choice, rows)
    return said + (percent(start["proportion"].mean()) if len(start) else [])


def _whole(number: float) -> str:
    return str(int(np.floor(number + 0.5))) if number >= 1 or number == 0 else fixed(number, 1)


def _ends(values: dict[str, list[float]]) -> list[str]:
    shown = list(values.values())
    if len(shown) > 2:
        shown = [min(shown, key=lambda value: value[0]), max(shown, key=lambda value: value[0])]
    return [number for value in shown for number in percent(*value)]


def grounds(provenance: dict[str, Any]) -> list[str]:
    number = provenance.get("conservation_error_max")
    return [] if number is None else [f"{number:.1e}".replace("-", "−") if number else "0"]


def limits(tables: Tables, choice: Choice) -> list[str]:
    if not choice.trained_here:
        return []
    layers = tables["utilization"].query("scope == 'layer'")
    layers = layers[layers["model"].isin(choice.trained_here)]
    said = ["10", "25"]
    if len(layers):
        smallest = layers["n_neurons"].min()
        thresholds = list(dict.fromkeys((choice.experts.threshold, choice.curves.threshold)))
        said.append(f"{smallest:,}")
        for eta in thresholds:
            said += [plain(100 * eta), str(max(1, int(np.floor(eta * smallest + 1e-9))))]
    return said
