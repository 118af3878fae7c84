"""Geometry read off real classes, and structures that are refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import tiny_models
from moemui.geometry import Layer
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.scores.scoring import ConservationError
from moemui.tap.capture import Tap
from moemui.tap.families import UnsupportedModelError, geometry, sites


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


def deepseek_without_shared_neurons(**knobs):
    torch.manual_seed(0)
    config = transformers.DeepseekV2Config(
        **{**tiny_models.COMMON, "num_key_value_heads": 4, "num_hidden_layers": 2}, intermediate_size=24,
        moe_intermediate_size=24, n_routed_experts=8, n_shared_experts=0, num_experts_per_tok=3,
        first_k_dense_replace=0, kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, topk_method="greedy", n_group=None, topk_group=None, **knobs,
    )  # fmt: skip
    return transformers.DeepseekV2ForCausalLM(config).eval()


def test_a_shared_mlp_without_neurons_is_no_expert():
    model = deepseek_without_shared_neurons()
    scorer, sample = Scorer(model, Options(formulations=("glu",))), Sample("s", [5, 6, 7], [8, 9, 10])
    assert scorer.geometry.layers == (Layer(0, 8, 0, 24, 0, 3), Layer(1, 8, 0, 24, 0, 3))
    scores = scorer.score([sample])
    assert scores.conservation.max() < 1e-5
    assert scores.routed_tokens.sum() == 2 * 3 * 3  # layers, tokens, experts of a token: none is a shared expert's
    assert scorer.identity_error(sample) == 0
    everything = [torch.arange(site.layer.neurons) for site in scorer.sites]
    outputs = []
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad(), Tap(scorer.sites, masked_neurons=everything):
        model(input_ids=torch.tensor([[5, 6, 7]]))
    assert outputs[0].abs().max() == 0


def test_what_a_shared_mlp_without_neurons_adds_all_the_same_is_not_passed_over():
    model = deepseek_without_shared_neurons(mlp_bias=True)
    model.model.layers[0].mlp.shared_experts.down_proj.bias.data.fill_(0.5)
    with pytest.raises(ConservationError, match="not the weighted sum of the experts seen"):
        Scorer(model, Options(formulations=("glu",))).score([Sample("s", [5, 6, 7], [8, 9, 10])])


def test_an_mlp_without_a_gate_is_one_expert_too():
    config = transformers.GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
    )
    assert geometry(sites(transformers.GPTNeoXForCausalLM(config))).layers == (
        Layer(0, 0, 1, 0, 40, 0),
        Layer(1, 0, 1, 0, 40, 0),
    )


def test_experts_on_the_layer_itself_have_the_mlp_beside_them_as_shared_expert():
    config = transformers.Gemma4TextConfig(
        **{**tiny_models.COMMON, "num_hidden_layers": 1}, head_dim=8, global_head_dim=8, enable_moe_block=True,
        num_experts=4, top_k_experts=2, moe_intermediate_size=24, intermediate_size=48, hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=97,
    )  # fmt: skip
    assert geometry(sites(transformers.Gemma4ForCausalLM(config))).layers == (Layer(0, 4, 2, 24, 24, 2),)


def test_projections_that_are_no_linear_maps_are_refused_by_name():
    config = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(
        UnsupportedModelError, match=r"transformer\.h\.0\.mlp\.c_fc is a Conv1D of torch\.float32, so its weights"
    ):
        sites(transformers.GPT2LMHeadModel(config))


def test_experts_outside_the_dispatch_are_refused_by_name():
    config = transformers.Llama4TextConfig(
        **tiny_models.COMMON, head_dim=8, intermediate_size=24, intermediate_size_mlp=40, num_local_experts=4,
        num_experts_per_tok=1, interleave_moe_layer_step=1,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.feed_forward \(Llama4TextMoe\) has experts outside"):
        sites(transformers.Llama4ForCausalLM(config))


class OtherExperts(nn.Module):
    """A MoE block whose experts are one linear map of its own."""

    def __init__(self, block, name):
        super().__init__()
        self.gate = block.gate
        self.add_module(name, nn.Linear(32, 32))
        self.name = name

    def forward(self, states):
        return self.get_submodule(self.name)(states)


@pytest.mark.parametrize("name", ["experts", "experts_packed"])
def test_one_layer_with_experts_of_another_kind_is_refused_and_not_skipped(name):
    model = tiny_models.build("olmoe")
    model.model.layers[1].mlp = OtherExperts(model.model.layers[1].mlp, name)
    with pytest.raises(UnsupportedModelError, match=rf"model\.layers\.1.*{name} outside the dispatch"):
        sites(model)


def test_a_layer_whose_mlp_has_another_name_is_refused_and_not_skipped():
    model = tiny_models.build("llama")
    layer = model.model.layers[1]
    layer.perceptron = layer.mlp
    del layer.mlp
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1 .*perceptron"):
        sites(model)


@pytest.mark.parametrize("family", ["llama", "olmoe"])
@pytest.mark.parametrize("what", ["the layer", "the block"])
def test_layers_that_share_a_module_are_refused_by_name(family, what):
    model = tiny_models.build(family)
    layers = model.model.layers
    if what == "the layer":
        layers[2] = layers[0]
    else:
        layers[2].mlp = layers[0].mlp
    with pytest.raises(
        UnsupportedModelError, match=r"model\.layers\.2\.mlp is the same module as model\.layers\.0\.mlp"
    ):
        sites(model)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("weight", ["gate_up_proj", "down_proj"])
def test_quantised_experts_are_refused_with_their_type(weight, dtype):
    model = tiny_models.build("olmoe")
    experts = getattr(model.model.layers[1].mlp.experts, weight)
    experts.data = experts.data.to(dtype)
    with pytest.raises(UnsupportedModelError, match=rf"layers\.1\.mlp\.experts\.{weight} is quantised \({dtype}\)"):
        sites(model)
