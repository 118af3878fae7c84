"""Running code that a model wrote, where grading needs that: in a process of its own that can do little harm.

A program gets a temporary folder, an environment without secrets, and limits of time, memory, file size, open files and
processes; everything that it starts ends with it. Where the system allows namespaces it also sees no network and no
other process, and can write nowhere but in its folder, which is then in memory. `protections` says what holds here.

A program can read what its user can read, and one that sets out to fake its own success can do so: the tests of
HumanEval and MBPP run inside it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache

from moemui.answers import sandboxed_program

log = logging.getLogger(__name__)

# What holds everywhere, and what takes namespaces or a filter of system calls.
LIMITED = ("environment", "time", "memory", "file size", "open files", "processes")
ISOLATED = ("network", "other files", "other processes")
# A loaded machine must not make a right answer wrong, so the limit of time counts what the program itself computes;
# by the clock it has this many times as long.
PATIENCE = 4
STARTING_SECONDS = 60.0  # for the processes around a program, on a machine with much to do


class SandboxError(RuntimeError):
    """The sandbox itself failed; it says nothing about the program."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. seconds: of processor time, rounded up to whole ones, PATIENCE times that by the clock.
    memory_bytes: address space of each of its processes. file_bytes: largest file. disk_bytes: all files, where the
    folder is in memory. processes: with threads."""

    seconds: float = 3.0
    memory_bytes: int = 2**30
    file_bytes: int = 16 * 2**20
    disk_bytes: int = 64 * 2**20
    open_files: int = 64
    processes: int = 16


@dataclass(frozen=True)
class Outcome:
    """passed: the program ran to its end. result: "passed", "timed out" or "failed: …", in the program's own words.
    in_force: the protections that held."""

    passed: bool
    result: str
    in_force: tuple[str, ...]


def run(program: str, limits: Limits | None = None, *, isolated: bool | None = None) -> Outcome:
    """Run Python source; it has passed if it comes to its end, neither raising nor leaving before.

    isolated: in namespaces; where they are allowed if None. Raises SandboxError where the sandbox itself fails.
    """
    wanted = limits or Limits()
    shut_in = _namespaces() is None if isolated is None else isolated
    numbers = {**asdict(wanted), "seconds": math.ceil(wanted.seconds), "wall_seconds": PATIENCE * wanted.seconds}
    with tempfile.TemporaryDirectory(prefix="moemui-code-", ignore_cleanup_errors=True) as folder:
        order = {"program": program, "folder": folder, "isolated": shut_in, "limits": numbers}
        command = [sys.executable, "-I", "-B", sandboxed_program.__file__]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process:
            try:
                said, error = process.communicate(
                    json.dumps(order).encode(), timeout=numbers["wall_seconds"] + STARTING_SECONDS
                )
            except BaseException as cut_short:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(cut_short, subprocess.TimeoutExpired):
                    late = f"the process around generated code did not end in {cut_short.timeout:.0f} s"
                    raise SandboxError(late) from cut_short
                raise
    if said:
        answer = json.loads(said)
        return Outcome(answer["result"] == "passed", answer["result"], tuple(answer["in_force"]))
    if error:
        raise SandboxError(error.decode(errors="replace").strip().splitlines()[-1])
    # Without namespaces a program can kill the process that watches it.
    return Outcome(False, "failed: it killed the process around it", ())


@cache
def _namespaces() -> str | None:
    """None where namespaces can be had, else the reason why not."""
    try:
        outcome = run("", isolated=True)
    except SandboxError as error:
        return str(error)
    return None if outcome.passed else outcome.result


@cache
def protections() -> dict[str, str]:
    """What holds for generated code on this machine: {code_sandbox: protections, comma-separated} and, where some can't
    be had, {code_sandbox_missing: the others}; then a warning says why. Raises SandboxError where nothing can be run.
    """
    outcome = run("")
    if not outcome.passed:
        raise SandboxError(f"no program can be run here: {outcome.result}")
    missing = [name for name in (*LIMITED, *ISOLATED) if name not in outcome.in_force]
    held = {"code_sandbox": ", ".join(name for name in (*LIMITED, *ISOLATED) if name in outcome.in_force)}
    if not missing:
        return held
    reason = _namespaces()
    log.warning(
        "generated code runs without protection of: %s%s; allow_code on such a machine only where that is safe",
        ", ".join(missing),
        f" ({reason})" if reason else "",
    )
    return {**held, "code_sandbox_missing": ", ".join(missing)}
