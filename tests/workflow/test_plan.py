"""The cost plan: jobs as Snakemake counts them, bytes and seconds beside real ones, what it says when it can't know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import made_up_records
import pytest
import yaml
from workflow.conftest import STUDIES, copy_project, copy_study, local_models, planned_jobs, snakemake

from _plan import making, measured
from _plan.facts import Facts, Job
from _plan.forecast import Forecast, stage_of
from _plan.measured import Measured
from _study import Study
from plan import findings

# No way out: whoever asks the network fails at once.
ALONE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}


def call(folder, *words):
    """scripts/plan.py in a folder; without --quick it asks lm_eval and transformers."""
    return subprocess.run(
        [sys.executable, "scripts/plan.py", *words],
        cwd=folder,
        env=os.environ | ALONE,
        capture_output=True,
        text=True,
        check=False,
    )


def plan(folder, *words):
    """What plan.json holds."""
    run = call(folder, *words, "--quick", "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def by_stage(found):
    return {row["stage"]: row for row in found["stages"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("planned"))
    local_models(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("config", STUDIES)
def test_jobs_are_those_of_a_dry_run(project, config):
    run = snakemake(project, "-n", "--configfile", f"config/{config}")
    expected = Counter()
    for rule, count in planned_jobs(run.stdout).items():
        expected[stage_of(rule)] += count
    found = plan(project, f"config/{config}")
    assert {row["stage"]: row["jobs"] for row in found["stages"]} == dict(expected)
    assert all(row["done"] == 0 for row in found["stages"])
    assert len(found["jobs"]) == sum(expected.values())


@pytest.mark.slow
def test_before_the_smoke_study_disk_and_memory_are_near_what_comes(project, smoke):
    cold = plan(project, "config/smoke.yaml", "--cores", "2")
    found = measured.compare(cold["jobs"], measured.finished(smoke / "results/smoke"))
    whole = measured.total(found)
    assert whole.finished == whole.jobs == len(cold["jobs"])
    assert 1 / 1.5 < whole.bytes / whole.predicted_bytes < 1.5
    stages = {row.stage: row for row in found}
    # Stores of a few kB are mostly headers, which are estimated high.
    assert 1 / 3 < stages["contributions"].bytes / stages["contributions"].predicted_bytes < 1.5
    for stage in ("train", "key_neurons", "responses", "model_experts"):
        assert 1 / 1.5 < stages[stage].bytes / stages[stage].predicted_bytes < 1.5, stage
    for stage in ("train", "responses", "contributions", "masking"):
        asked = by_stage(cold)[stage]["asked_mb"]
        assert stages[stage].memory_mb < asked, stage
    assert "constants measured on the embedded study" in by_stage(cold)["train"]["basis"][0]
    assert "sorting: 40 samples (the limit) of 15 prompt and 6 response tokens (assumed)" in cold["assumed"]
    assert cold["unknown"] == []


@pytest.mark.slow
def test_a_finished_study_is_done_and_compared_with_what_was_said_before(smoke, tmp_path):
    folder = copy_study(smoke, tmp_path / "study")
    cold = plan(folder, "config/smoke.yaml")
    assert sum(row["done"] for row in cold["stages"]) == sum(row["jobs"] for row in cold["stages"]) == len(cold["jobs"])
    assert cold["assumed"] == []  # all responses are there
    # The jobs finished before there was a plan: they are predicted as if nothing were known of them.
    job = "smoke-olmoe/train"
    record = json.loads((folder / f"results/smoke/records/{job}.json").read_text())
    assert cold["jobs"][job]["seconds"] != pytest.approx(record["seconds"])
    # One checkpoint more: its jobs and the aggregates are left to do, at the speed of this study's own ones.
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    model = config["models"]["smoke-olmoe"]  # whose list of checkpoints is the other model's, too
    model["checkpoints"] = [{"name": "step-30", "step": 30}, *model["checkpoints"]]
    (folder / "more.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    said = {**cold["jobs"][job], "seconds": 12345.0}
    (folder / "results/smoke/plan.json").write_text(json.dumps({**cold, "jobs": {job: said}}))
    more = plan(folder, "more.yaml")
    stages = by_stage(more)
    assert (stages["responses"]["jobs"], stages["responses"]["done"]) == (7, 6)
    assert (stages["train"]["jobs"], stages["train"]["done"]) == (2, 2)
    assert stages["responses"]["basis"] == ["this study's records, 6 jobs"]
    took = [
        json.loads(path.read_text())["seconds"] for path in folder.glob("results/smoke/records/*/*/responses*.json")
    ]
    low, high = stages["responses"]["elapsed"]
    assert low < sum(took) / len(took) < high
    assert more["jobs"][job] == said  # what was said of a job that has finished stays
    shown = call(folder, "config/smoke.yaml", "--compare")
    assert shown.returncode == 0, shown.stderr
    assert "smoke: measured beside predicted, over finished jobs" in shown.stdout


@pytest.mark.slow
def test_what_is_not_known_is_said_and_nothing_is_made_up(project):
    config = yaml.safe_load((project / "config/published.yaml").read_text())
    sized = [name for name, model in config["models"].items() if "hold" not in model and model.pop("parameters")]
    for name, parameters in (("Qwen1.5-MoE", 1.43e10), ("Qwen3-Next", 7.97e10)):
        config["models"][name]["parameters"] = parameters
    (project / "unsized.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    found = plan(project, "unsized.yaml")
    rows = {row["model"]: row for row in found["models"]}
    assert rows["Qwen3-Next"]["weight_bytes"] == 2 * 7.97e10
    assert (rows["Qwen3-Next"]["gpus"], rows["Qwen3-Next"]["basis"]) == (3, "parameters in the configuration")
    assert {rows["OLMoE"][key] for key in ("parameters", "basis", "weight_bytes", "neurons", "mem_mb")} == {None}
    assert any("OLMoE" in line and "how large these models are" in line for line in found["unknown"])
    assert any("Qwen3-Next" in line and "which layers" in line for line in found["unknown"])
    stages = by_stage(found)
    assert stages["contributions"]["unknown_jobs"] == len(sized) - 2
    assert stages["contributions"]["unknown_disk"] == len(sized)
    assert "not measured" in stages["contributions"]["basis"][0]
    assert any("HumanEval: 1000 samples (assumed, there is no limit)" in line for line in found["assumed"])
    shown = call(project, "unsized.yaml", "--quick").stdout
    assert f"+ {len(sized) - 2} jobs" in shown
    assert "Not known, and left out above:" in shown


@pytest.mark.slow
def test_a_finding_of_the_doctor_and_a_config_on_this_machine_say_more(project, tmp_path):
    import tiny_models
    from moemui.models.doctor import outline

    tiny_models.build("olmoe").save_pretrained(tmp_path / "model")
    known = outline(tmp_path / "model")
    finding = known.to_dict() | {"forward_speed": 1000.0, "device": "a test"}
    (tmp_path / "finding.json").write_text(json.dumps(finding))
    config = yaml.safe_load((project / "config/olmoe.yaml").read_text())
    config |= {"study": "doctored", "resources": {}}
    (project / "doctored.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    found = plan(project, "doctored.yaml", "--doctor", f"OLMoE-1B-7B={tmp_path / 'finding.json'}")
    (row,) = found["models"]
    assert (row["parameters"], row["neurons"]) == (known.parameters, 3 * 8 * 24)
    assert by_stage(found)["responses"]["basis"] == ["the doctor's measure of OLMoE-1B-7B on a test"]
    assert found["unknown"] == []
    assert by_stage(found)["contributions"]["disk"] > 0
    assert row["basis"] == "the doctor's finding"  # which knows more than `parameters` in the configuration
    wrong = call(project, "doctored.yaml", "--doctor", "OLMoE=x.json")
    assert wrong.returncode == 2
    assert "--doctor is 'OLMoE=x.json'; it is MODEL=FILE, with a model among ['OLMoE-1B-7B']" in wrong.stderr


def test_mistakes_end_in_one_sentence(project, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    run = call(project, "config/smoke.yaml", "--quick", "--like", str(empty))
    assert run.returncode == 2
    assert run.stderr == (
        f"plan: {empty} has no records of finished jobs; name the results folder of a study that ran\n"
    )
    (tmp_path / "bad.yaml").write_text("study: x\nmodels: {}\ntasks: {}\n")
    run = call(project, str(tmp_path / "bad.yaml"))
    assert run.returncode == 2
    assert run.stderr.startswith("plan: models: found {}")


def of_job(name, stage, seconds, predicted):
    return Measured(name, stage, seconds, predicted, memory_mb=100.0 + seconds, bytes=1000 * seconds)


def test_own_records_come_before_another_studys():
    own = [of_job("a", "train", 30.0, 10.0), of_job("b", "train", 50.0, 10.0), of_job("c", "laws", 1.0, None)]
    other = [of_job("x", "train", 1.0, 10.0), of_job("y", "masking", 20.0, 40.0), of_job("z", "laws", 6.0, 2.0)]
    assert measured.factors(own, other, "OTHER") == {
        "train": (4.0, 1.3, "this study's records, 2 jobs"),
        "masking": (0.5, 2.0, "measured in OTHER, 1 job"),
        "laws": (3.0, 2.0, "measured in OTHER, 1 job"),
    }
    assert measured.factors([], [], "OTHER") == {}


def test_a_comparison_is_over_finished_jobs_and_knows_what_was_not_predicted():
    def said(stage, seconds, disk=500.0, memory_mb=100.0):
        return {"stage": stage, "seconds": seconds, "disk": disk, "memory_mb": memory_mb}

    planned = {
        "a": said("train", 10.0),
        "b": said("train", 20.0, memory_mb=300.0),
        "c": said("masking", None, None, None),
        "d": said("report", 5.0),
    }
    came = [
        of_job("a", "train", 30.0, None),
        of_job("c", "masking", 4.0, None),
        of_job("else", "laws", 9.0, None),
    ]
    train, masking, report = found = measured.compare(planned, came)
    assert (train.jobs, train.finished, train.predicted_seconds, train.seconds) == (2, 1, 10.0, 30.0)
    assert (train.predicted_bytes, train.bytes, train.predicted_memory_mb, train.memory_mb) == (500, 30_000, 100, 130)
    assert (masking.predicted_seconds, masking.seconds, masking.predicted_memory_mb) == (None, 4.0, None)
    assert (report.jobs, report.finished, report.seconds) == (1, 0, 0)
    whole = measured.total(found)
    assert (whole.jobs, whole.finished) == (4, 2)
    assert (whole.predicted_seconds, whole.seconds) == (10.0, 30.0)  # masking is on neither side
    assert measured.compare({}, came) == []


def test_records_tell_seconds_memory_and_the_bytes_that_still_lie_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = made_up_records.RESULTS
    table = made_up_records.write(results / "tables/x.parquet", "0" * 1234)
    made_up_records.write(
        results / "records/enrichment.json",
        made_up_records.record(
            1, stage="enrichment", seconds=33.0, inputs={str(table): "?"}, outputs={str(table): "?", "gone": "?"}
        ),
    )
    moved = tmp_path / "elsewhere" / results.name
    results.rename(moved.parent.mkdir() or moved)
    (found,) = measured.finished(moved)
    assert (found.name, found.stage, found.seconds, found.memory_mb) == ("enrichment", "enrichment", 33.0, 120.5)
    assert found.bytes == 1234
    assert found.predicted == pytest.approx(2.3 + 7.2 * 0.001234)
    assert measured.finished(Path("nowhere")) == []


def test_a_file_from_outside_is_no_result_because_a_folder_is_called_so():
    results = Path("results/mine")
    assert measured.there(Path("/moved/mine"), "results/mine/m/c/x.json") == Path("/moved/mine/m/c/x.json")
    assert measured.there(results, "/home/mine/models/a.safetensors") == Path("/home/mine/models/a.safetensors")
    assert measured.there(results, "data/given.jsonl") == Path("data/given.jsonl")


STUDY = {
    "study": "cut",
    "models": {"m": {"source": {"hub": "a/b"}, "parameters": 1e9, "checkpoints": [{"name": "c", "revision": "x"}]}},
    "tasks": {"t": {"lm_eval": "arc_easy", "domain": "d", "limit": 7, "include": "."}},
}


def test_cut_files_are_planned_as_if_they_were_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results, study = Path("results/cut"), Study(STUDY)
    job = Job("contributions_t", "contributions", "m/c/contributions_t", False, "m", "c", "t")
    expected = Forecast(Facts(study, results)).predict(job)
    task = results / "m/c/t"
    cut = [
        made_up_records.write(file, '{"prompt_ids": [1, 2')
        for file in (
            *(results / "m/c/checkpoint.json", task / "responses.jsonl", task / "contributions.zarr/manifest.json"),
            task / "contributions.zarr/zarr.json",
        )
    ]
    facts = Facts(study, results, structure=lambda config, gguf: [])
    assert facts.given("m", "c", "t") is None
    assert facts.layers("m") == (None, "its config.json is not here")
    assert Forecast(facts).predict(job) == expected
    params = {"loading": {"dtype": "bfloat16"}, "options": study.scoring(), "shard": [1, 1]}
    inputs = {str(path): "?" for path in cut[:2]}
    made_up_records.write(
        results / "records/contributions.json",
        made_up_records.record(
            1, stage="contributions_t", params=params, inputs=inputs, outputs={str(task / "contributions.zarr"): "?"}
        ),
    )
    (found,) = measured.finished(results)
    assert found.predicted is None
    # A whole checkpoint beside cut responses.
    pinned = {"path": "elsewhere", "gguf": None, "files": {"model.safetensors": {"bytes": 2e9}}}
    made_up_records.write(cut[0], json.dumps(pinned))
    (found,) = measured.finished(results)
    assert found.predicted is None


@pytest.mark.parametrize("content", ['{"jobs": {"a"', "[1]", "{}"])
def test_a_damaged_plan_or_finding_is_named(tmp_path, content):
    file = made_up_records.write(tmp_path / "plan.json", content)
    with pytest.raises(ValueError, match=f"^{file} is no plan; delete it and plan again$"):
        making.earlier(tmp_path)
    if content != "{}":
        with pytest.raises(ValueError, match=f"^{file} is no finding of the doctor; make it with scripts/doctor.py"):
            findings([f"m={file}"], Study(STUDY))
    file.unlink()
    assert making.earlier(tmp_path) is None
