"""MoE_l is what the models themselves add: the experts are silenced and what then is missing is looked at.

The oracle and the package share their idea of MoE_l; this is the check of that idea.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from conformance import after, reading, zoo

ALL = [*zoo.dispatched_architectures(), *zoo.VARIANTS, *zoo.DENSE]
IDS = torch.tensor([[40, 41, 8, 22]])
# Classes that the decoder layer passes MoE_l through before it adds it.
PASSED = {
    "afmoe": ["AfmoeRMSNorm"],
    "beam": ["BeamRMSNorm"],
    "diffusion_gemma": ["DiffusionGemmaRMSNorm"],
    "flex_olmo": ["FlexOlmoRMSNorm"],
    "gemma2": ["Gemma2RMSNorm"],
    "gemma3": ["Gemma3RMSNorm"],
    "gemma4": ["Gemma4RMSNorm"],
    "gemma4/dense": ["Gemma4RMSNorm"],
    "gemma4/per_layer_input": ["Gemma4RMSNorm"],
    "inkling": ["InklingShortConvolution"],
    "inkling/dense": ["InklingShortConvolution"],
    "inkling2": ["Inkling2ShortConvolution"],
    "kolibri1": ["Kolibri1RMSNorm"],
    "muse_spark": ["MuseSparkTextInputScaledRMSNorm", "MuseSparkResidualGate"],
    "olmo2": ["Olmo2RMSNorm"],
    "zaya": ["ZayaResidualScaling"],
}
LANES = {"deepseek_v4", "glm5_next", "hy_v4", "hy_v4/tight_clamp", "qwen4_exp"}
BEHIND = {"nemotron_h/biases"}  # biases behind the experts, which stay when these are silent


@pytest.mark.parametrize("name", ALL)
def test_a_decoder_layer_adds_moe_l_and_nothing_else_of_its_experts(name):
    """Silencing all routed and shared experts takes MoE_l from what each layer adds, up to a constant or what PASSED,
    LANES and BEHIND name."""
    model = zoo.build(name)
    for layer in reading.layers(model):
        found = after.of_layer(model, layer, IDS)
        assert [type(module).__name__ for module in found.passed] == PASSED.get(name, [])
        assert (found.factor is None) == (name in LANES)
        if name in BEHIND:
            assert after.close(found.left, found.left[:1].expand_as(found.left))
            assert found.left.abs().max() > 1e-3
        else:
            assert not found.left.any()


@pytest.mark.parametrize("name", ["granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "granite"])
def test_granite_multiplies_what_it_adds_by_its_residual_multiplier(name):
    model = zoo.build(name)
    found = after.of_architecture(model)
    assert found.factor == pytest.approx(model.config.residual_multiplier, rel=1e-5)
    assert found.factor != 1


@pytest.mark.parametrize(
    "name",
    [
        "granitemoe_swa",
        "granitemoehybrid",
        "granitemoeshared",
        "ernie4_5_vl_moe",
        "gemma4",
        "gemma4/per_layer_input",
        "diffusion_gemma",
    ],
)
def test_a_shared_mlp_outside_the_block_is_added_to_it(name):
    """Each of the two alone is missing by exactly its own part: neither goes through the other's norm."""
    model = zoo.build(name)
    layer = reading.layers(model)[-1]
    loud = after.run(model, layer, (), IDS)
    assert len(layer.parts) == 2
    for number, leaf in enumerate(layer.leaves.values()):
        without = after.run(model, layer, [leaf], IDS)
        assert not without.parts[number].any()
        assert loud.parts[number].abs().max() > 1e-3
        assert torch.equal(without.parts[1 - number], loud.parts[1 - number])


@pytest.mark.parametrize("name", ["gemma4", "diffusion_gemma"])
def test_what_gemma_adds_up_are_the_outputs_of_the_two_norms(name):
    """The decoder layer hands its last norm norm1(mlp) + norm2(experts), never the plain sum of the two."""
    model = zoo.build(name)
    layer = reading.layers(model)[-1]
    loud = after.run(model, layer, (), IDS)
    last = reading.decoder_layers(model)[layer.index].post_feedforward_layernorm
    assert after.close(loud.inputs[last][0].reshape(loud.moe.shape), loud.moe)
    plain = sum(loud.outputs[module][0].reshape(loud.moe.shape) for module in (layer.experts, layer.shared))
    assert not after.close(plain, loud.moe)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gemma4", lambda layer: (layer.experts, layer.shared)),  # without the norms
        ("diffusion_gemma", lambda layer: (layer.parts[0],)),  # without the dense MLP
        ("granitemoeshared", lambda layer: (layer.block,)),  # without the shared MLP beside it
        ("axk1", lambda layer: (layer.experts,)),  # without the norm after it
        ("qwen3_next", lambda layer: (layer.experts,)),  # without the shared expert beside them
        ("deepseek_v4", lambda layer: (layer.experts,)),  # the same before a hyper-connection
    ],
)
def test_a_wrong_idea_of_moe_l_is_found(name, parts):
    """Controls of the check above."""
    model = zoo.build(name)
    layer = reading.layers(model)[-1]
    with pytest.raises(AssertionError, match=r"something else than MoE_l|token by token"):
        after.of_layer(model, dataclasses.replace(layer, parts=parts(layer)), IDS)
