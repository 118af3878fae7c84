"""A SLURM of one node on loopback: munged, slurmctld and slurmd of Debian's packages, and the plugin for Snakemake.

For tests. Everything lies in one folder but /etc/slurm/slurm.conf, which SLURM's commands inside jobs look for there
and nowhere else. One such cluster at a time runs on a machine; whoever comes second waits.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

PACKAGES = "slurmctld slurmd slurm-client munge"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
# Without what they depend on: a second pandas or numpy on PYTHONPATH would be the one that jobs compute with.
PLUGINS = (
    "snakemake-executor-plugin-slurm==2.8.0",
    "snakemake-executor-plugin-slurm-jobstep==0.6.1",
    "throttler==1.2.3",
)
CONFIG = Path("/etc/slurm/slurm.conf")
MARK = "# Of a test; it is removed when the test ends.\n"
# More CPUs than there may be, since half of a small job is waiting; GPUs that are none.
TEXT = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MinJobAge=7200
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoClusterError(RuntimeError):
    """Why there can be no SLURM on this machine, and how to get it."""


@dataclass(frozen=True)
class Cluster:
    """A running SLURM."""

    folder: Path
    environment: Mapping[str, str]

    def jobs(self) -> list[dict[str, str]]:
        """What the controller knows of every job since it started, oldest first: `scontrol show job`."""
        lines = self.ask("scontrol", "show", "job", "--oneliner", "--details").splitlines()
        found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return sorted((job for job in found if "JobId" in job), key=lambda job: int(job["JobId"]))

    def ask(self, *words: str) -> str:
        """What one of SLURM's commands answers."""
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@contextmanager
def cluster(folder: Path, *, cpus: int = 4) -> Iterator[Cluster]:
    """Start SLURM in an empty folder, and stop it whatever happens. Raises NoClusterError."""
    _check()
    plugins = _install(folder / "plugins")
    with FileLock(Path(tempfile.gettempdir()) / "slurm-on-loopback.lock"):
        if CONFIG.exists() and not CONFIG.read_text().startswith(MARK):
            raise NoClusterError(f"{CONFIG} belongs to a SLURM of this machine's own; run the test on another machine")
        made = _write(folder, cpus)
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            munge = folder / "munge"
            files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
            daemons.append(_start(folder, "munged", "--foreground", "--force", f"--socket={munge}/socket", *files))
            _wait(folder, "munged", daemons, lambda: (munge / "socket").exists())
            daemons.append(_start(folder, "slurmctld", "-D", "-c"))
            daemons.append(_start(folder, "slurmd", "-D"))
            _wait(folder, "slurmctld and slurmd", daemons, lambda: _answer("sinfo", "-h", "-o", "%T") == "idle")
            # The plugin leaves what it does not know of itself in the environment of the jobs.
            yield Cluster(folder, {"PYTHONPATH": str(plugins)})
        finally:
            # Jobs are no children of the daemons; they would live on.
            _answer("scancel", "--user", str(os.geteuid()))
            _wait(folder, "jobs", [], lambda: not _answer("squeue", "-h"), failing=False)
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            for path in made:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _check() -> None:
    missing = [command for command in COMMANDS if not _find(command)]
    if missing:
        raise NoClusterError(
            f"SLURM on loopback needs {', '.join(missing)}, which this machine has not; "
            f"apt-get install --no-install-recommends {PACKAGES}"
        )
    if os.geteuid():
        raise NoClusterError(
            "SLURM on loopback writes /etc/slurm/slurm.conf, which only root may; run the test as root"
        )


def _find(command: str) -> str | None:
    # Daemons lie where only root's PATH looks.
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _install(folder: Path) -> Path:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    run = subprocess.run([*words, "--target", folder, *PLUGINS], capture_output=True, text=True, check=False)
    if run.returncode:
        raise NoClusterError(f"pip can't install {PLUGINS[0]}, give it a package index: {run.stderr.strip()[-300:]}")
    return folder


def _write(folder: Path, cpus: int) -> list[Path]:
    """Write what the daemons read; what of it lies outside the folder, to be removed in this order."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o600)
    made = [CONFIG, CONFIG.with_name("gres.conf")]
    if not CONFIG.parent.is_dir():
        CONFIG.parent.mkdir()
        made.append(CONFIG.parent)
    host = platform.node().split(".")[0]
    CONFIG.write_text(MARK + TEXT.format(host=host, folder=folder, cpus=cpus, ports=_free_ports(2)))
    CONFIG.with_name("gres.conf").write_text(MARK + "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    return made


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _start(folder: Path, command: str, *words: str) -> subprocess.Popen[bytes]:
    library = ctypes.CDLL(None)

    def end_with_the_test() -> None:
        library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no daemon outlives a test process that is killed

    with (folder / f"{command}.out").open("wb") as out:
        return subprocess.Popen(
            [_find(command) or command, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_the_test,
            start_new_session=True,  # Ctrl-C reaches the test alone, which ends jobs before daemons
        )


def _wait(
    folder: Path, what: str, daemons: list[subprocess.Popen[bytes]], ready: Callable[[], bool], failing: bool = True
) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        dead = any(daemon.poll() is not None for daemon in daemons)
        if dead or time.monotonic() > deadline:
            if not failing:
                return
            said = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"{what} {'ended' if dead else 'did not answer within 30 s'}:\n{said}")
        time.sleep(0.1)


def _answer(*words: str) -> str | None:
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None
