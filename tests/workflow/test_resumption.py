"""Extraction that is killed, or finds its disk full, goes on where it was and ends in the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import made_up_scores
import psutil
import pytest
from workflow.conftest import ROOT, copy_project, snakemake

import tiny_models
from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.models.synthetic import build_tokenizer
from moemui.scores import disk, extraction, store

NAMES = [f"q{i}" for i in range(7)]
# Two tasks in chunks of two samples, in a process that kills itself at the n-th time it is about to change something in
# its folder. Every n is tried in a child of its own, then a second child does the rest, and says what it scored.
SWEEP = """
import json, os, signal, sys
from pathlib import Path

import made_up_scores
from moemui.scores import extraction

os.fsync = lambda descriptor: None  # a killed process loses nothing that it wrote
CHANGES = {{"os.rename", "os.remove", "os.mkdir", "os.rmdir"}}


def work(folder, scored):
    rows = made_up_scores.records({names})
    tasks = [extraction.Task(rows, folder / f"{{name}}.zarr", {{"task": name}}) for name in "ab"]
    with open(scored, "a") as log:
        scorer = made_up_scores.Scorer(log=lambda names: print(names, file=log, flush=True))
        extraction.extract_all(scorer, tasks, chunk_samples=2)


def child(folder, scored, deadly):
    number = os.fork()
    if number:
        return os.waitpid(number, 0)[1]
    left = deadly

    def hook(event, arguments):
        nonlocal left
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or opened) and str(folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if deadly:
        sys.addaudithook(hook)
    work(folder, scored)
    os._exit(0)


base, step = Path(sys.argv[1]), int(sys.argv[2])
deadly = 1
while True:
    folder = base / str(deadly)
    folder.mkdir()
    killed = child(folder, base / f"{{deadly}}.first", deadly) == signal.SIGKILL
    assert child(folder, base / f"{{deadly}}.second", 0) == 0
    print(json.dumps([deadly, killed]), flush=True)
    if not killed:
        break
    deadly += step
"""


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_ends_in_the_same_bytes(tmp_path):
    program = SWEEP.format(names=NAMES)
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "23"], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    runs = [json.loads(line) for line in run.stdout.splitlines()]
    assert [killed for _, killed in runs] == [*[True] * (len(runs) - 1), False]
    assert len(runs) > 15
    whole = content(tmp_path / str(runs[-1][0]))
    assert whole
    everything = lines(tmp_path / f"{runs[-1][0]}.first")
    assert len(everything) == 8  # four chunks of each task
    resumed = 0
    for deadly, _ in runs[:-1]:
        first, second = lines(tmp_path / f"{deadly}.first"), lines(tmp_path / f"{deadly}.second")
        assert content(tmp_path / str(deadly)) == whole, deadly
        # Only the chunk that was at work is scored twice, none is left out.
        assert len(first) + len(second) in (8, 9), deadly
        assert first == everything[: len(first)]
        assert second == everything[8 - len(second) :]
        resumed += len(second) < 8
    assert resumed > len(runs) / 2


WIDE = Geometry((Layer(0, 8, 0, 500, 0, 2),))


def test_a_full_disk_is_named_and_work_goes_on_when_there_is_room(tmp_path, small_disk):
    folder, rows, scored = small_disk(400_000), made_up_scores.records([f"q{i}" for i in range(40)]), []

    def extract(path):
        scorer = made_up_scores.Scorer(selections=["pairs"], threshold=0.5, geometry=WIDE, log=scored.append)
        return extraction.extract(scorer, rows, path, attributes={}, chunk_samples=4)

    with pytest.raises(
        disk.FullDiskError,
        match=r"^no room left for .*/disk/c\.zarr, which has [\d.]+ kB and needs [\d.]+ MB at most; make room and run "
        r"again, finished chunks are kept$",
    ):
        extract(folder / "c.zarr")
    assert 2 < len(scored) < 10
    with pytest.raises(store.IncompleteStoreError):
        store.Contributions(folder / "c.zarr")
    small_disk(50_000_000)
    quality = extract(folder / "c.zarr")
    assert quality.resumed_samples > 0
    assert len(scored) == 10 + 1  # the chunk that found no room was scored twice
    extract(tmp_path / "whole.zarr")
    assert content(folder / "c.zarr") == content(tmp_path / "whole.zarr")


STUDY = """
study: own
models:
  my-llama:
    source: {path: model}
    checkpoints: [{name: main}]
    dtype: float32
tasks:
  given: {responses: given.jsonl, domain: general}
contributions: {thresholds: [0.05, 0.2], chunk_samples: 1, shards: SHARDS}
analysis: {threshold: 0.05}
masking: {checkpoints: none}
"""
SAMPLES = 60
STORE = Path("results/own/my-llama/main/given/contributions.zarr")
PART = STORE.with_name(".part-contributions.zarr")
RECORD = Path("results/own/records/my-llama/main/contributions_given.json")
LOG = Path("results/own/logs/my-llama/main/contributions_given.log")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study of one's own model on given responses, and its store as it is when nothing comes in between."""
    folder = copy_project(tmp_path_factory.mktemp("killed"))
    model = tiny_models.build("llama")
    model.resize_token_embeddings(len(build_tokenizer()))
    model.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    letters = "abcdefgh"
    given = [
        {"prompt": f"Question: sort {letters[i % 8]} a\nAnswer:", "response": " a b c"[: 2 * (i % 4)]}
        for i in range(SAMPLES)
    ]
    (folder / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given))
    for shards in (1, 3):
        (folder / f"shards{shards}.yaml").write_text(STUDY.replace("SHARDS", str(shards)))
    run = snakemake(folder, "key_neurons", "--configfile", "shards1.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    return folder, without_stamp(content(folder / STORE))


def without_stamp(files):
    return {name: data for name, data in files.items() if name != ".snakemake_timestamp"}


def metrics(folder):
    return json.loads((folder / RECORD).read_text())["metrics"]


@pytest.mark.slow
def test_the_record_and_the_log_say_how_it_went(made):
    folder, _ = made
    found = metrics(folder)
    assert (found["samples"], found["empty_responses"], found["resumed_samples"]) == (SAMPLES, SAMPLES // 4, 0)
    assert found["bytes"] <= found["most_bytes"]
    assert found["bytes_per_response_token"] == found["bytes"] / found["response_tokens"]
    log = (folder / LOG).read_text()
    assert "15 of 60 responses are empty, so their key sets are, too: 0, 4, 8, 12, 16 and 10 more" in log
    assert "contributions will take about" in log
    assert f"contributions_given my-llama main: {SAMPLES}/{SAMPLES}, " in log
    assert "response tokens/s" in log
    attributes = store.Contributions(folder / STORE).attributes
    assert attributes["code"] == json.loads((folder / RECORD).read_text())["params"]["code"]
    assert (attributes["model"], attributes["checkpoint"], attributes["task"]) == ("my-llama", "main", "given")


@pytest.mark.slow
def test_a_job_killed_in_the_middle_goes_on_in_the_next_run(made):
    folder, whole = made
    shutil.rmtree(folder / STORE)
    (folder / RECORD).unlink()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "contributions", "--configfile", "shards1.yaml"]
    run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (folder / PART / ".journal/3.json").exists():
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.002)
    for process in psutil.Process(run.pid).children(recursive=True):
        if any("extract_contributions" in word for word in process.cmdline()):
            process.kill()
    output, _ = run.communicate()
    assert run.returncode == 1, output[-3000:]
    assert not (folder / STORE).exists()
    assert not (folder / RECORD).exists()
    finished = len(list((folder / PART / ".journal").glob("[0-9]*.json")))
    assert 4 <= finished < SAMPLES
    again = snakemake(folder, "contributions", "--configfile", "shards1.yaml")
    assert again.returncode == 0, again.stdout[-4000:]
    assert without_stamp(content(folder / STORE)) == whole
    assert not (folder / PART).exists()
    assert metrics(folder)["resumed_samples"] == finished
    assert f"{finished} of {SAMPLES} chunks are finished; going on with the others" in (folder / LOG).read_text()


@pytest.mark.slow
def test_shards_are_jobs_of_their_own_and_give_the_same_key_neurons(made):
    folder, _ = made
    file = folder / STORE.with_name("key_neurons.h5")
    before = file.read_bytes()
    run = snakemake(folder, "key_neurons", "--configfile", "shards3.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    paths = [folder / STORE.with_name(f"contributions-{number}-of-3.zarr") for number in (1, 2, 3)]
    assert [len(store.Contributions(path).sample_ids) for path in paths] == [20, 20, 20]
    assert file.read_bytes() == before
    assert key_neurons.read(file).samples.n == SAMPLES


@pytest.mark.slow
def test_a_full_disk_ends_a_job_in_one_sentence_and_it_goes_on_with_room(made, small_disk, tmp_path):
    source, whole = made
    folder = tmp_path / "project"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    (folder / "results").mkdir()
    small_disk(2_500_000, folder / "results")
    run = snakemake(folder, "contributions", "--configfile", "shards1.yaml")
    assert run.returncode == 1
    assert f"contributions_given my-llama main failed: no room left for {PART}, which has" in run.stdout
    assert "make room and run again, finished chunks are kept" in run.stdout
    assert not (folder / STORE).exists()
    small_disk(100_000_000, folder / "results")
    run = snakemake(folder, "contributions", "--configfile", "shards1.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    assert metrics(folder)["resumed_samples"] > 0
    assert without_stamp(content(folder / STORE)) == whole
