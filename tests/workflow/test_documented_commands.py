"""Every command and every example in the documents does what it says, on the finished smoke study where it is cheap.

A command that nothing here knows fails: nobody writes one down that is never tried. What is not run is named, with what
covers it instead.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from snakemake.cli import parse_args
from workflow.conftest import ROOT, SMOKE, copy_study, local_models, planned_jobs, snakemake
from workflow.documents import Command, blocks, commands

from _study import Study

ALL = commands()
# The documents speak of the embedded study and of models on the hub; tests have the smoke study and its models.
SUBSTITUTES = {
    "results/demo": "results/smoke",
    "tiny-deepseek": "smoke-deepseek",
    "tiny-olmoe": "smoke-olmoe",
    "step-1000": "step-120",
    "step-01000": "step-00120",
    "config/mine.yaml": "config/smoke.yaml",
    "allenai/OLMoE-1B-7B-0924": "results/smoke/smoke-olmoe/training/step-00120",
}
# Targets whose work is not done once more here, and why.
NOT_RUN = {
    "results": "the fixture `smoke` ran it: test_make_results_is_what_the_fixture_ran",
    "test": "this is it",
    "check-report": "test_report_in_browser.py and test_prose_numbers.py open the smoke study's report",
    "experiments": "test_experiments.py runs all of them at their smallest",
    "test-simulations": "takes minutes and changes nothing; its tests are tests",
    "test-system": "needs SLURM and conda; CI has the others",
    "packages": "needs root and Debian's package index",
    "lint": "CI's first half",
    "check": "lint and test",
    "format": "changes files; what it would change, lint says",
    "lock": "needs PyPI; test_environments.py reads what it writes",
    "environments": "test_environments.py compares what it writes",
    "benchmark": "takes minutes",
    "architectures": "tests/conformance/ compares what it writes",
    "ui": "test_mlflow_ui.py starts it",
    "clean": "removes results",
    "dictionary": "tests of the tables compare what it writes",
}


def substituted(words: str) -> str:
    for ours, theirs in SUBSTITUTES.items():
        words = words.replace(ours, theirs)
    return words


def of(program: str) -> list[Command]:
    """The commands that call a program, whatever folder it lies in."""
    return [command for command in ALL if re.match(rf"(\S*/)?{program} ", command.words)]


def expanded(words: str) -> list[str]:
    """The lines that make would run, .venv being there; none where it refuses, which the first test of make tells."""
    run = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", *shlex.split(words)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.replace("\\\n", " ").splitlines() if run.returncode == 0 else []


def targets(words: str) -> list[str]:
    return [word for word in shlex.split(words)[1:] if "=" not in word]


def of_snakemake() -> list[tuple[str, list[str]]]:
    """(as documented, arguments) of every command that is snakemake's, those behind make included."""
    found = [(command.words, command.words) for command in of("snakemake")]
    for command in of("make"):
        if targets(command.words) == ["results"] or not set(targets(command.words)) & set(NOT_RUN):
            found += [(command.words, line) for line in expanded(substituted(command.words)) if "bin/snakemake" in line]
    return [(said, shlex.split(substituted(line))[1:]) for said, line in found]


def of_scripts() -> list[tuple[str, list[str]]]:
    """(as documented, script and its arguments) of every command that calls a script, those behind make included."""
    lines = [(command.words, command.words) for command in of("python")]
    for command in of("make"):
        # the name of a target in the text is no call: its variables are missing
        if not command.quoted or "=" in command.words:
            lines += [(command.words, line) for line in expanded(substituted(command.words))]
    calls = [(said, re.match(r"\S*python (scripts/\w+\.py.*)", line)) for said, line in lines]
    return [(said, shlex.split(call.group(1))) for said, call in calls if call]


# ------------------------------------------------------------------------------------------------ all are known

KNOWN = {
    r"make [a-z]": "test_make_knows_its_targets_and_variables, and below",
    r"(\S*/)?snakemake( |$)": "test_snakemake_takes_these_words, test_targets_dry_run",
    r"(\.venv/bin/)?python scripts/": "test_scripts_take_these_words",
    r"(\.venv/bin/python -m )?pip install ": "test_what_pip_installs_is_pinned",
    r"python3 -m venv \.venv$": "the standard library's",
    r"apt-get install ": "test_debian_packages_are_those_of_make_packages",
    r"cd /shared/|export HF_HOME=": "a shell's own, on a cluster",
}


def test_every_command_is_tried_or_known():
    assert len(ALL) > 30
    unknown = [f"{one.page}: {one.words}" for one in ALL if not any(re.match(known, one.words) for known in KNOWN)]
    assert not unknown, (
        f"{'; '.join(unknown)}: nothing tries these commands; let test_documented_commands.py run them, or tell it in "
        "KNOWN what does"
    )


@pytest.mark.parametrize("command", of("make"), ids=lambda command: command.words)
def test_make_knows_its_targets_and_variables(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets(command.words):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{command.page}: `make {target}` is no target"
    for name in re.findall(r"(\w+)=", " ".join(shlex.split(command.words)[1:])):
        if name.isupper():
            assert f"$({name})" in makefile, f"{command.page}: no target of the Makefile takes {name}"
    for line in expanded(substituted(command.words)) if set(targets(command.words)) - {*NOT_RUN, "help"} else []:
        known = re.match(r"\S*bin/(python scripts/|snakemake )|echo ", line)
        assert known, f"`{command.words}` runs `{line}`, which nothing here tries; do, or name its target in NOT_RUN"


# ------------------------------------------------------------------------------------------------ words are taken


@pytest.mark.parametrize(("said", "words"), of_scripts(), ids=lambda part: part if isinstance(part, str) else "")
def test_scripts_take_these_words(said, words, smoke, monkeypatch):
    """Read as the script would, to the point where it would begin; files that must be there are."""
    monkeypatch.chdir(smoke)
    script, *arguments = [word if word != "CONFIG" else "config/smoke.yaml" for word in words]
    app = typer.Typer()
    app.command()(importlib.import_module(Path(script).stem).main)
    try:
        typer.main.get_command(app).make_context(script, arguments)
    except Exception as error:
        pytest.fail(f"`{said}`: {getattr(error, 'message', error)}")


def plain(words: list[str]) -> tuple[list[str], str]:
    """Words without the profile, which needs plugins on clusters, and the profile's folder, empty without one."""
    if "--workflow-profile" not in words:
        return words, ""
    place = words.index("--workflow-profile")
    return words[:place] + words[place + 2 :], words[place + 1]


@pytest.mark.parametrize(("said", "words"), of_snakemake(), ids=lambda part: part if isinstance(part, str) else "")
def test_snakemake_takes_these_words(said, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # whose folders the words name
    rest, profile = plain(words)
    assert not profile or (ROOT / profile / "config.yaml").is_file(), f"`{said}`: there is no profile {profile}"
    rest = [word for word in rest if not word.startswith("--container-image") and "registry.example" not in word]
    try:
        parse_args(rest)
    except SystemExit:
        pytest.fail(f"`{said}`: {capsys.readouterr().err.strip().splitlines()[-1]}")
    for config in re.findall(r"config/\w+\.yaml", " ".join(rest)):
        # test_dry_runs.py dry-runs every study in config/, to its end
        assert (ROOT / config).is_file(), f"`{said}`: there is no {config}"


def test_make_results_is_what_the_fixture_ran():
    (line,) = [line for line in expanded("make results CONFIG=config/smoke.yaml") if "bin/snakemake" in line]
    words = shlex.split(line)[1:]
    assert words[:2] == ["--cores", "all"]
    assert tuple(words[2:]) == SMOKE


@pytest.fixture(scope="module")
def finished(smoke, tmp_path_factory):
    """A copy of the finished smoke study, with the Makefile and empty files for the local models of ready studies."""
    folder = copy_study(smoke, tmp_path_factory.mktemp("documented") / "project")
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    local_models(folder)
    return folder


@pytest.mark.slow
def test_targets_dry_run(finished):
    """All targets that documents name, at once; on the finished study nothing is left to do but exports."""
    named = set()
    for _, words in of_snakemake():
        rest, _ = plain(words)
        named |= {word for before, word in itertools.pairwise(["", *rest]) if re.fullmatch(r"[a-z]\w+", word)
                  and before not in ("--cores", "--report", "--slurm-status-command")}  # fmt: skip
    assert {"utilization", "report", "turnover"} <= named
    # Experiments are no part of the finished study; test_experiments.py runs them.
    named -= {"experiments", *yaml.safe_load((ROOT / "config/experiments.yaml").read_text())["experiments"]}
    run = snakemake(finished, *sorted(named), "-n", *SMOKE)
    assert run.returncode == 0, run.stdout[-2000:]
    assert [rule for rule in planned_jobs(run.stdout) if "export" not in rule] == []


# ------------------------------------------------------------------------------------------------ really run

RUN = ("help", "plan", "audit", "track", "doctor")


def in_blocks() -> list[str]:
    """Commands of make in blocks whose targets are run; those with other variables are other commands."""
    found = [command.words for command in of("make") if not command.quoted and targets(command.words)[0] in RUN]
    return list(dict.fromkeys(found))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["make help", "make track CONFIG=config/smoke.yaml", *in_blocks()])
def test_runs_on_the_finished_study(words, finished):
    line = shlex.split(substituted(words))
    if targets(words) == ["plan"]:  # test_plan.py plans every ready study; --quick asks neither lm_eval nor the hub
        line = ["make", "plan", "CONFIG=config/smoke.yaml", "ARGS=--quick"]
    # In the environment that tests run in, which is complete, instead of .venv.
    line += [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    run = subprocess.run(line, cwd=finished, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"`{words}`: {run.stdout[-1500:]}{run.stderr[-1500:]}"
    shown = {
        "help": [f"  {target} " for command in of("make") for target in targets(command.words)],
        "plan": ["stages, on"],
        "audit": ["all as recorded"],
        "track": ["were there before"],
        "doctor": ["conservation"],
    }[targets(words)[0]]
    assert [said for said in shown if said not in run.stdout] == []


def test_the_documents_show_how_to_plan_audit_and_examine():
    assert {targets(words)[0] for words in in_blocks()} >= {"plan", "audit", "doctor"}


# ------------------------------------------------------------------------------------------------ examples


def test_what_pip_installs_is_pinned():
    """By the lock, or by a version that a study or a test names too. Installing takes the network."""
    named = "".join(
        path.read_text(encoding="utf-8")
        for folder, ending in (("config", "*.yaml"), ("tests", "*.py"))
        for path in (ROOT / folder).rglob(ending)
        if path.name != Path(__file__).name
    )
    for command in ALL:
        words = re.split(r"pip install ", command.words)[1:]
        for word in shlex.split(words[0]) if words else []:
            if "==" in word:
                assert word in named, f"{command.page}: nothing else in the project names {word}"
            elif word.endswith(".lock"):
                assert (ROOT / word).is_file()
            else:
                assert word.startswith("-") or word in ("models", "."), f"{command.page}: {word} has no version"


def test_debian_packages_are_those_of_make_packages():
    listed = set("\n".join(expanded("make packages")).split())
    for command in ALL:
        if command.words.startswith("apt-get install"):
            assert {word for word in command.words.split()[2:] if not word.startswith("-")} <= listed


# test_exports.py runs these, beside what they must say; they read exports, which `all` does not make.
RUN_BY_TEST_EXPORTS = ("docs/files.md", "docs/tables.md")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")} - {*RUN_BY_TEST_EXPORTS}))
def test_python_runs_on_the_finished_study(page, finished):
    """The examples of a page one after the other, as a reader goes down it."""
    lines = ["names = {}"]
    for block in blocks("python", pages=[page]):
        program = f"compile({substituted(block.text)!r}, {str(block)!r}, 'exec')"
        # what reads a store on S3 is only compiled: test_remote_stores.py reads stores of a server
        lines.append(program if "s3://" in block.text else f"exec({program}, names)")
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=finished, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def merged(base: object, over: object) -> object:
    """A study with an example's keys in it; what is no mapping is replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_yaml_example_is_a_study_or_fits_into_one(block, tmp_path, monkeypatch):
    """Into the first whole study of its page, or the smoke study where it has none."""
    example = yaml.safe_load(block.text)
    of_page = [yaml.safe_load(one.text) for one in blocks("yaml", pages=[block.page])]
    base = next((one for one in of_page if "study" in one), yaml.safe_load((ROOT / "config/smoke.yaml").read_text()))
    study = merged(base, example)
    (tmp_path / "config").symlink_to(ROOT / "config")  # with the folders and files that examples name
    monkeypatch.chdir(tmp_path)
    for task in study["tasks"].values():
        if "responses" in task and not Path(task["responses"]).exists():
            Path(task["responses"]).parent.mkdir(parents=True, exist_ok=True)
            Path(task["responses"]).touch()
    Study(study)


def test_json_is_json():
    """Whole blocks, or a value a line."""
    for block in blocks("json"):
        for text in [block.text] if block.text.count("\n{") == 0 else block.text.strip().splitlines():
            json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("snakemake"), ids=str)
def test_a_snakefile_example_dry_runs(block, finished, tmp_path):
    config = {"mui": yaml.safe_load((ROOT / "config/smoke.yaml").read_text())}
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "config").symlink_to(finished / "config")
    text = block.text.replace("…/moe-mui", str(finished))
    (tmp_path / "Snakefile").write_text(f'configfile: "project.yaml"\n{text}')
    run = snakemake(tmp_path, "-n", "mui_utilization")
    assert run.returncode == 0, run.stdout[-2000:]
    assert planned_jobs(run.stdout)["mui_model_utilization"] == len(config["mui"]["models"])


def test_names_of_lm_eval_in_examples_are_its_own():
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks"
    wanted = {
        task["lm_eval"]
        for block in blocks("yaml")
        for task in (yaml.safe_load(block.text).get("tasks") or {}).values()
        if "lm_eval" in task and "include" not in task
    }
    left = set(wanted)
    for path in folder.rglob("*.yaml"):
        left -= set(re.findall(r"^(?:task|group): *(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        if not left:
            break
    assert wanted
    assert not left, f"lm_eval has no task {sorted(left)}"
