"""Every ready study dry-runs offline, and mistakes stop before any job."""

from __future__ import annotations

import pytest
from workflow.conftest import ROOT, copy_project, planned_jobs, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("dry"))


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_every_ready_study_dry_runs(project, config):
    run = snakemake(project, "-n", "--configfile", f"config/{config}")
    assert run.returncode == 0, run.stdout[-2000:]
    jobs = planned_jobs(run.stdout)
    assert jobs["report"] == jobs["tracking"] == 1
    assert jobs["checkpoint"] > 0


def test_the_default_is_the_embedded_study(project):
    assert "tiny-deepseek" in snakemake(project, "-n").stdout


def test_every_stage_is_a_target_of_its_own_name(project):
    stages = [
        "checkpoints", "responses", "contributions", "key_neurons", "utilization", "experts", "enrichment",
        "sensitivity", "masking", "dynamics", "report", "tracking",
    ]  # fmt: skip
    run = snakemake(project, *stages, "-n", "--configfile", "config/smoke.yaml")
    assert run.returncode == 0, run.stdout[-2000:]
    assert sorted(path.stem for path in (ROOT / "rules").glob("*.smk")) == sorted([*stages, "common"])


def test_a_mistake_stops_before_any_job_with_key_value_and_allowed_values(project):
    run = snakemake(project, "-n", "--config", "contributions={alignment: last}")
    assert run.returncode == 1
    assert "contributions.alignment: found 'last'; allowed are ['next_token', 'same_token']" in run.stdout
    assert "Traceback" not in run.stdout
