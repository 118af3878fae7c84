"""The very top of a report: three sentences at most, about training, concentration of experts and the check by masking.

They stay a screenful for any number of models: a few are named one by one, more are counted, with the extremes named.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.mui.dynamics import FLAT, PHASES
from moemui.report import views
from moemui.report.findings import comparisons, diversity, key_experts, masking
from moemui.report.findings.finding import SIGNIFICANT, Tables
from moemui.report.glance import mean_steps
from moemui.report.views import Choice, Estimate, NothingToShow
from moemui.report.wording import change, count, estimate, key_share, listed, percent, points, sign, tally

NAMED = 2  # models up to which each is named with its numbers
LISTED = 13  # models up to which those in a phase are named, without numbers
NOTHING = "Nothing here is significant"


def headline(tables: Tables, choice: Choice) -> list[str]:
    """At most three sentences; where nothing is significant the first one says so. Empty for a study without rows."""
    models = views.names(tables["utilization"], "model")
    sentences = [_nothing(tables, choice), _training(tables, choice, models)]
    sentences = list(filter(None, sentences))[:1]  # where nothing is significant, no phase has anything to show either
    return [*sentences, *filter(None, (_concentration(tables, choice, models), _masked(tables, choice, models)))]


def _nothing(tables: Tables, choice: Choice) -> str:
    """That no test of the study shows anything, with what was tested; empty where one does or nothing was tested."""
    tested = {name: outcome for name, outcome in shown(tables, choice).items() if outcome is not None}
    if not tested or any(tested.values()):
        return ""
    return f"{NOTHING}: no test of {listed(list(tested))} shows anything, at 5 % or by its 95 % interval."


def shown(tables: Tables, choice: Choice) -> dict[str, bool | None]:
    """What is tested → whether any of its tests shows something; None where nothing was tested."""

    def some(rows: pd.DataFrame, found: pd.Series) -> bool | None:
        return bool(found.fillna(False).any()) if len(rows) else None

    steps = _at(tables, "phases", choice.curves).query("phase != ''")
    turns = _at(tables, "change_points", choice.curves).dropna(subset=["p_no_change"])
    pairs = _at(tables, "comparisons", choice.curves).query("verdict != ''")
    tests = _at(tables, "enrichment", choice.experts).query("shared_key + shared_other > 0 and not is_baseline")
    tests = tests[np.isclose(tests["expert_threshold"], choice.expert_threshold)]
    overlap = _at(tables, "expert_overlap", choice.experts).dropna(subset=["jaccard"])
    kinds = _at(tables, "specialization_summary", choice.experts).query("n_testable > 0")
    together = _at(tables, "coactivation_summary", choice.experts).query("n_testable_within > 0")
    losses = _at(tables, "masking_effect", choice.masking).dropna(subset=["loss_difference"])
    resolved = tables["diversity_effect"].query("verdict != ''")
    law = tables["utility_law"].query("scope != 'published'").dropna(subset=["slope_p"])
    return {
        "phases of training": some(steps, steps["phase"] != FLAT),
        "turns in training": some(turns, turns["p_no_change"] < SIGNIFICANT),
        "differences of MUI": some(pairs, pairs["verdict"] != comparisons.UNSHOWN),
        "shared experts": some(tests, tests["q_greater"] < SIGNIFICANT),
        "experts that tasks share": some(overlap, overlap["q_within_kind"] < SIGNIFICANT),
        "experts' domains": some(kinds, kinds["n_specialised"] > 0),
        "experts active together": some(together, together["n_together_within"] + together["n_apart_within"] > 0),
        "masking": some(losses, (losses["loss_difference_low"] > 0) | (losses["loss_difference_high"] < 0)),
        "diversity of data": some(resolved, resolved["verdict"] != diversity.UNSHOWN),
        "laws": some(law, law["slope_p"] < SIGNIFICANT),
    }


def _at(tables: Tables, name: str, setting: Setting) -> pd.DataFrame:
    try:
        return views.at(tables[name], setting, name)
    except NothingToShow:
        return tables[name].head(0)


def _training(tables: Tables, choice: Choice, models: list[str]) -> str:
    """The phase of each model's last step; counted by phase where there are many, and named up to LISTED."""
    steps = {model: mean_steps(tables, choice, model) for model in models}
    last = {model: own.iloc[-1] for model, own in steps.items() if len(own) and own.iloc[-1]["phase"]}
    if not last:
        return ""
    gaps = [model for model in models if model not in last]
    without = f"; no phase: {', '.join(gaps)}" if gaps else ""
    if len(models) <= NAMED:
        each = [
            f"{model} is {row['phase']} (change of accuracy {change(estimate(row, 'd_accuracy'))}, of MUI "
            f"{change(estimate(row, 'd_mui'))})"
            for model, row in last.items()
        ]
        return (
            f"In the last step of training, mean over tasks, {listed(each)}{without}; intervals are over samples, not "
            "training runs."
        )
    by = {phase: [m for m, row in last.items() if row["phase"] == phase] for phase in [*PHASES.values(), FLAT]}
    named = len(last) <= LISTED
    parts = [
        f"{phase} {len(names)}{' (' + ', '.join(names) + ')' if named else ''}" for phase, names in by.items() if names
    ]
    return (
        f"In the last step of training, mean over tasks, of {count(len(last), 'model')} with a phase are "
        f"{listed(parts)}{without}, by 95 % intervals over samples, not training runs."
    )


def _between(values: dict[str, Estimate], words: Callable[[Estimate], str]) -> str:
    """Each value with its model, or the extremes of many."""
    if len(values) <= NAMED:
        return listed([f"{words(value)} ({model})" for model, value in values.items()])
    ends = (pick(values, key=lambda model: values[model].value) for pick in (min, max))
    return " to ".join(f"{words(values[model])} ({model})" for model in ends)


def _concentration(tables: Tables, choice: Choice, models: list[str]) -> str:
    """How many experts are key, beside the untrained models, and how far that rests on the limit η_expert."""
    measured = key_experts.concentration(tables, choice)
    measured = {model: measured[model] for model in models if model in measured}
    if not measured:
        return ""
    if len(measured) <= NAMED:
        each = [f"{model} {percent(own.share)} ({own.beside})" for model, own in measured.items()]
        text = f"Experts that are key, mean over tasks: {listed(each)}"
    else:
        shares = {model: own.share for model, own in measured.items()}
        text = f"Experts that are key, mean over tasks: {_between(shares, percent)} of a model's{_since(measured)}"
    limits = sorted({limit for own in measured.values() for limit in own.at_limits})
    elsewhere = [
        f"{_range([own.at_limits[limit].value for own in measured.values() if limit in own.at_limits])} at {limit:g}"
        for limit in limits
    ]
    rests = f" (η_expert; the share would be {listed(elsewhere)})" if elsewhere else ""
    return (
        f"{text}; key: active in at least {choice.expert_threshold:g} of the samples{rests}, with "
        f"{key_share(choice.experts)}."
    )


def _since(measured: dict[str, key_experts.Concentration]) -> str:
    """In how many models the share differs from the untrained one; empty without untrained checkpoints."""
    signs = [own.against_untrained for own in measured.values() if own.untrained is not None]
    if not signs:
        return ""
    words = {1: "larger", -1: "smaller", 0: "not shown to differ"}
    outcomes = [f"{said} in {signs.count(of)}" for of, said in words.items() if of in signs]
    return f"; beside the untrained checkpoint's it is {listed(outcomes)} of {count(len(signs), 'model')}"


def _range(values: list[float]) -> str:
    ends = dict.fromkeys(percent(end) for end in (min(values), max(values)))
    return " to ".join(ends)


def _masked(tables: Tables, choice: Choice, models: list[str]) -> str:
    found = {model: masking.mean_difference(tables, choice, model) for model in models}
    known = {model: difference for model, difference in found.items() if difference is not None}
    if not known:
        return ""
    signs = [sign(difference) for difference in known.values()]
    outcomes = tally(
        f"in {signs.count(1)} of {count(len(known), 'model')}",
        (signs.count(-1), f"less in {signs.count(-1)}"),
        (signs.count(0), f"undecided in {signs.count(0)}"),
    )
    return (
        f"Masking key neurons costs more accuracy than masking random ones of the same experts {outcomes}: by "
        f"{_between(known, points)}; a small loss may also mean that there was little to lose."
    )
