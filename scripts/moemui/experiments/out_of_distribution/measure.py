"""Measuring `moemui.experiments.out_of_distribution`: every kept step asked problems as trained and others."""

from __future__ import annotations

from typing import Any

import pandas as pd

from moemui.experiments.measurements import Measured
from moemui.experiments.out_of_distribution import QUANTITIES, Settings
from moemui.experiments.setup import Setup
from moemui.models.synthetic_variants import IN_DISTRIBUTION, examples, kinds
from moemui.models.training import one_thread


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """All quantities of one seed, whose setup has one cohort. The problems are the same for all steps and seeds.

    Raises ValueError for any other number of cohorts, and where a task has too few different problems.
    """
    if len(setup.cohorts) != 1:
        raise ValueError(f"there are {len(setup.cohorts)} cohorts; out_of_distribution takes exactly one")
    (cohort,) = setup.cohorts.values()
    problems = {
        task: {kind: examples(task, kind, settings.examples, 0) for kind in (IN_DISTRIBUTION, *kinds(task))}
        for task in cohort.tasks
    }
    measured = Measured("out_of_distribution", setup.seed, QUANTITIES)
    with one_thread():
        for number, step in enumerate(cohort.steps, start=1):
            probe = cohort.probe(step, setup.reading)
            for task, by_kind in problems.items():
                at: dict[str, Any] = {"step": step, "tokens": float(cohort.tokens[step]), "task": task}
                measured.add("mui", probe.needed(cohort.held_out(task, setup.samples)).mui(), **at)
                for kind, asked in by_kind.items():
                    answers = probe.answer(asked)
                    measured.add("accuracy", answers.accuracy, **at, part=kind)
                    measured.add("token_accuracy", answers.token_accuracy.mean(), **at, part=kind)
                    measured.add("log_likelihood", -answers.nll.mean(), **at, part=kind)
            setup.progress(number, len(cohort.steps), f"step {step}")
    return measured.frame()
