"""The experiments' configuration: what is written there is a whole plan, and mistakes stop before any job."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow.conftest import EXPERIMENTS as FILE
from workflow.tiny_experiments import tiny

from _experiments import USUAL, Experiments
from _fingerprint import fingerprint
from _study import StudyError
from moemui.experiments.catalog import EXPERIMENTS

READY = yaml.safe_load((Path(__file__).resolve().parents[2] / "config" / FILE).read_text())
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TINY = tiny(READY)
VALID = {
    "cohorts": {
        "small": {"training": {"family": "olmoe", "steps": 10, "save_steps": [0, 10]}, "tasks": {"sorting": 0}}
    },
    "experiments": {
        "turnover": {
            "question": "Which neurons stay?", "outcome": "Their share.", "controls": [], "limits": "Small models.",
            "cohorts": ["small"], "seeds": [0, 1, 2],
            "hypotheses": {
                "stay": {
                    "primary": True, "claim": "They stay.", "effect": "survival",
                    "confirmed": {"above": 0.5}, "refuted": {"below": 0.5},
                }
            },
        }
    },
}  # fmt: skip


def changed(path, value):
    config = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[name]
    place[last] = value
    return config


def test_defaults_are_filled_in_and_jobs_follow_from_seeds_and_cohorts():
    experiments = Experiments(VALID)
    assert experiments.measure["threshold"] == 0.01
    assert experiments.measure["response"] == "reference"
    assert experiments.used() == [("small", 0), ("small", 1), ("small", 2)]
    assert experiments.recipe("small", 2)["seed"] == 2
    assert experiments.plan("turnover")["settings"] == {}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("experiments.turnover.cohorts", ["large"], "cohorts: found 'large'; allowed are ['small']"),
        ("experiments.turnover.hypotheses.stay.primary", False, "found 0 with primary: true; exactly one"),
        ("experiments.turnover.hypotheses.stay.refuted", {"below": 0.6}, "above 0.5 and below 0.6 at once"),
        ("experiments.turnover.hypotheses.stay.paper", "yes", "found 'yes'; allowed are ['confirmed', 'refuted', '']"),
        ("experiments.turnover.seeds", [], "seeds: found []"),
        ("experiments.turnover.seed", 3, "unknown key 'seed'"),
        ("cohorts.small.training", {"family": "olmoe", "save_steps": [0], "depth": 3}, "has no depth"),
        ("cohorts.small.training", {"family": "olmoe", "save_steps": [0], "seed": 3}, "the seeds of experiments are"),
        ("cohorts.small.tasks", {}, "cohorts.small.tasks: found {}"),
        ("experiments.growth", {}, "'growth'"),
    ],
)
def test_a_mistake_is_told_with_its_place(path, value, words):
    with pytest.raises(StudyError) as error:
        Experiments(changed(path, value))
    assert words in str(error.value)


def test_a_study_need_not_have_experiments_but_a_file_that_it_names_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Experiments.read(USUAL).names == []
    with pytest.raises(StudyError, match="no such file"):
        Experiments.read(Path("mine.yaml"))
    Path("mine.yaml").write_text("experiments: [")
    with pytest.raises(StudyError, match="is no YAML"):
        Experiments.read(Path("mine.yaml"))


@pytest.mark.parametrize("experiments", [READY, TINY], ids=["ready", "tiny"])
def test_every_rule_speaks_of_effects_that_are_measured_and_every_setting_is_one(experiments):
    experiments = Experiments(experiments)
    assert experiments.names == list(EXPERIMENTS)
    for experiment in experiments.names:
        module, plan = EXPERIMENTS[experiment], experiments.plan(experiment)
        module.Settings(**plan["settings"])
        spoken = {effect for h in plan["hypotheses"].values() for effect in (h["effect"], *h["needs"])}
        assert spoken <= set(module.EFFECTS)


def test_judge_and_page_need_no_torch_and_the_configuration_no_numbers_either():
    """The page takes all of the catalog, which has what the judge takes; every dry-run reads the configuration."""
    for module, heavy in (
        ("moemui.experiments.catalog", ["torch", "transformers"]),
        ("_experiments", ["torch", "transformers", "numpy", "pandas"]),
    ):
        code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
        run = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
        assert run.stdout.split() == [], module


def test_all_experiments_have_five_seeds_or_say_why_not():
    for name, entry in READY["experiments"].items():
        assert len(entry["seeds"]) >= 5 or (len(entry["seeds"]) >= 3 and "over a minute" in entry["limits"]), name


def test_a_fingerprint_follows_meaning_alone():
    one = {"a": {"claim": "It rises.", "confirmed": {"above": 0.01}}, "b": {"claim": "x"}}
    other = {"b": {"claim": "x"}, "a": {"confirmed": {"above": 0.010}, "claim": "It rises."}}
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint({**one, "b": {"claim": "y"}})
