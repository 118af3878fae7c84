"""What surrounds a job: outputs appear whole or not at all, the log's end is shown, the record is complete."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time

import psutil
import pytest
from workflow.conftest import ROOT, snakemake

from _job import Progress, _duration
from _provenance.records import failures, running, write_whole

SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})

rule work:
    input: given="given.txt", first="results/own/first.txt"
    output: made="made.txt", folder=directory("folder"), record="results/own/records/work.json"
    log: "results/own/logs/work.log"
    params: factor=3
    script: "work.py"

rule first:
    output: made="results/own/first.txt", record="results/own/records/first.json"
    log: "results/own/logs/first.log"
    script: "first.py"
"""
RECORD, LOG = "results/own/records/work.json", "results/own/logs/work.log"
FIRST = """
from _job import run


def main(*, made) -> None:
    made.write_text("a")


run(main)
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


INPUTS = {
    "given.txt": hashlib.sha256(b"ab").hexdigest(),
    "results/own/first.txt": hashlib.sha256(b"a").hexdigest(),
}
ENDINGS = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "failed": 'raise ValueError("the reason")',
}


@pytest.fixture
def job(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(ROOT / "scripts")))
    (tmp_path / "given.txt").write_text("ab")
    (tmp_path / "first.py").write_text(FIRST)

    def start(ending="pass", resumes=()):
        (tmp_path / "work.py").write_text(SCRIPT.format(ending=ending, resumes=resumes))
        return tmp_path, snakemake(tmp_path)

    return start


def test_a_job_leaves_its_outputs_and_a_record(job):
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"
    record = json.loads((folder / RECORD).read_text())
    assert record["stage"] == "work"
    assert record["params"] == {"factor": 3}
    assert record["metrics"] == {"length": 6}
    assert record["inputs"] == INPUTS
    assert record["outputs"]["made.txt"] == hashlib.sha256(b"ababab").hexdigest()
    assert set(record["outputs"]) == {"made.txt", "folder"}
    assert (folder / LOG).read_text() == "found []\nworking hard\n"


def test_a_failing_job_shows_the_end_of_its_log_and_leaves_it_with_a_failure_record(job):
    folder, run = job('raise ValueError("the reason\\nin two lines")')
    assert run.returncode == 1
    assert "work failed: the reason" in run.stdout
    assert "| working hard" in run.stdout
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".snakemake")}
    assert left == {"Snakefile", "first.py", "given.txt", "work.py", "results"}
    ((path, failure),) = failures(folder / "results/own").read.items()
    assert (failure["status"], failure["error"]) == ("failed", "the reason in two lines")
    assert failure["inputs"] == INPUTS
    assert failure["outputs"] == {}
    assert path.name == f"{failure['attempt']}.json"
    assert "working hard\nTraceback" in (folder / failure["log"]).read_text()
    assert not list(folder.glob("results/own/running/**/*.json"))


def test_a_killed_attempt_is_settled_by_the_next_one_with_the_log_that_it_left(job):
    folder, run = job(ENDINGS["killed"])
    assert run.returncode == 1
    (marker,) = running(folder / "results/own").read.values()
    assert marker["status"] == "running"
    assert not failures(folder / "results/own").read
    folder, run = job()
    assert run.returncode == 0, run.stdout
    (failure,) = failures(folder / "results/own").read.values()
    assert (failure["status"], failure["attempt"]) == ("killed", marker["attempt"])
    assert (folder / failure["log"]).read_text() == "found []\nworking hard\n"
    assert not list(folder.glob("results/own/running/**/*.json"))
    assert json.loads((folder / RECORD).read_text())["attempt"] != marker["attempt"]


def test_an_input_that_is_not_what_its_job_wrote_is_refused(job):
    folder, run = job()
    assert run.returncode == 0, run.stdout
    made = folder / "results/own/first.txt"
    before = made.read_bytes()
    made.write_bytes(before.replace(b"a", b"b"))
    (folder / "made.txt").unlink()
    folder, run = job()
    assert run.returncode == 1
    assert (
        "work failed: results/own/first.txt is not what first wrote, by its record results/own/records/first.json; "
        "delete it, so that it is made again, and run again"
    ) in run.stdout
    assert not (folder / "made.txt").exists()
    made.unlink()
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"


def test_a_job_waits_for_the_same_one_that_a_killed_workflow_left(job):
    folder, run = job()
    assert run.returncode == 0, run.stdout
    record = json.loads((folder / RECORD).read_text())
    orphan = subprocess.Popen(["sleep", "600"])
    try:
        started = psutil.Process(orphan.pid).create_time()
        marker = folder / "results/own/running/work/orphan.json"
        left = {"attempt": "orphan", "status": "running", "pid": orphan.pid, "process_started": started}
        write_whole(marker, {**record, **left})
        (folder / "made.txt").unlink()
        command = [sys.executable, "-m", "snakemake", "--cores", "1"]
        again = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = ""
        while f"work waits for process {orphan.pid} on {record['host']}" not in said:
            assert again.poll() is None, said
            said += again.stdout.readline()
        assert not (folder / "made.txt").exists()
    finally:
        orphan.kill()
        orphan.wait()
    rest, _ = again.communicate()
    assert again.returncode == 0, said + rest
    assert (folder / "made.txt").read_text() == "ababab"
    (failure,) = failures(folder / "results/own").read.values()
    assert (failure["attempt"], failure["status"]) == ("orphan", "killed")


SECRET = "hf_abcdefghijklmnop"
LEAK = """import os
    print("by print", os.environ["HF_TOKEN"], flush=True)
    os.write(1, b"by write " + os.environ["HF_TOKEN"].encode() + b"\\n")
    os.system("echo by a child $HF_TOKEN")
    """


@pytest.mark.parametrize("ending", ["pass", "raise ValueError(os.environ['HF_TOKEN'])"])
def test_a_token_reaches_no_file(job, monkeypatch, ending):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    folder, run = job(LEAK + ending)
    assert SECRET not in run.stdout
    said = (folder / LOG).read_text()
    assert [word in said for word in ("by print [HF_TOKEN]", "by write [HF_TOKEN]", "by a child [HF_TOKEN]")] == [
        True
    ] * 3
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_killed_job_leaves_nothing_that_looks_finished(job):
    folder, run = job("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run.returncode == 1
    assert not any((folder / name).exists() for name in ("made.txt", "folder", RECORD))
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / "made.txt").read_text() == "ababab"


@pytest.mark.parametrize("ending", ENDINGS)
def test_work_that_is_resumed_is_kept_hidden_and_handed_on(job, ending):
    folder, run = job(ENDINGS[ending], resumes=["folder"])
    assert run.returncode == 1
    left = {path.name for path in folder.iterdir() if "part" in path.name}
    # A killed process removes nothing; what is not resumed goes at the next start.
    assert left - {".part-made.txt"} == {".part-folder"}
    assert not any((folder / name).exists() for name in ("made.txt", "folder", RECORD))
    folder, run = job(resumes=["folder"])
    assert run.returncode == 0, run.stdout
    assert (folder / LOG).read_text() == "found ['part']\nworking hard\n"
    files = f"part {hashlib.sha256(b'x').hexdigest()}\n"
    record = json.loads((folder / RECORD).read_text())
    assert record["outputs"]["folder"] == hashlib.sha256(files.encode()).hexdigest()
    assert not [path.name for path in folder.iterdir() if "part" in path.name]


def test_other_work_is_never_handed_on(job):
    job(ENDINGS["killed"], resumes=["folder"])
    folder, run = job()
    assert run.returncode == 0, run.stdout
    assert (folder / LOG).read_text() == "found []\nworking hard\n"


def test_an_output_that_was_not_written_fails_and_no_other_is_there(job):
    folder, run = job("made.unlink(); return", resumes=["folder"])
    assert run.returncode == 1
    assert "work ended without writing made.txt" in run.stdout
    assert not any((folder / name).exists() for name in ("made.txt", "folder", RECORD))


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
