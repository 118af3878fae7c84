"""A copy of the project to run studies in, and the smoke study run once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "scripts", "config", "envs")


def copy_project(folder: Path) -> Path:
    """The parts of the project that a study needs, in a folder of its own."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def local_models(folder: Path) -> None:
    """Empty files in the place of the local models that the ready studies in a folder's config/ look for."""
    for config in (folder / "config").glob("*.yaml"):
        for model in yaml.safe_load(config.read_text())["models"].values():
            if "path" in model["source"]:
                file = folder / model["source"]["path"] / model["source"].get("gguf", "config.json")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a folder; what it says is in stdout."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def planned_jobs(output: str) -> dict[str, int]:
    """Jobs by rule, from the statistics that a dry-run ends with; empty when there is nothing to do."""
    if "Job stats:" not in output:
        return {}
    lines = output.split("Job stats:")[1].splitlines()[3:]
    jobs = {}
    for line in lines:
        if not line.strip():
            break
        rule, count = line.split()
        jobs[rule] = int(count)
    return {rule: count for rule, count in jobs.items() if rule not in ("total", "all")}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the smoke study has been run from beginning to end."""
    folder = copy_project(tmp_path_factory.mktemp("smoke"))
    run = snakemake(folder, "--configfile", "config/smoke.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    return folder
