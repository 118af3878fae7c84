"""An audit walks from a result back to its sources and names every file that is not what was recorded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import s3_server
import typer
from typer.testing import CliRunner

import audit
from _audit.recorded import Recorded
from _audit.walk import trace_all
from _provenance.records import digest
from moemui.scores import journal, upload

app = typer.Typer()
app.command()(audit.main)
OLMOE = Path("results/made/olmoe")
TABLE = Path("results/made/tables/utilization.parquet")
STORE = OLMOE / "last/sorting/contributions.zarr"
CHUNK = STORE / "scores/c/0"
SETS = OLMOE / "last/sorting/key_neurons.h5"
RESPONSES = OLMOE / "last/sorting/responses.jsonl"
WEIGHTS = OLMOE / "training/step-00001/model.safetensors"


class Made:
    """A study that no model was needed for: a job of each kind, with files, and records as jobs write them."""

    def __init__(self, folder: Path):
        self.folder, self.jobs = folder, 0

    def job(self, name, stage, inputs, outputs, *, version=2, task_data=None, **params):
        """The record of a job whose outputs lie there already."""
        self.jobs += 1
        record = {
            "record_version": version,
            "stage": stage,
            "wildcards": {"model": "olmoe"},
            "params": {"code": "abc", **params},
            "metrics": {"task_data": task_data} if task_data else {},
            "inputs": {str(path): digest(self.folder / path) for path in inputs},
            "outputs": {str(path): digest(self.folder / path) for path in outputs},
            "started": f"2026-01-02T03:{self.jobs:02}:00+00:00",
            "ended": f"2026-01-02T03:{self.jobs:02}:30+00:00",
            "seconds": 30.0,
            "host": "node7",
            "python": "3.11.7",
            "packages": {"torch": "2.13.0"},
            "git": {"commit": "0123456789abcdef", "dirty": True},
            "log": f"results/made/logs/{name}.log",
        }
        if version > 1:
            record |= {"attempt": f"20260102T03{self.jobs:02}00-cafe", "invocation": None, "status": "finished"}
        self.write(f"results/made/records/{name}.json", json.dumps(record))
        self.write(record["log"], "done\n")

    def write(self, path, content):
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def table(self, path, value):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"mui": [value]}).to_parquet(self.folder / path)
        pd.DataFrame({"mui": [value]}).to_csv((self.folder / path).with_suffix(".csv"), index=False)
        return [path, path.with_suffix(".csv")]

    def train(self):
        for step in ("step-00000", "step-00001"):
            self.write(OLMOE / "training" / step / "model.safetensors", f"weights of {step}")
        recipe = {"family": "olmoe", "steps": 1}
        self.job("olmoe/train", "train", [], [OLMOE / "training"], recipe=recipe, version=1)

    def checkpoint(self, path=str(OLMOE / "training/step-00001"), kind="trained", inputs=(OLMOE / "training",), **hub):
        weights = self.folder / path / "model.safetensors"
        pin = {"bytes": weights.stat().st_size, "sha256": digest(weights)}
        manifest = {"kind": kind, "path": path, **hub, "files": {"model.safetensors": pin}}
        place = self.write(OLMOE / "last/checkpoint.json", json.dumps(manifest))
        self.job("olmoe/last/checkpoint", "checkpoint", inputs, [place])

    def responses(self):
        self.write(RESPONSES, '{"response": "a b c"}\n')
        inputs = [OLMOE / "last/checkpoint.json", "results/made/task_data/sorting.jsonl", "config/tasks/sorting.yaml"]
        params = {"tasks": {"sorting": {"lm_eval": "sorted"}}, "code": ["r0", "r1"]}
        self.job(
            "olmoe/last/responses_s", "responses_s", inputs, [RESPONSES], task_data={"sorting": "5" * 64}, **params
        )

    def store(self):
        files = [self.write(STORE / "zarr.json", "{}"), self.write(CHUNK, "scores")]
        book = journal.Journal(self.folder / STORE)
        book.record("0", [self.folder / file for file in files])
        book.seal()
        (self.folder / STORE / ".snakemake_timestamp").touch()
        self.job("olmoe/last/contributions_s", "contributions_s", [OLMOE / "last/checkpoint.json", RESPONSES], [STORE])

    def sets(self):
        with h5py.File(self.folder / SETS, "w") as file:
            file["0.1"] = np.arange(1000)
        self.job("olmoe/last/key_neurons_s", "key_neurons_s", [STORE, RESPONSES], [SETS])

    def masking(self):
        outputs = self.table(OLMOE / "last/masking/s/masking.parquet", 0.5)
        self.job("olmoe/last/masking_s", "masking_s", [OLMOE / "last/checkpoint.json", RESPONSES, STORE], outputs)

    def utilization(self, mui=0.25):
        outputs = self.table(OLMOE / "utilization.parquet", mui)
        self.job("olmoe/utilization", "model_utilization", [SETS], outputs)

    def gather(self, mui=0.25):
        self.job("tables/utilization", "gather", [OLMOE / "utilization.parquet"], self.table(TABLE, mui))

    def report(self):
        outputs = [self.write("results/made/report.html", "<html></html>\n"), Path("results/made/figures")]
        self.write("results/made/figures/mui.svg", "<svg></svg>")
        inputs = [
            TABLE,
            "results/made/records/olmoe/utilization.json",
            "results/made/records/olmoe/last/masking_s.json",
        ]
        self.job("report", "report", inputs, outputs)

    def everything(self):
        self.write("config/tasks/sorting.yaml", "task: sorting\n")
        self.write("results/made/task_data/sorting.jsonl", '{"prompt": "b a"}\n')
        data = ["results/made/task_data/sorting.jsonl"]
        self.job("task_data/sorting", "task_data", [], data, synthetic="sorting", n=1, seed=7)
        stages = (self.train, self.checkpoint, self.responses, self.store, self.sets, self.masking, self.utilization)
        for stage in (*stages, self.gather, self.report):
            stage()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole made-up study, which nobody changes."""
    study = Made(tmp_path_factory.mktemp("whole"))
    study.everything()
    return study


@pytest.fixture
def made(whole, tmp_path, monkeypatch):
    """A copy of the made-up study; the working folder is the one that Snakemake would have run in."""
    study = Made(shutil.copytree(whole.folder, tmp_path / "project"))
    study.jobs = whole.jobs
    monkeypatch.chdir(study.folder)
    return study


def run(*words):
    """Exit code, and all that is said on one line."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def findings(*words):
    code, output = run(*words, "--json")
    found = json.loads(output)
    assert code == (1 if found["findings"] else 0)
    return [(finding["kind"], finding["path"]) for finding in found["findings"]], found


def test_an_untouched_study_is_as_recorded_and_leads_back_to_its_sources(made):
    code, said = run(TABLE)
    assert code == 0
    for words in (
        f"{TABLE} ✓ └── made by gather olmoe",
        f"{OLMOE}/utilization.parquet ✓ made by model_utilization olmoe",
        f"{STORE} ✓ made by contributions_s olmoe",
        f"{OLMOE}/training ✓ made by train olmoe",
        "trained here by the recipe family olmoe, steps 1",
        f"model {OLMOE}/training/step-00001: 1 files, model.safetensors sha256 {digest(Path(WEIGHTS))[:12]}",
        "1 samples of sorting, written with the seed 7",
        f"config/tasks: sorting.yaml sha256 {digest(Path('config/tasks/sorting.yaml'))[:12]} ✓",
        "task sorting (sorted): what was asked has sha256 555555555555",
        "code r0, r1 ·",
        "git 0123456789ab with uncommitted changes",
        "attempt 20260102T0309",
        "2026-01-02 03:09 · 30.0 s on node7 · code abc",
        "all as recorded",
    ):
        assert words in said
    assert "masking" not in said  # that branch leads elsewhere
    assert said.count("made by responses_s olmoe") - said.count("made by responses_s olmoe (above)") == 1
    assert "torch 2.13.0" not in said
    assert "torch 2.13.0" in run(TABLE, "--packages")[1]
    assert run("--all") == (0, run("--all", "--results", "results/made")[1])


def test_programs_get_every_job_with_what_it_read(made):
    _, found = findings(TABLE.with_suffix(".csv"))
    assert found["asked"] == [str(TABLE.with_suffix(".csv"))]
    assert found["as_recorded"] is True
    assert set(found["sources"]) == {"config/tasks/sorting.yaml"}
    job = found["jobs"]["results/made/records/olmoe/last/key_neurons_s.json"]
    assert job["inputs"][str(STORE)] == {
        "read": digest(STORE), "made_by": "results/made/records/olmoe/last/contributions_s.json",
    }  # fmt: skip
    assert len(found["jobs"]) == 8


ASKED = {
    "an absolute path": lambda made: made.folder / TABLE,
    "a chunk of a store": lambda made: CHUNK,
    "a file of a folder": lambda made: WEIGHTS,
    "a figure": lambda made: "results/made/figures/mui.svg",
    "a record": lambda made: "results/made/records/olmoe/train.json",
    "a log": lambda made: "results/made/logs/olmoe/train.log",
    "a folder of results": lambda made: OLMOE,
    "a source": lambda made: "config/tasks/sorting.yaml",
    "a copy": lambda made: shutil.copy(TABLE, "copy.parquet"),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_what_can_be_asked_for(made, asked):
    code, said = run(asked(made))
    assert code == 0, said
    assert "all as recorded" in said


def test_runs_of_mlflow_are_told_unless_the_record_is_a_later_one(made):
    record = Path("results/made/records/tables/utilization.json")
    known = {str(record): {"run_id": "run5", "digest": digest(record)}}
    made.write("results/made/tracking.json", json.dumps({"records": known}))
    assert "MLflow run run5" in run(TABLE)[1]
    record.write_text(record.read_text() + "\n")
    assert "MLflow run" not in run(TABLE)[1]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


def link_to_another(path):
    path.unlink()
    path.symlink_to(Path("/etc/hostname"))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


FAULTS = [
    (TABLE, flip, "tampered", f"{TABLE}, which gather olmoe wrote on 2026-01-02 03:09, has other content; delete it"),
    (TABLE, cut, "truncated", f"{TABLE}, which gather olmoe wrote on 2026-01-02 03:09, ends before its end; delete it"),
    (TABLE, remove, "missing", "is gone; run snakemake again"),
    (TABLE, link_to_nothing, "missing", "is a symbolic link to nothing"),
    (TABLE, link_to_another, "truncated", "behind a symbolic link"),
    (OLMOE / "utilization.parquet", flip, "tampered", "which model_utilization olmoe wrote"),
    (SETS, cut, "truncated", "which key_neurons_s olmoe wrote"),
    (SETS, flip, "tampered", "which key_neurons_s olmoe wrote"),
    (RESPONSES, cut, "truncated", "which responses_s olmoe wrote"),
    (RESPONSES, remove, "missing", "which responses_s olmoe wrote"),
    (CHUNK, flip, "tampered", f"delete {STORE} and run snakemake again, as `snakemake {STORE} …` if it finds nothing"),
    (CHUNK, cut, "truncated", "has 2 of its 6 bytes"),
    (CHUNK, remove, "missing", f"is gone; delete {STORE}"),
    (STORE / "manifest.json", flip, "tampered", "which contributions_s olmoe wrote"),
    (STORE, remove, "missing", "is gone; run snakemake again"),
    (OLMOE / "last/checkpoint.json", flip, "tampered", "which checkpoint olmoe wrote"),
    (WEIGHTS, flip, "tampered", f"has other content; delete {OLMOE}/training and run"),
    (WEIGHTS, cut, "truncated", "which train olmoe wrote"),
]


@pytest.mark.parametrize(("path", "damage", "kind", "words"), FAULTS)
def test_a_damaged_file_is_named_wherever_the_walk_began(made, path, damage, kind, words):
    damage(path)
    for asked in (TABLE, path, "--all"):
        found, told = findings(asked)
        assert (kind, str(path)) in found
        sentence = next(finding["sentence"] for finding in told["findings"] if finding["path"] == str(path))
        assert words in sentence
    assert [finding for finding in found if finding[0] == "stale"] == []
    assert f"✗ {kind}" in run(path)[1]
    assert "1 not as recorded" in run(path)[1]


def test_the_audit_agrees_with_the_store_about_its_chunks(made):
    made.write(STORE / "scores/c/1", b"one more")
    assert findings(TABLE)[0] == [("unrecorded", str(STORE / "scores/c/1"))]
    with pytest.raises(journal.IncompleteStoreError):
        journal.verify(STORE)
    (STORE / "scores/c/1").unlink()
    assert findings(TABLE)[0] == []
    journal.verify(STORE)


@pytest.fixture
def storage(monkeypatch):
    """An S3 server, and the environment that leads to it."""
    server = s3_server.Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def test_a_store_on_s3_is_compared_by_what_lies_there(made, storage, monkeypatch):
    url = f"s3://{s3_server.BUCKET}/sorting"
    upload.hand_over(made.folder / STORE, url)
    assert not CHUNK.exists()
    assert findings(TABLE)[0] == []
    storage.fill(url, {"scores/c/0": b"cut"})
    found, told = findings(TABLE)
    assert found == [("tampered", str(STORE))]
    assert "scores/c/0 is missing or truncated" in told["findings"][0]["sentence"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    found, told = findings(TABLE)
    assert found == [("unreachable", str(STORE))]
    assert "can't be compared: no credentials for" in told["findings"][0]["sentence"]
    flip(STORE / "zarr.json")
    assert findings(TABLE)[0] != []


def test_a_link_to_the_same_content_is_as_recorded(made):
    TABLE.rename("elsewhere.parquet")
    TABLE.symlink_to(Path("elsewhere.parquet").absolute())
    assert findings(TABLE)[0] == []


def test_a_snapshot_that_no_checkpoint_pins_is_told_by_its_folder(made):
    flip(OLMOE / "training/step-00000/model.safetensors")
    assert findings(TABLE)[0] == [("tampered", str(OLMOE / "training"))]


def test_what_was_made_from_a_former_input_is_stale(made):
    made.utilization(mui=0.75)
    for asked in (TABLE, TABLE.with_suffix(".csv")):
        found, told = findings(asked)
        assert found == [("stale", str(TABLE))]
    assert told["findings"][0]["sentence"] == (
        f"{TABLE} was made from another {OLMOE}/utilization.parquet than the one that model_utilization olmoe wrote on "
        "2026-01-02 03:11; run snakemake again, with --forcerun gather if it finds nothing to do"
    )
    assert f"{TABLE.with_suffix('.csv')} ✗ stale" in run(TABLE.with_suffix(".csv"))[1]
    made.gather(mui=0.75)
    assert findings(TABLE)[0] == []
    # The report has read a record that is another one now.
    assert findings("results/made/report.html")[0] == [("stale", "results/made/report.html")] * 2


def test_a_job_that_ran_again_and_wrote_the_same_makes_nothing_stale(made):
    made.utilization()
    assert findings(TABLE)[0] == []


def test_an_edited_source_makes_its_readers_stale_and_a_lost_one_is_missing(made):
    made.write("config/tasks/sorting.yaml", "task: other\n")
    assert findings(TABLE)[0] == [("stale", str(RESPONSES))]
    assert findings("config/tasks/sorting.yaml")[0] == [("stale", str(RESPONSES))]
    assert "✗ changed: config/tasks/sorting.yaml" in run(TABLE)[1]
    Path("config/tasks/sorting.yaml").unlink()
    assert findings(TABLE)[0] == [("missing", "config/tasks/sorting.yaml")]
    assert "which responses_s olmoe read, is gone; put it back" in run(TABLE)[1]


def test_of_many_stale_results_the_first_are_named(made):
    for number in range(15):
        made.job(
            f"tables/{number}",
            "gather",
            ["config/tasks/sorting.yaml"],
            made.table(TABLE.parent / f"{number}.parquet", 1),
        )
    made.write("config/tasks/sorting.yaml", "task: other\n")
    assert len(findings("--all")[0]) == 16
    code, said = run("--all")
    assert (code, said.count("was made from another")) == (1, 10)
    assert "stale and 6 more, which --full names" in said
    assert run("--all", "--full")[1].count("was made from another") == 16


def test_an_unreadable_record_is_named_with_what_it_may_have_been_about(made):
    record = Path("results/made/records/olmoe/utilization.json")
    record.write_text("{half")
    found, told = findings(TABLE)
    assert found == [("unrecorded", str(OLMOE / "utilization.parquet"))]
    assert f"no record names it, unless {record} did, which can't be read" in told["findings"][0]["sentence"]
    assert ("unreadable record", str(record)) in findings("--all")[0]
    assert ("unreadable record", str(record)) in findings("results/made/report.html")[0]


BOOK_KEEPING = ("logs/a.log", "benchmarks/a.tsv", "failures/x/1.log", "running/x/1.json", "plan.json", ".part-x.csv")


@pytest.mark.parametrize("name", BOOK_KEEPING[:-1])
def test_book_keeping_is_no_result_that_could_be_audited(made, name):
    file = made.write(f"results/made/{name}", "{}")
    assert run(file) == (2, f"audit: {file} is book-keeping, no result; name a file that a job made")


def test_of_a_failed_attempt_the_error_and_the_log_are_told(made):
    failed = {**json.loads(Path("results/made/records/olmoe/utilization.json").read_text()), "status": "failed"}
    failed |= {"error": "no room left", "log": "results/made/failures/olmoe/utilization/1.log"}
    file = made.write("results/made/failures/olmoe/utilization/1.json", json.dumps(failed))
    assert run(file) == (
        2,
        f"audit: {file} says that model_utilization olmoe failed: no room left; its log is {failed['log']}; name a "
        "file that a job made",
    )
    made.write(file, "{half")
    code, said = run(file)
    assert (code, f"{file} is no run record" in said) == (2, True)


@pytest.mark.parametrize("folder", ["results/made/empty", "empty"])
def test_a_folder_without_results_is_called_what_it_is(made, folder):
    Path(folder).mkdir()
    assert run(folder) == (
        2, f"audit: no record names anything in the folder {folder}; name a file, or a folder with results",
    )  # fmt: skip


def test_a_result_that_is_gone_with_its_record_is_to_be_made_again(made):
    remove(SETS)
    remove(Path("results/made/records/olmoe/last/key_neurons_s.json"))
    found, told = findings(TABLE)
    assert found == [("missing", str(SETS))]
    assert told["findings"][0]["sentence"] == (
        f"{SETS}, which model_utilization olmoe read, is gone; run snakemake again, as `snakemake {SETS} …` if it "
        "finds nothing to do"
    )


def test_a_file_that_no_record_names_is_told(made):
    made.write("results/made/tables/mine.csv", "a\n")
    for name in BOOK_KEEPING:
        made.write(f"results/made/{name}", "{}")
    assert findings("--all")[0] == findings("results/made/tables/mine.csv")[0]
    assert findings("--all")[0] == [("unrecorded", "results/made/tables/mine.csv")]


def test_a_record_whose_results_others_have_made_is_noted(made):
    made.job("tables/renamed", "gather_renamed", [OLMOE / "utilization.parquet"], [TABLE, TABLE.with_suffix(".csv")])
    found, told = findings("--all")
    assert found == []
    assert told["notes"] == [
        "results/made/records/tables/utilization.json is about nothing that is there: later jobs have made all of its "
        "results"
    ]


def test_files_of_a_model_in_a_folder_are_compared_with_what_was_pinned(made):
    weights = made.write("models/mine/model.safetensors", "weights")
    made.checkpoint(path=str(made.folder / "models/mine"), kind="local", inputs=[weights])
    asked = OLMOE / "last/checkpoint.json"
    assert findings(asked)[0] == []
    flip(Path(weights))
    assert findings(asked)[0] == [("tampered", weights), ("stale", str(asked))]
    assert "which checkpoint olmoe read on" in run(asked)[1]


def test_a_model_of_the_hub_is_its_commit(made):
    weights = made.write("cache/model.safetensors", "weights")
    hub = {"repo": "allenai/OLMoE", "revision": "main", "commit": "c0ffee"}
    made.checkpoint(path=str(made.folder / "cache"), kind="hub", inputs=(), **hub)
    asked = OLMOE / "last/checkpoint.json"
    assert "model allenai/OLMoE revision main commit c0ffee: 1 files" in run(asked)[1]
    cut(Path(weights))
    assert findings(asked)[0] == [("truncated", weights)]
    shutil.rmtree("cache")
    found, told = findings(asked)
    assert found == []
    assert told["notes"] == [f"{asked}: allenai/OLMoE at c0ffee is not on this machine"]


def test_mistakes_in_the_call(made, monkeypatch):
    assert run("results/made/tables/nope.parquet") == (
        2, "audit: there is no results/made/tables/nope.parquet, and no record names it",
    )  # fmt: skip
    assert run(STORE / "scores/c/7")[0] == 2
    made.write("stranger.csv", "a\n")
    code, said = run("stranger.csv")
    assert code == 2
    assert "no record in results/made names stranger.csv or its content; name its study with --results" in said
    assert run()[0] == run(TABLE, "--all")[0] == 2
    shutil.copytree("results/made", "results/twin")
    assert "found 2 studies below results/" in run("--all")[1]
    Path("results/empty/records").mkdir(parents=True)
    assert run("--all", "--results", "results/empty") == (
        2, "audit: results/empty holds no records; name a study's folder, such as results/demo",
    )  # fmt: skip


def test_a_moved_project_and_another_working_folder_change_nothing(made, monkeypatch, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "project"
    made.folder.rename(moved)
    monkeypatch.chdir(moved.parent)
    flip(moved / CHUNK)
    assert findings(moved / TABLE)[0] == [("tampered", str(CHUNK))]
    assert findings("--all", "--results", "project/results/made")[0] == [("tampered", str(CHUNK))]


def test_results_behind_a_link_are_found_from_both_sides(made, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk") / "made"
    Path("results/made").rename(disk)
    Path("results/made").symlink_to(disk)
    flip(disk / CHUNK.relative_to("results/made"))
    assert findings(TABLE)[0] == [("tampered", str(CHUNK))]
    assert findings(disk / TABLE.relative_to("results/made"))[0] == [("tampered", str(CHUNK))]


def test_every_path_is_read_once(made):
    read = []
    trace_all(Recorded(Path("results/made"), read.append))
    assert len(read) == len(set(read)) > 10


@pytest.mark.slow
def test_a_real_study_is_as_recorded_until_a_byte_of_a_chunk_changes(smoke, tmp_path, monkeypatch):
    for part in ("results/smoke", "config/tasks"):
        shutil.copytree(smoke / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    found, told = findings("--all")
    assert found == []
    assert len(told["jobs"]) > 50
    assert all(job["mlflow_run_id"] for name, job in told["jobs"].items() if "gather" in job["stage"])
    chunks = Path("results/smoke/smoke-olmoe").glob("step-60/*/contributions.zarr/scores/**/c/**/0")
    chunk = next(path for path in chunks if path.is_file())
    flip(chunk)
    report = "results/smoke/report.html"
    assert findings(report)[0] == [("tampered", str(chunk))]
    assert hashlib.sha256(Path(report).read_bytes()).hexdigest() in json.dumps(told)
    assert os.path.exists(chunk)
