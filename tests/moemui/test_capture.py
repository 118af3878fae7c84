"""The tap: what it masks, what it refuses, and that it leaves a model as it was."""

from __future__ import annotations

import accelerate
import numpy as np
import pytest
import torch

import tiny_models
from conformance import zoo
from moemui import families
from moemui.capture import IMPLEMENTATION, Tap
from moemui.contributions import Options, Sample, Scorer

IDS = torch.tensor([[5, 6, 7, 8]])
SAMPLE = Sample("a", [5, 6], [7, 8, 9])


def test_a_masked_run_keeps_no_activations():
    model = tiny_models.build("gpt_oss")
    sites = families.sites(model)
    tap = Tap(model, sites, masked_neurons=[torch.tensor([0])] * len(sites))
    with tap:
        model(input_ids=torch.tensor([[5, 6, 7]]))
        assert all(layer.routed is None for layer in tap._layers)


def test_a_gate_that_is_no_product_is_refused_by_name():
    model = tiny_models.build("gpt_oss")
    sites = families.sites(model)
    for site in sites:
        site.experts._apply_gate = lambda gate_up: gate_up[..., ::2] + gate_up[..., 1::2]
    with (
        pytest.raises(
            families.UnsupportedModelError, match=r"the gate of model\.layers\.0\.mlp \(GptOssExperts\) is no product"
        ),
        Tap(model, sites, observer=lambda *seen: None),
    ):
        pass
    assert model.config._experts_implementation != IMPLEMENTATION


def test_experts_that_bypass_the_dispatch_fail():
    model = tiny_models.build("olmoe")
    block = model.model.layers[0].mlp
    block.forward = lambda hidden_states: hidden_states
    with (
        pytest.raises(RuntimeError, match="without its experts passing the dispatch"),
        Tap(model, families.sites(model)),
    ):
        model(input_ids=IDS)


def test_the_tap_lets_go_after_an_exception():
    model = tiny_models.build("deepseek_v2")
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    sites = families.sites(model)

    def broken(*seen):
        raise KeyError("observer")

    with pytest.raises(KeyError, match="observer"), Tap(model, sites, observer=broken):
        model(input_ids=ids)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with Tap(model, sites):
        assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "gpt_oss", "llama"])
def test_masking_a_neuron_is_zeroing_its_down_projection(family):
    ids = torch.tensor([[5, 6, 7, 8]])
    model, twin = tiny_models.build(family), tiny_models.build(family)
    sites = families.sites(model)
    neurons = [torch.tensor([0, 3, site.layer.neurons - 1]) for site in sites]
    for site, chosen in zip(families.sites(twin), neurons, strict=True):
        layer = site.layer
        for index in chosen.tolist():
            if index < layer.routed * layer.width:
                expert, j = divmod(index, layer.width)
                weight = site.experts.down_proj[expert]
                (weight[j] if site.experts.is_transposed else weight[:, j]).zero_()
            else:
                site.shared.module.down_proj.weight[:, index - layer.routed * layer.width] = 0
    with Tap(model, sites, masked_neurons=neurons):
        masked = model(input_ids=ids).logits
        generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(masked, twin(input_ids=ids).logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(generated, twin.generate(ids, max_new_tokens=4, do_sample=False))
    assert not torch.allclose(masked, model(input_ids=ids).logits)


def test_a_mask_outside_the_layer_is_refused():
    model = tiny_models.build("llama")
    sites = families.sites(model)
    with pytest.raises(ValueError, match=r"layer 0: masked neurons 24\.\.24 lie outside 0\.\.23"):
        Tap(model, sites, masked_neurons=[torch.tensor([24])] * len(sites))


def test_experts_without_a_module_of_their_own_projections_are_masked_too():
    model, twin = zoo.build("inkling"), zoo.build("inkling")
    sites = families.sites(model)
    layer = sites[0].layer
    masked = [torch.tensor([1, layer.routed * layer.width + 3, layer.neurons - 1])] * len(sites)
    for site in families.sites(twin):
        site.experts.down_proj[0, :, 1] = 0
        shared = site.shared.module.down_proj
        shared[0, :, 3] = 0
        shared[-1, :, -1] = 0
    before = model(input_ids=IDS).logits
    with Tap(model, sites, masked_neurons=masked):
        torch.testing.assert_close(model(input_ids=IDS).logits, twin(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not torch.allclose(twin(input_ids=IDS).logits, before)


def test_what_is_observed_under_a_mask_lacks_the_masked_neurons():
    model = tiny_models.build("deepseek_v2")
    sites = families.sites(model)
    shared = sites[0].layer.routed * sites[0].layer.width
    seen = []
    with Tap(
        model,
        sites,
        masked_neurons=[torch.tensor([2, shared + 5])] * len(sites),
        observer=lambda position, passed: seen.append(passed),
    ):
        model(input_ids=IDS)
    assert len(seen) == len(sites)
    for passed in seen:
        for span in passed.routed:
            assert (span.intermediate[span.expert == 0, 2] == 0).all()
            assert (span.intermediate[span.expert != 0, 2] != 0).all()
        assert (passed.shared.intermediate[:, 5] == 0).all()
        assert (passed.shared.intermediate[:, 4] != 0).all()


@pytest.mark.parametrize("family", ["qwen2_moe", "axk1", "nemotron_h"])
def test_parameters_and_gradients_are_as_they_were(family):
    model = zoo.build(family).requires_grad_(True)
    with Tap(model, families.sites(model), observer=lambda position, passed: passed.pull(passed.output)):
        with torch.no_grad():
            logits = model(input_ids=IDS).logits
        assert not torch.is_grad_enabled() or not logits.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(input_ids=IDS).logits.sum().backward()
    assert model.get_output_embeddings().weight.grad is not None


def test_pulled_vectors_are_the_gradient_of_the_experts_output():
    # The latent projection of Nemotron-H is a linear map, so its transpose is known.
    model = zoo.build("nemotron_h")
    sites = families.sites(model)
    pulled = []

    def observer(position, passed):
        vectors = torch.ones_like(passed.output)
        pulled.append((sites[position].roots[0], passed.pull(vectors), vectors))

    with torch.no_grad(), Tap(model, sites, observer=observer):
        model(input_ids=IDS)
    for block, found, vectors in pulled:
        torch.testing.assert_close(found.routed, vectors @ block.fc2_latent_proj.weight)
        assert torch.equal(found.shared, vectors)


def test_observing_under_inference_mode_is_refused():
    model = tiny_models.build("olmoe")
    with (
        pytest.raises(RuntimeError, match=r"can't be observed under torch.inference_mode; use torch.no_grad"),
        torch.inference_mode(),
        Tap(model, families.sites(model), observer=lambda position, passed: None),
    ):
        model(input_ids=IDS)


def test_two_taps_at_once_are_refused():
    model = tiny_models.build("olmoe")
    sites = families.sites(model)
    with Tap(model, sites), pytest.raises(RuntimeError, match="OlmoeExperts is already tapped"), Tap(model, sites):
        pass
    model(input_ids=IDS)


def test_weights_that_are_elsewhere_are_refused_by_name():
    model = tiny_models.build("olmoe")
    model.model.layers[1].mlp.experts.to("meta")
    with (
        pytest.raises(families.UnsupportedModelError, match=r"layers\.1\.mlp: experts\.gate_up_proj is not in memory"),
        Tap(model, families.sites(model)),
    ):
        pass


def test_expert_parallel_experts_are_refused_by_name():
    model = tiny_models.build("olmoe")
    model.model.layers[2].mlp.experts._is_expert_parallel = True
    with pytest.raises(families.UnsupportedModelError, match=r"layers\.2\.mlp\.experts is expert-parallel"):
        families.sites(model)


def test_hooks_that_move_inputs_between_devices_change_nothing():
    plain, hooked = tiny_models.build("deepseek_v2"), tiny_models.build("deepseek_v2")
    accelerate.dispatch_model(hooked, {"": "cpu"}, force_hooks=True)
    assert hasattr(hooked.model.layers[1].mlp, "_hf_hook")
    chunks = [Scorer(model, Options(largest_threshold=0.05)).score([SAMPLE]) for model in (plain, hooked)]
    for setting, arrays in chunks[0].ranked.items():
        for mine, other in zip(arrays, chunks[1].ranked[setting], strict=True):
            np.testing.assert_array_equal(mine, other)
