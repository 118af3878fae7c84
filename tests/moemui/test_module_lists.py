"""Models that bring their own code and keep one module per expert: seen, weighed and masked like all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_code.saving import keep_code_in, save

from moemui.models import checkpoints
from moemui.scores.contributions import FORMULATIONS, Options, Sample, Scorer
from moemui.tap import families
from moemui.tap.capture import Tap

EVERYTHING = Options(largest_threshold=1.0)
BLOCKS = ("sorted", "loop")
PROMPT, RESPONSE = [5, 6, 7, 90], [11, 8, 9, 8, 60]
EXPERTS, TOP_K, WIDTH = 8, 2, 24


@pytest.fixture(scope="module")
def own_code(tmp_path_factory):
    """A place of its own for the code that checkpoints bring, which otherwise stays in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        keep_code_in(tmp_path_factory.mktemp("modules"), patch)
        yield


def load(folder, trusted=True):
    return checkpoints.load(checkpoints.resolve({"path": str(folder), "trust_remote_code": trusted}, {}))[0]


@pytest.fixture(scope="module", params=BLOCKS)
def model(request, own_code, tmp_path_factory):
    """A checkpoint with code of its own, as a study loads it."""
    folder = save(tmp_path_factory.mktemp("listed") / request.param, block=request.param)
    assert (folder / "modeling_listed.py").is_file()
    loaded = load(folder)
    assert type(loaded).__module__.startswith("transformers_modules.")
    return loaded.requires_grad_(False)


def oracle(model, prompt, response):
    """All contributions, a dict of (response token, neuron) arrays for each MoE layer: plain loops in float64.

    The router is worked out again from its weights; unused experts are NaN.
    """
    inputs: dict[int, torch.Tensor] = {}
    listed = [(i, layer.mlp) for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]
    handles = [
        block.register_forward_pre_hook(lambda module, given, i=i: inputs.__setitem__(i, given[0][0]))
        for i, block in listed
    ]
    model(torch.tensor([[*prompt, *response]]))
    for handle in handles:
        handle.remove()
    head = model.lm_head.weight.double().numpy()

    def number(weight):
        return weight.double().numpy()

    def silu(z):
        return z / (1 + np.exp(-z))

    layers = []
    for i, block in listed:
        neurons = EXPERTS * WIDTH + block.shared_experts.down_proj.in_features
        rows = {name: np.full((len(response), neurons), np.nan) for name in FORMULATIONS}
        for t, target in enumerate(response):
            x = number(inputs[i][len(prompt) - 1 + t])
            preference = np.exp(number(block.gate.weight) @ x)
            shares = preference / preference.sum()
            used = [(e * WIDTH, shares[e], block.experts[e]) for e in np.argsort(shares)[-TOP_K:]]
            for first, weight, mlp in [*used, (EXPERTS * WIDTH, 1.0, block.shared_experts)]:
                gate, up = silu(number(mlp.gate_proj.weight) @ x), number(mlp.up_proj.weight) @ x
                for j in range(len(gate)):
                    pull = number(mlp.down_proj.weight)[:, j] @ head[target]
                    rows["projection"][t, first + j] = weight * gate[j] * pull
                    rows["glu"][t, first + j] = weight * gate[j] * up[j] * pull
                    rows["activation"][t, first + j] = gate[j]
        layers.append(rows)
    return layers


def test_geometry(model):
    geometry = families.geometry(families.sites(model))
    assert [(layer.index, layer.routed, layer.shared, layer.width, layer.top_k) for layer in geometry.layers] == [
        (1, EXPERTS, 2, WIDTH, TOP_K),
        (2, EXPERTS, 2, WIDTH, TOP_K),
    ]


def test_conservation_identity_and_the_slow_oracle(model):
    scorer = Scorer(model, EVERYTHING)
    batch = [Sample("a", PROMPT, RESPONSE), Sample("b", PROMPT[::-1], [3]), Sample("c", [4], [])]
    assert scorer.identity_error(batch[0]) == 0
    chunk = scorer.score(batch)
    assert chunk.conservation.max() < 1e-5
    for s, sample in enumerate(batch[:2]):
        for place, expected in enumerate(oracle(model, sample.prompt, sample.response)):
            for formulation in FORMULATIONS:
                values = expected[formulation]
                neuron, token, score = (a[s, place] for a in chunk.ranked[formulation, "pairs"])
                kept = neuron >= 0
                assert kept.sum() == min(len(neuron), (~np.isnan(values)).sum())
                np.testing.assert_allclose(score[kept], values[token[kept], neuron[kept]], rtol=2e-4, atol=2e-6)
                best = np.sort(values[~np.isnan(values)])[::-1][: kept.sum()]
                np.testing.assert_allclose(score[kept], best, rtol=2e-4, atol=2e-6)


def test_the_oracle_would_notice(model):
    """Control: scores of a model with one expert's down projection scaled are not the oracle's of the other."""
    values = oracle(model, PROMPT, RESPONSE)[0]["glu"]
    used = int(np.flatnonzero(~np.isnan(values[0]))[0]) // WIDTH
    weight = model.model.layers[1].mlp.experts[used].down_proj.weight
    kept = weight.clone()
    try:
        weight.mul_(1.001)
        neuron, token, score = (
            a[0, 0] for a in Scorer(model, EVERYTHING).score([Sample("a", PROMPT, RESPONSE)]).ranked["glu", "pairs"]
        )
    finally:
        weight.copy_(kept)
    here = neuron // WIDTH == used
    assert here.any()
    assert not np.allclose(score[here], values[token[here], neuron[here]], rtol=2e-4, atol=0)


def test_routing_counts_and_gate_mass(model):
    chunk = Scorer(model, EVERYTHING).score([Sample("a", PROMPT, RESPONSE)])
    expected = oracle(model, PROMPT, RESPONSE)
    for place, values in enumerate(expected):
        counts = (~np.isnan(values["activation"])).sum(0).reshape(-1, WIDTH)[:, 0]
        assert chunk.routed_tokens[0, place].tolist() == counts.tolist()
    assert (chunk.gate_mass[0, :, EXPERTS:] == len(RESPONSE)).all()
    assert (chunk.gate_mass[0, :, :EXPERTS].sum(1) < len(RESPONSE)).all()  # shares of a softmax, not renormalised


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(5)), max_tokens=st.integers(1, 60))
def test_order_batches_and_equal_samples_change_nothing(model, order, max_tokens):
    # Two samples are equal, so that rows of an expert can't be told apart by what is in them.
    batch = [Sample(str(i), [5, 6 + i % 3], [7, 8 + i % 3, 9][: 1 + i % 3]) for i in (0, 1, 2, 3, 4)]
    batch[3] = Sample("3", batch[0].prompt, batch[0].response)
    plain = Scorer(model, Options(largest_threshold=0.05)).score(batch)
    other = Scorer(model, Options(largest_threshold=0.05, max_batch_tokens=max_tokens)).score([batch[i] for i in order])
    for setting, (neuron, token, score) in plain.ranked.items():
        assert np.array_equal(neuron[0], neuron[3])
        assert np.array_equal(neuron[list(order)], other.ranked[setting][0])
        assert np.array_equal(token[list(order)], other.ranked[setting][1])
        np.testing.assert_allclose(score[list(order)], other.ranked[setting][2], rtol=1e-4, atol=1e-6)


def zeroed(model, masked):
    """The logits when the down projections' columns of the masked neurons are 0, by layer of the MoE layers."""
    kept = {name: weight.clone() for name, weight in model.named_parameters()}
    try:
        for layer, neurons in zip(model.model.layers[1:], masked, strict=True):
            for neuron in neurons.tolist():
                expert, j = divmod(neuron, WIDTH)
                mlp = layer.mlp.experts[expert] if expert < EXPERTS else layer.mlp.shared_experts
                mlp.down_proj.weight[:, j if expert < EXPERTS else neuron - EXPERTS * WIDTH] = 0
        return model(torch.tensor([[*PROMPT, *RESPONSE]])).logits
    finally:
        for name, weight in model.named_parameters():
            weight.copy_(kept[name])


def test_masked_neurons_are_as_if_their_weights_were_zero(model):
    generator = torch.Generator().manual_seed(1)
    masked = [torch.randperm((EXPERTS + 2) * WIDTH, generator=generator)[:90] for _ in range(2)]
    ids = torch.tensor([[*PROMPT, *RESPONSE]])
    plain = model(ids).logits
    with Tap(families.sites(model), masked_neurons=masked):
        under = model(ids).logits
    torch.testing.assert_close(under, zeroed(model, masked), rtol=1e-4, atol=1e-5)
    assert (under - plain).abs().max() > 1e-2
    assert torch.equal(model(ids).logits, plain)


def test_masking_holds_while_generating_with_a_cache(model):
    masked = [torch.arange(0, (EXPERTS + 2) * WIDTH, 3) for _ in range(2)]
    ids = torch.tensor([PROMPT])
    with Tap(families.sites(model), masked_neurons=masked):
        cached, whole = (
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, use_cache=cache)
            for cache in (True, False)
        )
    assert torch.equal(cached, whole)
    assert not torch.equal(
        cached, model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    )


def test_the_model_is_as_before_after_an_exception(model):
    ids = torch.tensor([PROMPT])
    plain = model(ids).logits

    def fail(*seen):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), Tap(families.sites(model), observer=fail):
        model(ids)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids).logits, plain)


def test_without_shared_experts(own_code, tmp_path):
    model = load(save(tmp_path / "alone", n_shared_experts=None))
    scorer = Scorer(model, EVERYTHING)
    assert {layer.shared for layer in scorer.geometry.layers} == {0}
    sample = Sample("a", PROMPT, RESPONSE)
    assert scorer.identity_error(sample) == 0
    assert scorer.score([sample]).conservation.max() < 1e-5


def test_half_precision_keeps_its_balance(own_code, tmp_path):
    folder = save(tmp_path / "half")
    manifest = checkpoints.resolve({"path": str(folder), "trust_remote_code": True}, {})
    scorer = Scorer(checkpoints.load(manifest, "bfloat16")[0], EVERYTHING)
    chunk = scorer.score([Sample("a", PROMPT, RESPONSE)])
    assert 0 < chunk.imbalance.max() < scorer.tolerance


def test_a_router_that_returns_logits_only_is_refused_by_name(own_code, tmp_path):
    model = load(save(tmp_path / "logits", block="logits"))
    with pytest.raises(families.UnsupportedModelError, match=r"model\.layers\.1\.mlp.*router"):
        Scorer(model, EVERYTHING).score([Sample("a", PROMPT, RESPONSE)])


def test_code_that_nobody_trusted_is_not_run(own_code, tmp_path):
    folder = save(tmp_path / "untrusted")
    with pytest.raises(
        ValueError,
        match=r"^\S+untrusted runs on code of its own \(modeling_listed.ListedForCausalLM\), which transformers does "
        r"not have; read that code, and set trust_remote_code: true for this model if you trust it$",
    ):
        load(folder, trusted=False)


def test_code_too_old_for_transformers_is_named(own_code, tmp_path):
    folder = save(tmp_path / "old")
    code = folder / "modeling_listed.py"
    code.write_text("from transformers.utils.import_utils import is_long_gone\n" + code.read_text())
    with pytest.raises(
        ValueError,
        match=r"^\S+old needs what is not installed beside transformers [\d.]+ \(cannot import name 'is_long_gone' .*"
        r"\); install it, or bring the code that comes with the checkpoint up to date in a local copy of its folder",
    ):
        load(folder)
