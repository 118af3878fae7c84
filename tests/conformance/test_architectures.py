"""Every architecture of the installed transformers against a brute-force oracle (SPEC section 2).

A tiny random model of each is measured by the package and, independently, by `oracle`. Set aside are only those that
the package refuses by name, in `measured.REFUSED`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from conformance import reading, zoo
from conformance.checks import CHECKS
from conformance.measured import EVERYTHING, REFUSED, SAMPLES, measure
from moemui import contributions, families
from moemui.capture import Tap
from moemui.contributions import ConservationError, Scorer
from moemui.layer_pass import LayerPass, Pulled

FOUND = zoo.dispatched_architectures()
MEASURED = [name for name in (*FOUND, *zoo.VARIANTS, *zoo.DENSE) if name not in REFUSED]
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


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", MEASURED)
def test_architecture(name, check):
    check(measure(name))


@pytest.mark.parametrize("name", PAPER.values(), ids=PAPER.keys())
def test_the_papers_own_architectures(name):
    for check in CHECKS:
        check(measure(name))


def test_none_but_the_listed_are_refused():
    refused = {}
    for name in (*FOUND, *zoo.VARIANTS, *zoo.DENSE):
        try:
            families.sites(measure(name).model if name in MEASURED else zoo.build(name))
        except families.UnsupportedModelError as error:
            refused[name] = str(error)
    assert refused.keys() == REFUSED.keys()
    assert all(reason in refused[name] for name, reason in REFUSED.items())


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
    without_map: ("axk1", "beam", "cohere2_moe", "laguna", "minimax_m3_vl", "openai_privacy_filter", "qwen3_next"),
    without_bias: ("nemotron_h/biases",),
}


def score_tampered(monkeypatch, name: str, change: Callable[[LayerPass], LayerPass]) -> None:
    """Score an architecture while the scorer is told something else than what passed through the model."""

    def tap(model, sites, *, observer):
        return Tap(model, sites, observer=lambda position, passed: observer(position, change(passed)))

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
