"""What holds for every command: help that explains, one line and code 2 for a wrong call, quiet when piped."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from workflow.conftest import ROOT

import audit
import doctor
import move_stores
import plan
import track
from _command import INTERRUPTED, NO, Stop, ends, program

COMMANDS = {module.__name__: module for module in (audit, doctor, move_stores, plan, track)}
STUDY = "study: s\nmodels: {m: {source: {path: model}, checkpoints: [{name: last}]}}\n"
STUDY += "tasks: {t: {responses: given.jsonl}}\nsuites: {}\n"


def app(name: str) -> typer.Typer:
    module = COMMANDS[name]
    return program(module.main, no="no", examples=module.EXAMPLES)


def call(name: str, *words: str):
    return CliRunner().invoke(app(name), words, prog_name=f"scripts/{name}.py")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with files that are no studies, and one that is."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("given.jsonl").write_text('{"id": "1", "prompt": "a", "response": "b"}\n')
    Path("good.yaml").write_text(STUDY)
    Path("typo.yaml").write_text(STUDY.replace("suites", "siutes"))
    Path("list.yaml").write_text("- study\n")
    Path("broken.yaml").write_text("study: [\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("list.json").write_text("[1]")
    Path("cut.json").write_text('{"model_type":')
    Path("listed").mkdir()
    Path("listed/config.json").write_text("[]")
    Path("results/s").mkdir(parents=True)
    Path("results/t/records").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_is_done_what_codes_mean_and_gives_examples(name, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    said = call(name, "--help")
    assert said.exit_code == 0
    assert said.stderr == ""
    assert re.search(r"Exit codes:\n +0 +\w.+\n +1 +\w(.|\n)+\n +2 +\w(.|\n)+\n +130 +\w", said.stdout)
    assert "  Prints" in said.stdout
    assert [line for line in said.stdout.splitlines() if len(line) > width] == []
    for example in COMMANDS[name].EXAMPLES:
        assert f"    {example}\n" in said.stdout


@pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, module in COMMANDS.items() for example in module.EXAMPLES]
)
def test_examples_are_calls_that_the_command_takes(name, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python, script, *words = shlex.split(example)
    assert (python, script) == ("python", f"scripts/{name}.py")
    for word in words:
        if word.startswith("config/"):
            assert (ROOT / word).is_file()
            Path("config").mkdir(exist_ok=True)
            Path(word).touch()
    Path("results/demo").mkdir(parents=True)
    command = typer.main.get_command(app(name))
    given = command.make_context(name, list(words)).params.values()
    taken = [str(value) for values in given for value in (values if isinstance(values, list | tuple) else [values])]
    assert [word for word in words if not word.startswith("-") and word not in taken] == []


WRONG = {
    "audit": [["--wrong"], [], [""], ["--all", "x"], ["--all", "--results", "results/s"], ["results/t"]],
    "doctor": [
        *(["--wrong"], [], ["model", "--study", "broken.yaml"], ["model", "--study", "nowhere.yaml"]),
        *(["list.json"], ["cut.json"], ["listed"]),
    ],
    "move_stores": [["--wrong"], [], ["nowhere.yaml"], ["good.yaml"], ["binary.yaml"], ["typo.yaml"], ["list.yaml"]],
    "plan": [
        *(["--wrong"], [], ["nowhere.yaml"], ["broken.yaml"], ["binary.yaml"], ["typo.yaml"], ["list.yaml"]),
        *(
            ["good.yaml", "--cores", "0"],
            ["good.yaml", "--doctor", "x=y"],
            ["good.yaml", "--like", "results/s", "--quick"],
        ),
    ],
    "track": [
        *(["--wrong"], [], ["--config", "nowhere.yaml"], ["--config", "broken.yaml"], ["--config", "binary.yaml"]),
        *(["--results", "nowhere"], ["--results", "results/s", "--config", "good.yaml"]),
        ["--config", "good.yaml", "--uri", "sqlite:///nowhere/mlflow.db"],
    ],
}


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, calls in WRONG.items() for words in calls])
def test_a_wrong_call_is_one_line_with_the_next_step_and_code_2(project, name, words):
    said = call(name, *words)
    assert (said.exit_code, said.stdout) == (2, ""), (said.exception, said.output)
    (line,) = said.stderr.splitlines()
    assert re.match(rf"{name}: \S.{{15,}}", line)
    assert re.search(r"; |see --help|--\w+|not both|line \d+", line), f"no next step: {line}"
    assert "Traceback" not in said.output
    assert "codec" not in said.output
    assert "Error" not in said.output
    assert not Path("nowhere").exists()


def test_a_study_is_audited_whole(project):
    assert call("audit", "results/t").stderr == "audit: results/t is a whole study; give --all --results results/t\n"


def test_what_happens_inside_ends_as_one_line():
    def ended(error: BaseException) -> tuple[int, str]:
        @ends("x", interrupted="call it again")
        def main() -> None:
            raise error

        said = CliRunner().invoke(program(main, no="", examples=[]))
        return said.exit_code, said.stderr

    assert ended(Stop("no such\n thing", NO)) == (1, "x: no such thing\n")
    assert ended(ValueError("a is 1")) == (2, "x: a is 1\n")
    assert ended(PermissionError(13, "Permission denied", "f")) == (2, "x: f: Permission denied\n")
    assert ended(KeyboardInterrupt()) == (130, "x: interrupted; call it again\n")
    assert ended(BrokenPipeError(32, "Broken pipe")) == (2, "x: [Errno 32] Broken pipe\n")  # a server's, not stdout's
    assert [ended(SystemExit(code))[0] for code in (0, 3)] == [0, 3]
    with pytest.raises(AssertionError):  # a fault of the code stays one
        CliRunner().invoke(program(ends("x")(fail), no="", examples=[]), catch_exceptions=False)


def fail() -> None:
    raise AssertionError


def script(name: str, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"scripts/{name}.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_ctrl_c_is_no_traceback(project):
    """A pipe that nobody writes to keeps the command waiting where it reads the study."""
    os.mkfifo("waiting.yaml")
    process = script("track", "--config", "waiting.yaml")
    with open("waiting.yaml", "w"):  # returns when the command has opened it
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    # The end of the pipe ends the read too, should the signal have come just before it began, where Python misses it.
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert err == "track: interrupted; what was logged stays; call it again for the rest\n"


def test_piped_output_has_no_colours_and_no_progress(project):
    """A study whose only record is unreadable: a table, a finding and the sum, which have colours on a terminal."""
    Path("results/t/records/broken.json").write_text("{")
    process = script("audit", "--all", "--results", "results/t", env={"PATH": "", "TERM": "xterm-256color"})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (NO, "")
    assert "broken.json" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise typer.Exit(1)", 1), ("sys.exit(3)", 3)])
@pytest.mark.parametrize("printing", ["print('x' * 80)", "rich.print('x' * 80)"])
@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_reader_may_leave_and_the_exit_code_stays(printing, lines, end, code):
    """What is known of it: with answering, and where all was printed before the reader left."""
    program = f"""
import sys
import rich, typer
from _command import answering, ends, program
def main() -> None:
    sys.stdin.readline()
    with answering({code}):
        for _ in range({lines}):
            {printing}
    {end}
program(ends("x")(main), no="", examples=[])()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT / "scripts", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert process.communicate("\n", timeout=30)[1] == ""
    assert process.returncode == code


def test_make_help_names_every_target_in_one_line_each():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", makefile, re.MULTILINE)[1].replace("\\\n", " ").split()
    listed = re.findall(r"^  (\S+) +\S", said, re.MULTILINE)
    assert sorted(listed) == sorted(phony)
    assert [line for line in said.splitlines() if len(line) > 120] == []
    assert len(re.findall(r"^\S", said, re.MULTILINE)) == 3  # headings of groups


@pytest.mark.parametrize("line", ["study: a-b.c", 'study:  "a-b.c"  # "quoted"', "study: 'a-b.c'", "study: a-b.c # x"])
def test_make_finds_the_name_of_a_study_however_it_is_written(line, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"# study: other\n{line}\ntasks: {{}}\n")
    words = ["make", "-n", "-o", ".venv/.installed", "snakemake-report", f"CONFIG={config}"]
    for more, ending in (([], "html"), (["REPORT_AS=zip"], "zip")):
        said = subprocess.run([*words, *more], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert shlex.split(said)[-1] == f"results/a-b.c/snakemake.{ending}"


def test_make_says_in_one_line_that_a_study_is_not_there():
    run = subprocess.run(["make", "-n", "results", "CONFIG=nowhere.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "'nowhere.yaml', needed by 'results'" in line
