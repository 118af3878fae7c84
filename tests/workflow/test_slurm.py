"""A study on a real SLURM, with the profile and the plugin that people use: every job, one of them cancelled."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
import yaml
from workflow.conftest import copy_project

from slurm.loopback import CONFIG, Cluster, NoClusterError, cluster

pytestmark = [pytest.mark.slow, pytest.mark.system]
PROFILE = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "config/profiles/slurm/config.yaml").read_text(encoding="utf-8")
)
GROUPED = set(PROFILE["groups"])
LOCAL = {"task_data", "checkpoint", "tracking"}  # what rules declare local: it runs where snakemake does
ASKED = {"mem_mb": 3100, "runtime": 37, "gpus": 1}
NAP = "3456"
CANCELLED = "contributions_synthetic-2-of-2"
# The profile as it is, with another way to ask for a job's state (there is no accounting here) and asked sooner.
FLAGS = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "4")


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """A cluster; the test is skipped where there can be none."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(cluster(folder))
        except NoClusterError as missing:
            pytest.skip(str(missing))
        yield running


def naps() -> list[psutil.Process]:
    """The processes of a job that sleeps."""
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", NAP]]


def fail_while_a_job_runs(folder: Path) -> None:
    with started(folder) as running:
        assert {"munged", "slurmctld", "slurmd"} <= {process.name() for process in psutil.Process().children()}
        running.ask("sbatch", "--output=/dev/null", "--wrap", f"exec sleep {NAP}")
        while not naps():
            time.sleep(0.1)
        raise ZeroDivisionError


def test_a_cluster_leaves_nothing_behind_even_after_a_failure(tmp_path):
    before = {path.name for path in CONFIG.parent.glob("*")}
    with pytest.raises(ZeroDivisionError):
        fail_while_a_job_runs(tmp_path)
    assert {path.name for path in CONFIG.parent.glob("*")} <= before
    assert not CONFIG.exists()
    assert not {"munged", "slurmctld", "slurmd"} & {process.name() for process in psutil.Process().children()}
    assert not naps()


class Run(NamedTuple):
    """The study run on SLURM, twice: until a job was cancelled, and to its end."""

    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]
    results: Path
    reference: Path  # results of the same study without SLURM and shards
    jobs: list[dict[str, str]]


def small_study(folder: Path, shards: int) -> None:
    """The smoke study with one model at one checkpoint; every stage is left."""
    study = yaml.safe_load((folder / "config/smoke.yaml").read_text(encoding="utf-8"))
    model = study["models"]["smoke-olmoe"]
    model["checkpoints"] = model["checkpoints"][-1:]
    model["resources"] = ASKED
    study["models"] = {"smoke-olmoe": model}
    study["contributions"].pop("variants")
    study["contributions"]["shards"] = shards
    (folder / "small.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def call(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--configfile", "small.yaml", *words],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def rule(job: dict[str, str]) -> str:
    """The rule of a SLURM job, or the group; the plugin writes it into the comment."""
    return job["Comment"].removeprefix("rule_").split("_wildcards_")[0]


def cancel(running: Cluster, study: subprocess.Popen[str], results: Path, name: str) -> None:
    """Cancel the job of a rule as soon as its script is at work."""
    while study.poll() is None:
        if list((results / "running").rglob(f"{name}/*.json")):
            running.ask("scancel", *(job["JobId"] for job in running.jobs() if rule(job) == name))
            return
        time.sleep(0.2)
    raise AssertionError(f"no job of {name} ran:\n{study.communicate()[0][-3000:]}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The study on SLURM."""
    folder, local = (copy_project(tmp_path_factory.mktemp(name)) for name in ("study", "local"))
    small_study(folder, shards=2)
    small_study(local, shards=1)
    with started(tmp_path_factory.mktemp("slurm")) as running:
        words = ("--workflow-profile", "config/profiles/slurm", *FLAGS)
        study = call(folder, *words, **running.environment)
        reference = call(local, "--cores", "1")
        cancel(running, study, folder / "results/smoke", CANCELLED)
        first = ended(study)
        second = ended(call(folder, *words, **running.environment))
        assert second.returncode == 0, second.stdout[-4000:]
        alone = ended(reference)
        assert alone.returncode == 0, alone.stdout[-4000:]
        return Run(first, second, folder / "results/smoke", local / "results/smoke", running.jobs())


def records(results: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "records").rglob("*.json"))]


def test_a_cancelled_job_fails_and_the_next_run_does_what_is_left(run):
    assert run.first.returncode == 1
    assert re.search(rf"Error in rule {CANCELLED}:(?s:.*)SLURM status is: 'CANCELLED'", run.first.stdout)
    states = Counter((rule(job), job["JobState"]) for job in run.jobs)
    assert states[CANCELLED, "CANCELLED"] == 1
    assert {job["JobState"] for job in run.jobs} == {"CANCELLED", "COMPLETED"}
    assert max(states.values()) == 1  # what had finished did not run again
    failures = [json.loads(path.read_text(encoding="utf-8")) for path in (run.results / "failures").rglob("*.json")]
    assert [(failure["stage"], failure["status"]) for failure in failures] == [(CANCELLED, "killed")]


def test_every_job_ran_in_slurm_but_the_local_ones(run):
    finished = {rule(job): job for job in run.jobs if job["JobState"] == "COMPLETED"}
    made = [record for record in records(run.results) if record["stage"] not in LOCAL]
    assert {record["stage"] for record in made} >= GROUPED
    group = next(name for name in finished if name.startswith("analysis"))
    assert set(finished) == {record["stage"] for record in made if record["stage"] not in GROUPED} | {group}
    for record in made:
        job = finished[group if record["stage"] in GROUPED else record["stage"]]
        start, end = (datetime.fromisoformat(job[key]).astimezone() for key in ("StartTime", "EndTime"))
        # SLURM gives whole seconds.
        assert start.timestamp() - 1 <= datetime.fromisoformat(record["started"]).timestamp()
        assert datetime.fromisoformat(record["ended"]).timestamp() <= end.timestamp() + 1


def test_jobs_ask_for_what_the_study_says(run):
    for job in run.jobs:
        if rule(job).startswith(("responses", "contributions", "masking")):
            found = job["MinMemoryNode"], job["TimeLimit"], job["TresPerJob"]
            assert found == (f"{ASKED['mem_mb']}M", "00:37:00", "gres:gpu:1")
        else:
            assert "TresPerJob" not in job, rule(job)
            assert job["TimeLimit"] != "UNLIMITED"
            assert job["MinMemoryNode"] not in ("0", "0M")
        assert int(job["NumCPUs"]) <= PROFILE["cores"]


def test_tables_are_those_of_a_run_without_slurm_and_shards(run):
    names = sorted(path.name for path in (run.reference / "tables").glob("*.parquet"))
    assert names == sorted(path.name for path in (run.results / "tables").glob("*.parquet"))
    assert len(names) > 20
    for name in names:
        found, expected = (pd.read_parquet(results / "tables" / name) for results in (run.results, run.reference))
        # How long training took is no result.
        timeless = [column for column in expected if (name, column) != ("training.parquet", "seconds")]
        pd.testing.assert_frame_equal(found[timeless], expected[timeless], check_exact=True, obj=name)


def test_every_job_is_a_run_in_mlflow(run):
    database = sqlite3.connect(run.results.parent / "mlflow/mlflow.db")
    rows = database.execute("select value from tags where key = 'stage'").fetchall()
    stages = Counter(stage for (stage,) in rows)
    expected = Counter(record["stage"] for record in records(run.results) if record["stage"] != "tracking")
    assert not expected - stages
    assert stages[CANCELLED] == 2  # the cancelled one, too
