"""A study whose stores go to S3: the same key neurons, no credentials anywhere, and nothing rerun by the move."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import s3_server
import typer
import yaml
from workflow.conftest import copy_project, planned_jobs, snakemake

import move_stores
import tiny_models
from _study import Study, StudyError
from moemui.models.synthetic import build_tokenizer
from moemui.scores import journal, store

STORAGE = f"s3://{s3_server.BUCKET}/studies"
TASK = Path("results/own/my-llama/main/given")
STUDY = {
    "study": "own",
    "models": {"my-llama": {"source": {"path": "model"}, "checkpoints": [{"name": "main"}], "dtype": "float32"}},
    "tasks": {"given": {"responses": "given.jsonl", "domain": "general"}},
    "contributions": {"thresholds": [0.05, 0.2], "chunk_samples": 4},
    "analysis": {"threshold": 0.05},
    "masking": {"checkpoints": "none"},
}


@pytest.fixture(scope="module")
def server():
    found = s3_server.Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found
    found.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study on given responses, run to its key neurons without S3: its folder, store and key neurons."""
    folder = copy_project(tmp_path_factory.mktemp("remote"))
    model = tiny_models.build("llama")
    model.resize_token_embeddings(len(build_tokenizer()))
    model.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    given = [{"prompt": f"Question: sort {'abcdefgh'[i % 8]} a\nAnswer:", "response": " a b c"} for i in range(12)]
    (folder / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given))
    for name, options in {
        "local": {},
        "s3": {"storage": STORAGE},
        "s3-shards": {"storage": f"{STORAGE}/", "shards": 2},
    }.items():
        study = STUDY | {"contributions": STUDY["contributions"] | options}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
    run = snakemake(folder, "key_neurons", "--configfile", "local.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    task = folder / TASK
    return folder, content(task / "contributions.zarr"), (task / "key_neurons.h5").read_bytes()


def content(folder):
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".snakemake_timestamp")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def planned(folder, config, *words):
    return planned_jobs(snakemake(folder, "key_neurons", "--configfile", f"{config}.yaml", "-n", *words).stdout)


def only_metadata(wanted):
    return sorted({*(name for name in wanted if name.endswith(".json")), "where.json"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "FILE has no contributions.storage; set it to s3://bucket/prefix"),
        ({"storage": STORAGE}, "results/own has no finished contributions; call this where snakemake is called"),
    ],
)
def test_nothing_to_move_is_no_success(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "given.jsonl").write_text("")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"contributions": STUDY["contributions"] | options}))
    with pytest.raises(typer.Exit) as ended:
        move_stores.main(file, Path("results"))
    told = capsys.readouterr()
    assert (ended.value.exit_code, told.out) == (2, "")
    assert told.err == f"move_stores: {said.replace('FILE', str(file))}\n"


@pytest.mark.slow
def test_a_study_moves_to_s3_without_any_job(made, server, tmp_path):
    folder, wanted, _ = made
    moved = tmp_path / "project"
    shutil.copytree(folder, moved, symlinks=True, copy_function=shutil.copy2)
    assert planned(moved, "s3") == {}
    run = subprocess.run(
        [sys.executable, "scripts/move_stores.py", "local.yaml"], cwd=moved, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (
        2, "move_stores: local.yaml has no contributions.storage; set it to s3://bucket/prefix\n"
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "scripts/move_stores.py", "s3.yaml"], cwd=moved, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "1 stores of own lie on S3\n"), run.stderr
    assert sorted(content(moved / TASK / "contributions.zarr")) == only_metadata(wanted)
    assert server.content(f"{STORAGE}/{TASK}/contributions.zarr") == wanted
    assert planned(moved, "s3") == planned(moved, "local") == {}


@pytest.mark.slow
def test_a_study_on_s3_from_its_killed_upload_to_the_same_key_neurons(made, server):
    folder, wanted, key_neurons = made
    local = json.loads((folder / "results/own/records/my-llama/main/contributions_given.json").read_text())
    server.clear()
    killed, puts = [], []

    def kill_the_job(request):
        if request.startswith("PUT"):
            puts.append(request)
        if len(puts) == 12 and not killed:
            jobs = [
                process
                for process in psutil.Process(run.pid).children(recursive=True)
                if any("extract_contributions" in word for word in process.cmdline())
            ]
            killed.extend(process.pid for process in jobs)
            for process in jobs:
                process.kill()

    server.disturb = kill_the_job
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "contributions", "--configfile", "s3.yaml"]
    run = subprocess.Popen(
        [*command, "--forcerun", "contributions_given"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    run.communicate()
    server.disturb = lambda request: None
    assert killed
    assert run.returncode == 1
    url = f"{STORAGE}/{TASK}/contributions.zarr"
    assert "manifest.json" not in server.content(url)
    assert not (folder / TASK / "contributions.zarr").exists()
    again = snakemake(folder, "contributions", "key_neurons", "--configfile", "s3.yaml")
    assert again.returncode == 0, again.stdout[-4000:]
    record = json.loads((folder / "results/own/records/my-llama/main/contributions_given.json").read_text())
    assert record["metrics"]["resumed_samples"] == 12
    assert record["metrics"] | {"resumed_samples": 0} == local["metrics"]
    assert record["outputs"] == local["outputs"]
    assert record["params"]["urls"] == [url]
    pointer = folder / TASK / "contributions.zarr"
    assert sorted(content(pointer)) == only_metadata(wanted)
    assert server.content(url) == wanted
    assert (folder / TASK / "key_neurons.h5").read_bytes() == key_neurons
    journal.verify(pointer)
    assert record["outputs"][str(TASK / "contributions.zarr")] == hashlib.sha256(wanted["manifest.json"]).hexdigest()
    assert store.Contributions(url).sample_ids == store.Contributions(pointer).sample_ids
    assert "Nothing to be done" in snakemake(folder, "key_neurons", "--configfile", "s3.yaml").stdout
    written = [file for part in ("results", ".snakemake") for file in (folder / part).rglob("*") if file.is_file()]
    assert len(written) > 20
    for secret in (s3_server.SECRET.encode(), s3_server.KEY.encode()):
        assert not [file for file in written if secret in file.read_bytes()]
        assert secret.decode() not in again.stdout


@pytest.mark.slow
def test_shards_on_s3_give_the_key_neurons_of_the_undivided_store(made, server):
    folder, _, key_neurons = made
    run = snakemake(folder, "key_neurons", "--configfile", "s3-shards.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    for number in (1, 2):
        name = f"contributions-{number}-of-2.zarr"
        assert (folder / TASK / name / "where.json").is_file()
        assert "manifest.json" in server.content(f"{STORAGE}/{TASK}/{name}")
    assert (folder / TASK / "key_neurons.h5").read_bytes() == key_neurons


@pytest.mark.slow
def test_a_damaged_object_fails_the_job_that_reads_it(made, server):
    folder, _, _ = made
    url = f"{STORAGE}/{TASK}/contributions-2-of-2.zarr"
    name = next(name for name in server.content(url) if name.endswith("projection/pairs/score/c/0/0/0"))
    server.fill(url, {name: server.content(url)[name][:-4] + b"\0\0\0\1"})
    run = snakemake(folder, "key_neurons", "--configfile", "s3-shards.yaml", "--forcerun", "key_neurons_given")
    assert run.returncode == 1
    assert f"failed: {url}/{name} is not the file that was written; delete " in run.stdout


@pytest.mark.parametrize(
    "storage",
    ["/data", "s3://b", f"s3://{s3_server.KEY}:{s3_server.SECRET}@bucket/x", f"s3://bucket?{s3_server.SECRET}"],
)
def test_a_bad_address_is_refused_without_repeating_a_secret(made, monkeypatch, storage):
    monkeypatch.chdir(made[0])
    with pytest.raises(
        StudyError, match=r"^contributions.storage is .*; allowed is s3://bucket/prefix, while"
    ) as caught:
        Study(STUDY | {"contributions": STUDY["contributions"] | {"storage": storage}})
    assert s3_server.SECRET not in str(caught.value)
