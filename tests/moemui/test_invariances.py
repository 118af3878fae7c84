"""What must not change a result: batches, order, padding, chunks (SPEC section 2, invariant c)."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from moemui.contributions import Options, Sample, Scorer

FAMILIES = ("olmoe", "deepseek_v2", "qwen2_moe", "gpt_oss", "llama")
OPTIONS = Options(largest_threshold=0.05, selections=("pairs", "neurons", "per_token"))


def samples(count: int = 5, seed: int = 0) -> list[Sample]:
    """Samples of different lengths; the first has an empty response, the second one token."""
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(3, 97, (n,), generator=g).tolist()

    return [Sample(str(i), draw(2 + i % 3), draw(i)) for i in range(count)]


@functools.cache
def plain(family: str):
    """The model, and the scores of each sample measured alone."""
    model = tiny_models.build(family)
    return model, [Scorer(model, OPTIONS).score([sample]) for sample in samples()]


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
    shuffled = [samples()[i] for i in order]
    for start in range(0, len(order), chunk_size):
        chunk = scorer.score(shuffled[start : start + chunk_size])
        for place, number in enumerate(order[start : start + chunk_size]):
            same(alone[number], chunk, place)


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
    chunk = scorer.score(samples(), done.append)
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
        Scorer(model, OPTIONS).score(samples())

    def broken(*args, **inputs):
        raise RuntimeError("something else")

    monkeypatch.setattr(decoder, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        Scorer(model, OPTIONS).score(samples())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_gives_the_scores_of_float32_to_its_rounding(family, dtype):
    half = tiny_models.build(family).to(dtype)
    # The same rounded weights in float32: what differs is the arithmetic alone.
    full = tiny_models.build(family).to(dtype).float()
    options = Options(formulations=("glu", "activation"), selections=("pairs",), largest_threshold=1.0)
    compared = 0
    for sample in samples()[1:]:
        a, b = (Scorer(model, options).score([sample]) for model in (half, full))
        used = a.routed_tokens[0] > 0
        if not (used == (b.routed_tokens[0] > 0)).all():
            continue  # the router itself chose another expert
        compared += 1
        for formulation in options.formulations:
            first, second = (
                {
                    (layer, token, neuron): score
                    for layer in range(chunk.ranked[formulation, "pairs"][0].shape[1])
                    for neuron, token, score in zip(
                        *(values[0, layer] for values in chunk.ranked[formulation, "pairs"]), strict=True
                    )
                    if neuron >= 0
                }
                for chunk in (a, b)
            )
            both = first.keys() & second.keys()
            assert len(both) > 0.9 * len(first)
            scale = max(abs(value) for value in second.values())
            difference = np.array([first[key] - second[key] for key in both])
            assert np.abs(difference).max() < 32 * torch.finfo(dtype).eps * scale
    assert compared >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_tied_to_the_embedding_changes_nothing(family):
    tied = tiny_models.build(family)
    tied.get_input_embeddings().weight = tied.get_output_embeddings().weight
    untied = tiny_models.build(family)
    untied.get_input_embeddings().weight = torch.nn.Parameter(
        untied.get_output_embeddings().weight.clone(), requires_grad=False
    )
    a, b = (Scorer(twin, OPTIONS).score(samples()) for twin in (tied, untied))
    for setting, arrays in a.ranked.items():
        for mine, other in zip(arrays, b.ranked[setting], strict=True):
            np.testing.assert_array_equal(mine, other)
