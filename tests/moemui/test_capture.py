"""The tap: what it masks, what it refuses, and that it leaves a model as it was."""

from __future__ import annotations

import accelerate
import numpy as np
import pytest
import torch
import transformers

import tiny_models
from conformance import zoo
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tap import experts_forward, families
from moemui.tap.capture import IMPLEMENTATION, Tap

IDS = torch.tensor([[5, 6, 7, 8]])
SAMPLE = Sample("a", [5, 6], [7, 8, 9])
OPTIONS = Options(largest_threshold=0.2)


@pytest.mark.parametrize("family", ["deepseek_v2", "gpt_oss", "nemotron_h"])
def test_a_masked_run_keeps_no_activations(family, monkeypatch):
    model = zoo.build(family)
    sites = families.sites(model)
    masked, built = [torch.tensor([0])] * len(sites), []
    span = experts_forward.RoutedSpan
    monkeypatch.setattr(experts_forward, "RoutedSpan", lambda *values: built.append(span(*values)) or built[-1])
    with Tap(sites, masked_neurons=masked):
        model(input_ids=IDS)
    assert not built
    with Tap(sites, masked_neurons=masked, observer=lambda position, passed: None):
        model(input_ids=IDS)
    assert len(built) >= len(sites)


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_a_masked_run_computes_no_activation_twice(family):
    model = tiny_models.build(family)
    sites, calls = families.sites(model), []
    for site in sites:
        site.shared.module.act_fn.register_forward_hook(lambda *passed: calls.append(1))

    def count(**wanted):
        with Tap(sites, **wanted):
            calls.clear()  # on entering, an observing Tap tries the gate out
            model(input_ids=IDS)
        return len(calls)

    assert count(masked_neurons=[torch.tensor([0])] * len(sites)) == len(sites)
    assert count(observer=lambda position, passed: None) > len(sites)


def test_a_gate_that_is_no_product_is_refused_by_name():
    model = tiny_models.build("gpt_oss")
    sites = families.sites(model)
    for site in sites:
        site.experts._apply_gate = lambda gate_up: gate_up[..., ::2] + gate_up[..., 1::2]
    with (
        pytest.raises(
            families.UnsupportedModelError, match=r"what model\.layers\.0\.mlp \(GptOssExperts\) has between"
        ),
        Tap(sites, observer=lambda *seen: None),
    ):
        pass
    assert model.config._experts_implementation != IMPLEMENTATION


def test_experts_that_bypass_the_dispatch_fail():
    model = tiny_models.build("olmoe")
    block = model.model.layers[0].mlp
    block.forward = lambda hidden_states: hidden_states
    with (
        pytest.raises(RuntimeError, match="without its experts passing the dispatch"),
        Tap(families.sites(model)),
    ):
        model(input_ids=IDS)


def test_the_tap_lets_go_after_an_exception():
    model = tiny_models.build("deepseek_v2")
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    sites = families.sites(model)

    def broken(*seen):
        raise KeyError("observer")

    with pytest.raises(KeyError, match="observer"), Tap(sites, observer=broken):
        model(input_ids=ids)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with Tap(sites):
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
    with Tap(sites, masked_neurons=neurons):
        masked = model(input_ids=ids).logits
        generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(masked, twin(input_ids=ids).logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(generated, twin.generate(ids, max_new_tokens=4, do_sample=False))
    assert not torch.allclose(masked, model(input_ids=ids).logits)


def test_a_mask_outside_the_layer_is_refused():
    model = tiny_models.build("llama")
    sites = families.sites(model)
    with pytest.raises(ValueError, match=r"layer 0: masked neurons 24\.\.24 lie outside 0\.\.23"):
        Tap(sites, masked_neurons=[torch.tensor([24])] * len(sites))


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
    with Tap(sites, masked_neurons=masked):
        torch.testing.assert_close(model(input_ids=IDS).logits, twin(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not torch.allclose(twin(input_ids=IDS).logits, before)


def test_what_is_observed_under_a_mask_lacks_the_masked_neurons():
    model = tiny_models.build("deepseek_v2")
    sites = families.sites(model)
    shared = sites[0].layer.routed * sites[0].layer.width
    seen = []
    with Tap(
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
    with Tap(families.sites(model), observer=lambda position, passed: passed.pull(passed.output)):
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

    with torch.no_grad(), Tap(sites, observer=observer):
        model(input_ids=IDS)
    for block, found, vectors in pulled:
        torch.testing.assert_close(found.routed, vectors @ block.fc2_latent_proj.weight)
        assert torch.equal(found.shared, vectors)


def test_observing_under_inference_mode_is_refused():
    model = tiny_models.build("olmoe")
    with (
        pytest.raises(RuntimeError, match=r"can't be observed under torch.inference_mode; use torch.no_grad"),
        torch.inference_mode(),
        Tap(families.sites(model), observer=lambda position, passed: None),
    ):
        model(input_ids=IDS)


def masking_everything(model, sites):
    return Tap(sites, masked_neurons=[torch.arange(site.layer.neurons) for site in sites])


@pytest.mark.parametrize("family", ["olmoe", "llama", "nemotron_h", "inkling"])
def test_two_taps_at_once_are_refused(family):
    model = zoo.build(family)
    sites = families.sites(model)
    before = model(input_ids=IDS).logits
    with masking_everything(model, sites):
        masked = model(input_ids=IDS).logits
        with pytest.raises(RuntimeError, match="already tapped"), Tap(sites):
            pass
        assert torch.equal(model(input_ids=IDS).logits, masked)  # the outer one holds on
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not torch.equal(masked, before)


@pytest.mark.parametrize("family", ["olmoe", "llama", "deepseek_v2"])
def test_a_tap_entered_twice_is_refused_and_everything_stays_usable(family):
    model = tiny_models.build(family)
    sites = families.sites(model)
    before = model(input_ids=IDS).logits
    tap = masking_everything(model, sites)
    with tap:
        masked = model(input_ids=IDS).logits
        with pytest.raises(RuntimeError, match="this Tap is entered already"), tap:
            pass
        assert torch.equal(model(input_ids=IDS).logits, masked)
    assert model.config._experts_implementation != IMPLEMENTATION
    assert torch.equal(model(input_ids=IDS).logits, before)
    for again in (tap, masking_everything(model, sites)):  # one after the other is no fault
        with again:
            assert torch.equal(model(input_ids=IDS).logits, masked)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "llama"])
def test_an_interrupt_inside_a_block_leaves_the_model_as_it_was(family, gradients, monkeypatch):
    model = tiny_models.build(family).requires_grad_(True)
    sites, implementation = families.sites(model), model.config._experts_implementation
    block = sites[1].roots[0]
    inside = block.gate if family != "llama" else block.down_proj

    def interrupted(*args):
        raise KeyboardInterrupt

    with torch.set_grad_enabled(gradients):
        with monkeypatch.context() as patch:
            patch.setattr(inside, "forward", interrupted)
            with pytest.raises(KeyboardInterrupt), Tap(sites, observer=lambda position, passed: None):
                model(input_ids=IDS)
        assert torch.is_grad_enabled() == gradients
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config._experts_implementation == implementation
    Scorer(model, OPTIONS).score([SAMPLE])


def test_experts_implementations_of_parts_of_a_model_are_given_back():
    text = {
        **tiny_models.COMMON, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "intermediate_size": 40, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config=vision)
    model = transformers.Qwen3VLMoeForConditionalGeneration(config).eval().requires_grad_(False)
    model.set_experts_implementation({"text_config": "eager"})
    before = model.get_experts_implementation()
    assert before["text_config"] == "eager" != before[""]
    with Tap(families.sites(model)):
        assert model.get_experts_implementation()["text_config"] == IMPLEMENTATION
    assert model.get_experts_implementation() == before
    scorer = Scorer(model, OPTIONS)
    assert scorer.identity_error(SAMPLE) <= scorer.identity_tolerance
    assert model.get_experts_implementation() == before


@pytest.fixture
def compiled():
    """Makes a model compile what it runs, in two ways that users have; skips where torch.compile does not work."""

    def compile_model(model, way):
        try:
            if way == "the decoder's forward":
                model.model.forward = torch.compile(model.model.forward, backend="eager")
            else:
                model.compile(backend="eager")
            with torch.no_grad():  # as under the Tap later on, or it would be compiled again then, with the hooks
                model(input_ids=IDS, use_cache=False)
        except Exception as error:  # whatever the reason: it is torch's, before any Tap
            pytest.skip(f"torch.compile does not work here: {error}")
        return model

    torch._dynamo.reset()
    yield compile_model
    torch._dynamo.reset()


@pytest.mark.parametrize("way", ["the decoder's forward", "the model"])
def test_a_model_compiled_before_the_tap_is_masked_and_observed_all_the_same(compiled, way):
    plain = tiny_models.build("llama")
    model = compiled(tiny_models.build("llama"), way)
    sites, results = families.sites(model), []
    for twin in (plain, model):
        masked_neurons = [torch.tensor([0, 3, 23])] * len(sites)
        with torch.no_grad(), Tap(families.sites(twin), masked_neurons=masked_neurons):
            results.append(twin(input_ids=IDS, use_cache=False).logits)
    torch.testing.assert_close(*results)
    assert not torch.allclose(results[0], plain(input_ids=IDS).logits)
    seen = []
    with torch.no_grad(), Tap(sites, observer=lambda position, passed: seen.append(position)):
        model(input_ids=IDS, use_cache=False)
    assert seen == [0, 1, 2]
    mine, expected = (Scorer(twin, OPTIONS).score([SAMPLE]) for twin in (model, plain))
    for setting, arrays in expected.ranked.items():
        np.testing.assert_array_equal(mine.ranked[setting][0], arrays[0])
        np.testing.assert_allclose(mine.ranked[setting][2], arrays[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "olmoe", "deepseek_v2"])
def test_a_layer_that_bypasses_its_block_fails(family):
    model = tiny_models.build(family)
    model.model.layers[1].forward = lambda hidden_states, *args, **options: hidden_states
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.mlp"):
        Scorer(model, OPTIONS).score([SAMPLE])


@pytest.mark.parametrize("what", ["a layer", "the decoder"])
@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_a_layer_that_runs_twice_in_one_pass_fails(family, what):
    model = tiny_models.build(family)
    module = model.model.layers[1] if what == "a layer" else model.model
    once = module.forward

    def twice(*args, **options):
        once(*args, **options)
        return once(*args, **options)

    module.forward = twice
    with pytest.raises(RuntimeError, match=rf"model\.layers\.{1 if what == 'a layer' else 0}\.mlp"):
        Scorer(model, OPTIONS).score([SAMPLE])


def test_weights_that_are_elsewhere_are_refused_by_name():
    model = tiny_models.build("olmoe")
    model.model.layers[1].mlp.experts.to("meta")
    with (
        pytest.raises(families.UnsupportedModelError, match=r"layers\.1\.mlp: experts\.gate_up_proj is not in memory"),
        Tap(families.sites(model)),
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
