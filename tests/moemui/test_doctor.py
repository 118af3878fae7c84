"""The doctor: what it says of models that can be measured, of those that can't, and of names that lead nowhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from remote_code.saving import keep_code_in
from remote_code.saving import save as save_listed
from safetensors.torch import load_file, save_file

import tiny_models
from moemui.geometry import Geometry, Layer
from moemui.models import doctor, synthetic
from moemui.models.examination import Workload, render
from moemui.scores import store

ROOT = Path(__file__).resolve().parents[2]


def save(family, folder):
    model = tiny_models.build(family)
    model.resize_token_embeddings(len(synthetic.build_tokenizer()))
    model.save_pretrained(folder)
    synthetic.build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    return save("deepseek_v2", tmp_path_factory.mktemp("deepseek"))


@pytest.fixture(scope="module")
def examined(deepseek):
    return doctor.examine(
        str(deepseek), dtype="float32", thresholds=[0.01, 0.05], workloads=[Workload("a", 10), Workload("b")]
    )


def test_geometry_and_denominators_worked_by_hand(examined):
    # 8 routed experts of 24 neurons and a fused shared MLP of two; layer 0 is dense.
    assert (examined.architecture, examined.model_class) == ("deepseek_v2", "DeepseekV2ForCausalLM")
    assert examined.layers == (Layer(1, 8, 2, 24, 24, 2), Layer(2, 8, 2, 24, 24, 2))
    assert (examined.neurons, examined.experts) == (2 * 10 * 24, 2 * 10)
    assert examined.key_counts == ((0.01, 2), (0.05, 12))  # of 240 neurons a layer


def test_the_checks_are_made_on_the_loaded_weights(examined, deepseek):
    assert examined.supported
    assert (examined.weights, examined.dtype, examined.remark) == ("loaded", "float32", None)
    assert examined.parameters == sum(weight.numel() for weight in load_file(deepseek / "model.safetensors").values())
    assert examined.identity_error == 0
    assert 0 < examined.conservation_error < 1e-5
    assert 0 < examined.imbalance < examined.tolerance
    assert examined.checked_tokens == 32
    assert examined.extraction_speed > 0
    assert examined.forward_speed > 0
    assert examined.peak_bytes > examined.parameters * 4


def test_predictions_follow_from_the_estimate_and_the_speed(examined):
    known, unknown = examined.predictions
    assert (known.samples, known.samples_assumed) == (10, False)
    assert (unknown.samples, unknown.samples_assumed) == (1000, True)
    settings = [(f, s) for f in ("projection", "glu", "activation") for s in ("pairs", "neurons")]
    layout = store.Layout(Geometry(examined.layers), settings, 12, [256] * 10)
    assert (known.bytes, known.most_bytes) == store.estimate(layout)[1:]
    assert known.seconds == pytest.approx(10 * 512 / examined.extraction_speed)
    assert unknown.seconds == pytest.approx(100 * known.seconds)


def test_in_words_every_figure_stands_once(examined):
    text = render(examined)
    assert text.startswith(f"{examined.model}: supported\n")
    assert "layers 1 to 2: 8 routed experts of 24 neurons, top 2, 2 shared of 24\n" in text
    assert "MUI is over 480 neurons, the key-expert proportion over 20 experts\n" in text
    assert "at 1 %: 2, 5 %: 12\n" in text
    assert "1,000 samples (how many it has is not known) of 256 prompt and 256 response tokens" in text
    assert f"extraction {examined.extraction_speed:,.0f} " in text


def test_layers_with_dense_ones_between_are_not_called_a_run():
    layers = (Layer(1, 4, 0, 8, 0, 2), Layer(3, 4, 0, 8, 0, 2), Layer(5, 2, 0, 8, 0, 2))
    found = doctor.Examination("m", "config", "float32", layers=layers, neurons=80, experts=10)
    assert "2 of the layers 1 to 3: 4 routed experts of 8 neurons, top 2\n  layer 5: 2 routed" in render(found)


def test_a_configuration_alone_gets_random_weights(deepseek, tmp_path):
    for name in (str(deepseek / "config.json"), str(tmp_path)):
        (tmp_path / "config.json").write_bytes((deepseek / "config.json").read_bytes())
        found = doctor.examine(name, dtype="float32")
        assert found.supported
        assert (found.kind, found.weights) == ("config", "random")
        assert "no weights, so random ones" in found.remark
        assert found.imbalance < found.tolerance
    other = tmp_path / "other.json"
    (tmp_path / "config.json").rename(other)
    assert doctor.examine(str(other)).neurons == 480


def test_what_does_not_fit_is_looked_at_without_its_weights(deepseek, monkeypatch):
    monkeypatch.setattr(doctor, "_free_bytes", lambda device_map: 1000)
    found = doctor.examine(str(deepseek), dtype="float32")
    assert found.supported
    assert (found.weights, found.neurons, found.identity_error, found.extraction_speed) == ("none", 480, None, None)
    assert re.search(r"needs about \d+ kB, and 1\.0 kB are free, so only the structure was looked at", found.remark)
    (prediction,) = found.predictions
    assert prediction.seconds is None
    assert prediction.bytes > 0
    assert " s for" not in render(found)
    assert render(found).startswith(f"{deepseek}: its structure is supported, its numbers were not checked\n")


def mamba(folder):
    sizes = {"vocab_size": 102, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).save_pretrained(folder)


def gpt2(folder):
    sizes = {"vocab_size": 102, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("build", "architecture", "why"),
    [
        (mamba, "mamba", r"^MambaForCausalLM has neither experts nor MLPs in its layers; supported are "),
        (gpt2, "gpt2", r"^transformer\.h\.0\.mlp\.c_fc is a Conv1D .*; supported are "),
    ],
)
def test_models_without_experts_or_such_mlps_are_not_supported(tmp_path, build, architecture, why):
    build(tmp_path)
    synthetic.build_tokenizer().save_pretrained(tmp_path)
    found = doctor.examine(str(tmp_path))
    assert not found.supported
    assert re.search(why, found.problem)
    assert "\n" not in found.problem
    assert (found.architecture, found.weights, found.neurons) == (architecture, "none", None)
    assert render(found).startswith(f"{tmp_path}: not supported\n  why: ")


def test_weights_that_are_no_numbers_are_a_problem_with_the_geometry_still_told(deepseek, tmp_path):
    for file in deepseek.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.1.mlp.experts.0.down_proj.weight"][0, 0] = torch.nan
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = doctor.examine(str(tmp_path), dtype="float32")
    assert "NaN or infinite numbers in 1 of" in found.problem
    assert "model.layers.1.mlp.experts.down_proj" in found.problem
    assert (found.neurons, found.identity_error) == (480, None)


def test_quantised_weights_are_a_problem_with_the_geometry_still_told(deepseek, tmp_path):
    record = json.loads((deepseek / "config.json").read_text())
    record["quantization_config"] = {"quant_method": "awq"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").touch()
    found = doctor.examine(str(tmp_path))
    assert "are quantised (awq)" in found.problem
    assert found.neurons == 480


def test_an_architecture_that_transformers_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nobodys"}')
    problem = doctor.examine(str(tmp_path)).problem
    assert re.search(r"has the model type 'nobodys', which transformers [\d.]+ does not know; use a version", problem)


def test_code_of_a_models_own_is_run_only_when_trusted(tmp_path, monkeypatch):
    keep_code_in(tmp_path / "modules", monkeypatch)
    folder = save_listed(tmp_path / "checkpoint")
    refused = doctor.examine(str(folder), dtype="float32")
    assert "set trust_remote_code: true" in refused.problem
    trusted = doctor.examine(str(folder), dtype="float32", trust_remote_code=True)
    assert trusted.supported
    assert (trusted.weights, trusted.identity_error) == ("loaded", 0)
    assert trusted.imbalance < trusted.tolerance


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(
        doctor.NoModelError, match=r"no folder or file \S+/nowhere; name a hub id \(owner/name\), a folder"
    ):
        doctor.examine(str(tmp_path / "nowhere"))
    with pytest.raises(doctor.NoModelError, match=r"has no config\.json; name the folder that holds it"):
        doctor.examine(str(tmp_path))
    with pytest.raises(doctor.NoModelError, match=r"there is no file x\.gguf in"):
        doctor.examine(str(tmp_path), gguf="x.gguf")
    with pytest.raises(ValueError, match="dtype is 'int3'; allowed are auto, float32"):
        doctor.examine(str(tmp_path), dtype="int3")


def call(*words):
    return subprocess.run(
        [sys.executable, "scripts/doctor.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command_ends_with_0_1_or_2(deepseek, tmp_path):
    good = call(str(deepseek), "--dtype", "float32", "--json", "--study", "config/smoke.yaml")
    assert good.returncode == 0, good.stderr
    found = json.loads(good.stdout)
    assert (found["supported"], found["neurons"], found["layers"][0]["top_k"]) == (True, 480, 2)
    assert [(p["name"], p["samples"]) for p in found["predictions"]] == [
        ("sorting", 40),
        ("boolean", 40),
        ("facts", 40),
    ]
    assert found["key_counts"] == [[0.001, 1], [0.01, 2], [0.02, 4]]
    mamba(tmp_path)
    bad = call(str(tmp_path))
    assert bad.returncode == 1
    assert "neither experts nor MLPs" in bad.stdout
    for words, message in [
        ([str(tmp_path / "nowhere")], "doctor: there is no folder or file "),
        ([str(deepseek), "--dtype", "int3"], "doctor: dtype is 'int3'; allowed are "),
        ([str(deepseek), "--study", "nowhere.yaml"], "file 'nowhere.yaml' does not exist"),
    ]:
        wrong = call(*words)
        assert wrong.returncode == 2
        assert message in wrong.stderr
        assert "Traceback" not in wrong.stderr
        assert wrong.stdout == ""
