"""What must not change a result: batches, order, padding, chunks (SPEC section 2, invariant c)."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from conformance import zoo
from moemui.scores import scoring
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tap import experts_forward

FAMILIES = ("olmoe", "deepseek_v2", "qwen2_moe", "gpt_oss", "llama")
OPTIONS = Options(largest_threshold=0.05, selections=("pairs", "neurons", "per_token"))


@functools.cache
def plain(family: str):
    """The model, and the scores of each sample measured alone."""
    model = tiny_models.build(family)
    return model, [Scorer(model, OPTIONS).score([sample]) for sample in tiny_models.samples()]


def same(alone, chunk, place: int) -> None:
    """A sample's results in a chunk are those it has alone: key entries equal, scores to float tolerance."""
    for setting, (neuron, token, score) in alone.ranked.items():
        np.testing.assert_array_equal(chunk.ranked[setting][0][place], neuron[0])
        np.testing.assert_array_equal(chunk.ranked[setting][1][place], token[0])
        np.testing.assert_allclose(chunk.ranked[setting][2][place], score[0], rtol=1e-4, atol=1e-5)
    for formulation, (neuron, rank, count) in alone.per_token.items():
        whole = chunk.per_token[formulation]
        np.testing.assert_array_equal(whole[2][place], count[0])
        start = whole[2][:place].sum()
        part = slice(start, start + count.sum())
        np.testing.assert_array_equal(whole[0][part], neuron)
        np.testing.assert_array_equal(whole[1][part], rank)
    np.testing.assert_array_equal(chunk.routed_tokens[place], alone.routed_tokens[0])
    np.testing.assert_allclose(chunk.gate_mass[place], alone.gate_mass[0], rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    order=st.permutations(range(5)),
    max_tokens=st.integers(1, 40),
    padding_side=st.sampled_from(["left", "right"]),
    chunk_size=st.integers(1, 5),
)
def test_batches_order_padding_and_chunks_never_change_a_key_set(family, order, max_tokens, padding_side, chunk_size):
    model, alone = plain(family)
    options = Options(**{**vars(OPTIONS), "max_batch_tokens": max_tokens})
    scorer = Scorer(model, options, padding_side=padding_side)
    shuffled = [tiny_models.samples()[i] for i in order]
    for start in range(0, len(order), chunk_size):
        chunk = scorer.score(shuffled[start : start + chunk_size])
        for place, number in enumerate(order[start : start + chunk_size]):
            same(alone[number], chunk, place)


@functools.cache
def long_samples():
    """Three samples, long enough that their slots fill many spans, and one of a single token."""
    g = torch.Generator().manual_seed(6)
    lengths = ((4, 32), (9, 45), (2, 1), (20, 30))
    draws = [torch.randint(3, 97, (sum(length),), generator=g).tolist() for length in lengths]
    return [
        Sample(str(i), ids[:prompt], ids[prompt:])
        for i, (ids, (prompt, _)) in enumerate(zip(draws, lengths, strict=True))
    ]


@pytest.mark.parametrize("slots", [1, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_length_of_spans_never_changes_a_key_set(family, slots, monkeypatch):
    model = tiny_models.build(family)
    options = Options(**{**vars(OPTIONS), "largest_threshold": 0.3 if family == "llama" else 0.05})
    whole = Scorer(model, options).score(long_samples())
    assert whole.ranked["glu", "neurons"][0].shape[2] > 5
    lengths = []
    observe = scoring.BatchScores.observe

    def spy(self, position, passed):
        lengths.extend(len(set(span.expert.tolist())) for span in passed.routed or ())
        return observe(self, position, passed)

    monkeypatch.setattr(scoring.BatchScores, "observe", spy)
    for module in (experts_forward, scoring):
        monkeypatch.setattr(module, "SPAN_SLOTS", slots)
    cut = Scorer(model, options).score(long_samples())
    assert all(experts == 1 for experts in lengths)  # the change arrives: without it a span holds all experts
    for setting, arrays in whole.ranked.items():
        for values, expected in zip(cut.ranked[setting][:2], arrays[:2], strict=True):
            np.testing.assert_array_equal(values, expected)
        np.testing.assert_allclose(cut.ranked[setting][2], arrays[2], rtol=1e-4, atol=1e-5)
    for formulation, arrays in whole.per_token.items():
        for values, expected in zip(cut.per_token[formulation], arrays, strict=True):
            np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(cut.routed_tokens, whole.routed_tokens)
    np.testing.assert_allclose(cut.gate_mass, whole.gate_mass, rtol=1e-5)


def build_axk1(monkeypatch, spread, dtype):
    """A model with a norm behind its MoE blocks whose weights differ from 1 by `spread`: 0 is a plain scaling."""
    monkeypatch.setitem(zoo.RECIPES, "axk1", zoo.Recipe({"moe_intermediate_size": 16, "hidden_size": 64}))
    model = zoo.build("axk1")
    generator, changed = torch.Generator().manual_seed(5), 0
    for layer in model.model.layers:
        if hasattr(layer.mlp, "post_mlp_layernorm"):
            weight = layer.mlp.post_mlp_layernorm.weight
            weight.copy_(1 + spread * torch.randn(weight.shape, generator=generator))
            changed += 1
    assert changed == 2
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.05])
def test_what_a_norm_does_to_the_experts_is_told_alike_in_every_batch(monkeypatch, spread, dtype):
    model = build_axk1(monkeypatch, spread, dtype)
    g = torch.Generator().manual_seed(5)
    batch = [Sample(str(i), *(torch.randint(3, 60, (n,), generator=g).tolist() for n in (3, 4))) for i in range(6)]
    scorer = Scorer(model, Options(largest_threshold=0.05))
    together, alone = scorer.score(batch), [scorer.score([sample]) for sample in batch]
    step = max(1e-6, torch.finfo(dtype).eps)
    for place, one in enumerate(alone):
        np.testing.assert_array_equal(together.routed_tokens[place], one.routed_tokens[0])
        np.testing.assert_allclose(together.gate_mass[place], one.gate_mass[0], rtol=4 * step, atol=4 * step)
        for setting, (neuron, token, score) in one.ranked.items():
            found = [array[place] for array in together.ranked[setting]]
            for layer in range(neuron.shape[1]):
                scale = np.abs(score[0, layer]).max()
                np.testing.assert_allclose(found[2][layer], score[0, layer], rtol=0, atol=8 * step * scale)
                mine, other = (
                    {entry[:2]: entry[2] for entry in zip(*(values.tolist() for values in arrays), strict=True)}
                    for arrays in ([a[layer] for a in found], [a[0, layer] for a in (neuron, token, score)])
                )
                # An entry that only one of them has ties with the last one, up to rounding.
                for key in mine.keys() ^ other.keys():
                    assert abs({**mine, **other}[key] - score[0, layer, -1]) <= 8 * step * scale


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(monkeypatch, caplog):
    model, alone = plain("olmoe")
    scorer = Scorer(model, OPTIONS)
    decoder = model.get_decoder()
    forward, widths = decoder.forward, []

    def narrow(*args, **inputs):
        widths.append(len(inputs["input_ids"]))
        if widths[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **inputs)

    monkeypatch.setattr(decoder, "forward", narrow)
    done = []
    chunk = scorer.score(tiny_models.samples(), done.append)
    for place, expected in enumerate(alone):
        same(expected, chunk, place)
    assert widths[0] == 4  # all with a response
    assert widths[-1] == 1
    assert sorted(done) == [2, 3, 4, 5]  # the empty response counts from the start
    assert "did not fit into memory; going on with at most" in caplog.text
    assert scorer.max_batch_tokens < OPTIONS.max_batch_tokens


def test_a_sample_that_does_not_fit_alone_fails_and_so_does_any_other_fault(monkeypatch):
    model, _ = plain("olmoe")
    decoder = model.get_decoder()

    def full(*args, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decoder, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(model, OPTIONS).score(tiny_models.samples())

    def broken(*args, **inputs):
        raise RuntimeError("something else")

    monkeypatch.setattr(decoder, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        Scorer(model, OPTIONS).score(tiny_models.samples())


# Rounding steps by which a half-precision score may miss float32's. Measured were 3.5 and 6.1; what two layers' states
# had lost before is in them. A fault of a fifth would be 25 steps in bfloat16, one of a twentieth 6.
STEPS = {"activation": 5, "projection": 8, "glu": 8}


@functools.cache
def worst_rounding(family, dtype, fault=1.0):
    """By formulation, the largest difference of a half-precision score in rounding steps of its layer's largest score.

    fault: what the half-precision scores are multiplied with. Compared are models of the same rounded weights, so what
    differs is the arithmetic alone, in the layers of samples of one token whose router chose the same experts.
    """
    half, full = (tiny_models.build(family).to(dtype) for _ in range(2))
    options = Options(selections=("pairs",), largest_threshold=1.0)
    scorers = Scorer(half, options), Scorer(full.float(), options)
    worst, compared = dict.fromkeys(options.formulations, 0.0), 0
    for number in range(12):
        sample = Sample(str(number), [3 + number], [50 + number])
        first, second = (scorer.score([sample]) for scorer in scorers)
        for formulation in options.formulations:
            for layer in range(len(scorers[0].sites)):
                if not (first.routed_tokens[0, layer] == second.routed_tokens[0, layer]).all():
                    continue
                entries = [chunk.ranked[formulation, "pairs"] for chunk in (first, second)]
                kept = entries[0][0][0, layer] >= 0
                assert (kept == (entries[1][0][0, layer] >= 0)).all()
                by_neuron = [score[0, layer][kept][neuron[0, layer][kept].argsort()] for neuron, _, score in entries]
                missed = np.abs(fault * by_neuron[0] - by_neuron[1]).max() / np.abs(by_neuron[1]).max()
                worst[formulation] = max(worst[formulation], float(missed / torch.finfo(dtype).eps))
                compared += 1
    assert compared > 50
    return worst


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_gives_the_scores_of_float32_to_its_rounding(family, dtype):
    for formulation, steps in worst_rounding(family, dtype).items():
        assert steps < STEPS[formulation]
        # What passes is so near to float32 that scores too large by a fifth would not.
        assert worst_rounding(family, dtype, fault=1.2)[formulation] > 2 * STEPS[formulation]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_tied_to_the_embedding_changes_nothing(family):
    tied = tiny_models.build(family)
    tied.get_input_embeddings().weight = tied.get_output_embeddings().weight
    untied = tiny_models.build(family)
    untied.get_input_embeddings().weight = torch.nn.Parameter(
        untied.get_output_embeddings().weight.clone(), requires_grad=False
    )
    a, b = (Scorer(twin, OPTIONS).score(tiny_models.samples()) for twin in (tied, untied))
    for setting, arrays in a.ranked.items():
        for mine, other in zip(arrays, b.ranked[setting], strict=True):
            np.testing.assert_array_equal(mine, other)
