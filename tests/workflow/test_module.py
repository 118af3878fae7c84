"""The workflow inside another one: imported by `module` from a folder or a URL, with the other's config and folders."""

from __future__ import annotations

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner
from workflow.conftest import ROOT, copy_project, planned_jobs, snakemake

import audit

IMPORTING = """
configfile: "project.yaml"

module mui:
    snakefile: "{place}/Snakefile"
    config: config["mui"]
    pathvars:
        results="out/utilization"

use rule * from mui as mui_*

rule all:
    default_target: True
    input: rules.mui_all.input
"""
CHEAP = ("out/utilization/task_data/sorting.jsonl", "out/utilization/tiny/step-2/checkpoint.json")


def study():
    """The smallest one that trains its model; its task files lie in the importing project."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    model = config["models"]["smoke-olmoe"]
    model["training"] |= {"steps": 2, "save_steps": [0, 2]}
    model["checkpoints"] = [{"name": "step-2", "step": 2}]
    config["models"] = {"tiny": model}
    for task in config["tasks"].values():
        task["include"] = "questions"
    return config


@pytest.fixture
def importing(tmp_path, monkeypatch):
    """A function that makes a project of its own import the workflow from a place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where Snakemake keeps what it fetches
    folder = tmp_path / "project"
    (folder / "questions").mkdir(parents=True)
    for file in (ROOT / "config/tasks").iterdir():
        (folder / "questions" / file.name).write_bytes(file.read_bytes())
    (folder / "project.yaml").write_text(yaml.safe_dump({"title": "mine", "mui": study()}, sort_keys=False))

    def place(where):
        (folder / "Snakefile").write_text(IMPORTING.format(place=where))
        return folder

    return place


@pytest.fixture
def site(tmp_path):
    """A copy of the project, and its URL behind a web server, which lists no folder."""
    copy = tmp_path / "site"
    copy.mkdir()
    copy_project(copy)

    class Files(SimpleHTTPRequestHandler):
        def list_directory(self, path):
            self.send_error(404)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(copy)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield copy, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_of_it_is_planned_under_the_names_and_in_the_folder_of_the_importing_project(importing):
    folder = importing(ROOT)
    output = snakemake(folder, "-n").stdout
    planned = planned_jobs(output)
    assert planned["mui_train"] == planned["mui_checkpoint"] == planned["mui_report"] == planned["mui_tracking"] == 1
    assert planned["mui_task_data"] == 3
    assert all(rule.startswith("mui_") for rule in planned)
    assert "output: out/utilization/report.html" in output
    assert "results/" not in output.replace(str(ROOT), "")


@pytest.mark.slow
def test_jobs_run_from_a_url_and_know_themselves_again_from_a_folder(importing, site):
    copy, url = site
    folder = importing(url)
    run = snakemake(folder, *CHEAP)
    assert run.returncode == 0, run.stdout[-4000:]
    record = json.loads((folder / "out/utilization/records/tiny/train.json").read_text())
    assert record["stage"] == "mui_train"
    assert record["git"]["commit"] is None  # of the workflow's repository nothing is here
    assert not (folder / "results").exists()
    again = ("-n", *CHEAP, "--workflow-profile", copy / "config/profiles/default")
    assert "Nothing to be done" in snakemake(folder, *again).stdout
    assert "Nothing to be done" in snakemake(importing(copy), *again).stdout
    app = Typer()
    app.command()(audit.main)
    found = CliRunner().invoke(app, [str(folder / CHEAP[1])])
    assert found.exit_code == 0, found.output
    assert "out/utilization/tiny/step-2/checkpoint.json ✓" in found.output
    assert "made by mui_train tiny" in found.output


def test_every_file_that_a_url_must_give_is_listed():
    folders = (ROOT / "scripts", ROOT / "config/schemas")
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    wanted = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}
    listed = (ROOT / "scripts/files.txt").read_text().split()
    assert listed == sorted(wanted - {"scripts/files.txt"}), "write scripts/files.txt anew: make format"


def test_the_workflow_catalog_finds_what_it_looks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": False, "apptainer+conda": False}
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "Snakefile").is_file()
    assert (ROOT / "config/README.md").is_file()
    assert list(Path(ROOT / "rules").glob("*.smk"))
    assert (ROOT / "LICENSE").is_file()
