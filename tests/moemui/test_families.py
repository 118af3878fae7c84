"""Geometry read off real classes, and structures that are refused by name."""

from __future__ import annotations

import pytest
import transformers

import tiny_models
from moemui.families import UnsupportedModelError, geometry, sites
from moemui.geometry import Layer


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("olmoe", [Layer(i, 8, 0, 24, 0, 2) for i in range(3)]),
        ("deepseek_v2", [Layer(i, 8, 2, 24, 24, 2) for i in (1, 2)]),  # layer 0 is dense and not counted
        ("qwen2_moe", [Layer(i, 8, 2, 24, 24, 2) for i in range(3)]),  # a shared MLP of 48 is two experts of 24
        ("gpt_oss", [Layer(i, 8, 0, 24, 0, 2) for i in range(3)]),
        ("mixtral", [Layer(i, 8, 0, 24, 0, 2) for i in range(3)]),
        ("llama", [Layer(i, 0, 1, 0, 24, 0) for i in range(3)]),
    ],
)
def test_geometry(family, layers):
    assert list(geometry(sites(tiny_models.build(family))).layers) == layers


def test_a_shared_width_that_is_no_multiple_is_one_expert():
    config = transformers.Qwen2MoeConfig(
        **tiny_models.COMMON, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    )  # fmt: skip
    layer = geometry(sites(transformers.Qwen2MoeForCausalLM(config))).layers[0]
    assert (layer.shared, layer.shared_width, layer.neurons) == (1, 40, 4 * 24 + 40)


def test_an_ungated_mlp_is_refused_by_name():
    config = transformers.GPTNeoXConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(UnsupportedModelError, match=r"gpt_neox\.layers\.0\.mlp \(GPTNeoXMLP\) lacks gate_proj"):
        sites(transformers.GPTNeoXForCausalLM(config))


def test_experts_without_a_block_are_refused_by_name():
    config = transformers.Gemma4TextConfig(
        **{**tiny_models.COMMON, "num_hidden_layers": 1}, head_dim=8, global_head_dim=8, enable_moe_block=True,
        num_experts=4, top_k_experts=2, moe_intermediate_size=24, intermediate_size=24, hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=97,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="sit on the decoder layer itself"):
        sites(transformers.Gemma4ForCausalLM(config))
