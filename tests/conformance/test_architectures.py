"""Every architecture of the installed transformers against a brute-force oracle (SPEC section 2).

A tiny random model of each is measured by the package and, independently, by `oracle`. Set aside are only those that
the package refuses by name, in `measured.REFUSED`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from conformance import oracle, reading, zoo
from conformance.checks import CHECKS, check_routing, check_scores, check_scores_without_gate_weighting, outcome
from conformance.measured import EVERYTHING, REFUSED, SAMPLES, Case, measure, measure_by_package
from moemui.scores import contributions
from moemui.scores.contributions import ConservationError, Scorer
from moemui.tap import families
from moemui.tap.capture import Tap
from moemui.tap.layer_pass import LayerPass, Pulled

FOUND = zoo.dispatched_architectures()
ALL = (*FOUND, *zoo.VARIANTS, *zoo.DENSE, *zoo.UNSUPPORTED)
MEASURED = [name for name in ALL if name not in REFUSED]
PAPER = {
    "OLMoE": "olmoe",
    "Qwen2-MoE": "qwen2_moe",
    "Qwen3-MoE": "qwen3_moe",
    "Qwen3-Next": "qwen3_next",
    "DeepSeek-V2": "deepseek_v2",
    "DeepSeek-V3": "deepseek_v3",
    "GPT-OSS": "gpt_oss",
    "Mixtral": "mixtral",
    "Llama (dense)": "llama",
    "Qwen2 (dense)": "qwen2",
    "Qwen3 (dense)": "qwen3",
}


# ---------------------------------------------------------------------------------------------- every architecture


every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))


@every_check
@pytest.mark.parametrize("name", PAPER.values(), ids=PAPER.keys())
def test_the_papers_own_architectures(name, check):
    if error := outcome(name, check):
        raise error


@every_check
@pytest.mark.parametrize("name", [name for name in MEASURED if name not in PAPER.values()])
def test_architecture(name, check):
    if error := outcome(name, check):
        raise error


def test_none_but_the_listed_are_refused():
    assert {name for name in ALL if refusal(name)} == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_with_the_true_reason(name):
    assert REFUSED[name] in refusal(name)


def refusal(name: str) -> str:
    """What the package says against an architecture; nothing where it measures it."""
    try:
        measure_by_package(name)
    except (families.UnsupportedModelError, ConservationError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["axk1", "nemotron_h"])
def test_a_norm_or_linear_map_stays_with_the_neuron_even_if_it_only_scales(name):
    """What belongs to G is read from the structure, so it is the same for every batch, type and trained weight."""
    model = zoo.build(name)
    for layer in reading.layers(model):
        if name == "axk1":
            layer.block.post_mlp_layernorm.weight.data.fill_(1.5)
        else:
            latent = layer.block.fc2_latent_proj
            latent.weight.data = 0.5 * torch.eye(*latent.weight.shape)
    scorer = Scorer(model, EVERYTHING)
    truths = [oracle.truths(model, sample.prompt, sample.response) for sample in SAMPLES]
    case = Case(name, model, scorer, scorer.score(SAMPLES), truths)
    for truth in (truth for sample in case.truths for truth in sample):
        assert truth.maps["routed"].factors is None
    for check in (check_scores, check_scores_without_gate_weighting, check_routing):
        check(case)


def test_at_least_58_architectures_are_measured():
    measured = [name for name in FOUND if name not in REFUSED]
    largest = max((float(measure(name).chunk.conservation.max()), name) for name in measured)
    print(f"\n{len(measured)} of {len(FOUND)} measured; largest conservation error {largest[0]:.1e} ({largest[1]})")
    assert len(measured) >= 58


# ---------------------------------------------------------------------------------------------- controls


class WithoutMap(LayerPass):
    """A pass in which nothing is seen of what lies between the experts and the block's output."""

    def pull(self, vectors: torch.Tensor) -> Pulled:
        return Pulled(vectors, vectors, None)


class WithoutBias(LayerPass):
    """A pass in which the biases between the experts and the block's output are forgotten."""

    def pull(self, vectors: torch.Tensor) -> Pulled:
        return dataclasses.replace(super().pull(vectors), bias=None)


def louder(passed: LayerPass) -> LayerPass:
    """All intermediate activations a thousandth too large."""

    def scaled(part):
        return dataclasses.replace(part, intermediate=1.001 * part.intermediate)

    routed = None if passed.routed is None else tuple(map(scaled, passed.routed))
    return dataclasses.replace(passed, routed=routed, shared=None if passed.shared is None else scaled(passed.shared))


def without_shared(passed: LayerPass) -> LayerPass:
    return dataclasses.replace(passed, shared=None)


def without_an_expert(passed: LayerPass) -> LayerPass:
    """The routed expert with the lowest number of those in use is overlooked."""
    missed = passed.routed[0].expert[0]
    first = dataclasses.replace(passed.routed[0], weight=passed.routed[0].weight * (passed.routed[0].expert != missed))
    return dataclasses.replace(passed, routed=(first, *passed.routed[1:]))


def without_map(passed: LayerPass) -> LayerPass:
    return WithoutMap(**vars(passed))


def without_bias(passed: LayerPass) -> LayerPass:
    return WithoutBias(**vars(passed))


def untouched(passed: LayerPass) -> LayerPass:
    return dataclasses.replace(passed)


TAMPERED = {
    louder: ("olmoe", "qwen2_moe", "gpt_oss", "deepseek_v4", "granitemoeshared", "inkling", "muse_spark", "llama"),
    without_shared: ("deepseek_v2", "qwen2_moe", "granitemoehybrid", "ernie4_5_vl_moe", "gemma4", "inkling"),
    without_an_expert: ("olmoe", "gpt_oss", "nemotron_h/no_latent", "diffusion_gemma"),
    without_map: (
        "axk1",
        "beam",
        "cohere2_moe",
        "diffusion_gemma",
        "gemma4",
        "laguna",
        "minimax_m3_vl",
        "openai_privacy_filter",
        "qwen3_next",
    ),
    without_bias: ("nemotron_h/biases",),
}


def score_tampered(monkeypatch, name: str, change: Callable[[LayerPass], LayerPass]) -> None:
    """Score an architecture while the scorer is told something else than what passed through the model."""

    def tap(sites, *, observer, **options):
        return Tap(sites, observer=lambda position, passed: observer(position, change(passed)), **options)

    monkeypatch.setattr(contributions, "Tap", tap)
    Scorer(measure(name).model, EVERYTHING).score(SAMPLES)


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for change, names in TAMPERED.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_wrong_by_little_or_overlooked_fails_conservation(monkeypatch, name, change):
    with pytest.raises(ConservationError, match="contributions miss the layer's output"):
        score_tampered(monkeypatch, name, change)


@pytest.mark.parametrize("name", sorted({name for names in TAMPERED.values() for name in names}))
def test_the_control_itself_changes_nothing(monkeypatch, name):
    score_tampered(monkeypatch, name, untouched)


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_a_block_whose_output_holds_more_than_its_experts_fails_conservation(name):
    """A thousandth of the output comes from no expert."""
    model = zoo.build(name)
    block = reading.layers(model)[-1].block

    def more(module, args, output):
        first = output if torch.is_tensor(output) else output[0]
        added = first + 1e-3 * first.detach()
        return added if torch.is_tensor(output) else (added, *output[1:])

    block.register_forward_hook(more)
    with pytest.raises(ConservationError, match=type(block).__name__):
        Scorer(model, EVERYTHING).score(SAMPLES)
