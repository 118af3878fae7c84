"""Sizes of models from what is at hand, and what jobs take, against numbers worked out by hand and real tiny models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from moemui.geometry import Layer
from moemui.models import costs, model_size
from moemui.models.model_size import ModelSize
from moemui.models.recipe import Recipe
from moemui.models.training import build_model
from moemui.tap import families

GB = 10**9


def manifest(folder, **other):
    files = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
    return {"path": str(folder), "gguf": None, "files": files, **other}


def sized(parameters, **shape):
    return ModelSize(parameters, parameters, "a test", **shape)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_checkpoint_tells_its_numbers_its_layers_and_what_a_token_uses(family, tmp_path):
    model = tiny_models.build(family).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = model_size.of_manifest(manifest(tmp_path))
    numbers = sum(weight.numel() for weight in model.parameters())
    assert found.parameters == numbers
    assert found.weight_bytes("float32") == 4 * numbers
    assert found.file_bytes == found.largest_file == (tmp_path / "model.safetensors").stat().st_size
    layer = families.geometry(families.sites(model)).layers[-1]  # the first one may be dense
    assert (found.hidden, found.layers, found.vocabulary) == (32, 3, 97)
    assert found.neurons == layer.neurons
    assert found.used == layer.top_k * layer.width + layer.shared * layer.shared_width
    experts = 3 * (layer.routed - layer.top_k) * 3 * 32 * layer.width
    assert found.active == pytest.approx(max(numbers - experts, numbers * layer.top_k / max(1, layer.routed)))


def test_packed_and_eight_bit_numbers_are_counted_as_numbers_and_the_index_may_name_several_files(tmp_path):
    save_file({"blocks": torch.zeros(4, 10, dtype=torch.uint8)}, tmp_path / "a.safetensors")
    save_file({"w": torch.zeros(7, dtype=torch.float8_e4m3fn)}, tmp_path / "b.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 1000)  # the same weights in another format
    assert model_size.of_manifest(manifest(tmp_path)).parameters == 2 * 40 + 7


def test_files_that_are_elsewhere_count_by_their_bytes_and_say_so(tmp_path):
    listed = {"path": str(tmp_path), "gguf": None, "files": {"model.safetensors": {"bytes": 1000}, "x": {"bytes": 5}}}
    found = model_size.of_manifest(listed)
    assert (found.parameters, found.used) == (500, None)
    assert "assumed" in found.basis
    gguf = {"path": str(tmp_path), "gguf": "m.gguf", "files": {"m.gguf": {"bytes": 900}}}
    assert model_size.of_manifest(gguf).parameters == 1600  # 4.5 bits each


def test_a_file_that_is_still_being_written_counts_by_its_bytes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    assert model_size.of_manifest(manifest(tmp_path)).parameters == 0.5


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lists no weights \(files that end in \.safetensors, \.bin, \.gguf\)"):
        model_size.of_manifest(manifest(tmp_path))


def test_unknown_names_in_a_configuration_leave_the_shape_unknown():
    found = model_size.with_config(sized(1000), {"n_layer": 3, "n_embd": 32})
    assert found == sized(1000)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
def test_a_recipe_tells_the_size_of_its_model(family):
    from moemui.models.synthetic import build_tokenizer

    recipe = Recipe(family, hidden=64, layers=3, experts=16, neurons_per_expert=128)
    found = model_size.of_recipe(recipe)
    model = build_model(recipe, build_tokenizer())
    assert found.parameters == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.1)
    layer = families.geometry(families.sites(model)).layers[0]
    assert (found.neurons, found.layers, found.hidden) == (layer.neurons, 3, 64)


def test_memory_on_a_cpu_is_the_map_of_the_files_beside_their_copy():
    # What was measured: 218 million numbers, 0.44 GB on disk.
    size = sized(218e6, file_bytes=436_000_000)
    assert costs.host_memory(size, dtype="bfloat16", on_gpu=False, working=0) == 500e6 + 2 * 436e6
    assert costs.host_memory(size, dtype="float32", on_gpu=False, working=0) == 500e6 + 436e6 + 1.65 * 872e6
    assert costs.host_memory(size, dtype="bfloat16", on_gpu=False, working=10 * GB) == 500e6 + 2 * 436e6 + 10 * GB


def test_memory_beside_a_gpu_is_that_of_some_files():
    size = sized(236e9, file_bytes=472 * GB, largest_file=5 * GB)
    assert costs.host_memory(size, dtype="bfloat16", on_gpu=True, working=50 * GB) == 500e6 + 20 * GB
    assert costs.gpu_memory(size, dtype="bfloat16", working=8 * GB) == 480 * GB
    small = sized(1e9, file_bytes=2 * GB, largest_file=2 * GB)
    assert costs.host_memory(small, dtype="bfloat16", on_gpu=True, working=0) == 500e6 + 2 * GB


def test_working_memory_is_cache_and_logits_or_what_scoring_holds():
    size = sized(1e9, hidden=100, layers=10, vocabulary=1000, used=50, neurons=500)
    answering = {"batch": 4, "length": 20, "scored_tokens": 0, "likelihood": False}
    cache = 2 * 4 * 20 * 10 * 100 * 2
    assert costs.working_memory(size, dtype="bfloat16", **answering) == cache + 4 * 1000 * 6
    assert costs.working_memory(size, dtype="bfloat16", **answering | {"likelihood": True}) == cache + 80 * 1000 * 6
    scoring = {"batch": 0, "length": 0, "scored_tokens": 30, "likelihood": False}
    assert costs.working_memory(size, dtype="float32", **scoring) == 4 * 30 * (10 * 50 + 4 * 100)
    # Of a model of unknown shape a fifth of the weights, at most 8 GB.
    assert costs.working_memory(sized(1e9), dtype="bfloat16", **scoring) == 0.4 * GB
    assert costs.working_memory(sized(236e9), dtype="bfloat16", **scoring) == 8 * GB


MACHINE = costs.Machine("a test", 1000.0, 100.0, 2.0, 0.5, 50.0, 3.0, "made up")


def test_seconds_of_extraction_are_those_of_forward_passes_and_of_entries():
    size = ModelSize(400, 100, "a test", file_bytes=500, layers=3)
    work = costs.Work(samples=1000, tokens=10, entries=2e6, formulations=3)
    forward = 10 * (2 * 100 / 1000 + 3 * 0.5)
    start = 4.0 + 500 / 50 + 1000 * 1.2e-3
    found = costs.seconds("contributions", size, work, MACHINE, dtype="float32")
    assert found == pytest.approx(start + 1.9 * forward + 2.0)
    one = costs.seconds("contributions", size, costs.Work(1000, 10, entries=2e6), MACHINE, dtype="float32")
    assert one == pytest.approx(start + 1.4 * forward + 2.0)


def test_seconds_of_generation_are_those_of_steps_that_read_the_weights_in_use():
    size = ModelSize(400, 100, "a test", file_bytes=500, layers=3)
    work = costs.Work(samples=0, tokens=0, steps=5, generated=10)  # two at a time: 200 of 400 numbers are read
    found = costs.seconds("responses", size, work, MACHINE, dtype="float32")
    assert found == pytest.approx(14.0 + 5 * (3 * 2.0 + 4 * 200 / 100) + 10 * (0.2 + 1.5))
    many = costs.Work(steps=5, generated=500)  # never more than there are
    found = costs.seconds("responses", size, many, MACHINE, dtype="float32")
    assert found == pytest.approx(14.0 + 5 * (3 * 2.0 + 4 * 400 / 100) + 500 * (0.2 + 1.5))


def test_seconds_and_memory_of_training():
    recipe = Recipe("olmoe", hidden=16, layers=3, heads=4, batch=10, steps=20, save_steps=(0,))
    size = ModelSize(400, 100, "a test", hidden=16, layers=3, used=8)
    work = costs.training_work(recipe)
    assert (work.tokens, work.updates) == (10 * 20 * 25, 20)
    found = costs.seconds("train", size, costs.training_work(recipe, 7), MACHINE, dtype="float32")
    assert found == pytest.approx(7.0 + 3 * (7 * (0.2 + 1.5) + 20 * 3 * 2.0) + 20 * 400 * 4e-9)
    kept = 4 * 25 * 10 * 3 * (16 * 16 + 8 * 8)
    assert costs.training_memory(size, recipe) == 500e6 + 16 * 400 + 2000 * 200 + kept


def test_analyses_go_by_what_they_read():
    assert costs.ANALYSES["key_neurons"].seconds(10) == pytest.approx(0.5 + 1.2)
    assert costs.analysis_memory({".parquet": 1e6, ".zarr": 2e6, ".tsv": 9e9}) == 200e6 + 200e6 + 20e6


def test_bytes_of_a_key_neurons_file():
    layers = [Layer(0, 2, 0, 1000, 0, 1), Layer(1, 0, 1, 0, 100, 0)]
    # k is 2 and 1 at 0.1 %, 20 and 1 at 1 %.
    found = costs.key_file_bytes(layers, samples=10, settings=6, thresholds=[0.001, 0.01])
    assert found == pytest.approx(6 * (7700 * 2 + 4 * 0.34 * 10 * (2 + 1 + 20 + 1)))


def test_nothing_here_needs_torch():
    import subprocess
    import sys
    from pathlib import Path

    code = "import json, sys; from moemui.models import costs; print(json.dumps([m in sys.modules for m in ('torch', 'transformers', 'numpy')]))"  # noqa: E501
    scripts = Path(costs.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [False, False, False]
