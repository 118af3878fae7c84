"""What a study's files can't do: run code of their own, leave its folders, or carry a secret out."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from remote_code.saving import keep_code_in
from transformers import LlamaConfig, LlamaForCausalLM
from workflow.conftest import ROOT, copy_project, snakemake

from _study import SCHEMA, Study, StudyError
from moemui.models import checkpoints, synthetic

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "_pickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"},
    "os": {"system", "popen"},
    "pandas": {"read_pickle", "eval"},
    "pd": {"read_pickle", "eval"},
}
# Rules are Snakemake's language, not Python: what stands in them is searched as text.
TEXT = re.compile(
    r"\b(pickle|eval|exec|__import__|trust_remote_code|os\.system|popen)\b|yaml\.(?!safe_)\w*load|shell=True"
)


def offences(source):
    """What of a Python source runs data as code, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(line, name) for name in names if name.partition(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append((line, node.func.id))
        if isinstance(node.func, ast.Attribute):
            owner, method = ast.unparse(node.func.value), node.func.attr
            if method in METHODS.get(owner, ()) or method == "to_pickle":
                found.append((line, f"{owner}.{method}"))
            if owner == "torch" and method == "load" and not _is(options.get("weights_only"), True):
                found.append((line, "torch.load"))
        for name in ("shell", "allow_pickle", "trust_remote_code", "weights_only"):
            bad = name != "weights_only"
            # A model's entry decides about its code, so a constant True is never right.
            if _is(options.get(name), bad):
                found.append((line, name))
    return found


def _is(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def test_no_data_is_run_as_code():
    sources = sorted((ROOT / "scripts").rglob("*.py"))
    assert len(sources) > 100
    assert {str(path): found for path in sources if (found := offences(path.read_text()))} == {}
    rules = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
    assert {str(path): found for path in rules if (found := TEXT.findall(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import os, shelve",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "np.load(file, allow_pickle=True)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "frame.to_pickle(path)",
        "pd.read_pickle(path)",
    ],
)
def test_an_offender_is_found(source):
    assert offences(f"def f():\n    {source}\n")


def test_what_is_harmless_is_no_offence():
    harmless = """
    import re
    pattern = re.compile("a")
    model.eval()
    yaml.safe_load(text)
    np.load(file, allow_pickle=False)
    torch.load(file, weights_only=True)
    AutoModel.from_pretrained(path, trust_remote_code=entry["trust_remote_code"])
    subprocess.run(["ls"])
    """
    assert offences(textwrap.dedent(harmless)) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny checkpoint with its tokenizer, as safetensors."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = synthetic.build_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, eos_token_id=2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def resolved(folder, **source):
    return checkpoints.resolve({"path": str(folder), **source}, {})


@pytest.mark.parametrize("trusted", [False, True])
def test_a_pickle_in_place_of_weights_runs_nothing(folder, tmp_path, trusted):
    marker = tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil(marker)}, folder / "pytorch_model.bin")
    # It would work: this is what a plain unpickler makes of it.
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()
    marker.unlink()
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoints.load(resolved(folder, trust_remote_code=trusted))
    assert not marker.exists()


def test_weights_in_torch_s_own_format_load(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = checkpoints.load(resolved(folder))
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({marker!r}).open("a").write(__name__.rpartition(".")[2] + "\\n")
class OwnConfig(LlamaConfig):
    model_type = {family!r}
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
def generate(*arguments, **options):
    pass
"""


def bring_code(folder, marker, family):
    """Let a checkpoint's configuration, model, tokenizer and generation point to Python of its own."""
    for name in ("own_model", "own_tokenizer"):
        (folder / f"{name}.py").write_text(CODE.format(marker=str(marker), family=family))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker), family=family))
    own = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnModel"}
    change(folder / "config.json", auto_map=own, model_type=family)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]})


def change(file, **entries):
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize("family", ["llama", "never-heard-of"])
def test_code_of_a_checkpoint_runs_only_where_its_entry_says_so(folder, tmp_path, monkeypatch, family):
    marker = tmp_path / "marker"
    bring_code(folder, marker, family)
    keep_code_in(tmp_path / "modules", monkeypatch)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is there to be asked"))
    manifest = resolved(folder)
    if family == "llama":  # which transformers has itself
        checkpoints.load(manifest)
    else:
        with pytest.raises(ValueError, match=r"runs on code of its own .* set trust_remote_code: true for this model"):
            checkpoints.load(manifest)
    assert not marker.exists()
    model, tokenizer = checkpoints.load(resolved(folder, trust_remote_code=True))
    assert {"own_model", "own_tokenizer"} <= set(marker.read_text().split())
    assert (type(model).__name__, type(tokenizer).__name__) == ("OwnModel", "OwnTokenizer")


def test_a_checkpoint_is_what_its_files_are(folder, tmp_path):
    identity = checkpoints.identity(resolved(folder))
    moved = folder.rename(tmp_path / "moved")
    assert checkpoints.identity(resolved(moved)) == identity
    change(moved / "config.json", note=1)
    assert checkpoints.identity(resolved(moved)) != identity
    assert checkpoints.identity({"commit": COMMIT, "files": {}}) == COMMIT


def test_a_gguf_file_lies_in_its_folder(folder):
    with pytest.raises(ValueError, match=r"gguf is '\.\./other\.gguf'; it is the name of a file in"):
        checkpoints.resolve({"path": str(folder), "gguf": "../other.gguf"}, {})


COMMIT = "0123456789abcdef0123456789abcdef01234567"
ESCAPING = ["../../../../escaped.json", "/escaped.json", "sub/../../../../../../escaped.json", "..\\escaped.json"]


class FakeHub(BaseHTTPRequestHandler):
    """A hub with one repository, whose files are named as somebody likes who means harm."""

    files: ClassVar[list[str]] = []

    def do_GET(self):
        names = ["config.json", *self.files]
        if self.path.startswith("/api/models/a/b/tree"):
            self.answer([{"type": "file", "path": name, "size": 2, "oid": "e"} for name in names])
        elif self.path.startswith("/api/"):
            self.answer({"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": name, "size": 2} for name in names]})
        else:
            self.answer({})

    do_HEAD = do_GET

    def answer(self, data):
        content = json.dumps(data).encode()
        self.send_response(200)
        for key, value in {"Content-Length": len(content), "ETag": '"e"', "X-Repo-Commit": COMMIT}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Nothing."""


@pytest.mark.parametrize("name", [None, *ESCAPING])
def test_file_names_of_a_repository_can_t_leave_its_cache(tmp_path, monkeypatch, name):
    cache = tmp_path / "a" / "b" / "c" / "d" / "cache"
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(FakeHub, "files", [name] if name else [])
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        if name is None:
            manifest = checkpoints.resolve({"hub": "a/b"}, {})
            assert set(manifest["files"]) == {"config.json"}
            assert Path(manifest["path"]).is_relative_to(cache)
        else:
            with suppress(Exception):  # it may be refused, or kept as a name that does no harm
                checkpoints.resolve({"hub": "a/b"}, {})
        server.shutdown()
    outside = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(cache)]
    assert outside == []
    assert not Path("/escaped.json").exists()
    assert (cache / "models--a--b" / "snapshots" / COMMIT / "config.json").read_text() == "{}"
    assert {file.name for file in cache.iterdir()} <= {"models--a--b", ".locks", "CACHEDIR.TAG"}


VALID = {
    "study": "s",
    "models": {"m": {"source": {"hub": "a/b"}, "checkpoints": [{"name": "c", "revision": "main"}]}},
    "tasks": {"t": {"lm_eval": "arc_easy", "domain": "science"}},
}


def named(study="s", model="m", checkpoint="c", task="t", suite="u", variant="v", domain="d"):
    """A study that bears these names."""
    return {
        "study": study,
        "models": {model: {"source": {"hub": "a/b"}, "checkpoints": [{"name": checkpoint, "revision": "main"}]}},
        "tasks": {task: {"lm_eval": "arc_easy", "domain": domain}},
        "suites": {suite: [task]},
        "contributions": {"variants": {variant: {"gate_weighting": False}}},
    }


PLACES = ["study", "model", "checkpoint", "task", "suite", "variant", "domain"]
HOSTILE = [
    "..",
    ".",
    "a/b",
    "../x",
    "/x",
    "a\n",
    "a\x00",
    "a b",
    "~",
    "-x",
    "",
    "a\\b",
    "{x}",
    "$x",
    "a;b",
    "x" * 300,
    ".x",
]
NAME = Draft202012Validator(yaml.safe_load(SCHEMA.read_text())["$defs"]["name"])


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=6), st.text("ab./~\n\\-_", max_size=5)))
@settings(max_examples=500, deadline=None)
def test_a_name_that_a_study_may_have_is_the_name_of_one_folder(name):
    if NAME.is_valid(name):
        assert name not in HOSTILE
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]{,99}", name, re.ASCII)
        assert Path("results", name).parts == ("results", name)


@pytest.mark.parametrize("place", PLACES)
def test_a_name_with_a_way_out_is_told_wherever_it_stands(place):
    assert Study(named(**{place: "x..y"}))
    for name in ("../x", "a/b", "a\n"):
        with pytest.raises(StudyError, match=r"found .*; allowed is|is in no suite"):
            Study(named(**{place: name}))


def test_everything_that_is_planned_lies_below_results(tmp_path):
    folder = copy_project(tmp_path)
    config = named("s..-x", "m.._", "c..", "t..", "u..", "v..")
    config["models"]["trained..x"] = {
        "source": {"train": "olmoe"},
        "training": {"steps": 1, "save_steps": [0, 1]},
        "checkpoints": [{"name": "0..", "step": 0}, {"name": "1", "step": 1}],
    }
    config["tasks"]["made.."] = {
        "lm_eval": "say",
        "synthetic": "sorting",
        "limit": 3,
        "domain": "d",
        "include": "config",
    }
    (folder / "names.yaml").write_text(yaml.safe_dump(config))
    run = snakemake(folder, "-n", "--configfile", "names.yaml")
    assert run.returncode == 0, run.stdout[-3000:]
    written = re.findall(r"^    (?:output|log|benchmark): (.*)$", run.stdout, re.MULTILINE)
    paths = [path for line in written for path in re.sub(r" \(.*?\)", "", line).split(", ")]
    assert len(paths) > 200
    assert {Path(os.path.normpath(path)).parts[:2] for path in paths} == {("results", "s..-x")}
    assert {"m.._", "trained..x"} <= {Path(path).parts[2] for path in paths}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracking": {"uri": "sqlite:////tmp/mlflow.db"}}, r"tracking.uri: found 'sqlite:////tmp/mlflow.db'; a datab"),
        ({"tracking": {"uri": "sqlite:///results/../x.db"}}, r"tracking.uri: found .*; a database file lies below"),
        ({"tracking": {"uri": "sqlite:///results"}}, r"tracking.uri: found 'sqlite:///results'; a database file lies"),
        ({"tracking": {"uri": "sqlite:///../results/x.db"}}, r"tracking.uri: found .*; a database file lies below"),
        ({"tracking": {"uri": "http://me:hunter22@host:5000"}}, r"tracking.uri for host has a user or password in it"),
        ({"tracking": {"uri": "postgresql://me:hunter22@host/db"}}, r"tracking.uri is 'postgresql://…@host/db'"),
        ({"tracking": {"uri": "file:///tmp/runs"}}, r"tracking.uri is 'file:///tmp/runs'; allowed are"),
        ({"revision": "../../x"}, r"revision: found '../../x'; allowed is a branch, tag or commit"),
        ({"revision": "/etc/passwd"}, r"revision: found '/etc/passwd'; allowed is a branch"),
        ({"gguf": "../m.gguf"}, r"models.m.source.gguf: found '../m.gguf'; it is the name of a file in source.path"),
        ({"gguf": "/m.gguf"}, r"models.m.source.gguf: found '/m.gguf'; it is the name of a file in source.path"),
    ],
)  # fmt: skip
def test_addresses_that_lead_elsewhere_are_told(change, message, tmp_path):
    config = json.loads(json.dumps(VALID))
    if "tracking" in change:
        config |= change
    elif "revision" in change:
        config["models"]["m"]["checkpoints"][0] |= change
    else:
        config["models"]["m"] = {"source": {"path": str(tmp_path), **change}, "checkpoints": [{"name": "c"}]}
    with pytest.raises(StudyError, match=message) as caught:
        Study(config)
    assert "hunter22" not in str(caught.value)


def test_results_may_be_a_link_and_a_store_lie_where_it_leads(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "project" / "results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "project")
    for uri in ("sqlite:///results/mlflow/mlflow.db", f"sqlite:///{tmp_path}/disk/mlflow.db", "https://host:5000/x"):
        assert Study({**VALID, "tracking": {"uri": uri}})["tracking"]["uri"] == uri
    with pytest.raises(StudyError, match="a database file lies below results/"):
        Study({**VALID, "tracking": {"uri": f"sqlite:///{tmp_path}/disk2/mlflow.db"}})


SECRETS = {"HF_TOKEN": "hf_MarkerOfASecretToken", "AWS_SECRET_ACCESS_KEY": "aws/MarkerOfASecret+Key"}
STUDY = """
study: own
description: it says a secret
models:
  my-llama:
    source: {path: model}
    checkpoints: [{name: raises}, {name: killed}, {name: main}]
    dtype: float32
tasks:
  given: {responses: given.jsonl, domain: general}
contributions: {thresholds: [0.05]}
analysis: {threshold: 0.05}
masking: {checkpoints: none}
"""
# What a job's own code, a library, one in C, a program that it starts and a careless author of metrics may say.
LEAK = """
    import ctypes, logging, os, subprocess, sys, warnings
    token, key = os.environ["HF_TOKEN"], os.environ["AWS_SECRET_ACCESS_KEY"]
    print("printed", token, key)
    print("in pieces " + token[:9], end="")
    print(token[9:])
    print("to the other stream", key, file=sys.stderr)
    logging.getLogger("moemui.models").warning("warned of %s", key)
    warnings.warn(token)
    os.write(1, b"written by itself " + token.encode() + b"\\n")
    ctypes.CDLL(None).puts(b"by C " + key.encode())
    subprocess.run(["sh", "-c", "echo by a shell $HF_TOKEN; env"], check=True)
"""


# What the job of each checkpoint does after that.
ENDINGS = """
    if entry["name"] == "raises":
        raise ValueError(f"no access with {token}, {key}")
    if entry["name"] == "killed":
        os.kill(os.getpid(), 9)
"""


def said_by(script, lines):
    """A script whose `main` begins with some lines."""
    return re.sub(r"(\ndef main\(.*?\) -> dict:\n)", lambda found: found[0] + lines, script, count=1, flags=re.DOTALL)


def found_secrets(folder, *places):
    """The files below some places that hold a secret's value."""
    wanted = [value.encode() for value in SECRETS.values()]
    files = [file for place in places for file in (folder / place).rglob("*") if file.is_file()]
    assert files
    return sorted(str(f.relative_to(folder)) for f in files if any(secret in f.read_bytes() for secret in wanted))


@pytest.mark.slow
def test_secrets_reach_no_record_log_or_artifact(saved, tmp_path):
    folder = copy_project(tmp_path)
    (folder / "model").mkdir()
    for file in saved.iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    (folder / "given.jsonl").write_text(json.dumps({"prompt": "Question:", "response": " a b"}) + "\n")
    (folder / "own.yaml").write_text(STUDY)
    resolving, answering = (folder / "scripts" / f"{name}.py" for name in ("resolve_checkpoint", "generate_responses"))
    resolving.write_text(said_by(resolving.read_text(), LEAK + ENDINGS))
    text = said_by(answering.read_text(), LEAK)
    assert '"task_data": task_data,' in text
    answering.write_text(text.replace('"task_data": task_data,', '"note": f"with {token}", key: 1,'))
    run = snakemake(folder, "responses", "--keep-going", "--configfile", "own.yaml", env=SECRETS)
    said = [run.stdout]
    assert "no access with [HF_TOKEN], [AWS_SECRET_ACCESS_KEY]" in run.stdout
    track = [sys.executable, "scripts/track.py", "--config", "own.yaml"]
    run = subprocess.run(track, cwd=folder, env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    said += [run.stdout, run.stderr]
    assert found_secrets(folder, "results", ".snakemake") == []
    assert not [text for text in said if any(secret in text for secret in SECRETS.values())]
    # All of it was said, and is there without the secret.
    log = (folder / "results/own/logs/my-llama/main/responses_given.log").read_text()
    for line in ("printed [HF_TOKEN]", "stream [AWS_SECRET_ACCESS_KEY]", "warned of [AWS_SECRET_ACCESS_KEY]",
                 "written by itself [HF_TOKEN]", "by C [AWS_SECRET_ACCESS_KEY]", "by a shell [HF_TOKEN]"):  # fmt: skip
        assert line in log
    record = json.loads((folder / "results/own/records/my-llama/main/responses_given.json").read_text())
    assert record["metrics"]["note"] == "with [HF_TOKEN]"
    failures = {json.loads(file.read_text())["status"] for file in (folder / "results/own/failures").rglob("*.json")}
    assert failures == {"failed", "killed"}
    assert list((folder / "results/mlflow").rglob("*.log"))
