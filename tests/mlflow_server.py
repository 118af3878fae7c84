"""MLflow servers for tests, on loopback, with a store in a folder."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 180  # seconds that a start may take on a busy machine


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def command_of_make_ui(port: int) -> list[str]:
    """What `make ui` calls, with this interpreter's environment in place of .venv."""
    if shutil.which("make") is None:
        pytest.skip("make is not there, which knows how the UI is started; apt-get install make")
    venv = str(Path(sys.executable).parents[1])
    words = ["make", "--no-print-directory", "-n", "-o", f"{venv}/.installed", "ui", f"VENV={venv}", f"PORT={port}"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return ["env", *shlex.split(said.replace("\\\n", " "))]  # it may begin with variables


class Server:
    """The server of `make ui` for the results in a folder, alone in its process group."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start, or start again on the same port, and wait until it answers."""
        (self.folder / "results/mlflow").mkdir(parents=True, exist_ok=True)
        log = (self.folder / "server.log").open("a")
        self._process = subprocess.Popen(
            command_of_make_ui(self.port),
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Telemetry would leave the machine; jobs on the server are for judging chats, and double its start.
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        latest = time.monotonic() + LONGEST
        while time.monotonic() < latest and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise RuntimeError(f"no MLflow server came up: {(self.folder / 'server.log').read_text()[-2000:]}")

    def addresses(self) -> set[str]:
        """Where its processes listen."""
        return {
            connection.laddr.ip
            for process in [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
        }

    @property
    def pid(self) -> int:
        """Of the process that started the others."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9 for it and all its workers; no harm where it is gone."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
