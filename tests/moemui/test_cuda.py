"""The same code path on GPUs: what it measures is what the CPU measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from moemui.models import checkpoints, synthetic
from moemui.models.recipe import DEVICES, Recipe
from moemui.models.training import train
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tap import families
from moemui.tap.capture import Tap

GPU = "cuda:0"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here"),
]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA GPUs here")
SAMPLES = [Sample(str(i), [5 + i, 6, 7][: 1 + i % 3], [11, 8 + i, 9, 60, 33][: 1 + i]) for i in range(5)]
OPTIONS = Options(largest_threshold=0.1)


def key_sets_agree(one, other):
    """Whether two chunks name the same neurons; only neurons whose scores rounding could swap may differ."""
    for setting, (neuron, _, score) in one.ranked.items():
        other_neuron, _, other_score = other.ranked[setting]
        assert (neuron >= 0).any()
        np.testing.assert_allclose(score, other_score, rtol=1e-3, atol=1e-5)
        for place in np.ndindex(neuron.shape[:2]):
            odd = set(neuron[place]) ^ set(other_neuron[place])
            last = score[place][neuron[place] >= 0][-1:]
            for found, scores in ((neuron, score), (other_neuron, other_score)):
                swapped = scores[place][np.isin(found[place], list(odd))]
                np.testing.assert_allclose(swapped, np.broadcast_to(last, swapped.shape), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_float32_finds_the_key_neurons_of_the_cpu(family):
    model = tiny_models.build(family)
    before = Scorer(model, OPTIONS).score(SAMPLES)
    scorer = Scorer(model.to(GPU), OPTIONS)
    key_sets_agree(before, scorer.score(SAMPLES))
    assert scorer.identity_error(SAMPLES[4]) <= scorer.identity_tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_half_precision_keeps_its_balance(family, dtype):
    scorer = Scorer(tiny_models.build(family).to(GPU, dtype), OPTIONS)
    assert scorer.identity_error(SAMPLES[4]) <= scorer.identity_tolerance
    assert 0 < scorer.score(SAMPLES).imbalance.max() < scorer.tolerance


def test_a_checkpoint_loads_onto_the_gpu_and_generates_masked_as_on_the_cpu(tmp_path):
    on_cpu = tiny_models.build("qwen2_moe")
    on_cpu.resize_token_embeddings(len(synthetic.build_tokenizer()))
    on_cpu.save_pretrained(tmp_path)
    synthetic.build_tokenizer().save_pretrained(tmp_path)
    on_gpu, _ = checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}))
    assert {weight.device for weight in on_gpu.parameters()} == {torch.device(GPU)}
    texts = []
    for model in (on_cpu, on_gpu):
        sites = families.sites(model)
        masked = [torch.arange(0, site.layer.neurons, 3) for site in sites]
        ids = torch.tensor([[5, 6, 7, 90]], device=model.device)
        with Tap(sites, masked_neurons=masked):
            texts.append(
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False).tolist()
            )
    assert texts[0] == texts[1]


@needs_two
@pytest.mark.parametrize("device_map", ["auto", "by hand"])
def test_two_gpus_find_the_key_neurons_of_the_cpu(tmp_path, device_map):
    model = tiny_models.build("deepseek_v2")
    model.resize_token_embeddings(len(synthetic.build_tokenizer()))
    model.save_pretrained(tmp_path)
    synthetic.build_tokenizer().save_pretrained(tmp_path)
    before = Scorer(model, OPTIONS).score(SAMPLES)
    by_hand = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers.0": 0, "model.layers.1": 0}
    by_hand |= {"model.layers.2": 1, "model.norm": 1, "lm_head": 1}
    chosen = by_hand if device_map == "by hand" else device_map
    spread, _ = checkpoints.load(checkpoints.resolve({"path": str(tmp_path)}, {}), device_map=chosen)
    assert len({weight.device for weight in spread.parameters()}) == 2
    scorer = Scorer(spread, OPTIONS)
    key_sets_agree(before, scorer.score(SAMPLES))
    assert scorer.identity_error(SAMPLES[4]) <= scorer.identity_tolerance


def test_training_on_the_gpu_begins_with_the_weights_of_the_cpu_and_learns_alike(tmp_path):
    size = {"hidden": 16, "layers": 1, "heads": 2, "experts": 4, "neurons_per_expert": 8}
    knobs = {"family": "olmoe", "batch": 8, **size}
    recipes = {device: Recipe(**knobs, steps=12, warm_up=2, save_steps=(0, 12), device=device) for device in DEVICES}
    histories = {device: train(recipe, ["sorting"], tmp_path / device) for device, recipe in recipes.items()}
    first, second = (load_file(tmp_path / device / "step-00000/model.safetensors") for device in DEVICES)
    assert all(torch.equal(first[name], second[name]) for name in first)
    np.testing.assert_allclose(histories["cuda"]["loss"], histories["cpu"]["loss"], rtol=0.02)
