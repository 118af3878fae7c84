"""All seeds of an experiment together: effects with intervals, and the decision on each hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moemui.experiments.hypotheses import FEWEST_SEEDS, Hypothesis, SeedMean, decide, over_seeds
from moemui.experiments.measurements import Meaning
from moemui.tables.experiments import DECISIONS, EFFECTS, SEED_EFFECTS


@dataclass(frozen=True)
class Judgeable:
    """What an experiment declares, as far as it is judged by it.

    Settings: the class of its knobs. EFFECTS: what each effect is, by name. effects: of one seed's measurements and the
    settings each effect's value, NaN where it is not defined, and a note that says why.
    """

    Settings: Callable[..., Any]
    EFFECTS: Mapping[str, Meaning]
    effects: Callable[[pd.DataFrame, Any], Mapping[str, tuple[float, str]]]


class Judged(NamedTuple):
    """The tables `experiment_seeds`, `experiment_effects` and `experiment_decisions` of one experiment."""

    seeds: pd.DataFrame
    effects: pd.DataFrame
    decisions: pd.DataFrame


def judged(
    name: str, experiment: Judgeable, measurements: pd.DataFrame, plan: Mapping[str, Any], *, runs_before_rule: int
) -> Judged:
    """From the measurements of all seeds to decisions.

    plan: settings, paper (what it says) and hypotheses by name, as the config has them. runs_before_rule: of how many
    runs the rules were others than these. Raises ValueError for measurements of other seeds than the plan's, or a rule
    about an effect that the experiment does not have.
    """
    settings = experiment.Settings(**plan["settings"])
    by_seed = {int(str(seed)): rows for seed, rows in measurements.groupby("seed")}
    if sorted(by_seed) != sorted(plan["seeds"]):
        raise ValueError(f"{name} was measured on the seeds {sorted(by_seed)}, and is planned on {plan['seeds']}")
    values = {seed: experiment.effects(rows, settings) for seed, rows in by_seed.items()}
    for seed, found in values.items():
        if set(found) != set(experiment.EFFECTS):
            odd = sorted(set(found) ^ set(experiment.EFFECTS))
            raise ValueError(f"{name} gives or lacks the effects {odd} on seed {seed}; each of EFFECTS is given")
    means = {effect: over_seeds([found[effect][0] for found in values.values()]) for effect in experiment.EFFECTS}
    return Judged(
        SEED_EFFECTS.frame(
            {"experiment": name, "effect": effect, "seed": seed, "value": value, "note": note}
            for seed, found in values.items()
            for effect, (value, note) in found.items()
        ),
        EFFECTS.frame(
            {
                "experiment": name, "effect": effect, "meaning": meaning.words, "unit": meaning.unit,
                **_numbers(means[effect]),
                "note": _why(means[effect], [found[effect][1] for found in values.values()]),
            }
            for effect, meaning in experiment.EFFECTS.items()
        ),
        DECISIONS.frame(
            _decision(name, Hypothesis.from_mapping(key, hypothesis), means, experiment.EFFECTS, plan, runs_before_rule)
            for key, hypothesis in plan["hypotheses"].items()
        ),
    )  # fmt: skip


def _decision(
    name: str,
    hypothesis: Hypothesis,
    means: Mapping[str, SeedMean],
    meanings: Mapping[str, Meaning],
    plan: Mapping[str, Any],
    runs_before_rule: int,
) -> dict[str, Any]:
    decision = decide(hypothesis, means)
    mean, seeds = means[hypothesis.effect], len(plan["seeds"])
    notes = [decision.note or _why(mean, [])]
    notes += [
        f"{effect} is known on {means[effect].n} of {seeds} seeds"
        for effect in (hypothesis.effect, *hypothesis.needs)
        if FEWEST_SEEDS <= means[effect].n < seeds
    ]
    return {
        "experiment": name, "hypothesis": hypothesis.name, "primary": hypothesis.primary, "claim": hypothesis.claim,
        "effect": hypothesis.effect, **_numbers(mean), "unit": meanings[hypothesis.effect].unit,
        "rule": hypothesis.rule, "decision": decision.outcome, "for_paper": decision.for_paper,
        "paper": plan["paper"], "runs_before_rule": runs_before_rule, "note": "; ".join(filter(None, notes)),
    }  # fmt: skip


def _numbers(mean: SeedMean) -> dict[str, Any]:
    return {"mean": mean.estimate, "mean_low": mean.low, "mean_high": mean.high, "n_seeds": mean.n}


def _why(mean: SeedMean, notes: list[str]) -> str:
    """Why an effect or its interval is missing, and what seeds say about theirs."""
    said = list(dict.fromkeys(note for note in notes if note))
    if not np.isfinite(mean.low):
        said.insert(0, f"known on {mean.n} seeds, and an interval takes {FEWEST_SEEDS}")
    return "; ".join(said)
