"""What surrounds a job: outputs appear whole or not at all, the log's end is shown, the record is complete."""

from __future__ import annotations

import hashlib
import json

import pytest
from workflow.conftest import ROOT, snakemake

SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})

rule work:
    input: given="given.txt"
    output: made="made.txt", folder=directory("folder"), record="record.json"
    log: "work.log"
    params: factor=3
    script: "work.py"
"""
SCRIPT = """
import sys
from pathlib import Path

from _job import run


def main(*, given: Path, made: Path, folder: Path, factor: int) -> dict:
    made.write_text(given.read_text() * factor)
    folder.mkdir()
    (folder / "part").write_text("x")
    print("working hard")
    {ending}
    return {{"length": len(made.read_text())}}


run(main)
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(ROOT / "scripts")))
    (tmp_path / "given.txt").write_text("ab")

    def start(ending="pass"):
        (tmp_path / "work.py").write_text(SCRIPT.format(ending=ending))
        return tmp_path, snakemake(tmp_path)

    return start


def test_a_job_leaves_its_outputs_and_a_record(job):
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"
    record = json.loads((folder / "record.json").read_text())
    assert record["stage"] == "work"
    assert record["params"] == {"factor": 3}
    assert record["metrics"] == {"length": 6}
    assert record["inputs"] == {"given.txt": hashlib.sha256(b"ab").hexdigest()}
    assert record["outputs"]["made.txt"] == hashlib.sha256(b"ababab").hexdigest()
    assert set(record["outputs"]) == {"made.txt", "folder"}
    assert (folder / "work.log").read_text() == "working hard\n"


def test_a_failing_job_leaves_nothing_and_shows_the_end_of_its_log(job):
    folder, run = job('raise ValueError("the reason")')
    assert run.returncode == 1
    assert "work failed: the reason" in run.stdout
    assert "| working hard" in run.stdout
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".snakemake")}
    assert left == {"Snakefile", "given.txt", "work.py", "work.log"}


def test_an_output_that_was_not_written_fails(job):
    folder, run = job("made.unlink()")
    assert run.returncode == 1
    assert "Error" in run.stdout
    assert not (folder / "record.json").exists()


def test_a_killed_job_leaves_nothing_that_looks_finished(job):
    folder, run = job("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run.returncode == 1
    assert not any((folder / name).exists() for name in ("made.txt", "folder", "record.json"))
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"
