"""Activation frequency: counted by the tap as a plain loop over tokens, experts and neurons counts it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from remote_code.saving import keep_code_in, save
from torch import nn

import tiny_models
from moemui.models import checkpoints
from moemui.scores.activation_frequency import Activity, activity
from moemui.scores.contributions import Options, Sample, Scorer

SAMPLES = tiny_models.samples(6)
END = 2


def by_loop(model, samples):
    """Counts of every neuron from the slow oracle, where unused experts are NaN, which is above nothing."""
    layers = None
    for sample in samples:
        if sample.response:
            found = [
                (layer["activation"] > 0).sum(axis=0)
                for layer in tiny_models.oracle(model, list(sample.prompt), list(sample.response))
            ]
            layers = found if layers is None else [a + b for a, b in zip(layers, found, strict=True)]
    return np.concatenate(layers)


def near_zero(model, samples, close=1e-6):
    """Neurons that are so close to 0 at a token that rounding may switch them."""
    odd = []
    for sample in samples:
        if sample.response:
            layers = tiny_models.oracle(model, list(sample.prompt), list(sample.response))
            odd.append(np.concatenate([(np.abs(layer["activation"]) < close).any(axis=0) for layer in layers]))
    return np.any(odd, axis=0)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("max_batch_tokens", [1, 24, 4096])
def test_every_family_is_counted_as_by_a_loop(family, max_batch_tokens):
    model = tiny_models.build(family)
    scorer = Scorer(model, Options(max_batch_tokens=max_batch_tokens))
    found = activity(scorer=scorer, samples=SAMPLES)
    sure = ~near_zero(model, SAMPLES)
    assert sure.mean() > 0.99
    assert found.active.dtype == np.int64
    assert found.active[sure].tolist() == by_loop(model, SAMPLES)[sure].tolist()
    assert found.tokens == sum(len(sample.response) for sample in SAMPLES)
    assert 0 < found.frequency.mean() < 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_gpu_counts_as_the_cpu(family):
    model = tiny_models.build(family)
    sure = ~near_zero(model, SAMPLES, close=1e-4)
    on_cpu = activity(scorer=Scorer(model, Options()), samples=SAMPLES)
    on_gpu = activity(scorer=Scorer(model.to("cuda:0"), Options()), samples=SAMPLES)
    assert on_gpu.active[sure].tolist() == on_cpu.active[sure].tolist()


def test_the_states_are_those_that_the_alignment_scores():
    """At y_t's own state, one token on: the same as a response moved by one under next_token."""
    model = tiny_models.build("deepseek_v2")
    own = activity(scorer=Scorer(model, Options(alignment="same_token")), samples=[Sample("a", [5, 6], [7, 8, 9])])
    moved = activity(scorer=Scorer(model, Options()), samples=[Sample("a", [5, 6, 7], [8, 9, 10])])
    assert own.active.tolist() == moved.active.tolist()
    other = activity(scorer=Scorer(model, Options()), samples=[Sample("a", [5, 6], [7, 8, 9])])
    assert own.active.tolist() != other.active.tolist()


def test_a_closing_end_token_counts_only_where_it_is_included():
    model = tiny_models.build("olmoe")
    closed, plain = [Sample("a", [5, 6], [7, 8, END])], [Sample("a", [5, 6], [7, 8])]
    excluded = activity(scorer=Scorer(model, Options(), eos_ids=[END]), samples=closed)
    included = activity(scorer=Scorer(model, Options(eos="include"), eos_ids=[END]), samples=closed)
    assert (excluded.tokens, included.tokens) == (2, 3)
    assert excluded.active.tolist() == activity(scorer=Scorer(model, Options()), samples=plain).active.tolist()
    assert included.active.sum() > excluded.active.sum()


def test_gates_by_hand():
    """A dense MLP whose gate reads the norm's output: neuron 0 always on, 1 never, 2 where the state's first part is
    positive."""
    config = transformers.LlamaConfig(**{**tiny_models.COMMON, "num_hidden_layers": 1}, intermediate_size=3)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    seen = []
    mlp = model.model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    gate = nn.Linear(32, 3)
    gate.weight.data = torch.zeros(3, 32)
    gate.weight.data[2, 0] = 1
    gate.bias.data = torch.tensor([1.0, -1.0, 0.0])
    mlp.gate_proj = gate.requires_grad_(False)
    found = activity(scorer=Scorer(model, Options()), samples=[Sample("a", [5, 6, 7], [8, 9, 10, 11])])
    positive = int((seen[0][0, 2:6, 0] > 0).sum())
    assert found.active.tolist() == [4, 0, positive]
    assert found.frequency.tolist() == [1, 0, positive / 4]


def test_an_mlp_without_a_gate_counts_its_activation():
    config = transformers.GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        hidden_act="relu",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    outputs = []
    for layer in model.gpt_neox.layers:
        layer.mlp.dense_h_to_4h.register_forward_hook(lambda module, given, output: outputs.append(output))
    found = activity(scorer=Scorer(model, Options()), samples=[Sample("a", [5, 6, 7], [8, 9])])
    assert found.active.tolist() == torch.cat([(output[0, 2:] > 0).sum(0) for output in outputs]).tolist()


@pytest.mark.parametrize("block", ["sorted", "loop"])
def test_experts_that_are_listed_modules_are_counted(block, tmp_path, monkeypatch):
    """With a prompt of one token every state that is fed predicts a response token, so every row of a gate counts."""
    keep_code_in(tmp_path / "modules", monkeypatch)
    folder = save(tmp_path / "model", block=block)
    model = checkpoints.load(checkpoints.resolve({"path": str(folder), "trust_remote_code": True}, {}))[0]
    gates, outputs = [], {}
    for layer in model.model.layers:
        if hasattr(layer.mlp, "experts"):
            gates += [expert.gate_proj for expert in (*layer.mlp.experts, layer.mlp.shared_experts)]
    for gate in gates:
        gate.register_forward_hook(lambda module, given, output: outputs.__setitem__(module, output))
    found = activity(scorer=Scorer(model, Options()), samples=[Sample("a", [5], [6, 7, 8, 9, 10, 11])])
    by_gate = [
        (outputs[gate].reshape(-1, gate.out_features) > 0).sum(0) if gate in outputs else torch.zeros(gate.out_features)
        for gate in gates
    ]
    assert len(outputs) < len(gates)  # some experts are idle
    assert found.active.tolist() == torch.cat(by_gate).tolist()


def test_progress_and_empty_responses():
    scorer, done = Scorer(tiny_models.build("olmoe"), Options(max_batch_tokens=1)), []
    activity(scorer=scorer, samples=SAMPLES[:3], progress=done.append)  # the first is empty
    assert done == [2, 3]
    nothing = activity(scorer=scorer, samples=[Sample("a", [5, 6], [])])
    assert nothing.tokens == 0
    assert nothing.active.sum() == 0
    assert np.isnan(nothing.frequency).all()


def test_a_frequency_is_a_share():
    assert Activity(np.array([0, 1, 4]), 4).frequency.tolist() == [0, 0.25, 1]


def test_a_layer_that_is_passed_by_is_refused():
    model = tiny_models.build("llama")
    scorer = Scorer(model, Options())
    model.model.layers[1].forward = lambda states, *args, **kwargs: states
    with pytest.raises(RuntimeError, match=r"went by model.layers.1.mlp, 1 of 3 layers"):
        activity(scorer=scorer, samples=SAMPLES)


def test_a_layer_that_runs_twice_is_refused():
    model = tiny_models.build("llama")
    scorer = Scorer(model, Options())
    layer, once = model.model.layers[1], model.model.layers[1].forward
    layer.forward = lambda states, *args, **kwargs: once(once(states, *args, **kwargs), *args, **kwargs)
    with pytest.raises(RuntimeError, match=r"model.layers.1.mlp ran twice"):
        activity(scorer=scorer, samples=SAMPLES)
