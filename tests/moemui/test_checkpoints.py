"""Checkpoints: pinned to bytes, refused by name when something is missing, loaded without invented weights."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from pretrained import GGUF, SMOLLM2, needs_smollm2
from safetensors.torch import load_file, save_file
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import tiny_models
from moemui.models import checkpoints, synthetic, weights
from moemui.scores import contributions

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
    with pytest.raises(ValueError, match=r"ids up to 102 but the head has 102 rows: <new>; put the tokenizer that"):
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
        "import sys; sys.path.insert(0, 'scripts'); from moemui.models import checkpoints; "
        f"checkpoints.resolve({{'path': {str(folder)!r}}}, {{}}); print('torch' in sys.modules)"
    )
    root = Path(checkpoints.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class Hub:
    """A hub that answers from memory: one repository whose main is COMMIT."""

    def __init__(self, folder, offline=False, cached=True):
        self.folder, self.offline, self.cached, self.downloads = folder, offline, cached, []

    def model_info(self, repo, *, revision, files_metadata):
        if self.offline:
            raise huggingface_hub.errors.HTTPError("no network")
        files = [
            SimpleNamespace(rfilename="model.safetensors", size=1, lfs={"sha256": "ab" * 32}),
            SimpleNamespace(rfilename="config.json", size=1, lfs=None),
        ]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def snapshot_download(self, repo, *, revision, allow_patterns=None, ignore_patterns=None, local_files_only=False):
        if local_files_only and not self.cached:
            raise FileNotFoundError("not cached")
        self.downloads.append((allow_patterns, ignore_patterns))
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
    only, ignored = hub.downloads[-1]
    assert (only, "*.bin" in ignored) == (None, True)
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
@needs_smollm2
def test_a_real_gguf_file_loads_and_speaks():
    manifest = checkpoints.resolve({"path": str(SMOLLM2), "gguf": GGUF}, {})
    assert (manifest["kind"], manifest["gguf"], list(manifest["files"])) == ("gguf", GGUF, [GGUF])
    assert manifest["chat_template"]
    model, tokenizer = checkpoints.load(manifest)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**ids, max_new_tokens=4, do_sample=False)[0])


def write_config(folder, **changes):
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize(
    ("entry", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "never-heard-of"}, "never-heard-of"),
        ({"bits": 4}, "unnamed"),
    ],
)
@pytest.mark.parametrize("where", ["quantization_config", "text_config", "compression_config"])
def test_packed_weights_are_refused_before_they_are_read(folder, entry, method, where):
    write_config(folder, **{where: {"quantization_config": entry} if where == "text_config" else entry})
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    message = rf"^the weights of {folder} are quantised \({method}\) .* no down projection can be read .* unquantised"
    with pytest.raises(weights.UnreadableWeightsError, match=message):
        checkpoints.load(manifest)


def test_packed_weights_on_the_hub_are_refused_before_they_are_downloaded(hub):
    write_config(hub.folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(weights.UnreadableWeightsError, match=r"weights of a/b are quantised \(gptq\)"):
        checkpoints.resolve({"hub": "a/b"}, {})
    assert [only for only, _ in hub.downloads] == [["*.json"]]


def test_a_config_that_says_nothing_of_quantisation_means_none(tmp_path):
    config = tmp_path / "config.json"
    assert weights.quantisation(config) is None
    config.write_text('{"quantization_config": null, "text_config": null}')
    assert weights.quantisation(config) is None
    config.write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
    assert weights.quantisation(config) == {"quant_method": "mxfp4"}


def measured(model):
    """Identity and conservation error of a model on one sample."""
    scorer = contributions.Scorer(model, contributions.Options())
    sample = contributions.Sample("a", [5, 6, 7], [8, 9, 10, 11])
    return scorer.identity_error(sample), float(scorer.score([sample]).conservation.max())


def test_mxfp4_weights_load_as_the_numbers_they_stand_for(tmp_path):
    """GPT-OSS with experts in MXFP4, written by hand: two 4-bit floats a byte, low half first, and a power of two for
    each 32 of them, along the input of every output."""
    shapes = {"vocab_size": 102, "hidden_size": 64, "intermediate_size": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    sizes = {**tiny_models.COMMON, **shapes, "head_dim": 16, "sliding_window": 8, "rope_parameters": rope}
    torch.manual_seed(0)
    GptOssForCausalLM(GptOssConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)).save_pretrained(tmp_path)
    synthetic.build_tokenizer().save_pretrained(tmp_path)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    stored, meant = {}, {}
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32))
        exponents = torch.randint(-6, -2, (experts, outputs, inputs // 32))
        stored[f"{name}_blocks"] = (codes[..., ::2] + 16 * codes[..., 1::2]).to(torch.uint8)
        stored[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
        numbers = values[codes] * 2.0 ** exponents[..., None]
        meant[name] = numbers.reshape(experts, outputs, inputs).transpose(1, 2)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_config(tmp_path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    model, _ = checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))
    loaded = model.state_dict()
    assert len(meant) == 6
    assert all(torch.equal(loaded[name], numbers) for name, numbers in meant.items())
    identity, conservation = measured(model)
    assert identity == 0
    assert conservation < 1e-5


def write_fp8(folder, block):
    """Qwen3-MoE whose projections are FP8 with one scale a block, written by hand; returns what they stand for."""
    sizes = {**tiny_models.COMMON, "vocab_size": 102, "hidden_size": 48, "intermediate_size": 32, "head_dim": 12}
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts)).save_pretrained(folder)
    synthetic.build_tokenizer().save_pretrained(folder)
    stored, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = weight
            continue
        rows, columns = (torch.arange(length) // size for length, size in zip(weight.shape, block, strict=True))
        scales = torch.rand(int(rows[-1]) + 1, int(columns[-1]) + 1) + 0.5
        spread = scales[rows][:, columns]
        stored[name] = (weight / spread).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scales
        meant[name] = stored[name].float() * spread
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    entry = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block)}
    write_config(folder, quantization_config=entry)
    return meant


def test_fp8_weights_load_as_the_numbers_they_stand_for(tmp_path):
    meant = write_fp8(tmp_path, (8, 16))
    model, _ = checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        experts = model.get_submodule(f"{prefix}.mlp.experts")
        for e in range(4):
            gate, up, down = (meant[f"{prefix}.mlp.experts.{e}.{part}_proj.weight"] for part in ("gate", "up", "down"))
            assert torch.equal(experts.gate_up_proj[e], torch.cat([gate, up]))
            assert torch.equal(experts.down_proj[e], down)
        query = model.get_submodule(f"{prefix}.self_attn.q_proj").weight
        assert torch.equal(query, meant[f"{prefix}.self_attn.q_proj.weight"])
    identity, conservation = measured(model)
    assert identity == 0
    assert conservation < 1e-5


def test_fp8_blocks_cut_short_are_refused_since_they_would_load_as_other_numbers(tmp_path):
    # 48 rows in blocks of 32 have two rows of scales, which transformers takes for blocks of 24.
    write_fp8(tmp_path, (32, 16))
    message = r"down_proj.weight, 48 × 32 in FP8, with 2 × 2 scales: no whole number of blocks of 32 × 16"
    with pytest.raises(weights.UnreadableWeightsError, match=message):
        checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))


def test_fp8_without_its_scales_is_refused(tmp_path):
    write_fp8(tmp_path, (8, 16))
    stored = load_file(tmp_path / "model.safetensors")
    del stored["model.layers.0.self_attn.q_proj.weight_scale_inv"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(weights.UnreadableWeightsError, match=r"q_proj.weight in FP8 without scales beside it"):
        checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))
    write_config(tmp_path, quantization_config={"quant_method": "fp8", "expert_dtype": "fp4"})
    with pytest.raises(weights.UnreadableWeightsError, match=r"experts of .* are packed as fp4 inside an fp8"):
        checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))


def test_weights_left_on_a_disk_are_refused(folder):
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    parts = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    with pytest.raises(
        weights.UnreadableWeightsError,
        match=r"does not fit on the devices, so 9 of its 12 weights stayed .*: model.layers.0.self_attn.q_proj.weight, "
        r".* and 1 more; give it more memory or more devices",
    ):
        checkpoints.load(manifest, device_map={**parts, "model.layers.0": "disk"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, number):
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.mlp.down_proj.weight"][3, 5] = number
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"NaN or infinite numbers in 1 of its 12 weights: model.layers.0.mlp.down_proj.weight; the files"
    with pytest.raises(ValueError, match=message):
        checkpoints.load(checkpoints.resolve({"path": str(folder)}, {}))


def test_numbers_beyond_the_dtype_are_refused(folder):
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = checkpoints.resolve({"path": str(folder)}, {})
    assert checkpoints.load(manifest, "bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"up_proj.weight; .* too large for the dtype \(float16 ends at 65504\)"):
        checkpoints.load(manifest, "float16")


@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, family):
    # For OLMoE, transformers makes an empty tokenizer that encodes every text as nothing.
    tiny_models.build(family).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"has no tokenizer that can be loaded; put its tokenizer files \(tokenizer.json"
    ):
        checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))


def test_the_configuration_of_a_hub_repository_comes_without_its_weights(hub, tmp_path):
    assert checkpoints.configuration({"hub": "a/b"}, {}) == hub.folder
    assert hub.downloads == [(["*.json", "*.py"], [])]
    assert checkpoints.configuration({"path": str(hub.folder)}, {}) == hub.folder
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        checkpoints.configuration({"path": str(tmp_path / "elsewhere")}, {})
