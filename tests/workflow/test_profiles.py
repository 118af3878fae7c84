"""Snakemake and the plugins understand the profiles, and docs/clusters.md tells the truth about them."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow.conftest import ROOT, copy_project

from slurm.loopback import PLUGINS as SLURM

PROFILES = ROOT / "config/profiles"
KUBERNETES = ("snakemake-executor-plugin-kubernetes==0.5.1", "snakemake-storage-plugin-fs==1.1.3")
# What these need beyond requirements.lock; the rest would be pandas and numpy once more.
BESIDE = ("kubernetes==32.0.1", "oauthlib", "requests-oauthlib", "websocket-client", "durationpy")
COPYING = ("sysrsync==1.1.1", "toml", "reretry==0.11.8", "decorator")
DOC = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
# Reads one command line after the other, and says of each what came of it, in plain values, or why it is none.
PARSER = """
import io, json, sys
from contextlib import redirect_stderr
from snakemake.cli import parse_args

def plain(value):
    if hasattr(value, "items"):
        return {str(key): str(getattr(item, "raw", item)) for key, item in value.items()}
    return str(value)

for line in sys.stdin:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found = {key: plain(value) for key, value in vars(parse_args(json.loads(line))[1]).items()}
    except SystemExit:
        found = said.getvalue().strip().splitlines()[-1]
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Variables that put the plugins of all profiles beside Snakemake."""
    folder = tmp_path_factory.mktemp("plugins")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    run = subprocess.run([*words, *SLURM, *KUBERNETES, *BESIDE, *COPYING], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"pip can't install the plugins, give it a package index: {run.stderr.strip()[-300:]}")
    # Where there are SLURM's commands, its plugin asks the cluster before it knows its options; there is none here.
    return {"PYTHONPATH": str(folder), "SLURM_CONF": os.devnull}


@pytest.fixture(scope="module")
def parse(plugins):
    """A function from command lines to what Snakemake reads in them."""

    def read(*lines: list[str]) -> list[dict | str]:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        words, env = [sys.executable, "-c", PARSER], os.environ | plugins
        run = subprocess.run(words, input=text, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in run.stdout.splitlines() if line.startswith(("{", '"'))]

    return read


def profile(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_key_of_every_profile_is_read(parse, tmp_path):
    names = sorted(path.name for path in PROFILES.iterdir())
    assert names == ["default", "kubernetes", "slurm"]
    wrong = tmp_path / "config.yaml"
    wrong.write_text("kep-going: true\n")
    folders = [*(PROFILES / name for name in names), tmp_path]
    *found, refused = parse(*(["--workflow-profile", str(folder)] for folder in folders))
    assert "unrecognized arguments: --kep-going" in refused
    for name, read in zip(names, found, strict=True):
        assert isinstance(read, dict), (name, read)
        for key, value in profile(name).items():
            got = read[key.replace("-", "_")]
            if isinstance(value, dict):
                assert {item: got[item] for item in value} == {item: str(given) for item, given in value.items()}, key
            elif not isinstance(value, list):
                assert got == str(value), key


@pytest.mark.slow
def test_the_commands_of_the_page_are_understood(parse):
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", DOC, flags=re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line) for line in blocks.splitlines() if "snakemake " in line and "install" not in line]
    flags = [shlex.split(code) for code in re.findall(r"`(--[a-z][^`]*)`", DOC)]
    assert commands
    assert flags
    lines = [words[1:] for words in commands] + flags
    for words, read in zip(lines, parse(*lines), strict=True):
        assert isinstance(read, dict), (words, read)
    for words in commands:
        assert (ROOT / words[words.index("--configfile") + 1]).is_file()
    pinned = re.findall(r"[a-z0-9-]+==[0-9.]+", DOC)
    assert set(pinned) <= {*SLURM, *KUBERNETES}


def test_what_the_page_and_the_profiles_name_is_there():
    rules = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    for rule in profile("slurm")["groups"]:
        assert re.search(rf"^rule {rule}:", rules, flags=re.MULTILINE), rule
    local = re.search(r"What runs where: (.*?) run on the login node", DOC, flags=re.DOTALL).group(1)
    said = re.findall(r"`(\w+)`", local)
    snakefile = (ROOT / "Snakefile").read_text(encoding="utf-8")
    declared = re.search(r"^localrules:\n((?:    .*\n)+)", snakefile, flags=re.MULTILINE)
    assert declared, "the Snakefile declares no localrules"
    assert sorted(said) == sorted(re.findall(r"\w+", declared.group(1)))
    for path in re.findall(r"`((?:config|tests|rules)/[^`]+)`", DOC):
        assert (ROOT / path).exists(), path


def test_what_follows_key_neurons_is_one_job_whatever_the_study():
    """All of it is grouped: a job left out between two members would make the group wait for itself."""
    rules = {
        match.group(1): match.group(0)
        for path in (ROOT / "rules").glob("*.smk")
        for match in re.finditer(r"^rule (\w+):.*?(?=^rule |\Z)", path.read_text(encoding="utf-8"), re.M | re.S)
    }
    scripts = {name for name, text in rules.items() if "script:" in text}
    trained = {"train", "cohort", "measure_experiment"}
    assert scripts - set(profile("slurm")["groups"]) == trained | {
        "task_data", "checkpoint", "tracking", "experiments_tracking",
    }  # fmt: skip


class Api(ThreadingHTTPServer):
    """Stands in for the API server of Kubernetes: takes secrets and jobs, and says of each job that it failed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.created: dict[str, list[dict[str, Any]]] = {"secrets": [], "jobs": []}
        self.deleted: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Api

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.created[self.path.rsplit("/", 1)[-1]].append(body)
        self.say(201, body)

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith("/pods"):
            self.say(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            self.say(200, {**self.server.created["jobs"][-1], "status": {"failed": 1}})

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path.split("?")[0])
        self.say(200, {"kind": "Status", "status": "Success"})

    def say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def kubernetes(folder: Path) -> Iterator[Api]:
    """A stand-in for a Kubernetes, and the file kubeconfig that leads to it."""
    with Api() as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
        yield api
        api.shutdown()


@pytest.mark.slow
def test_kubernetes_is_asked_for_what_the_profile_and_the_rule_say(plugins, tmp_path):
    if not shutil.which("rsync"):
        pytest.skip("the storage plugin copies by rsync, which this machine has not; apt-get install rsync")
    (folder := tmp_path / "moe-mui").mkdir()
    copy_project(folder)
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    command = [
        *[sys.executable, "-m", "snakemake", "results/smoke/smoke-olmoe/training.csv"],
        *["--configfile", "config/smoke.yaml", "--workflow-profile", "config/profiles/kubernetes"],
        *["--default-storage-prefix", str(folder), "--seconds-between-status-checks", "1"],
        *["--set-resources", "train:gpu=1", "train:mem_mb=3100"],
    ]
    with kubernetes(tmp_path) as api:
        env = os.environ | plugins | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "HF_HOME": "/shared/hub-cache"}
        run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr[-3000:]
    assert len(api.created["jobs"]) == 1, run.stderr[-3000:]
    (job,), (secret,) = api.created["jobs"], api.created["secrets"]
    assert f"Job {job['metadata']['name']} failed" in run.stderr
    assert f"/api/v1/namespaces/default/secrets/{secret['metadata']['name']}" in api.deleted
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == profile("kubernetes")["container-image"]
    asked = {"memory": "3100M", "ephemeral-storage": "20000M", "nvidia.com/gpu": "1"}
    assert asked.items() <= container["resources"]["requests"].items()
    assert asked.items() <= container["resources"]["limits"].items()
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if volume["name"] == "shared"]
    assert claims == ["shared"]
    assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
    values = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    found = {entry["name"]: values[entry["valueFrom"]["secretKeyRef"]["key"]] for entry in container["env"]}
    assert set(found) == {"MOEMUI_INVOCATION", "HF_HOME"}
    assert found["HF_HOME"] == "/shared/hub-cache"
    assert found["MOEMUI_INVOCATION"]
    (shell,) = container["args"][1:]
    # The pod gets the project's files first: scripts, the package, the schema.
    sources = re.search(r"--deploy-sources (\S+\.tar\.xz) ", shell).group(1)
    assert sources.startswith(str(folder))
    assert "--allowed-rules train" in shell
