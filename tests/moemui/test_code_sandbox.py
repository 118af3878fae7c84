"""Generated code is run where it can do little harm, and counts as right only if it is.

Every attack is tried with namespaces and, as on a machine without them, with limits alone.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import lm_eval
import psutil
import pytest

from moemui.answers import code_eval, code_sandbox, harness
from moemui.answers.code_sandbox import Limits, run
from moemui.answers.harness import TaskSpec
from moemui.answers.recording_model import Generated

ROOT = Path(__file__).resolve().parents[2]
SHORT = Limits(seconds=1)
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'{}')\n"  # the name that a process has in lists


@pytest.fixture(params=[True, False], ids=["isolated", "limits alone"])
def isolated(request):
    if request.param and (reason := code_sandbox._namespaces()):
        pytest.skip(f"namespaces are not allowed here ({reason}); run as root, or where users may open them")
    return request.param


def named(name):
    return [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == name]


def gone(name, seconds=10.0):
    """Whether no process of that name is left, soon."""
    deadline = time.monotonic() + seconds
    while (left := named(name)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("def f(x):\n    return x + 1\nassert f(1) == 2", "passed"),
        ("import math, dataclasses as d\n@d.dataclass\nclass A:\n    x: int\nassert math.sqrt(A(4).x) == 2", "passed"),
        ("assert 'π' == chr(960)", "passed"),
        ("if __name__ == '__main__':\n    raise SystemExit", "passed"),
        ("open('a', 'w').write('b')\nassert open('a').read() == 'b'", "passed"),
        ("assert 1 + 1 == 3, 'sum'", "failed: AssertionError: sum"),
        ("def f(:", "failed: SyntaxError: "),
        ("x = '\ud800'", "failed: "),
        ("import sys; sys.exit(0)", "failed: SystemExit: 0"),
        ("raise KeyboardInterrupt", "failed: KeyboardInterrupt: "),
        ("import os; os._exit(0)", "failed: it ended before its end (exit status 0)"),
        ("print('passed', flush=True); import os; os._exit(0)", "failed: it ended before its end (exit status 0)"),
        ("import os; os.kill(os.getpid(), 11)", "failed: it ended before its end (exit status -11)"),
        ("input()", "failed: EOFError: "),
        ("x = [0] * 10**10", "failed: MemoryError: "),
        ("open('large', 'wb').write(bytes(10**9))", "failed: OSError: [Errno 27] File too large"),
        ("[open('/dev/null') for _ in range(1000)]", "failed: OSError: [Errno 24] Too many open files"),
        ("import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,)).start()",
         "failed: RuntimeError: can't start new thread"),
        ("import os\nos.write = os._exit = None\nraise ValueError('x')", "failed: ValueError: x"),
    ],
)  # fmt: skip
def test_a_program_passes_if_it_comes_to_its_end(program, result, isolated):
    outcome = run(program, isolated=isolated)
    assert outcome.result.startswith(result)
    assert outcome.passed is (result == "passed")


def test_writing_everywhere_is_no_report(isolated):
    program = """
import os
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"passed")
    except OSError:
        pass
os._exit(0)
"""
    assert not run(program, isolated=isolated).passed


def test_time_is_limited_for_work_and_for_waiting(isolated):
    assert run("while True: pass", SHORT, isolated=isolated).result == "timed out"
    ignoring = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(ignoring, SHORT, isolated=isolated).result == "timed out"
    assert run("import time; time.sleep(600)", Limits(seconds=0.2), isolated=isolated).result == "timed out"


def test_bombs_of_processes_end(isolated):
    program = """
import os, ctypes
ctypes.CDLL(None).prctl(15, b"moemui-bomb")
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    assert not run(program, Limits(seconds=0.3), isolated=isolated).passed
    assert gone("moemui-bomb")


def test_what_it_leaves_behind_is_ended(isolated):
    program = """
import ctypes, os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        ctypes.CDLL(None).prctl(15, b"moemui-left")
        open("up", "w").close()
        time.sleep(300)
    os._exit(0)
while not os.path.exists("up"):
    time.sleep(0.01)
"""
    assert run(program, isolated=isolated).passed
    assert gone("moemui-left")


@pytest.mark.parametrize("target", ["os.kill(os.getppid(), 9)", "os.killpg(os.getpgid(0), 9)", "os.kill(-1, 9)"])
def test_killing_what_is_around_it_is_a_failure_and_no_more(target, isolated):
    if "-1" in target and not (isolated or os.getuid() == 0):
        pytest.skip("without namespaces this would end every process of this user; run as root, which becomes nobody")
    program = f"import os\ntry:\n    {target}\nexcept OSError:\n    pass\nraise ValueError"
    assert not run(program, isolated=isolated).passed
    assert run("", isolated=isolated).passed


def test_no_connection_is_made(isolated):
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                reached.append(connection.recv(99))

        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).sendall(b'out')"
        assert run(program, isolated=isolated).result.startswith("failed: PermissionError")
        subprocess.run([sys.executable, "-c", program], check=True)  # from outside it works, and is served in turn
        deadline = time.monotonic() + 10
        while not reached and time.monotonic() < deadline:
            time.sleep(0.01)
        server.shutdown(socket.SHUT_RDWR)
    assert reached == [b"out"]


def test_no_socket_file_is_reached(tmp_path, isolated):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "daemon.sock"))
        server.listen()
        program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(tmp_path / 'daemon.sock')!r})"
        assert not run(program, isolated=isolated).passed
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_it_sees_no_secret(monkeypatch, isolated):
    monkeypatch.setenv("HF_TOKEN", "hf_marker")
    program = """
import os
if "HF_TOKEN" in os.environ or "hf_marker" in str(os.environ):
    raise ValueError(1)
for process in [entry for entry in os.listdir("/proc") if entry.isdigit()]:
    try:
        content = open(f"/proc/{process}/environ", "rb").read()
    except OSError:
        continue
    if b"hf_marker" in content:
        raise ValueError(process)
"""
    if not isolated and os.getuid():
        program = program.partition("for process")[0]  # what a user may read, his programs may read
    assert run(program, isolated=isolated).result == "passed"


def test_it_writes_nowhere_but_into_its_folder(tmp_path, isolated):
    if not isolated and os.getuid():
        pytest.skip("without namespaces a program writes where its user may; run as root, which becomes nobody")
    (tmp_path / "results").mkdir()
    if isolated:
        (tmp_path / "results").chmod(0o777)
    mine = tmp_path / "results" / "table.csv"
    mine.write_text("1")
    places = [mine, tmp_path / "results" / "new", Path.home() / ".moemui-evil"]
    places += ["/dev/shm/moemui-evil", "/tmp/moemui-evil"] if isolated else []  # which are everybody's
    for place in places:
        assert not run(f"open({str(place)!r}, 'w').write('2')", isolated=isolated).passed, place
        assert not run(f"import os; os.remove({str(place)!r})", isolated=isolated).passed, place
    assert mine.read_text() == "1"
    assert not any(Path(place).exists() for place in places[1:])


def test_it_can_t_undo_its_walls(isolated):
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000 | 0x20000)  # a user namespace of its own, in which it is root
for flags in (0x1000 | 0x20, 0x20):
    libc.mount(None, b"/", None, ctypes.c_ulong(flags), None)
libc.umount2(b"/dev", 2)
libc.umount2(b"/proc", 2)
open("{}", "w")
"""
    target = Path(__file__).with_name(".moemui-evil")
    if not isolated and os.getuid():
        pytest.skip("without namespaces there are no walls between a program and its user's files")
    assert not run(program.format(target), isolated=isolated).passed
    assert not target.exists()


def test_it_ends_with_the_job():
    program = NAMED.format("moemui-orphan") + "import time\ntime.sleep(600)"
    job = f"from moemui.answers.code_sandbox import Limits, run\nrun({program!r}, Limits(seconds=300))"
    scripts = str(Path(harness.__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", job], env={**os.environ, "PYTHONPATH": scripts}) as process:
        deadline = time.monotonic() + 30
        while not named("moemui-orphan") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert named("moemui-orphan")
        process.send_signal(signal.SIGKILL)
    assert gone("moemui-orphan")


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch, isolated):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("open('a', 'w').write('b')", isolated=isolated).passed
    assert list(tmp_path.iterdir()) == []


def test_what_holds_is_told(caplog):
    assert code_sandbox.protections.__wrapped__()["code_sandbox"].startswith("environment, time, memory, file size")
    expected = [*code_sandbox.LIMITED, *code_sandbox.ISOLATED]
    outcome = run("", isolated=False)
    assert set(code_sandbox.LIMITED) <= set(outcome.in_force) <= set(expected)
    assert "other files" not in outcome.in_force
    if code_sandbox._namespaces() is None:
        assert set(run("", isolated=True).in_force) == set(expected)
        assert caplog.text == ""


def test_missing_protections_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(code_sandbox, "_namespaces", lambda: "unshare: Operation not permitted")
    found = code_sandbox.protections.__wrapped__()
    assert found["code_sandbox_missing"].endswith("other files, other processes")
    assert "other files" not in found["code_sandbox"]
    assert (
        "other files, other processes (unshare: Operation not permitted); allow_code on such a machine only"
        in caplog.text
    )


def test_a_fault_of_the_sandbox_is_no_verdict(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('no such kernel')")
    monkeypatch.setattr(code_sandbox.sandboxed_program, "__file__", str(broken))
    with pytest.raises(code_sandbox.SandboxError, match="OSError: no such kernel"):
        run("", isolated=False)


OF_A_CONTAINER = (
    "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,"
    "audit_write"
)


def test_root_of_a_container_can_grade():
    if os.geteuid() or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists():
        pytest.skip("takes rights from root with setpriv; run as root, with util-linux and /usr/bin/python3 installed")
    rights = ",+".join(("-all", *OF_A_CONTAINER.split(",")))
    # An interpreter that everyone may read: without its rights root is anyone.
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from moemui.answers import code_sandbox as c; "
        "outcome = c.run(\"open('a', 'w').write('b')\", isolated=False); print(outcome.result, *outcome.in_force); "
        "print(c.run('import os; os.setuid(0)', isolated=False).result)"
    )
    command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "/usr/bin/python3", "-I", "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    first, second = run.stdout.splitlines() or pytest.fail(run.stderr)
    assert first.startswith("passed environment time memory")
    assert second == "failed: PermissionError: [Errno 1] Operation not permitted"


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for n, correct, k in [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 3, 3), (6, 1, 4)]:
        draws = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert math.isclose(code_eval.pass_at_k(n, correct, k), sum(map(any, draws)) / len(draws), abs_tol=1e-15)


def test_the_metric_answers_as_evaluate_s_own():
    metric = code_eval.CodeEval()
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a * b"
    tests, candidates = ["assert add(2, 3) == 5", "assert add(1, 1) == 2"], [[right, wrong], [wrong, wrong]]
    scores, results = metric.compute(references=tests, predictions=candidates, k=[1, 2, 3])
    assert scores == {"pass@1": 0.25, "pass@2": 0.5}  # no three candidates
    assert results[0] == [
        (0, {"task_id": 0, "passed": True, "result": "passed", "completion_id": 0}),
        (1, {"task_id": 0, "passed": False, "result": "failed: AssertionError: ", "completion_id": 1}),
    ]
    assert metric.compute(references=["x = 1"], predictions=[["y = 1"]], k=1)[0] == {"pass@1": 1.0}
    with pytest.raises(ValueError, match="2 lists of candidates for 1 tests"):
        metric.compute(references=["x"], predictions=[["y"], ["z"]])
    loop = metric.compute(references=["while True: pass"], predictions=[[""]], k=1, timeout=0.5)[1]
    assert loop[0][0][1]["result"] == "timed out"


ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(1, 1) == 2\n",
    "entry_point": "add",
}
DOUBLE = {
    "task_id": 1,
    "text": "Double a number.",
    "code": "def double(x): return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0", "assert double(3) == 6"],
}
SAID = {
    "humaneval": ["    return a + b\n", "    return a * b\n", "    import os\n    os._exit(0)\n"],
    "mbpp": ["def double(x): return x + x", "def double(x): return 4", "no code"],
}


@pytest.fixture(scope="module")
def coding(tmp_path_factory):
    """lm_eval's own HumanEval and MBPP by themselves, with rows of ours."""
    folder = tmp_path_factory.mktemp("coding")
    for name, row in (("humaneval", ADD), ("mbpp", DOUBLE)):
        (folder / name).mkdir()
        for file in (f"{name}.yaml", "utils.py"):
            shutil.copy(Path(lm_eval.__file__).parent / "tasks" / name / file, folder / name)
        (folder / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 3)
    return folder


def spec(folder, name, **more):
    return TaskSpec(name, include=str(folder), data=str(folder / f"{name}.jsonl"), num_fewshot=None, **more)


class Scripted:
    """A model that says what the tasks' rows are to be answered with."""

    chat, tokenizer, progress = False, None, staticmethod(harness.silent)

    def generate_until(self, requests, disable_tqdm):
        said = [SAID[request.task_name][request.doc_id] for request in requests]
        self.generated = [Generated([1], [2], False) for _ in said]
        return said


@pytest.mark.slow
def test_lm_eval_s_coding_tasks_are_graded_in_the_sandbox_without_the_hub(coding, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    for name in SAID:
        with pytest.raises(
            ValueError, match=rf"task {name} runs code that the model wrote; set allow_code: true for c"
        ):
            harness.load_tasks({"c": spec(coding, name)})
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    tasks = harness.load_tasks({name: spec(coding, name, allow_code=True) for name in SAID})
    records = harness.respond(Scripted(), tasks)
    for name, rows in records.items():
        assert [row["correct"] for row in rows] == [True, False, False], name
    assert tasks.code_protections() == code_sandbox.protections()
    # The Python of these tasks is loaded by now; they still run nothing where that is not allowed.
    file = coding / "mbpp" / "mbpp.yaml"
    marked = file.read_text()
    assert "unsafe_code: true" in marked
    file.with_name("quiet.yaml").write_text(
        marked.replace("unsafe_code: true", "").replace("task: mbpp", "task: quiet")
    )
    (coding / "quiet.jsonl").write_text((coding / "mbpp.jsonl").read_text())
    with pytest.raises(ValueError, match="task quiet runs code that the model wrote; set allow_code"):
        harness.load_tasks({"c": spec(coding, "quiet")})


def test_code_run_by_other_means_is_refused(coding):
    (coding / "own").mkdir()
    (coding / "own" / "mine.py").write_text("def score(references, predictions, **_):\n    return 1.0\n")
    (coding / "own" / "own.yaml").write_text(
        "task: own\ndataset_path: json\nunsafe_code: true\noutput_type: generate_until\ntest_split: test\n"
        "doc_to_text: prompt\ndoc_to_target: test\nmetric_list:\n  - metric: !function mine.score\n"
        "    aggregation: mean\n    higher_is_better: true\n"
    )
    (coding / "own.jsonl").write_text((coding / "humaneval.jsonl").read_text())
    with pytest.raises(
        ValueError, match="task own runs code that the model wrote by means of its own, where no limits"
    ):
        harness.load_tasks({"c": spec(coding, "own", allow_code=True)})
