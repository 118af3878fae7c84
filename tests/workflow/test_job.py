"""What surrounds a job: outputs appear whole or not at all, the log's end is shown, the record is complete."""

from __future__ import annotations

import hashlib
import io
import json
import time

import pytest
from workflow.conftest import ROOT, snakemake

from _job import Progress, _duration

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
    folder.mkdir(exist_ok=True)
    print("found", sorted(file.name for file in folder.iterdir()))
    (folder / "part").write_text("x")
    print("working hard")
    {ending}
    return {{"length": len(made.read_text())}}


run(main, resumes={resumes})
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(ROOT / "scripts")))
    (tmp_path / "given.txt").write_text("ab")

    def start(ending="pass", resumes=()):
        (tmp_path / "work.py").write_text(SCRIPT.format(ending=ending, resumes=resumes))
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
    assert (folder / "work.log").read_text() == "found []\nworking hard\n"


def test_a_failing_job_leaves_nothing_and_shows_the_end_of_its_log(job):
    folder, run = job('raise ValueError("the reason")')
    assert run.returncode == 1
    assert "work failed: the reason" in run.stdout
    assert "| working hard" in run.stdout
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".snakemake")}
    assert left == {"Snakefile", "given.txt", "work.py", "work.log"}


def test_a_killed_job_leaves_nothing_that_looks_finished(job):
    folder, run = job("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run.returncode == 1
    assert not any((folder / name).exists() for name in ("made.txt", "folder", "record.json"))
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"


ENDINGS = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "failed": 'raise ValueError("the reason")',
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_work_that_is_resumed_is_kept_hidden_and_handed_on(job, ending):
    folder, run = job(ENDINGS[ending], resumes=["folder"])
    assert run.returncode == 1
    left = {path.name for path in folder.iterdir() if "part" in path.name}
    # A killed process removes nothing; what is not resumed goes at the next start.
    assert left - {".part-made.txt"} == {".part-folder"}
    assert not any((folder / name).exists() for name in ("made.txt", "folder", "record.json"))
    folder, run = job(resumes=["folder"])
    assert run.returncode == 0, run.stdout
    assert (folder / "work.log").read_text() == "found ['part']\nworking hard\n"
    files = f"part {hashlib.sha256(b'x').hexdigest()}\n"
    record = json.loads((folder / "record.json").read_text())
    assert record["outputs"]["folder"] == hashlib.sha256(files.encode()).hexdigest()
    assert not [path.name for path in folder.iterdir() if "part" in path.name]


def test_other_work_is_never_handed_on(job):
    job(ENDINGS["killed"], resumes=["folder"])
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "work.log").read_text() == "found []\nworking hard\n"


def test_an_output_that_was_not_written_fails_and_no_other_is_there(job):
    folder, run = job("made.unlink(); return", resumes=["folder"])
    assert run.returncode == 1
    assert "work ended without writing made.txt" in run.stdout
    assert not any((folder / name).exists() for name in ("made.txt", "folder", "record.json"))


def test_progress_counts_from_its_first_report(monkeypatch, capsys):
    terminal, now = io.StringIO(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("work", terminal)
    for seconds, report in [
        (50, (80, 100, "")),
        (8, (84, 100, "12 tokens/s")),
        (4, (90, 100, "")),
        (10, (100, 100, "")),
    ]:
        now[0] += seconds
        progress(*report)
    # Four of the 20 that were left took 8 s, so 16 take 32 s; ten took 12 s, so 10 take 12 s.
    assert capsys.readouterr().out.splitlines() == [
        "work: 80/100", "work: 84/100, 32 s left, 12 tokens/s", "work: 90/100, 12 s left", "work: 100/100",
    ]  # fmt: skip
    # The terminal hears of it every ten seconds at most: at 50 s, not at 58 s, at 62 s and 72 s.
    assert terminal.getvalue().splitlines() == ["work: 80/100", "work: 90/100, 12 s left", "work: 100/100"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (150, "2 min"), (3600, "60 min"), (11100, "3 h 5 min")]
)
def test_times_as_people_read_them(seconds, text):
    assert _duration(seconds) == text
