"""The far side of moemui.answers.code_sandbox: a process that shuts itself in, runs a program and says how it ended.

It runs as a script in a bare interpreter and needs the standard library alone. It reads one JSON object from its input
(program, isolated, limits as in `code_sandbox.Limits`, folder) and writes one to its output: in_force, the protections
that held, and result, "passed" or how the program failed. Without an answer it has failed itself.

The process that runs the program is a grandchild: the first one opens namespaces, the second is the first process in
them, so that everything below it ends when it does, and the third gives up every right before it runs the program.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import runpy
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

# Of linux/sched.h, sys/mount.h, linux/mount.h, linux/prctl.h, linux/capability.h, linux/seccomp.h, linux/bpf_common.h.
NEW_USER, NEW_MOUNTS, NEW_PROCESSES, NEW_NETWORK, NEW_IPC = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 0x1000, 0x4000, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, READ_ONLY = 442, -100, 0x8000, 1
DIE_WITH_PARENT, KEEP_CAPABILITIES, SET_SECCOMP, SUBREAPER, NO_NEW_PRIVILEGES = 1, 8, 22, 36, 38
CAPABILITY_VERSION, MAY_READ_ALL = 0x20080522, 1 << 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refuse: the call fails with EPERM
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
# Architecture, and the numbers of the calls socket and io_uring_setup (which opens sockets of its own).
CALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
FOREIGN_CALLS = 0x40000000  # x86_64: from here on the numbers of another calling convention

NOBODY = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")
REPORT_BYTES = 500


def main() -> None:
    """Read the order, run its program, write the answer."""
    order = json.load(sys.stdin)
    folder, limits = Path(order["folder"]), order["limits"]
    _call("prctl", DIE_WITH_PARENT, signal.SIGKILL)
    account = _account(folder)
    tasks = _tasks_of(account)  # before other processes are out of sight
    if order["isolated"]:
        _open_namespaces()
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
        _call("prctl", DIE_WITH_PARENT, signal.SIGKILL)
        os.setsid()
        _shut_in(folder, limits["disk_bytes"])
    else:
        _call("prctl", SUBREAPER, 1)
    os.chdir(folder)
    program = folder / "program.py"
    program.write_text(order["program"], encoding="utf-8", errors="surrogatepass")
    in_force, result = _supervise(program, limits, account, tasks)
    if not order["isolated"]:
        _end_descendants()
    isolation = ["other files", "other processes"] if order["isolated"] else []
    network = ["network"] if order["isolated"] and "network" not in in_force else []
    print(json.dumps({"in_force": [*in_force, *network, *isolation], "result": result}), flush=True)


def _supervise(program: Path, limits: dict[str, Any], account: int, tasks: int) -> tuple[list[str], str]:
    """Run the program in a child: the protections it has put on itself, and how it ended."""
    reading, writing = os.pipe()
    # What a program prints or writes at random is no report.
    marker = os.urandom(16)
    child = os.fork()
    if not child:
        try:
            os.setsid()
            _run(program, limits, account, tasks, writing, marker)
        finally:
            os._exit(70)
    os.close(writing)
    deadline = time.monotonic() + limits["wall_seconds"]
    while not (ended := os.wait4(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.005)
    late = not ended[0]
    if late:
        os.kill(child, signal.SIGKILL)
        ended = os.wait4(child, 0)
    _, status, used = ended
    os.set_blocking(reading, False)
    try:
        said = os.read(reading, 1 << 20)
    except BlockingIOError:  # nothing was said, and a process that the program has left behind holds the other end
        said = b""
    # Nothing, the protections, what the program itself wrote, how it ended.
    parts = said.split(marker)
    in_force = json.loads(parts[1]) if len(parts) > 2 else []
    code = os.waitstatus_to_exitcode(status)
    if late or code == -signal.SIGXCPU or used.ru_utime + used.ru_stime >= limits["seconds"]:
        return in_force, "timed out"
    if code or len(parts) != 4:
        return in_force, f"failed: it ended before its end (exit status {code})"
    return in_force, parts[3].decode(errors="replace")


def _run(program: Path, limits: dict[str, Any], account: int, tasks: int, report: int, marker: bytes) -> NoReturn:
    """Give up every right, run the program, report how it ended."""
    write, leave = os.write, os._exit  # the program may put something else in their place
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, report)
    os.closerange(report + 1, min(highest, 1 << 16))
    os.environ.clear()
    os.environ |= {"HOME": str(program.parent), "TMPDIR": str(program.parent), "PATH": "/usr/bin:/bin"}
    os.environ |= {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    in_force = ["environment", *_limit(limits, tasks, account), *_renounce(account)]
    write(report, marker + json.dumps(in_force).encode() + marker)
    try:
        runpy.run_path(str(program), run_name="candidate")
    except BaseException as error:
        said = f"failed: {type(error).__name__}: {error}"
    else:
        said = "passed"
    write(report, marker + said.encode(errors="replace")[:REPORT_BYTES])
    leave(0)


def _limit(limits: dict[str, Any], tasks: int, account: int) -> list[str]:
    """Set the limits of this process; their names. tasks: those that its account has already, which count too."""
    wanted = {
        "time": (resource.RLIMIT_CPU, limits["seconds"]),
        "memory": (resource.RLIMIT_AS, limits["memory_bytes"]),
        "file size": (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        "open files": (resource.RLIMIT_NOFILE, limits["open_files"]),
        "processes": (resource.RLIMIT_NPROC, tasks + limits["processes"]),
        "core files": (resource.RLIMIT_CORE, 0),
    }
    for kind, value in wanted.values():
        before = resource.getrlimit(kind)[1]
        # The first second beyond its time a process is told, which one may ignore, the next one it is killed.
        hard = value + 1 if kind == resource.RLIMIT_CPU else value
        hard = hard if before == resource.RLIM_INFINITY else min(hard, before)
        resource.setrlimit(kind, (min(value, hard), hard))
    return [name for name in wanted if name != "core files" and (name != "processes" or account)]


def _renounce(account: int) -> list[str]:
    """No right of root's, no way to get one, no socket: ["network"] where the last could be had.

    Of root's processes the system counts none, so root becomes nobody, who still reads what root reads (an interpreter
    in root's home, for instance), where root may hand that on, and writes nothing.
    """
    kept = 0
    if account != os.getuid():
        kept = MAY_READ_ALL
        _call("prctl", KEEP_CAPABILITIES, 1)
        os.setgroups([])
        os.setgid(account)
        os.setuid(account)
    if sys.platform != "linux":
        return []
    version = struct.pack("Ii", CAPABILITY_VERSION, 0)
    try:
        _call("capset", version, struct.pack("6I", kept, kept, 0, 0, 0, 0))
    except OSError:  # root of a container, who has no such right to keep: nobody reads what all may read
        _call("capset", version, struct.pack("6I", 0, 0, 0, 0, 0, 0))
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call("prctl", DIE_WITH_PARENT, signal.SIGKILL)  # forgotten with the change of user
    if platform.machine() not in CALLS:
        return []
    architecture, *refused = CALLS[platform.machine()]
    filters = [
        (LOAD, 0, 0, 4),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (IF_AT_LEAST, len(refused) + 1, 0, FOREIGN_CALLS),
        *((IF_EQUAL, len(refused) - number, 0, call) for number, call in enumerate(refused)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in filters))
    try:
        _call("prctl", SET_SECCOMP, 2, struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code)))
    except OSError:  # a kernel without seccomp filters
        return []
    return ["network"]


def _open_namespaces() -> None:
    """Own namespaces of mounts, processes and network for what follows. Raises OSError where that is not allowed."""
    wanted = NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK | NEW_IPC
    user, group = os.getuid(), os.getgid()
    if not user:
        _call("unshare", wanted)
        return
    _call("unshare", NEW_USER | wanted)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _shut_in(folder: Path, disk_bytes: int) -> None:
    """Make every file read-only but for an empty folder in memory, and hide processes and devices."""
    space = f"size={disk_bytes},mode=777".encode()
    _mount(None, "/", PRIVATE | RECURSIVE)
    _mount("tmpfs", str(folder), NOSUID | NODEV, space)
    devices = folder / "dev"
    devices.mkdir()
    for name in DEVICES:
        (devices / name).touch()
        _mount(f"/dev/{name}", str(devices / name), BIND)
    _mount(str(devices), "/dev", BIND | RECURSIVE)
    _mount("tmpfs", "/proc", NOSUID | NODEV)
    attributes = struct.pack("QQQQ", READ_ONLY | NOSUID, 0, 0, 0)
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes))
    _mount("tmpfs", str(folder), NOSUID | NODEV, space)


def _mount(source: str | None, target: str, flags: int, options: bytes | None = None) -> None:
    kind = b"tmpfs" if source == "tmpfs" else None
    _call("mount", source.encode() if source else None, target.encode(), kind, flags, options)


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library. Raises OSError where it fails; does nothing on a system other than Linux."""
    if sys.platform != "linux":
        return
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*passed) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _account(folder: Path) -> int:
    """The user that the program runs as, who owns the folder: this one, or nobody for root."""
    if user := os.getuid():
        return user
    try:
        os.chown(folder, NOBODY, NOBODY)
    except OSError:  # a container that knows no such user
        return user
    return NOBODY


def _tasks_of(account: int) -> int:
    """Processes and threads of a user, as the limit on processes counts them; 0 where there is no /proc."""
    count = 0
    for file in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        if lines["Uid"].split()[0] == str(account):
            count += int(lines["Threads"])
    return count


def _end_descendants() -> None:
    """Kill what the program has left behind; where /proc is, also what has left its session."""
    for _ in range(200):
        for pid in _descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _descendants(process: int) -> set[int]:
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {process}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found - {process}


if __name__ == "__main__":
    main()
