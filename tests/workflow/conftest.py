"""A copy of the project to run studies in, and the smoke study run once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "scripts", "config", "envs")
EXPERIMENTS = "experiments.yaml"  # in config/, beside the studies
STUDIES = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != EXPERIMENTS)
SMOKE = ("--configfile", "config/smoke.yaml", "--workflow-profile", "config/profiles/default")
# Run by Python as each job of the smoke study starts.
LISTENER = '''"""Notes, as a job ends, which files of the project its process had run."""
import atexit, json, os, sys
from pathlib import Path

SCRIPTS = Path.cwd().resolve() / "scripts"


def note():
    job = getattr(sys.modules["__main__"], "snakemake", None)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file).resolve() for file in files if file}
    ours = sorted(path.relative_to(SCRIPTS).as_posix() for path in paths if path.is_relative_to(SCRIPTS))
    if job:
        script = sys.argv[0].split(".")[-2] + ".py"
        text = json.dumps({"rule": job.rule, "script": script, "files": ours})
        (Path(os.environ["IMPORTS_OF_JOBS"]) / f"{os.getpid()}.json").write_text(text)


atexit.register(note)
'''


def copy_project(folder: Path, root: Path = ROOT) -> Path:
    """The parts of the project that a study needs, in a folder of its own."""
    for part in PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def copy_study(finished: Path, folder: Path) -> Path:
    """All of a folder with a finished study, times of files kept, so that Snakemake sees nothing to do there."""
    subprocess.run(["cp", "-a", finished, folder], check=True)
    return folder


def local_models(folder: Path) -> None:
    """Empty files in the place of the local models that the ready studies in a folder's config/ look for."""
    for config in STUDIES:
        for model in yaml.safe_load((folder / "config" / config).read_text())["models"].values():
            if "path" in model["source"]:
                file = folder / model["source"]["path"] / model["source"].get("gguf", "config.json")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


def snakemake(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a folder; what it says is in stdout. env: variables beside those of this process."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def listening(folder: Path) -> dict[str, str]:
    """Variables under which every job that runs in a folder notes what it has imported, for `imported`."""
    for name in ("imports", "listener"):
        (folder / name).mkdir()
    (folder / "listener/sitecustomize.py").write_text(LISTENER)
    return {"PYTHONPATH": str(folder / "listener"), "IMPORTS_OF_JOBS": str(folder / "imports")}


def imported(folder: Path) -> dict[str, set[str]]:
    """By script, the files of the package that its jobs had loaded when they ended."""
    loaded: dict[str, set[str]] = {}
    for note in (folder / "imports").glob("*.json"):
        found = json.loads(note.read_text())
        loaded.setdefault(found["script"], set()).update(file for file in found["files"] if file.startswith("moemui/"))
    return loaded


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
    """A folder in which the smoke study has been run from beginning to end: once, for all processes that run tests.

    It is not to be changed; `copy_study` gives one that may. `imports/` in it says what each job had imported.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = shared / "smoke", shared / "smoke.txt"
    with filelock.FileLock(shared / "smoke.lock"):
        if not said.exists():
            folder.mkdir()
            copy_project(folder)
            run = snakemake(folder, *SMOKE, env=listening(folder))
            said.write_text(f"{run.returncode}\n{run.stdout}")
    code, output = said.read_text().split("\n", 1)
    assert code == "0", output[-4000:]
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that gives a folder of its own file system the size in bytes; unmounted at the end."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, place=folder):
        options = f"{'remount,' if place.is_mount() else ''}size={size}"
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if run.returncode:
            pytest.skip(f"a small disk needs a mount, which is not allowed here: {run.stderr.strip()}")
        mounted.add(place)
        return place

    mounted = set()
    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)
