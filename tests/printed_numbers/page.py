"""What the first screen and the limits may print, counted from the tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moemui.report.views import Choice
from printed_numbers import checked, trained
from printed_numbers.reading import at, at_limit, cells, fixed, last, mean, models, of, percent, plain, side

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
        said += percent(*mean(experts, "proportion")) if len(experts) else []
        place = {"model": model, "checkpoint": kept["all"]["checkpoint"].iloc[0], "task": "all"}
        for _, top in of(at(tables["top_composition"], choice.experts), **place).iterrows():
            if top["n_shared_experts"]:
                said += [str(top["n_shared"]), str(top["n_top"]), fixed(top["expected_shared"], 1)]
        own = of(tables["diagnostics"], model=model)
        for outcome in ("raised", "undecided", "not measured"):
            said += [n for flag in of(own, outcome=outcome)["flag"] for n in checked.FLAGS[flag]]
        own = kept["all"]
        said += [str(n) for n in sorted({own["n_samples"].min(), own["n_samples"].max()})]
        said += [str(m) for m in own["common_m"].dropna().unique()[:1]]
        cell = of(asymptotes, model=model)
        if len(cell):
            done, left, undecided = (str(int((cell["outcome"] == outcome).sum())) for outcome in (1, -1, 0))
            said += [done, str(len(cell)), left, undecided]
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
    found = shares(tables, choice)
    said += [*_ends(found), plain(choice.expert_threshold), plain(choice.experts.threshold)] if found else []
    differences = lost(tables, choice)
    signs = [side(*difference[1:]) for difference in differences.values()]
    if signs:
        said += [str(number) for number in (signs.count(1), len(signs), signs.count(-1), signs.count(0))]
        said += _ends(differences)
    return said


def _ends(values: dict[str, list[float]]) -> list[str]:
    shown = list(values.values())
    if len(shown) > 2:
        shown = [min(shown, key=lambda value: value[0]), max(shown, key=lambda value: value[0])]
    return [number for value in shown for number in percent(*value)]


def grounds(provenance: dict[str, Any]) -> list[str]:
    given = [provenance.get(name) for name in ("conservation_error_max", "conservation_tolerance")]
    return [f"{number:.1e}".replace("-", "−") if number else "0" for number in given if number is not None]


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
