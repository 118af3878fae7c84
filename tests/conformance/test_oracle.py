"""The oracle against the models themselves, before anything is held against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conformance import oracle, reading, zoo
from conformance.measured import SAMPLES, truths

ALL = [*zoo.dispatched_architectures(), *zoo.VARIANTS, *zoo.DENSE]


def imbalance(name: str) -> float:
    """Largest |Σf + biases − MoE_l · W_head| over Σ|f| of any token and layer."""
    worst = 0.0
    for sample in truths(name):
        for truth in sample:
            contributions = np.nan_to_num(truth.weighted["glu"])
            difference = np.abs(contributions.sum(1) + truth.biases - truth.moe)
            worst = max(worst, float((difference / np.abs(contributions).sum(1).clip(1e-6)).max()))
    return worst


def test_a_config_is_known_for_every_architecture_of_the_installed_transformers():
    unknown = [name for name in zoo.dispatched_architectures() if name not in zoo.RECIPES]
    assert not unknown, f"no config known for {', '.join(unknown)}; add one to RECIPES in tests/conformance/zoo.py"
    assert len(zoo.dispatched_architectures()) > 50  # the search itself finds them


@pytest.mark.parametrize("name", ALL)
def test_its_contributions_add_up_to_the_layers_output(name):
    assert imbalance(name) < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_the_zoo_is_small_random_and_finite(name):
    model = zoo.build(name)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([SAMPLES[2].prompt]), use_cache=False).logits
    assert torch.isfinite(logits).all()
    assert sum(parameter.numel() for parameter in model.parameters()) < 120_000
    layers = reading.layers(model)
    assert all(layer.routed == (0 if name in zoo.DENSE or name.endswith("/dense") else 8) for layer in layers)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    again = zoo.build(name)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("deepseek_v4", "DeepseekV4Experts"),
        ("deepseek_v4", "DeepseekV4MLP"),
        ("glm5_next", "Glm5NextTextExperts"),
        ("glm5_next", "Glm5NextTextMLP"),
        ("gpt_oss", "GptOssExperts"),
        ("hy_v4", "HYV4Experts"),
        ("inkling2", "Inkling2Experts"),
        ("minimax_m3_vl", "MiniMaxM3VLDenseMLP"),
        ("minimax_m3_vl", "MiniMaxM3VLExperts"),
        ("openai_privacy_filter", "OpenAIPrivacyFilterExperts"),
    ],
)
def test_every_clamp_is_reached_in_the_zoo(name, experts, monkeypatch):
    """With the ordinary gate in place of a class's own, the oracle no longer balances."""

    def unbounded(mlp, gate, up):
        if hasattr(mlp, "alpha") or hasattr(mlp, "swiglu_alpha"):
            alpha = mlp.alpha if hasattr(mlp, "alpha") else mlp.swiglu_alpha
            return gate * reading.sigmoid(alpha * gate), up + 1
        return reading.silu(gate), up

    monkeypatch.setitem(reading.GATES, experts, unbounded)
    truths.cache_clear()
    try:
        assert imbalance(name) > 1e-3
    finally:
        truths.cache_clear()


@pytest.mark.parametrize("name", ["granitemoe_swa", "granitemoehybrid", "granitemoeshared", "ernie4_5_vl_moe"])
def test_a_shared_mlp_outside_the_block_is_added_to_it(name):
    """The decoder layer adds up both and multiplies only then: without both outputs it lacks exactly their sum."""
    model = zoo.build(name)
    multiplier = getattr(model.config, "residual_multiplier", 1.0)
    layer = reading.layers(model)[-1]
    decoder_layer = model.get_decoder().layers[layer.index]
    outputs: dict[torch.nn.Module, torch.Tensor] = {}
    silent = False

    def watch(module, args, output):
        first = oracle._first(output)
        if silent and module is not decoder_layer:
            return torch.zeros_like(first) if torch.is_tensor(output) else (torch.zeros_like(first), *output[1:])
        outputs[module] = first.double()
        return None

    for module in (*layer.parts, decoder_layer):
        module.register_forward_hook(watch)
    ids = torch.tensor([SAMPLES[0].prompt])
    model(input_ids=ids, use_cache=False)
    whole = outputs[decoder_layer]
    moe = sum(outputs[part].reshape(whole.shape) for part in layer.parts)
    silent = True
    model(input_ids=ids, use_cache=False)
    torch.testing.assert_close(whole - outputs[decoder_layer], multiplier * moe, rtol=1e-4, atol=1e-5)


def test_a_token_without_any_expert_occurs_in_the_zoo():
    """Zaya's router may choose no expert; such a token uses no neuron of the layer."""
    unused = [np.isnan(truth.weighted["glu"]).all(1).any() for sample in truths("zaya") for truth in sample]
    assert any(unused)
