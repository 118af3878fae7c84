"""The final norm folded into the unembedding, where it is one that can be."""

from __future__ import annotations

import pytest
import torch
import transformers

import tiny_models
from conformance import zoo
from moemui.tap.heads import unembedding
from moemui.tap.mlps import UnsupportedModelError


@pytest.mark.parametrize(
    ("family", "norm"), [("llama", "norm"), ("jamba", "final_layernorm"), ("nemotron_h", "norm_f")]
)
def test_the_final_norm_is_found_by_any_name(family, norm):
    model = zoo.build(family)
    expected = model.lm_head.weight * getattr(model.model, norm).weight
    torch.testing.assert_close(unembedding(model, "final_norm"), expected, rtol=1e-5, atol=1e-6)


def test_a_final_norm_of_one_plus_its_weight_is_folded_so():
    config = transformers.Gemma2Config(**tiny_models.COMMON, head_dim=8, intermediate_size=24)
    model = transformers.Gemma2ForCausalLM(config).eval().requires_grad_(False)
    weight = model.model.norm.weight
    weight.copy_(torch.linspace(-0.5, 0.5, len(weight)))
    expected = model.lm_head.weight * (1 + weight)
    torch.testing.assert_close(unembedding(model, "final_norm"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (transformers.StableLmConfig, transformers.StableLmForCausalLM),
        (transformers.PhiConfig, transformers.PhiForCausalLM),
        (transformers.OlmoConfig, transformers.OlmoForCausalLM),  # a layer norm without weight and bias
    ],
    ids=["StableLM", "Phi", "OLMo"],
)
def test_a_final_layer_norm_is_refused_by_name(config, model):
    built = model(config(**tiny_models.COMMON, intermediate_size=24)).requires_grad_(False)
    for name, parameter in built.model.named_parameters():
        if name.startswith(("norm.bias", "final_layernorm.bias")):
            parameter.copy_(torch.linspace(0.1, 1.0, len(parameter)))
    assert unembedding(built, "raw") is built.lm_head.weight
    with pytest.raises(UnsupportedModelError, match=r"the final norm \w*LayerNorm is no plain scaling; use head: raw"):
        unembedding(built, "final_norm")
