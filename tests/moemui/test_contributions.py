"""Contributions against pencil and paper, against a slow oracle, and under changes that must not matter."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from moemui.scores import contributions, scoring
from moemui.scores.contributions import ConservationError, Options, Sample, Scorer, batches
from moemui.tap import families, heads
from moemui.tap.capture import IMPLEMENTATION

EVERYTHING = Options(largest_threshold=1.0)
PER_TOKEN = Options(largest_threshold=0.15, selections=("per_token",))


@pytest.fixture
def two_experts() -> torch.nn.Module:
    """One layer of two experts, whose input is exactly (1, 1, 1, 1).

    Attention adds nothing (its output projection is 0), the embedding has root mean square 1, the router knows no
    preference (G = 1/2), and the activation is ReLU. Widths are 4 because grouped matrix products want 16 bytes;
    of each expert's neurons two are at work and the others have weights of 0.
    """
    config = transformers.OlmoeConfig(
        vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        num_experts=2, num_experts_per_tok=2, hidden_act="relu", rms_norm_eps=0.0, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.OlmoeForCausalLM(config).eval().requires_grad_(False)
    layer = model.model.layers[0]
    model.model.embed_tokens.weight[:] = 1
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.gate.weight.zero_()
    experts = layer.mlp.experts
    experts.gate_up_proj.zero_()
    experts.down_proj.zero_()
    experts.gate_up_proj[0, [0, 1, 4, 5], :2] = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 3]])  # gate 1, 1; up 2, 3
    experts.down_proj[0, :2, :2] = torch.tensor([[1.0, 0], [0, -1]])
    experts.gate_up_proj[1, [0, 1, 4, 5], :2] = torch.tensor([[1.0, 1], [1, -1], [1, 0], [1, 0]])  # gate 2, 0; up 1, 1
    experts.down_proj[1, :2, :2] = torch.tensor([[0.0, 1], [1, 1]])
    model.lm_head.weight[5] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    return model


IDLE = [2, 3, 5, 6, 7]  # score 0 under every formulation: neuron 5's gate is 0, the others' weights are


@pytest.mark.parametrize(
    ("formulation", "gate_weighting", "neurons", "scores"),
    [
        # Expert 0 has neurons 0, 1 and expert 1 has 4, 5. W_down · W_head[5] is 1, −2 and 2, 3; G = 1/2.
        ("projection", True, [4, 0, *IDLE, 1], [2.0, 0.5, -1.0]),
        ("projection", False, [4, 0, *IDLE, 1], [4.0, 1.0, -2.0]),
        ("glu", True, [4, 0, *IDLE, 1], [2.0, 1.0, -3.0]),
        ("glu", False, [4, 0, *IDLE, 1], [4.0, 2.0, -6.0]),
        ("activation", True, [4, 0, 1, *IDLE], [2.0, 1.0, 1.0]),  # a tie goes to the lower neuron
    ],
)
def test_two_experts_worked_by_hand(two_experts, formulation, gate_weighting, neurons, scores):
    options = Options(formulations=(formulation,), largest_threshold=1.0, gate_weighting=gate_weighting)
    chunk = Scorer(two_experts, options).score([Sample("a", [3], [5])])
    neuron, token, score = chunk.ranked[formulation, "pairs"]
    assert neuron[0, 0].tolist() == neurons
    assert score[0, 0][~np.isin(neuron[0, 0], IDLE)].tolist() == scores
    assert not score[0, 0][np.isin(neuron[0, 0], IDLE)].any()
    assert token[0, 0].tolist() == [0] * 8
    assert chunk.routed_tokens[0, 0].tolist() == [1, 1]
    assert chunk.gate_mass[0, 0].tolist() == [0.5, 0.5]


def test_pairs_and_neurons_over_two_equal_tokens(two_experts):
    options = Options(formulations=("projection",), largest_threshold=0.5)
    chunk = Scorer(two_experts, options).score([Sample("a", [3], [5, 5])])
    neuron, token, _ = chunk.ranked["projection", "pairs"]
    assert list(zip(neuron[0, 0].tolist(), token[0, 0].tolist(), strict=True)) == [(4, 0), (4, 1), (0, 0), (0, 1)]
    neuron, token, _ = chunk.ranked["projection", "neurons"]
    assert list(zip(neuron[0, 0].tolist(), token[0, 0].tolist(), strict=True)) == [(4, 0), (0, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_equals_the_slow_oracle(family):
    model = tiny_models.build(family)
    scorer = Scorer(model, EVERYTHING, eos_ids=[2])
    batch = tiny_models.samples()
    chunk = scorer.score(batch)
    assert chunk.conservation.max() < 1e-5
    assert scorer.identity_error(batch[3]) == 0
    for s, sample in enumerate(batch):
        if not sample.response:
            assert all((neuron[s] == -1).all() for neuron, _, _ in chunk.ranked.values())
            continue
        for place, expected in enumerate(tiny_models.oracle(model, list(sample.prompt), list(sample.response))):
            for formulation in contributions.FORMULATIONS:
                values = expected[formulation]
                used = ~np.isnan(values)
                neuron, token, score = (a[s, place] for a in chunk.ranked[formulation, "pairs"])
                kept = neuron >= 0
                assert kept.sum() == min(len(neuron), used.sum())
                np.testing.assert_allclose(score[kept], values[token[kept], neuron[kept]], rtol=2e-4, atol=2e-6)
                best = np.sort(values[used])[::-1][: kept.sum()]
                np.testing.assert_allclose(score[kept], best, rtol=2e-4, atol=2e-6)
                neuron, token, score = (a[s, place] for a in chunk.ranked[formulation, "neurons"])
                kept = neuron >= 0
                assert len(set(neuron[kept])) == kept.sum() == used.any(0).sum()
                np.testing.assert_allclose(score[kept], np.nanmax(values[:, neuron[kept]], 0), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "llama"])
def test_per_token_equals_the_slow_oracle(family):
    model = tiny_models.build(family)
    scorer = Scorer(model, PER_TOKEN, eos_ids=[2])
    batch = tiny_models.samples()
    chunk = scorer.score(batch)
    k = scorer.geometry.key_count(0.15)
    assert scorer.ranks == k.max() > 1
    for formulation, (neuron, rank, count) in chunk.per_token.items():
        found = iter(zip(neuron.tolist(), rank.tolist(), strict=True))
        for s, sample in enumerate(batch):
            if not sample.response:
                assert (count[s] == 0).all()
                continue
            for layer, values in enumerate(tiny_models.oracle(model, list(sample.prompt), list(sample.response))):
                best: dict[int, int] = {}
                for row in values[formulation]:
                    used = np.flatnonzero(~np.isnan(row))
                    for place, j in enumerate(used[np.lexsort((used, -row[used]))][: scorer.ranks]):
                        best[int(j)] = min(place, best.get(int(j), place))
                mine = [next(found) for _ in range(count[s, layer])]
                assert mine == sorted(best.items(), key=lambda item: (item[1], item[0]))
        assert next(found, None) is None


@functools.cache
def long_oracle(family):
    """A model, a sample so long that most scores are out of reach of the first ranks, and its slow oracle."""
    model = tiny_models.build(family)
    g = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 97, (36,), generator=g).tolist()
    return model, Sample("long", ids[:4], ids[4:]), tiny_models.oracle(model, ids[:4], ids[4:])


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "gpt_oss", "llama"])
def test_few_ranks_equal_the_slow_oracle(family, count):
    model, sample, layers = long_oracle(family)
    neurons = layers[0]["glu"].shape[1]
    options = Options(largest_threshold=(count + 0.5) / neurons, selections=("pairs", "neurons", "per_token"))
    chunk = Scorer(model, options).score([sample])
    for formulation in contributions.FORMULATIONS:
        per_token = zip(*(values.tolist() for values in chunk.per_token[formulation][:2]), strict=True)
        for place, expected in enumerate(layers):
            values = expected[formulation]
            token, neuron = np.nonzero(~np.isnan(values))
            order = np.lexsort((neuron, token, -values[token, neuron]))
            entries = [(int(neuron[i]), int(token[i])) for i in order]
            first_of_neuron = {j: (j, t) for j, t in reversed(entries)}
            best = sorted(first_of_neuron.values(), key=entries.index)
            for selection, wanted in (("pairs", entries[:count]), ("neurons", best[:count])):
                found = (array[0, place].tolist() for array in chunk.ranked[formulation, selection][:2])
                assert list(zip(*found, strict=True)) == wanted
            ranks: dict[int, int] = {}
            for row in values:
                used = np.flatnonzero(~np.isnan(row))
                for rank, j in enumerate(used[np.lexsort((used, -row[used]))][:count]):
                    ranks[int(j)] = min(rank, ranks.get(int(j), rank))
            mine = list(itertools.islice(per_token, int(chunk.per_token[formulation][2][0, place])))
            assert mine == sorted(ranks.items(), key=lambda item: (item[1], item[0]))


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "qwen2_moe"])
def test_without_gate_weighting_scores_are_the_oracles_over_the_routers_weight(family):
    model, batch = tiny_models.build(family), tiny_models.samples()
    chunk = Scorer(model, replace(EVERYTHING, gate_weighting=False)).score(batch)
    assert chunk.conservation.max() < 1e-5  # checked with the weights all the same
    for s, sample in enumerate(batch):
        if not sample.response:
            continue
        layers = tiny_models.oracle(model, list(sample.prompt), list(sample.response))
        for place, (expected, weight) in enumerate(zip(layers, gate_weights(model, sample), strict=True)):
            for formulation in ("projection", "glu"):
                values = expected[formulation] / weight
                neuron, token, score = (a[s, place] for a in chunk.ranked[formulation, "pairs"])
                kept = neuron >= 0
                best = np.sort(values[~np.isnan(values)])[::-1][: kept.sum()]
                np.testing.assert_allclose(score[kept], values[token[kept], neuron[kept]], rtol=2e-4, atol=2e-6)
                np.testing.assert_allclose(score[kept], best, rtol=2e-4, atol=2e-6)
                neuron, token, score = (a[s, place] for a in chunk.ranked[formulation, "neurons"])
                kept = neuron >= 0
                assert kept.sum() == (~np.isnan(values)).any(0).sum()
                np.testing.assert_allclose(score[kept], values[token[kept], neuron[kept]], rtol=2e-4, atol=2e-6)
                np.testing.assert_allclose(score[kept], np.nanmax(values[:, neuron[kept]], 0), rtol=2e-4, atol=2e-6)


def gate_weights(model, sample):
    """G of every response token and neuron, one array a MoE layer, from what the router and shared gate put out."""
    blocks = [layer.mlp for layer in model.model.layers if hasattr(layer.mlp, "experts")]
    routed, shared = [], []
    handles = [block.gate.register_forward_hook(lambda m, a, out: routed.append(out[-2:])) for block in blocks]
    for block in blocks:
        if hasattr(block, "shared_expert_gate"):
            gate = block.shared_expert_gate
            handles.append(gate.register_forward_hook(lambda m, a, out: shared.append(out.sigmoid().reshape(-1))))
    model(input_ids=torch.tensor([[*sample.prompt, *sample.response]]), use_cache=False)
    for handle in handles:
        handle.remove()
    layers = []
    for place, ((weight, expert), layer) in enumerate(zip(routed, families.sites(model), strict=True)):
        size = layer.layer
        every = torch.ones(len(weight), size.neurons)
        by_expert = torch.zeros(len(weight), size.routed).scatter_(1, expert, weight)
        every[:, : size.routed * size.width] = by_expert.repeat_interleave(size.width, 1)
        if shared:
            every[:, size.routed * size.width :] = shared[place][:, None]
        first = len(sample.prompt) - 1
        layers.append(every[first : first + len(sample.response)].double().numpy())
    return layers


def test_experts_of_weight_zero_are_not_used():
    model = tiny_models.build("olmoe")
    model.model.layers[1].mlp.gate.register_forward_hook(lambda module, given, out: (out[0], 0 * out[1], out[2]))
    chunk = Scorer(model, EVERYTHING).score(tiny_models.samples()[1:3])
    assert (chunk.routed_tokens[:, 1] == 0).all()
    assert (chunk.routed_tokens[:, 0].sum(1) == 2 * chunk.response_tokens).all()
    for neuron, _, _ in chunk.ranked.values():
        assert (neuron[:, 1] == -1).all()
        assert (neuron[:, 2] >= 0).any()


def test_routing_counts_and_gate_mass():
    model = tiny_models.build("deepseek_v2")
    chunk = Scorer(model, EVERYTHING).score(tiny_models.samples())
    lengths = chunk.response_tokens
    assert lengths.tolist() == [0, 1, 2, 3, 4]
    assert (chunk.routed_tokens[:, :, :8].sum(2) == 2 * lengths[:, None]).all()
    assert (chunk.routed_tokens[:, :, 8:] == lengths[:, None, None]).all()  # a shared expert sees every token
    assert (chunk.gate_mass[:, :, 8:] == lengths[:, None, None]).all()  # with weight 1


@pytest.mark.parametrize("gate_weighting", [True, False])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
def test_a_factor_that_a_block_applies_after_its_experts_belongs_to_the_routers_weight(family, gate_weighting):
    model, sample = tiny_models.build(family), tiny_models.samples()[4]
    plain = Scorer(model, EVERYTHING).score([sample])
    last = model.model.layers[-1].mlp  # no other layer sees the change
    last.register_forward_hook(lambda module, args, output: 0.5 * output)
    halved = Scorer(model, replace(EVERYTHING, gate_weighting=gate_weighting)).score([sample])
    np.testing.assert_allclose(halved.gate_mass[0, -1], 0.5 * plain.gate_mass[0, -1], rtol=1e-6)
    np.testing.assert_array_equal(halved.gate_mass[0, :-1], plain.gate_mass[0, :-1])
    if gate_weighting:
        neuron, token, score = (array[0, -1] for array in plain.ranked["glu", "pairs"])
        np.testing.assert_array_equal(halved.ranked["glu", "pairs"][0][0, -1], neuron)
        np.testing.assert_array_equal(halved.ranked["glu", "pairs"][1][0, -1], token)
        np.testing.assert_allclose(halved.ranked["glu", "pairs"][2][0, -1], 0.5 * score, rtol=1e-5, atol=1e-7)
    assert halved.conservation.max() < 1e-5


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "llama"])
def test_same_token_alignment_scores_the_state_at_the_token(family):
    model = tiny_models.build(family)
    prompt, response = [5, 6, 7], [11, 12]
    shifted = Scorer(model, Options(largest_threshold=1.0, alignment="same_token")).score(
        [Sample("a", prompt, response)]
    )
    # The state at y_t predicts what follows, so pairing it with y_t's row is next_token scoring of y_{t+1} := y_t.
    for t, target in enumerate(response):
        for place, expected in enumerate(tiny_models.oracle(model, [*prompt, *response[: t + 1]], [target])):
            neuron, token, score = (a[0, place] for a in shifted.ranked["glu", "pairs"])
            mine = token == t
            assert mine.any()
            np.testing.assert_allclose(score[mine], expected["glu"][0][neuron[mine]], rtol=2e-4, atol=2e-6)


def test_end_of_sequence_is_left_out_unless_asked_for():
    model = tiny_models.build("olmoe")
    sample = [Sample("a", [5, 6], [7, 8, 2])]
    assert Scorer(model, EVERYTHING, eos_ids=[2]).score(sample).response_tokens.tolist() == [2]
    including = Options(largest_threshold=1.0, eos="include")
    assert Scorer(model, including, eos_ids=[2]).score(sample).response_tokens.tolist() == [3]


def test_final_norm_folds_the_norm_into_the_head():
    model = tiny_models.build("llama")
    folded = heads.unembedding(model, "final_norm")
    expected = model.lm_head.weight * model.model.norm.weight
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_final_norm_scores_are_those_of_a_head_multiplied_by_hand(family):
    model, twin = tiny_models.build(family), tiny_models.build(family)
    twin.lm_head.weight *= twin.model.norm.weight
    folded = Scorer(model, replace(EVERYTHING, head="final_norm")).score(tiny_models.samples())
    by_hand = Scorer(twin, EVERYTHING).score(tiny_models.samples())
    raw = Scorer(model, EVERYTHING).score(tiny_models.samples())
    for setting, (neuron, token, score) in by_hand.ranked.items():
        np.testing.assert_array_equal(folded.ranked[setting][0], neuron)
        np.testing.assert_array_equal(folded.ranked[setting][1], token)
        np.testing.assert_allclose(folded.ranked[setting][2], score, rtol=1e-5, atol=1e-6)
    assert not np.allclose(raw.ranked["glu", "pairs"][2], by_hand.ranked["glu", "pairs"][2], rtol=1e-2)


@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_a_head_of_another_type_than_the_blocks_is_scored_at_the_coarser_tolerance(family):
    mixed = tiny_models.build(family).to(torch.bfloat16)
    mixed.lm_head.float()
    scorer = Scorer(mixed, EVERYTHING)
    assert scorer.tolerance == contributions.TOLERANCE[torch.bfloat16]
    chunk = scorer.score(tiny_models.samples())
    # The head's rows were rounded to bfloat16 once, so the whole model in bfloat16 has the same numbers.
    half = Scorer(tiny_models.build(family).to(torch.bfloat16), EVERYTHING).score(tiny_models.samples())
    for setting, (_, _, score) in half.ranked.items():
        largest = np.abs(score).max(2, keepdims=True)
        assert (np.abs(chunk.ranked[setting][2] - score) <= 0.02 * largest).all()


@pytest.mark.parametrize("family", ["olmoe", "llama"])
def test_the_default_type_of_torch_changes_nothing(family):
    model = tiny_models.build(family)
    expected = Scorer(model, EVERYTHING).score(tiny_models.samples())
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = Scorer(model, EVERYTHING).score(tiny_models.samples())
    finally:
        torch.set_default_dtype(torch.float32)
    for setting, arrays in expected.ranked.items():
        for mine, other in zip(arrays, found.ranked[setting], strict=True):
            np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(expected.gate_mass, found.gate_mass)


def test_an_offloaded_head_is_refused_by_name():
    model = tiny_models.build("olmoe")
    model.lm_head.to("meta")
    with pytest.raises(families.UnsupportedModelError, match="the output embedding is not in memory"):
        Scorer(model, EVERYTHING)


@pytest.mark.parametrize(("family", "routed", "shared"), [("deepseek_v2", 2, 1), ("gpt_oss", 2, 0), ("llama", 0, 1)])
def test_prompt_and_padding_tokens_cost_no_activations(family, routed, shared, monkeypatch):
    scorer, kept = Scorer(tiny_models.build(family), EVERYTHING), []
    observe = scoring.BatchScores.observe

    def spy(self, position, passed):
        rows = sum(len(span.activation) for span in passed.routed or ())
        kept.append((rows, 0 if passed.shared is None else len(passed.shared.activation)))
        return observe(self, position, passed)

    monkeypatch.setattr(scoring.BatchScores, "observe", spy)
    scorer.score([Sample("a", [5] * 40, [7, 8, 9]), Sample("b", [5, 6], [7, 8])])
    assert kept == [(5 * routed, 5 * shared)] * len(scorer.sites)


def test_a_part_that_was_not_seen_fails():
    model = tiny_models.build("deepseek_v2")
    block = model.model.layers[1].mlp
    block.register_forward_hook(lambda module, args, output: output + 0.001 * args[0])
    with pytest.raises(ConservationError, match=r"model\.layers\.1\.mlp .*above the tolerance"):
        Scorer(model, EVERYTHING).score(tiny_models.samples())
    assert model.config._experts_implementation != IMPLEMENTATION


def _without_expert(span):
    kept = span.expert != 3
    parts = ("token", "expert", "weight", "activation", "intermediate")
    return replace(span, **{name: getattr(span, name)[kept] for name in parts})


def _without_some_neurons(span):
    intermediate = span.intermediate.clone()
    intermediate[:, ::8] = 0
    return replace(span, intermediate=intermediate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "fault",
    [_without_expert, _without_some_neurons, lambda span: replace(span, weight=span.weight * 1.2)],
    ids=["an expert unseen", "an eighth of the neurons unseen", "a gate too large by a fifth"],
)
def test_faults_show_at_real_widths_in_half_precision_too(monkeypatch, dtype, fault):
    # With thousands of neurons whose contributions cancel out, such faults are small beside the sum of magnitudes.
    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=97, hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4,
        num_experts=8, num_experts_per_tok=4, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.OlmoeForCausalLM(config).eval().to(dtype)
    scorer = Scorer(model, Options(formulations=("projection",), largest_threshold=0.01))
    batch = tiny_models.samples(4)
    clean = scorer.score(batch)
    assert clean.imbalance.max() < scorer.tolerance / 3
    observe = scoring.BatchScores.observe

    def faulty(self, position, passed):
        return observe(self, position, replace(passed, routed=tuple(map(fault, passed.routed))))

    monkeypatch.setattr(scoring.BatchScores, "observe", faulty)
    with pytest.raises(ConservationError, match="above the tolerance"):
        scorer.score(batch)


def test_a_sample_longer_than_the_context_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sample long has 60 prompt and 6 response tokens, but .* context holds 64"):
        Scorer(tiny_models.build("olmoe"), EVERYTHING).score([Sample("long", [5] * 60, [6] * 6)])


def test_a_sample_that_just_fills_the_context_is_scored():
    # lm_eval cuts a long choice to the context and one token, since nothing follows the last one.
    model, sample = tiny_models.build("olmoe"), Sample("full", [5] * 60, [6, 7, 8, 9, 10])
    chunk = Scorer(model, Options(largest_threshold=0.05)).score([sample])
    assert chunk.response_tokens.tolist() == [5]
    with pytest.raises(ValueError, match=r"sample full has 60 prompt and 5 response tokens"):
        Scorer(model, Options(largest_threshold=0.05, alignment="same_token")).score([sample])


def test_weights_that_are_not_finite_fail():
    model = tiny_models.build("olmoe")
    model.model.layers[0].mlp.experts.down_proj[:, 0, 0] = float("nan")
    with pytest.raises(ConservationError, match="not finite"):
        Scorer(model, EVERYTHING).score(tiny_models.samples())


def test_an_empty_prompt_and_a_foreign_token_are_refused_by_name():
    scorer = Scorer(tiny_models.build("olmoe"), EVERYTHING)
    with pytest.raises(ValueError, match="sample q7 has an empty prompt"):
        scorer.score([Sample("q7", [], [5])])
    with pytest.raises(ValueError, match="sample q8 holds token 97, but the head has 97 rows"):
        scorer.score([Sample("q8", [5], [97])])
    for sample in (Sample("q9", [5], [7, -1, 8]), Sample("q9", [-1], [7])):
        with pytest.raises(ValueError, match=r"sample q9 holds token -1"):
            scorer.score([sample])


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=30), st.integers(1, 120))
def test_batches_hold_every_wanted_sample_once_within_the_budget(items, budget):
    lengths, wanted = [n for n, _ in items], [w for _, w in items]
    found = list(batches(lengths, wanted, budget))
    assert sorted(i for batch in found for i in batch) == [i for i, w in enumerate(wanted) if w]
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget for batch in found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"formulations": ("projektion",)}, "formulations is .*projektion.*; allowed are"),
        ({"alignment": "last"}, "alignment is .*last"),
        ({"selections": ()}, "selections is"),
        ({"largest_threshold": 10}, "largest_threshold is 10; it is a share"),
        ({"formulations": ("glu", "glu")}, r"formulations is \['glu', 'glu'\]"),
        ({"selections": ("pairs", "neurons", "pairs")}, r"selections is \['pairs', 'neurons', 'pairs'\]"),
        ({"max_batch_tokens": 0}, "max_batch_tokens is 0"),
    ],
)
def test_options_name_what_is_allowed(wrong, message):
    with pytest.raises(ValueError, match=message):
        Options(**wrong)
