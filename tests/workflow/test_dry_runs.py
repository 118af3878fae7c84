"""Every ready study dry-runs offline, and mistakes stop before any job."""

from __future__ import annotations

import pytest
import yaml
from workflow.conftest import ROOT, STUDIES, copy_project, local_models, planned_jobs, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("dry"))
    local_models(folder)
    return folder


@pytest.mark.parametrize("config", STUDIES)
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
        "sensitivity", "masking", "threshold_selection", "comparisons", "dynamics", "diversity", "laws",
        "diagnostics", "exports", "experiments", "report", "tracking",
    ]  # fmt: skip
    run = snakemake(project, *stages, "-n", "--configfile", "config/smoke.yaml")
    assert run.returncode == 0, run.stdout[-2000:]
    assert sorted(path.stem for path in (ROOT / "rules").glob("*.smk")) == sorted([*stages, "common"])


def test_every_shard_is_a_job_and_a_record(project):
    def planned(shards):
        config = yaml.safe_load((project / "config/smoke.yaml").read_text())
        config["contributions"]["shards"] = shards
        (project / "sharded.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        run = snakemake(project, "-n", "--configfile", "sharded.yaml")
        assert run.returncode == 0, run.stdout[-2000:]
        return planned_jobs(run.stdout), run.stdout

    one, _ = planned(1)
    three, output = planned(3)
    # every checkpoint under the main options, each model's first and last without gate weighting
    whole = {"contributions_synthetic": 6, "contributions_synthetic_no_gate": 4}
    assert whole.items() <= one.items()
    sharded = {f"{rule}-{number}-of-3": count for rule, count in whole.items() for number in (1, 2, 3)}
    assert three == {rule: count for rule, count in one.items() if rule not in whole} | sharded
    assert "records/smoke-olmoe/step-0/contributions_synthetic-2-of-3.json" in output


def test_a_mistake_stops_before_any_job_with_key_value_and_allowed_values(project):
    run = snakemake(project, "-n", "--config", "contributions={alignment: last}")
    assert run.returncode == 1
    assert "contributions.alignment: found 'last'; allowed are ['next_token', 'same_token']" in run.stdout
    assert "Traceback" not in run.stdout
