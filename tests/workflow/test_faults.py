"""A study whose jobs and whose Snakemake are killed ends in the same bytes, and does nothing twice.

Of its two models one is finished before: the stages of the other, and all that follow from both, come under fire.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from workflow.conftest import SMOKE, copy_study

from _provenance import records

pytestmark = pytest.mark.slow

# When a job of each stage is killed, the first to get there: as it starts; when it opens the n-th file that it writes;
# when it has renamed n of its finished outputs; when all but its record are under their names.
MOMENTS = {
    "train": "write 5", "task_data": "record", "checkpoint": "record", "responses_synthetic": "write 2",
    "contributions_synthetic": "write 60", "contributions_synthetic_no_gate": "rename 1",
    "key_neurons_synthetic": "rename 2", "key_neurons_synthetic_no_gate": "record", "model_utilization": "write 1",
    "model_experts": "rename 3", "model_expert_structure": "record", "model_diversity": "start",
    "enrichment": "rename 2", "sensitivity": "write 2", "masking_synthetic": "rename 2", "threshold_selection": "start",
    "comparisons": "rename 1", "dynamics": "write 2", "laws": "record", "diagnostics": "rename 1", "gather": "write 1",
    "report": "write 20", "tracking": "record",
}  # fmt: skip
# Who else: Snakemake with all its jobs at once, as a closed terminal does, or its main process alone, without the job.
# None of these stages can run beside another of them, where a job that lives on would take nothing with it.
WITH_ALL = {"contributions_synthetic_no_gate", "diagnostics"}
MAIN_ALONE = {"model_experts"}
FINISHED = "smoke-olmoe"
PROMPTS = [f"results/smoke/task_data/{task}.jsonl" for task in ("sorting", "boolean", "facts")]
CORES = 2
# Run by Python as each process starts; only jobs of the workflow do anything in it. Every job notes its start and when
# its record is about to appear.
KILLER = """
import os, re, signal, sys
from pathlib import Path

FOLDER, MOMENTS, WITH_ALL, MAIN_ALONE = Path({folder!r}), {moments!r}, {with_all!r}, {main_alone!r}
OPENED = os.O_WRONLY | os.O_RDWR
job, moment, writes, renames = None, None, 0, 0


def note(what):
    with open(FOLDER / "events", "a") as file:
        file.write(f"{{what}} {{stage(job)}} {{job}}\\n")


def kill(what):
    global moment
    if moment != what:
        return
    moment = None
    try:  # claimed here and not as the job starts: one that died with another, before its moment, claims nothing
        os.close(os.open(FOLDER / f"claimed-{{stage(job)}}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if stage(job) in MAIN_ALONE:
        note("main")
        os.kill(int((FOLDER / "main").read_text()), signal.SIGKILL)
        return  # this job goes on by itself
    note("kill")
    if stage(job) in WITH_ALL:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def stage(job):
    folder, name = Path(job).parent.name, Path(job).name
    ruled = {{"tables": "gather", "task_data": "task_data", "utilization": "model_utilization"}}
    ruled |= {{name: f"model_{{name}}" for name in ("experts", "expert_structure", "diversity")}}
    return ruled.get(folder) or ruled.get(name) or name


def hook(event, arguments):
    global job, moment, writes, renames
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & OPENED:
        path = str(arguments[0])
        if job is None and (found := re.search(r"results/smoke/logs/(.*)[.]log$", path)):
            job = found[1]
            note("start")
            moment = MOMENTS.get(stage(job))
            kill("start")
        elif job and re.search(r"/[.]part-", path) and not re.search("smoke/(running|failures|records)/", path):
            writes += 1
            kill(f"write {{writes}}")
    elif job and event == "os.rename" and Path(arguments[0]).name.startswith(".part-"):
        place = str(arguments[1])
        if "smoke/records/" in place:
            kill("record")
            note("finish")
        elif not re.search("smoke/(running|failures)/", place):
            renames += 1
            kill(f"rename {{renames - 1}}")


if any("/.snakemake/scripts/" in word for word in sys.orig_argv):
    sys.addaudithook(hook)
"""


def run(folder, killer, *words):
    """One call of Snakemake in a process group of its own; its exit status and what it said."""
    with (killer / "output").open("w+") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "snakemake",
                "--cores",
                str(CORES),
                *SMOKE,
                "--retries",
                "1",
                "--keep-going",
                *words,
            ],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(killer)},
            start_new_session=True,
        )
        (killer / "main").write_text(str(process.pid))
        try:
            status = process.wait()
        except BaseException:  # the tests were interrupted, which its own process group has not heard
            os.killpg(process.pid, signal.SIGKILL)
            raise
        output.seek(0)
        return status, output.read()


@pytest.fixture(scope="module")
def killed(smoke, tmp_path_factory):
    """A smoke study run under fire from one finished model: its folder, events of its jobs, all that Snakemake said."""
    folder = copy_study(smoke, tmp_path_factory.mktemp("killed") / "study")
    shutil.rmtree(folder / "results")
    for part in kept(smoke):
        shutil.copytree(part, folder / part.relative_to(smoke))
    killer = tmp_path_factory.mktemp("killer")
    program = KILLER.format(folder=str(killer), moments=MOMENTS, with_all=WITH_ALL, main_alone=MAIN_ALONE)
    (killer / "sitecustomize.py").write_text(program)
    calls = []
    # Prompts by themselves: planned together with them, the finished model's responses would be written again.
    for targets in (PROMPTS, ["all"]):
        calls.append(run(folder, killer, *targets))
        while calls[-1][0] != 0:
            assert len(calls) < 15, calls[-1][1][-3000:]
            if "--unlock" in calls[-1][1]:
                calls.append(run(folder, killer, "--unlock"))
            calls.append(run(folder, killer, *targets))
    return folder, [tuple(line.split()) for line in (killer / "events").read_text().splitlines()], calls


def kept(smoke):
    """All that a finished study has of the finished model."""
    return sorted(path for path in (smoke / "results").rglob(FINISHED) if path.is_dir())


def of(events, kind):
    return Counter(job for what, _, job in events if what == kind)


def content(folder):
    """Bytes of the results that hold no times: all but book-keeping, the report, and seconds of training."""
    said = ("records", "failures", "running", "invocations", "logs", "benchmarks")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in said
        and not path.name.startswith(("training.", ".snakemake_timestamp", "report.html", "tracking.json"))
    }


def test_a_job_of_every_stage_was_killed_and_snakemake_in_both_ways(killed):
    """Verified: the study came to its end although one job of each stage got SIGKILL at its moment, Snakemake twice
    with all its jobs and once alone; the user was told which files lock the folder and what to do."""
    _, events, calls = killed
    assert Counter(stage for what, stage, _ in events if what in ("kill", "main")) == Counter(list(MOMENTS))
    assert sum(status == -signal.SIGKILL for status, _ in calls) == len(WITH_ALL | MAIN_ALONE)
    said = "".join(output for _, output in calls)
    assert said.count("Directory cannot be locked") == len(WITH_ALL | MAIN_ALONE)
    assert calls[-1][0] == 0


def test_every_result_is_the_one_of_an_undisturbed_run(killed, smoke):
    """Verified: stores, HDF5 files, responses, checkpoints, figures, and tables with their twins are the same bytes as
    without kills; the tables of training are equal in all but the seconds that it took; there are no other files."""
    folder, _, _ = killed
    found, wanted = content(folder / "results/smoke"), content(smoke / "results/smoke")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert sum(name.endswith("key_neurons.h5") for name in found) == 2 * 3 * 3 + 2 * 2 * 3
    tables = sorted(path.relative_to(smoke) for path in (smoke / "results/smoke").rglob("training.parquet"))
    assert len(tables) == 3
    for table in tables:
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(place / table).drop(columns="seconds") for place in (folder, smoke))
        )


def test_nothing_unfinished_is_left(killed):
    """Verified: no `.part-` file and no marker of a job at work is left; every output is what its record says."""
    results = killed[0] / "results/smoke"
    assert list(results.rglob(".part-*")) == []
    assert list((results / "running").rglob("*.json")) == []
    read = records.records(results).read
    finished = [name for name in read if FINISHED in name.parts]
    assert len(read) - len(finished) == len(of(killed[1], "finish"))
    for record in read.values():
        for output, digest in record["outputs"].items():
            assert records.digest(killed[0] / output) == digest, output


def test_finished_jobs_are_not_done_again(killed):
    """Verified, by the notes of the jobs themselves: none of the finished model began, and each other finished once,
    but for those that lived on without their Snakemake or ended as it was killed, before it took note; each start that
    did not finish was one of the kills, or stood beside one that took all jobs."""
    _, events, _ = killed
    assert [job for _, _, job in events if FINISHED in job] == []
    starts, finishes, kills = of(events, "start"), of(events, "finish"), of(events, "kill")
    assert starts.keys() == finishes.keys()
    again = finishes - Counter(finishes.keys())
    assert again.total() <= CORES * len(MAIN_ALONE) + (CORES - 1) * len(WITH_ALL)
    lost = starts - finishes - kills
    assert lost.total() <= (CORES - 1) * len(WITH_ALL)
    assert starts.total() == len(finishes) + again.total() + kills.total() + lost.total()


def test_each_killed_attempt_has_a_failure_record_with_its_log(killed):
    """Verified: each attempt that was killed at work has a failure record which says so and keeps its log; there are
    others only of jobs that were killed beside one."""
    folder, events, _ = killed
    failures = records.failures(folder / "results/smoke")
    assert failures.unreadable == {}
    assert {record["status"] for record in failures.read.values()} == {"killed"}
    assert all((folder / record["log"]).is_file() for record in failures.read.values())
    found = Counter(path.parent.relative_to(folder / "results/smoke/failures").as_posix() for path in failures.read)
    # Killed as it opened its log, an attempt had not yet said that it is at work.
    at_work = Counter(job for what, stage, job in events if what == "kill" and MOMENTS[stage] != "start")
    assert at_work - found == Counter()
    assert (found - at_work).total() <= (CORES - 1) * len(WITH_ALL)
