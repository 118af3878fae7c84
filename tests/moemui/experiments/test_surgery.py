"""Surgery: doubled neurons compute what one did, in every layout; the control is of equal number; copies part."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from conformance import zoo
from moemui.experiments.causal_generalization import surgery
from moemui.experiments.causal_generalization.measure import key_and_control
from moemui.experiments.causal_generalization.neuron_weights import groups
from moemui.geometry import Geometry, Layer
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tap import families
from moemui.tap.capture import experts_implementation
from moemui.tap.families import UnsupportedModelError

# Two fused shared experts, a gated one, no shared ones, transposed interleaved weights with biases, a dense MLP; then a
# shared expert of another width than the routed ones, experts without a gate, a dense MLP with gate and up in one, and
# two shared experts in such an MLP.
TINY = ("olmoe", "deepseek_v2", "qwen2_moe", "mixtral", "gpt_oss", "llama")
FOUND = ("kolibri1", "nemotron_h", "phi3", "two shared in one")
IDS = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))


def build(family):
    if family == "two shared in one":
        torch.manual_seed(0)
        config = transformers.GraniteMoeSharedConfig(
            **tiny_models.COMMON, num_local_experts=8, num_experts_per_tok=2, intermediate_size=16,
            shared_intermediate_size=32,
        )  # fmt: skip
        return transformers.GraniteMoeSharedForCausalLM(config).eval().requires_grad_(False)
    return tiny_models.build(family) if family in TINY else zoo.build(family)


def logits(model):
    # The grouped matrix product knows no float64.
    wanted = "eager" if model.dtype == torch.float64 else "grouped_mm"
    with torch.no_grad(), experts_implementation(families.sites(model), wanted):
        return model(input_ids=IDS, use_cache=False).logits


def geometry_of(model):
    return families.geometry(families.sites(model))


def some(model, count=40, seed=0):
    return np.random.default_rng(seed).permutation(geometry_of(model).neurons)[:count]


def apart(one, other):
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("family", TINY + FOUND)
def test_duplication_and_widening_keep_what_a_model_computes(family):
    model = build(family)
    before, weights = logits(model), copy.deepcopy(model.state_dict())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model, expected = model.to(dtype), logits(model.to(dtype))
        doubled = surgery.duplicate(model, some(model), copies=3, seed=1)
        assert apart(expected, logits(doubled.model)) < tolerance
        # A column more changes how a product is summed, and no more.
        assert apart(expected, logits(surgery.widen(model, 5).model)) < tolerance
    assert apart(before, logits(model.float())) < 1e-6
    for name, tensor in model.float().state_dict().items():
        assert torch.equal(tensor, weights[name]), f"{name} of the model given was changed"


def scores(model):
    """glu of every neuron at the one response token of each sample: (samples, neurons), 0 where not used."""
    scorer = Scorer(model, Options(("glu",), ("neurons",), largest_threshold=1.0))
    samples = [Sample(str(n), [5 + n, 7, 11 + 2 * n], [9 + n]) for n in range(6)]
    neuron, _, score = scorer.score(samples).ranked["glu", "neurons"]
    found = np.zeros((len(samples), scorer.geometry.neurons))
    for sample, layer, rank in np.argwhere(neuron >= 0):
        number = scorer.geometry.layer_offsets[layer] + neuron[sample, layer, rank]
        found[sample, number] = score[sample, layer, rank]
    return found


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "gpt_oss", "kolibri1", "two shared in one"])
def test_copies_contribute_in_sum_what_the_neuron_did(family):
    model = build(family)
    chosen = some(model, 200)
    before, doubled = scores(model), surgery.duplicate(model, chosen, copies=3, seed=1)
    after = scores(doubled.model)
    size = np.abs(before).max()
    assert np.count_nonzero(before[:, chosen]) > 50
    assert np.abs(after[:, doubled.copies].sum(axis=2) - before[:, chosen]).max() < 1e-6 * size
    # Each copy has a part of its own, not a third.
    used = np.abs(before[:, chosen]) > 0.01 * size
    assert np.abs(after[:, doubled.copies[:, 0]] - before[:, chosen] / 3)[used].max() > 0.01 * size
    others = np.setdiff1d(np.arange(before.shape[1]), chosen)
    assert np.abs(after[:, doubled.places[others]] - before[:, others]).max() < 1e-6 * size
    inert = np.setdiff1d(np.arange(after.shape[1]), np.concatenate([doubled.places, doubled.copies.ravel()]))
    assert len(inert)
    assert not after[:, inert].any()
    # Copies lie in the expert of their neuron.
    experts = geometry_of(model).expert_of(chosen)
    assert (doubled.geometry.expert_of(doubled.copies) == experts[:, None]).all()


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "qwen2_moe", "gpt_oss"])
def test_a_wider_model_is_saved_and_loaded_as_any_other(family, tmp_path):
    model = build(family)
    doubled = surgery.duplicate(model, some(model), copies=2, seed=1)
    doubled.model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(doubled.model), logits(loaded))
    assert geometry_of(loaded) == doubled.geometry
    assert doubled.geometry != geometry_of(model)


@pytest.mark.parametrize("dense", [[0], []])
def test_widths_are_those_of_the_geometry(dense):
    """A shared expert of a width of its own stays one, though the next width would make it two of the routed ones."""
    torch.manual_seed(0)
    config = transformers.Qwen2MoeConfig(
        **tiny_models.COMMON, num_experts=8, num_experts_per_tok=2, intermediate_size=16, moe_intermediate_size=16,
        shared_expert_intermediate_size=40, mlp_only_layers=dense,
    )  # fmt: skip
    model = transformers.Qwen2MoeForCausalLM(config).eval()
    wider = surgery.widen(model, 8)
    layers = range(len(dense), 3)
    assert geometry_of(model) == Geometry(tuple(Layer(i, 8, 1, 16, 40, 2) for i in layers))
    assert wider.geometry == Geometry(tuple(Layer(i, 8, 1, 24, 56, 2) for i in layers))
    assert geometry_of(wider.model) == wider.geometry
    # A dense layer, or none at all, has 16 neurons too, by chance, and keeps them.
    assert wider.model.config.intermediate_size == 16
    assert apart(logits(model), logits(wider.model)) < 1e-5
    assert surgery.widen(model, 0).geometry == geometry_of(model)


def test_copies_lie_in_the_weights_as_gpt_oss_reads_them():
    """Interleaved and transposed, with biases: by hand from the tensors, for neuron 7 of expert 2 in layer 1."""
    model = build("gpt_oss")
    number = geometry_of(model).layer_offsets[1] + 2 * 24 + 7
    doubled = surgery.duplicate(model, np.array([number]), copies=2, seed=1)
    before, after = (m.model.layers[1].mlp.experts for m in (model, doubled.model))
    for place in (7, 24):
        for half in (0, 1):  # gate, up
            assert torch.equal(after.gate_up_proj[2, :, 2 * place + half], before.gate_up_proj[2, :, 14 + half])
            assert after.gate_up_proj_bias[2, 2 * place + half] == before.gate_up_proj_bias[2, 14 + half]
    torch.testing.assert_close(after.down_proj[2, 7] + after.down_proj[2, 24], before.down_proj[2, 7])
    shares = after.down_proj[2, 7] / before.down_proj[2, 7]
    assert ((shares > 0) & (shares < 1)).all()
    assert shares.std() > 0.2  # √(1/12) = 0.29 where every share is equally likely
    assert torch.equal(after.down_proj_bias, before.down_proj_bias)
    assert not after.down_proj[:, 25:].any()
    assert not after.down_proj[[0, 1, 3], 24].any()


def trained(model, steps=4, rate=3e-3):
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def test_copies_part_in_training_and_would_not_with_equal_shares():
    model = build("olmoe")
    chosen = some(model, geometry_of(model).neurons // 2)
    doubled, equal = (surgery.duplicate(model, chosen, copies=2, seed=1) for _ in range(2))
    for group in groups(families.sites(equal.model)):
        for pair in equal.copies[group.holds(equal.copies[:, 0])]:
            expert, places = group.place(pair)
            for part in group.parts:
                view = group.view(part)
                view[expert, places] = view[expert, places].mean(0)
    assert apart(logits(model), logits(equal.model)) < 1e-5
    assert surgery.alike(doubled.model, doubled.copies) == pytest.approx(1, abs=1e-6)
    for operated in (doubled, equal):
        trained(operated.model)
    parted, together = (1 - surgery.alike(operated.model, operated.copies) for operated in (doubled, equal))
    assert np.median(parted) > 1e-4
    assert together.max() < 1e-9  # rounding


@pytest.mark.parametrize("family", ["deepseek_v2", "gpt_oss"])
def test_inert_places_stay_inert_in_training(family):
    wide = surgery.widen(build(family), 6)
    before = logits(wide.model)
    inert = np.setdiff1d(np.arange(wide.geometry.neurons), wide.places)
    trained(wide.model)
    assert apart(before, logits(wide.model)) > 1e-3  # it learned something
    found = 0
    for group in groups(families.sites(wide.model)):
        expert, place = group.place(inert[group.holds(inert)])
        found += len(place)
        for part in group.parts:
            assert not group.view(part)[expert, place].any()
    assert found == len(inert) > 0


def test_blending_by_hand():
    """Neuron 3 of expert 1 takes a quarter of neuron 5 of expert 0, in layer 2; nothing else changes."""
    model = build("olmoe")
    first = geometry_of(model).layer_offsets[2]
    blended = surgery.blend(model, np.array([first + 24 + 3]), np.array([first + 5]), share=0.25).model
    before, after = (m.model.layers[2].mlp.experts for m in (model, blended))
    for row in (3, 24 + 3):  # gate, up
        expected = 0.75 * before.gate_up_proj[1, row] + 0.25 * before.gate_up_proj[0, row - 3 + 5]
        torch.testing.assert_close(after.gate_up_proj[1, row], expected)
    torch.testing.assert_close(
        after.down_proj[1, :, 3], 0.75 * before.down_proj[1, :, 3] + 0.25 * before.down_proj[0, :, 5]
    )
    changed = sum(int((a != b).sum()) for a, b in zip(model.parameters(), blended.parameters(), strict=True))
    assert changed == 3 * 32
    assert apart(logits(model), logits(blended)) > 1e-4


def test_two_neurons_that_blend_wholly_change_places():
    """All is read before anything is written."""
    model = build("gpt_oss")
    pair = np.array([3, 24 + 9])
    swapped = surgery.blend(model, pair, pair[::-1], share=1.0).model
    before, after = (m.model.layers[0].mlp.experts for m in (model, swapped))
    assert torch.equal(after.down_proj[0, 3], before.down_proj[1, 9])
    assert torch.equal(after.down_proj[1, 9], before.down_proj[0, 3])
    assert torch.equal(after.gate_up_proj_bias[1, 18:20], before.gate_up_proj_bias[0, 6:8])
    assert torch.equal(logits(surgery.blend(model, pair, pair[::-1], share=0.0).model), logits(model))


def test_the_most_similar_neuron_is_of_another_expert_of_the_same_kind():
    model = build("deepseek_v2")  # layers 1 and 2 have 8 routed and 2 shared experts of 24 neurons
    experts, shared = model.model.layers[1].mlp.experts, model.model.layers[1].mlp.shared_experts
    # Neuron 4 of expert 6 becomes neuron 2 of expert 3, but 3 times as long.
    for row, other in ((4, 2), (24 + 4, 24 + 2)):
        experts.gate_up_proj.data[6, row] = 3 * experts.gate_up_proj.data[3, other]
    experts.down_proj.data[6, :, 4] = 3 * experts.down_proj.data[3, :, 2]
    partner, cosine = surgery.nearest(model)
    assert partner[6 * 24 + 4] == 3 * 24 + 2
    assert partner[3 * 24 + 2] == 6 * 24 + 4
    assert cosine[6 * 24 + 4] == pytest.approx(1)
    # Shared neuron 1 of the first against all of the second, from the fused weights.
    down, gate, up = (getattr(shared, f"{name}_proj").weight for name in ("down", "gate", "up"))
    vectors = torch.cat([gate, up, down.T], dim=1)
    found = torch.nn.functional.cosine_similarity(vectors[1], vectors[24:])
    assert partner[8 * 24 + 1] == 8 * 24 + 24 + int(found.argmax())
    assert cosine[8 * 24 + 1] == pytest.approx(float(found.max()), abs=1e-6)
    geometry = geometry_of(model)
    assert (geometry.expert_of(partner) != geometry.expert_of(np.arange(geometry.neurons))).all()
    assert (geometry.layer_of(partner) == geometry.layer_of(np.arange(geometry.neurons))).all()


def test_neurons_without_weights_or_other_experts_have_no_partner():
    wide = surgery.widen(build("olmoe"), 3)
    partner, cosine = surgery.nearest(wide.model)
    inert = np.setdiff1d(np.arange(wide.geometry.neurons), wide.places)
    assert (partner[inert] == -1).all()
    assert np.isnan(cosine[inert]).all()
    assert np.isin(partner[wide.places], wide.places).all()
    # One that points the other way than all others is still more like them than like nothing.
    experts = wide.model.model.layers[0].mlp.experts
    experts.gate_up_proj.data = experts.gate_up_proj.data.sign().abs()
    experts.down_proj.data = experts.down_proj.data.sign().abs()
    experts.gate_up_proj.data[0, [0, 32]] *= -1  # gate and up of the first of 32
    experts.down_proj.data[0, :, 0] *= -1
    partner, cosine = surgery.nearest(wide.model)
    assert (partner[0], cosine[0]) == (32, pytest.approx(-1))
    partner, cosine = surgery.nearest(build("llama"))  # one expert a layer
    assert (partner == -1).all()
    assert np.isnan(cosine).all()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("inkling", "keeps its shared experts in one 3-D weight, where surgery does not reach"),
        ("jamba", r"can't be made wider by the widths in its configuration \(intermediate_size 32\)"),
        ("muse_spark", "BodyWithHead is no model class of transformers"),
    ],
)
def test_models_that_cannot_be_operated_on_are_refused(family, message):
    with pytest.raises(UnsupportedModelError, match=message):
        surgery.widen(zoo.build(family), 4)


def test_an_activation_that_is_not_silent_at_rest_is_refused():
    model = build("olmoe")
    for layer in model.model.layers:
        layer.mlp.experts._apply_gate = lambda both: both.chunk(2, dim=-1)[0].exp()
    with pytest.raises(UnsupportedModelError, match="all of whose weights are 0 has the activation 1"):
        surgery.widen(model, 4)


def test_wrong_orders_are_refused():
    model = build("olmoe")
    with pytest.raises(ValueError, match=r"neurons 5\.\.576 lie outside 0\.\.575"):
        surgery.duplicate(model, np.array([5, 576]), copies=2, seed=0)
    with pytest.raises(ValueError, match="a neuron is named twice"):
        surgery.duplicate(model, np.array([5, 5]), copies=2, seed=0)
    with pytest.raises(ValueError, match="copies is 1; a neuron and its copies are 2 or more"):
        surgery.duplicate(model, np.array([5]), copies=1, seed=0)
    with pytest.raises(ValueError, match="places is 3, but an expert gets up to 4 copies"):
        surgery.duplicate(model, np.array([5, 6, 30]), copies=3, seed=0, places=3)
    with pytest.raises(ValueError, match="places is -1"):
        surgery.widen(model, -1)
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        surgery.blend(model, np.array([5]), np.array([30]), share=1.5)
    with pytest.raises(ValueError, match="1 neurons and 2 partners"):
        surgery.blend(model, np.array([5]), np.array([30, 31]), share=0.5)
    for partner in (6, 200, -1):  # of the same expert, of another layer, none
        with pytest.raises(ValueError, match=f"neuron 5 can't be blended with {partner}"):
            surgery.blend(model, np.array([5]), np.array([partner]), share=0.5)


CONTROLLED = Geometry((Layer(0, 3, 1, 8, 8, 1), Layer(2, 2, 0, 5, 0, 1)))  # 32 + 10 neurons


@given(st.lists(st.integers(0, 9), min_size=42, max_size=42), st.floats(0, 1), st.integers(0, 3))
def test_the_control_touches_as_many_neurons_in_the_same_experts(incidence, share, seed):
    incidence = np.array(incidence)
    key, control = key_and_control(incidence=incidence, geometry=CONTROLLED, share=share, seed=seed)
    per_expert = [np.bincount(CONTROLLED.expert_of(n), minlength=CONTROLLED.experts) for n in (key, control)]
    assert per_expert[0].tolist() == per_expert[1].tolist()
    assert (incidence[key] > 0).all()
    assert (incidence[control] == 0).all()
    for found in (key, control):
        assert found.tolist() == sorted(set(found.tolist()))
    assert len(key) <= share * 42 + 1e-9
    # Only what has no control, or comes after the share is full, is left out in favour of a lower incidence.
    widths, experts = np.diff(CONTROLLED.expert_offsets), CONTROLLED.expert_of(np.arange(42))
    full = len(key) == int(share * 42 + 1e-9)
    for neuron in np.setdiff1d(np.flatnonzero(incidence), key):
        expert = experts[neuron]
        keys = np.count_nonzero(incidence[experts == expert])
        crowded = per_expert[0][expert] == min(keys, widths[expert] - keys)
        rivals = key[experts[key] == expert] if crowded else key
        assert crowded or full
        assert (incidence[rivals] >= incidence[neuron]).all()


def test_the_key_neurons_of_highest_incidence_are_taken_where_most_of_an_expert_is_key():
    geometry = Geometry((Layer(0, 2, 0, 4, 0, 1),))
    incidence = np.array([1, 9, 5, 0, 0, 2, 0, 0])  # expert 0 has three key neurons and one other
    key, control = key_and_control(incidence=incidence, geometry=geometry, share=1.0, seed=0)
    assert key.tolist() == [1, 5]
    assert control[0] == 3
    assert control[1] in (4, 6, 7)
    drawn = {int(key_and_control(incidence=incidence, geometry=geometry, share=1.0, seed=s)[1][1]) for s in range(40)}
    assert drawn == {4, 6, 7}
