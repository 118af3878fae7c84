"""The oracle against the models themselves, before anything is held against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conformance import reading, zoo
from conformance.measured import SAMPLES, truths
from conformance.oracle import Truth

ALL = [*zoo.dispatched_architectures(), *zoo.VARIANTS, *zoo.DENSE]


def imbalance(samples: list[list[Truth]]) -> float:
    """Largest |Σf + biases − MoE_l · W_head| over Σ|f| of any token and layer."""
    worst = 0.0
    for sample in samples:
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
    assert imbalance(truths(name)) < 1e-6


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
    assert imbalance(truths.__wrapped__(name)) > 1e-3  # past the cache


def test_a_token_without_any_expert_occurs_in_the_zoo():
    """Zaya's router may choose no expert; such a token uses no neuron of the layer."""
    unused = [np.isnan(truth.weighted["glu"]).all(1).any() for sample in truths("zaya") for truth in sample]
    assert any(unused)


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "deepseek_v4", "hy_v4", "inkling", "mistral_large4", "gpt_neox"])
def test_the_zoo_in_bfloat16_is_what_from_pretrained_loads(name, tmp_path):
    """The same tensors of the same types, those that a class keeps in float32 among them."""
    model, ours = zoo.build(name), zoo.build_in_bfloat16(name)
    if isinstance(model, zoo.BodyWithHead):
        model, ours = model.model, ours.model
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    expected = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    found = dict([*ours.named_parameters(), *ours.named_buffers()])
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert tensor.dtype == expected[key].dtype, key
        assert torch.equal(tensor, expected[key]), key
    dtypes = {parameter.dtype for parameter in ours.parameters()}
    assert torch.bfloat16 in dtypes
    assert (torch.float32 in dtypes) == (name in ("deepseek_v4", "hy_v4", "inkling", "mistral_large4"))
