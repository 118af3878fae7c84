"""All experiments at their smallest through Snakemake: decisions, reruns, what comes before a rule, MLflow."""

from __future__ import annotations

import json

import pytest
import yaml
from mlflow import MlflowClient
from workflow.conftest import EXPERIMENTS as FILE
from workflow.conftest import SMOKE, copy_project, imported, listening, planned_jobs, snakemake
from workflow.tiny_experiments import tiny

import _code
from moemui.experiments.catalog import EXPERIMENTS
from moemui.tables import table as tables
from moemui.tables.experiments import EXPERIMENT_TABLES

pytestmark = pytest.mark.slow
ALL = ("experiments", *SMOKE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which all experiments have been run at their smallest."""
    folder = copy_project(tmp_path_factory.mktemp("experiments"))
    file = folder / "config" / FILE
    file.write_text(yaml.safe_dump(tiny(yaml.safe_load(file.read_text())), sort_keys=False, allow_unicode=True))
    run = snakemake(folder, *ALL, env=listening(folder))
    assert run.returncode == 0, run.stdout[-4000:]
    return folder


def read(folder, experiment, name):
    return tables.read(folder / f"results/smoke/experiments/{experiment}/{name}.parquet", EXPERIMENT_TABLES[name])


def planned(folder):
    run = snakemake(folder, "-n", *ALL)
    assert run.returncode == 0, run.stdout[-4000:]
    return planned_jobs(run.stdout)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_its_tables_and_a_decision_on_each_hypothesis(finished, experiment):
    plan = yaml.safe_load((finished / "config" / FILE).read_text())["experiments"][experiment]
    measured = read(finished, experiment, "measurements")
    assert sorted(set(measured["seed"])) == plan["seeds"]
    assert set(measured["quantity"]) <= set(EXPERIMENTS[experiment].QUANTITIES)
    assert set(read(finished, experiment, "experiment_effects")["effect"]) == set(EXPERIMENTS[experiment].EFFECTS)
    decisions = read(finished, experiment, "experiment_decisions").set_index("hypothesis")
    assert list(decisions.index) == list(plan["hypotheses"])
    assert set(decisions["decision"]) <= {"confirmed", "refuted", "undecided"}
    assert (decisions["runs_before_rule"] == 0).all()
    if len(plan["seeds"]) < 3:  # no interval, no decision
        assert set(decisions["decision"]) == {"undecided"}
        assert (decisions["note"] != "").all()


def test_three_seeds_have_intervals(finished):
    effects = read(finished, "turnover", "experiment_effects")
    known = effects[effects["n_seeds"] == 3]
    assert len(known)
    assert (known["mean_low"] <= known["mean"]).all()
    assert (known["mean"] <= known["mean_high"]).all()


def test_the_page_names_every_experiment(finished):
    page = (finished / "results/smoke/experiments.html").read_text()
    plans = yaml.safe_load((finished / "config" / FILE).read_text())["experiments"]
    assert [name for name in plans if f'id="{name}"' not in page] == []
    assert list((finished / "results/smoke/experiments/figures").glob("*.svg"))


def test_finished_experiments_are_not_run_again_and_an_unfinished_one_goes_on_at_the_seed_that_is_missing(finished):
    """As after a kill: a seed and what would have been made of it are not there."""
    assert planned(finished) == {}
    results = finished / "results/smoke"
    lost = [results / "experiments/turnover" / name for name in ("seed-1/measurements.parquet", "measurements.parquet")]
    lost += [results / "experiments.html", results / "experiments/tracking.json"]
    for file in lost:
        file.rename(file.with_suffix(".away"))
    try:
        jobs = planned(finished)
    finally:
        for file in lost:
            file.with_suffix(".away").rename(file)
    once = {"measure_experiment": 1, "experiment_decisions": 1, "experiments_page": 1, "experiments_tracking": 1}
    assert {rule: count for rule, count in jobs.items() if rule != "experiments"} == once


def test_one_more_seed_trains_and_measures_that_seed(finished):
    file = finished / "config" / FILE
    before = file.read_text()
    config = yaml.safe_load(before)
    config["experiments"]["training_signal"]["seeds"].append(9)
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    try:
        jobs = planned(finished)
    finally:
        file.write_text(before)
    assert jobs["measure_experiment"] == jobs["experiment_decisions"] == 1
    assert "cohort" not in jobs  # it trains its own models


def test_every_job_is_a_run_in_mlflow_with_its_numbers(finished):
    listed = json.loads((finished / "results/smoke/experiments/tracking.json").read_text())["records"]
    records = sorted((finished / "results/smoke/records/experiments").rglob("*.json"))
    names = {path.relative_to(finished).as_posix() for path in records} - {
        "results/smoke/records/experiments/tracking.json"
    }
    assert names == set(listed)
    client = MlflowClient(f"sqlite:///{finished}/results/mlflow/mlflow.db")
    measured, judged = (
        client.get_run(listed[f"results/smoke/records/experiments/turnover/{name}.json"]["run_id"])
        for name in ("seed-0", "decisions")
    )
    assert {measured.info.status, judged.info.status} == {"FINISHED"}
    rows = read(finished, "turnover", "measurements")
    last = rows[(rows["seed"] == 0) & (rows["quantity"] == "union") & (rows["task"] == "") & (rows["part"] == "")]
    assert measured.data.metrics["last.union"] == last.set_index("step")["value"][60]
    seeds = read(finished, "turnover", "experiment_seeds").dropna(subset="value")
    names = [f"seeds.{row.effect}.{row.seed}" for row in seeds.itertuples()]
    assert len(names) > 3
    assert [judged.data.metrics[name] for name in names] == seeds["value"].tolist()
    assert {f"effects.{effect}" for effect in EXPERIMENTS["turnover"].EFFECTS} <= {
        *judged.data.metrics, *(param.removeprefix("metric.") for param in judged.data.params),
    }  # fmt: skip


def test_what_jobs_import_counts_in_their_digest(finished):
    by_name = {"measure_experiment.py": "*/measure.py", "judge_experiment.py": "*/effects.py"}
    for script, files in imported(finished).items():
        folders = (_code.SCRIPTS / "moemui/experiments").glob(by_name[script]) if script in by_name else ()
        roots = [_code.SCRIPTS / script, *(file for path in folders for file in (path, path.with_name("__init__.py")))]
        closure = set().union(*map(_code._closure, roots))
        assert files <= {path.relative_to(_code.SCRIPTS).as_posix() for path in closure}, script


@pytest.mark.parametrize(
    ("modules", "measured", "judged"),
    [
        (["turnover/__init__.py"], 3, 1),
        (["turnover/measure.py"], 3, 1),
        (["causal_generalization/neuron_weights.py", "shared_load/measure.py"], 2, 2),
        (["turnover/effects.py"], 0, 1),
        (["turnover/pictures.py"], 0, 0),
    ],
)
def test_a_change_in_an_experiments_folder_runs_what_depends_on_it_and_of_no_other(finished, modules, measured, judged):
    """Of three seeds of turnover, one of the others; then the page and the runs in MLflow."""
    folder = finished / "scripts/moemui/experiments"
    before = {folder / module: (folder / module).read_text() for module in modules}
    for file, text in before.items():
        file.write_text(text + "\nCHANGED = True\n")
    try:
        jobs = planned(finished)
    finally:
        for file, text in before.items():
            file.write_text(text)
    again = {"measure_experiment": measured, "experiment_decisions": judged}
    expected = {rule: count for rule, count in again.items() if count} | {"experiments_page": 1}
    assert {rule: count for rule, count in jobs.items() if rule != "experiments"} == {
        **expected, "experiments_tracking": 1,
    }  # fmt: skip


def test_another_rule_is_judged_without_measuring_and_says_that_it_came_after(finished):
    """Last of those that read this folder's results, for it changes them."""
    file = finished / "config" / FILE
    config = yaml.safe_load(file.read_text())
    rule = next(iter(config["experiments"]["turnover"]["hypotheses"].values()))
    rule["confirmed"], rule["refuted"] = {"above": 2.0}, {"below": 2.0}
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    run = snakemake(finished, "turnover", *SMOKE)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "measure_experiment" not in planned_jobs(run.stdout)
    decisions = read(finished, "turnover", "experiment_decisions")
    assert decisions.iloc[0]["decision"] == "refuted"
    assert (decisions["runs_before_rule"] == 3).all()
