"""Models that can't be measured stop their jobs with a sentence, and no number of theirs reaches the results."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from workflow.conftest import copy_project, snakemake

import tiny_models
from moemui.models.synthetic import build_tokenizer

pytestmark = pytest.mark.slow
# What the message says was found, and what to do.
MODELS = {
    "without-mlps": ("MambaForCausalLM has neither experts nor MLPs in its layers", "supported are MoE blocks"),
    "not-numbers": ("NaN or infinite numbers in 1 of ", "fetch them again"),
    "other-tokenizer": ("has ids up to 101 but the head has 97 rows", "put the tokenizer that these weights were made"),
    "packed": ("are quantised (gptq) and stay packed in memory", "name the unquantised checkpoint"),
}
STUDY = """
study: bad
models: {%s}
tasks:
  given: {responses: given.jsonl, domain: general}
contributions: {thresholds: [0.05]}
analysis: {threshold: 0.05}
masking: {checkpoints: none}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study of nothing but bad models, run to its end."""
    folder = copy_project(tmp_path_factory.mktemp("bad"))
    tokenizer = build_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).save_pretrained(folder / "without-mlps")
    llama = tiny_models.build("llama")
    llama.save_pretrained(folder / "other-tokenizer")
    llama.resize_token_embeddings(len(tokenizer))
    for name in ("not-numbers", "packed"):
        llama.save_pretrained(folder / name)
    weights = load_file(folder / "not-numbers/model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][2, 3] = torch.nan
    save_file(weights, folder / "not-numbers/model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "packed/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "packed/config.json").write_text(json.dumps(config))
    for name in MODELS:
        tokenizer.save_pretrained(folder / name)
    entries = [
        f"{name}: {{source: {{path: {name}}}, checkpoints: [{{name: main}}], dtype: float32}}" for name in MODELS
    ]
    (folder / "bad.yaml").write_text(STUDY % ", ".join(entries))
    (folder / "given.jsonl").write_text('{"prompt": "sort b a", "response": " a b"}\n')
    return folder, snakemake(folder, "--configfile", "bad.yaml", "--keep-going", "contributions")


@pytest.mark.parametrize("model", MODELS)
def test_the_job_fails_with_what_was_found_and_what_to_do(run, model):
    _, done = run
    assert done.returncode == 1
    (line,) = {line for line in done.stdout.splitlines() if f"{model} main failed: " in line}
    found, remedy = MODELS[model]
    assert found in line
    assert remedy in line.partition(found)[2]


def test_no_number_and_nothing_half_written_is_left(run):
    folder, _ = run
    left = {path.name for path in (folder / "results").rglob("*") if path.is_file()}
    assert "checkpoint.json" in left  # resolving a checkpoint reads no weights
    assert not {"contributions.zarr", "manifest.json"} & {path.name for path in (folder / "results").rglob("*")}
    assert not any(name.startswith(".part-") for name in left)
    answered = {path.parts[-4] for path in (folder / "results").rglob("responses.jsonl")}
    assert answered == {"without-mlps"}  # given responses need a tokenizer alone to become a record
