"""Real runs with --use-conda: environments are made from the unmodified envs/*.yaml, and jobs run in them alone.

conda is a stand-in (tests/conda) that solves and installs with py-rattler from a channel made of this interpreter; pip
is the environments' own and installs from wherever pip is told to here. Snakemake lets jobs see the packages of the
host, where what an environment lacks is found unnoticed; so the host holds nothing but Snakemake here.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from workflow.conftest import ROOT, copy_project, planned_jobs, snakemake
from workflow.test_resumption import STUDY

import tiny_models
from conda import channel, environments
from conda.environments import normal
from moemui.models.synthetic import build_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.system]
STANDIN = ROOT / "tests/conda/conda_standin.py"
LIGHT = ("analysis", "tracking")  # what is left of a study after its forward passes
# Imports modules by name, or says which can't be; then which of all modules came from somewhere else.
PROBE = """
import importlib, json, sys

sys.path.append(sys.argv[1])
places = (sys.prefix, sys.argv[1])
missing = []
for name in json.load(sys.stdin):
    parent, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            if not (parent and hasattr(importlib.import_module(parent), last)):
                missing.append(name)
        except ModuleNotFoundError:
            missing.append(name)
files = [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
print(json.dumps({"missing": missing, "elsewhere": [file for file in files if not file.startswith(places)]}))
"""


@dataclass(frozen=True)
class Conda:
    """Where `snakemake --use-conda` can run. host: Python of an environment that holds Snakemake alone."""

    host: Path
    variables: dict[str, str]

    def snakemake(self, folder: Path, config: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a study in conda environments."""
        return subprocess.run(
            [self.host, "-m", "snakemake", "--cores", "2", "--use-conda", "--configfile", config, *words],
            cwd=folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conda]:
    """conda, its channel, and a host for Snakemake; removed at the end, since environments are large."""
    if reason := channel.missing():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("conda")
    channel.build(root / "channels/conda-forge")
    (root / "bin").mkdir()
    command = root / "bin/conda"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {shlex.quote(str(STANDIN))} "$@"\n')
    command.chmod(0o755)
    (root / "bin/activate").write_text('export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n')
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "CONDA_ROOT": str(root),
        "CONDA_CHANNEL_ALIAS": (root / "channels").as_uri(),
        "OMP_NUM_THREADS": "1",
        "PIP_NO_COMPILE": "1",  # modules are compiled when they are first imported, most never are
    }
    yield Conda(thin_host(root / "host"), variables)
    shutil.rmtree(root)


def thin_host(folder: Path) -> Path:
    """A Python that finds Snakemake and what it requires, by links, and no other package."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in environments.required([Requirement("snakemake")]):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(installed.locate_file(top)))
    python = folder / "bin/python"
    alone = subprocess.run([python, "-c", "import snakemake, numpy"], capture_output=True, text=True, check=False)
    assert "No module named 'numpy'" in alone.stderr
    return python


@pytest.fixture(scope="module")
def light(conda: Conda, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A study whose forward passes were made without conda, and what Snakemake said while it made the rest with it."""
    folder = copy_project(tmp_path_factory.mktemp("light"))
    model = tiny_models.build("llama")
    model.resize_token_embeddings(len(build_tokenizer()))
    model.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    given = [{"prompt": f"Question: sort {letter} a\nAnswer:", "response": " a b"} for letter in "abcdefgh"]
    (folder / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given))
    (folder / "study.yaml").write_text(STUDY.replace("SHARDS", "1").replace("chunk_samples: 1", "chunk_samples: 8"))
    run = snakemake(folder, "contributions", "--configfile", "study.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    # Snakemake makes the environment of every rule that could make a file of the study, also of a file that is there.
    rules = [rule.name for rule in environments.rules("study.yaml", folder) if rule.env in LIGHT]
    run = conda.snakemake(folder, "study.yaml", "--allowed-rules", "all", *rules)
    assert run.returncode == 0, run.stdout[-4000:]
    yield folder, run.stdout
    shutil.rmtree(folder)


def prefixes(folder: Path) -> dict[str, Path]:
    """The environments that were made for a study, by the name of the file in envs/ that has the same bytes."""
    names = {environments.yaml_path(env).read_bytes(): env for env in environments.environments()}
    return {names[file.read_bytes()]: file.with_suffix("") for file in (folder / ".snakemake/conda").glob("*.yaml")}


def check_jobs(folder: Path, config: str, output: str) -> None:
    """Every job that a run announced ended, with the versions that the environment of its rule pins."""
    env_of = {rule.name: rule.env for rule in environments.rules(config, folder)}
    jobs, seen = set(planned_jobs(output)), set()
    for file in (folder / "results").glob("*/records/**/*.json"):
        record = json.loads(file.read_text())
        if record["stage"] in jobs:
            pins = {normal(pin.name): str(pin.specifier) for pin in environments.pip_pins(env_of[record["stage"]])}
            packages = {normal(name): version for name, version in record["packages"].items() if name != "snakemake"}
            assert packages
            for name, version in packages.items():
                assert pins[name] == f"=={version.partition('+')[0]}", (file, name)
            seen.add(record["stage"])
    assert seen == {job for job in jobs if env_of.get(job)}


def probe(prefix: Path, modules: list[str]) -> dict[str, list[str]]:
    """Which modules an environment's Python, alone, can't import, and which of their files lie elsewhere."""
    command = [prefix / "bin/python", "-I", "-c", PROBE, prefix.parents[2] / "scripts"]
    run = subprocess.run(command, input=json.dumps(modules), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def check_imports(prefix: Path, env: str) -> None:
    """Everything that an environment's scripts import, late imports too, comes from the environment or the project."""
    modules = {
        each.module
        for script in environments.environments()[env]
        for _, each in environments.reached(script)
        if each.module != "__future__"
    }
    assert len(modules) > 20
    assert probe(prefix, sorted(modules)) == {"missing": [], "elsewhere": []}


def test_jobs_run_in_the_environments_of_their_rules(light):
    folder, output = light
    assert set(prefixes(folder)) == set(LIGHT)
    check_jobs(folder, "study.yaml", output)


@pytest.mark.parametrize("env", LIGHT)
def test_environments_hold_all_that_their_scripts_import(light, env):
    check_imports(prefixes(light[0])[env], env)


def test_what_an_environment_lacks_is_seen(light):
    assert probe(prefixes(light[0])["tracking"], ["json", "mlflow", "torch", "torch.nn"])["missing"] == [
        "torch",
        "torch.nn",
    ]


@pytest.mark.skipif(
    os.environ.get("MOEMUI_CONDA") != "all",
    reason="the environment with torch takes minutes and gigabytes; set MOEMUI_CONDA=all to make it too",
)
def test_a_whole_study_runs_in_conda_environments(conda, tmp_path):
    folder = copy_project(tmp_path)
    run = conda.snakemake(folder, "config/smoke.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    assert set(prefixes(folder)) == {"analysis", "model", "tracking"}
    check_jobs(folder, "config/smoke.yaml", run.stdout)
    for env, prefix in prefixes(folder).items():
        check_imports(prefix, env)
    shutil.rmtree(folder)
