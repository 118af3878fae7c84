"""Courses: one tiny training run that two experiments look at, and halves of samples."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.experiments import task_phases, turnover
from moemui.experiments.catalog import EXPERIMENTS
from moemui.experiments.courses import course, disjoint_halves, only_cohort
from moemui.experiments.measurements import series
from moemui.experiments.probe import Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.task_phases import measure as measure_task_phases
from moemui.experiments.turnover import measure as measure_turnover
from moemui.models.recipe import Recipe
from moemui.models.training import train

TASKS = {"sorting": 0, "boolean": 0, "reversal": 4}
STEPS = (0, 4, 8, 12, 16)
RECIPE = Recipe(
    "olmoe", hidden=32, layers=2, heads=2, experts=8, neurons_per_expert=16, top_k=2, batch=8, steps=16, warm_up=2,
    save_steps=STEPS,
)  # fmt: skip
SAMPLES = 24


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staggered")
    tokens = train(RECIPE, TASKS, folder).set_index("step")["tokens"]
    seen = {step: int(tokens[step]) if step else 0 for step in STEPS}
    return Setup({"staggered": Cohort("staggered", folder, RECIPE, TASKS, seen)}, 3, SAMPLES, Reading(threshold=0.05))


def test_halves_are_disjoint_and_of_equal_size():
    for one, other in disjoint_halves(9, 30, 0):
        assert one.sum() == other.sum() == 4
        assert not (one & other).any()
    drawn = np.array([one for one, _ in disjoint_halves(9, 400, 0)])
    assert drawn.mean(axis=0) == pytest.approx(4 / 9, abs=0.12), "every sample is as likely"
    again = disjoint_halves(9, 30, 0)[-1]
    assert all((a == b).all() for a, b in zip(again, disjoint_halves(9, 30, 0)[-1], strict=True))
    with pytest.raises(ValueError, match="there are 1 samples to halve; give at least 2"):
        disjoint_halves(1, 1, 0)


def test_a_course_is_of_one_cohort(setup):
    cohort = setup.cohorts["staggered"]
    assert only_cohort(setup) is cohort
    with pytest.raises(ValueError, match="there are the cohorts none; a course is of one"):
        only_cohort(Setup({}, 0, SAMPLES, Reading()))
    with pytest.raises(ValueError, match="there are the cohorts one, two; a course is of one"):
        only_cohort(Setup({"one": cohort, "two": cohort}, 0, SAMPLES, Reading()))


def test_a_course_is_what_the_probe_says_of_each_step(setup):
    cohort = setup.cohorts["staggered"]
    said = []
    found = course(Setup(setup.cohorts, 3, SAMPLES, setup.reading, lambda *of: said.append(of[:2])), cohort, 6)
    assert [(task, tuple(points)) for task, points in found.items()] == [(task, STEPS) for task in sorted(TASKS)]
    assert said == [(number + 1, 5) for number in range(5)]
    probe, examples = cohort.probe(8, setup.reading), cohort.held_out("reversal", 6, seed=3)
    answers, needed = found["reversal"][8]
    assert (answers.nll == probe.answer(examples).nll).all()
    assert (needed.sets.neurons == probe.needed(examples).sets.neurons).all()
    other = course(Setup(setup.cohorts, 4, SAMPLES, setup.reading), cohort, 6)["reversal"][8]
    assert (other.answers.nll != answers.nll).any(), "another seed draws other samples"


@pytest.mark.parametrize(
    ("experiment", "measuring", "settings"),
    [
        ("task_phases", measure_task_phases, task_phases.Settings(samples=SAMPLES, splits=2, resamples=30)),
        ("turnover", measure_turnover, turnover.Settings(splits=2)),
    ],
)
def test_an_experiment_measures_all_that_it_names_and_twice_the_same(setup, experiment, measuring, settings):
    found = measuring.measure(setup, settings)
    assert set(found["quantity"]) == set(EXPERIMENTS[experiment].QUANTITIES)
    shares = found.loc[found["unit"].isin(["share", "probability"]), ["quantity", "value"]].dropna()
    signed = shares["quantity"].str.contains("change|slope|turnover")
    assert shares.loc[~signed, "value"].between(0, 1.0 + 1e-9).all() or experiment == "turnover"  # retained may pass 1
    assert set(EXPERIMENTS[experiment].effects(found, settings)) == set(EXPERIMENTS[experiment].EFFECTS)
    assert found.equals(measuring.measure(setup, settings))


def test_both_experiments_see_the_same_answers(setup):
    cohort = setup.cohorts["staggered"]
    one = measure_task_phases.measure(setup, task_phases.Settings(samples=SAMPLES, splits=1, resamples=5))
    answers = cohort.probe(16, setup.reading).answer(cohort.held_out("boolean", SAMPLES, seed=3))
    assert series(one, "token_accuracy", ["step"], task="boolean")[16] == pytest.approx(answers.token_accuracy.mean())
    assert series(one, "start", ["task"]).to_dict() == TASKS
    tokens = one[one["quantity"] == "mui"].set_index("step")["tokens"].to_dict()
    assert tokens == cohort.tokens
