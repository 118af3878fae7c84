"""Neuron contributions f(i, j, l, y_t) of responses, ranked a sample and layer (SPEC sections 2 and 3).

One forward pass over prompt and response through the tap gives, for response tokens only, the three
formulations, their highest entries, routing counts, and the conservation error that proves that the
whole of every layer's output was seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from transformers.integrations.moe import _grouped_linear

from moemui import families
from moemui.capture import RoutedPass, SharedPass, Tap
from moemui.families import Foreign
from moemui.geometry import Geometry
from moemui.ranking import Slots, rank_neurons, rank_pairs, to_arrays

FORMULATIONS = ("projection", "glu", "activation")
SELECTIONS = {"pairs": rank_pairs, "neurons": rank_neurons}
ALIGNMENTS = ("next_token", "same_token")
# Largest imbalance (see `_check`) that passes, by the weights' type; in half precision eight of its rounding steps. At
# hidden sizes 64 to 2,048 clean bfloat16 models reached 0.003 to 0.005; one expert unseen gave 0.2 to 0.7, a gate too
# large by a fifth 0.11.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 8 * 2**-11, torch.bfloat16: 8 * 2**-8}
HOME = torch.device("cpu")  # where a batch's rows are made
IDENTITY_POSITIONS = 64  # last positions whose logits are compared: a vocabulary's logits of a long prompt fill a GPU


class ConservationError(RuntimeError):
    """Contributions do not add up to the layer's output: a part of it was not seen, so no number is given."""


@dataclass(frozen=True)
class Options:
    """What is scored and how; recorded with every result. SPEC section 2 names the choices.

    largest_threshold: share η of a layer's neurons up to which ranks are stored; a smaller one is a read of the store.
    max_batch_tokens: padded tokens a forward pass; bounds memory, changes no result.
    """

    formulations: tuple[str, ...] = FORMULATIONS
    selections: tuple[str, ...] = ("pairs", "neurons")
    largest_threshold: float = 0.002
    alignment: str = "next_token"
    gate_weighting: bool = True
    head: str = "raw"
    eos: str = "exclude"
    max_batch_tokens: int = 4096

    def __post_init__(self) -> None:
        for name, found, allowed in (
            ("formulations", self.formulations, FORMULATIONS),
            ("selections", self.selections, tuple(SELECTIONS)),
            ("alignment", (self.alignment,), ALIGNMENTS),
            ("head", (self.head,), ("raw", "final_norm")),
            ("eos", (self.eos,), ("exclude", "include")),
        ):
            if not found or (unknown := [value for value in found if value not in allowed]):
                raise ValueError(
                    f"{name} is {list(found)}; allowed are {list(allowed)}" + (f", not {unknown}" if found else "")
                )
        if not 0 < self.largest_threshold <= 1:
            raise ValueError(f"largest_threshold is {self.largest_threshold}; it is a share, above 0 and at most 1")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Options:
        """Options from plain types, such as `to_dict` gives; lists become tuples."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def ranks(self, geometry: Geometry) -> int:
        """Ranked entries to keep a sample and layer: the largest k_l of the largest threshold."""
        return int(geometry.key_count(self.largest_threshold).max())

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for store attributes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Sample:
    """A prompt and its response as token ids; `response` as produced, a closing end-of-sequence token included."""

    id: str
    prompt: Sequence[int]
    response: Sequence[int]


@dataclass
class ChunkScores:
    """Everything measured on a chunk of samples, in their order; arrays as `moemui.store` names them."""

    ranked: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]
    response_tokens: np.ndarray  # int32 (samples,)
    routed_tokens: np.ndarray  # int32 (samples, layers, most experts a layer)
    gate_mass: np.ndarray  # float32, same shape
    conservation: np.ndarray  # float32 (samples, layers): largest relative error over tokens
    imbalance: np.ndarray  # float32 (samples, layers): largest imbalance over tokens


class Scorer:
    """Scores samples on a loaded model. Make one a model; `score` may be called for any number of chunks."""

    def __init__(self, model: Foreign, options: Options, *, eos_ids: Sequence[int] = ()):
        self.model, self.options, self.eos_ids = model, options, frozenset(eos_ids)
        self.sites = families.sites(model)
        self.geometry = families.geometry(self.sites)
        self.head = families.unembedding(model, options.head)
        self.ranks = options.ranks(self.geometry)
        self.tolerance = TOLERANCE.get(self.head.dtype, TOLERANCE[torch.bfloat16])
        self.context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self.device = model.get_input_embeddings().weight.device

    def scored_tokens(self, sample: Sample) -> list[int]:
        """The response tokens y_1..y_m that count; without the closing end-of-sequence token unless asked for.

        Raises ValueError for an empty prompt, which has no state that predicts y_1, for a sample longer than the
        model's context, and for tokens that the head has no row for.
        """
        if not len(sample.prompt):
            raise ValueError(
                f"sample {sample.id} has an empty prompt, so no state predicts its first response token; "
                "give it a prompt"
            )
        response = list(sample.response)
        if self.options.eos == "exclude":
            while response and response[-1] in self.eos_ids:
                response.pop()
        if self.context is not None and len(self.fed(sample, response)) > self.context:
            raise ValueError(
                f"sample {sample.id} has {len(sample.prompt)} prompt and {len(response)} response tokens, but the "
                f"model's context holds {self.context}; shorten or leave out the sample"
            )
        highest = max((*sample.prompt, *response))
        if highest >= len(self.head):
            raise ValueError(
                f"sample {sample.id} holds token {highest}, but the head has {len(self.head)} rows; "
                "the tokenizer belongs to another model"
            )
        return response

    def fed(self, sample: Sample, response: Sequence[int]) -> list[int]:
        """The tokens that go through the model. Under next_token the last one predicts nothing, so it stays outside."""
        shown = response[:-1] if self.options.alignment == "next_token" else response
        return [*sample.prompt, *shown]

    @torch.no_grad()
    def score(self, samples: Sequence[Sample], progress: Callable[[int], None] = lambda done: None) -> ChunkScores:
        """Scores of a chunk of samples; memory grows with the chunk, not with the study.

        progress is called with the number of samples done after every forward pass. An empty response has no
        entries and no tokens. Raises ConservationError above tolerance (NaN weights included).
        """
        responses = [self.scored_tokens(sample) for sample in samples]
        layers, experts = len(self.sites), max(layer.experts for layer in self.geometry.layers)
        chunk = ChunkScores(
            ranked={
                (formulation, selection): (
                    np.full((len(samples), layers, self.ranks), -1, dtype=np.int32),
                    np.full((len(samples), layers, self.ranks), -1, dtype=np.int32),
                    np.zeros((len(samples), layers, self.ranks), dtype=np.float32),
                )
                for formulation in self.options.formulations
                for selection in self.options.selections
            },
            response_tokens=np.array([len(response) for response in responses], dtype=np.int32),
            routed_tokens=np.zeros((len(samples), layers, experts), dtype=np.int32),
            gate_mass=np.zeros((len(samples), layers, experts), dtype=np.float32),
            conservation=np.zeros((len(samples), layers), dtype=np.float32),
            imbalance=np.zeros((len(samples), layers), dtype=np.float32),
        )
        lengths = [len(self.fed(sample, response)) for sample, response in zip(samples, responses, strict=True)]
        done = sum(not response for response in responses)
        for batch in batches(lengths, [bool(r) for r in responses], self.options.max_batch_tokens):
            view = _Batch(self, batch, [samples[i] for i in batch], [responses[i] for i in batch], chunk)
            with Tap(self.model, self.sites, observer=view.observe):
                self.model.get_decoder()(input_ids=view.input_ids, attention_mask=view.attention_mask, use_cache=False)
            done += len(batch)
            progress(done)
        return chunk

    @property
    def identity_tolerance(self) -> float:
        """Largest identity error that passes: the tap computes what `grouped_mm` computes, so one rounding step."""
        return max(1e-6, torch.finfo(self.head.dtype).eps)

    @torch.no_grad()
    def identity_error(self, sample: Sample) -> float:
        """Largest difference between logits with and without the tap, over the largest logit; 0 is bit-equal.

        Compared are the sample's last positions, at most `IDENTITY_POSITIONS`.
        """
        ids = torch.tensor([[*sample.prompt, *sample.response][: self.context]], device=self.device)
        keep = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            keep = {"logits_to_keep": IDENTITY_POSITIONS}
        before = getattr(self.model.config, "_experts_implementation", None)
        routed = any(site.experts is not None for site in self.sites)
        try:
            if routed:
                self.model.set_experts_implementation("grouped_mm")
            plain = self.model(input_ids=ids, use_cache=False, **keep).logits.float()
        finally:
            if routed:
                self.model.set_experts_implementation(before)
        with Tap(self.model, self.sites, observer=lambda *seen: None):
            tapped = self.model(input_ids=ids, use_cache=False, **keep).logits.float()
        return float((tapped - plain).abs().max() / plain.abs().max().clamp_min(1e-30))


def batches(lengths: Sequence[int], wanted: Sequence[bool], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of the wanted samples in batches of like length whose padded size is at most max_tokens.

    A sample longer than max_tokens gets a batch of its own.
    """
    batch: list[int] = []
    for index in sorted((i for i, want in enumerate(wanted) if want), key=lambda i: lengths[i]):
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@dataclass(frozen=True)
class _Rows:
    """The response tokens of a batch, one row each, on one device: int64 (rows,) but for head.

    sample: its number in the batch; token: from 0 in its response; position: the state scored, in the flattened batch.
    row_of: int64 (batch × length,), the row of every position, −1 for the others. head: W_head[y_t], (rows, H).
    """

    sample: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    row_of: torch.Tensor
    head: torch.Tensor


@dataclass
class _Batch:
    """One forward pass: which states are scored against which head rows, and where the results go."""

    scorer: Scorer
    index: list[int]  # place of each sample in the chunk
    samples: list[Sample]
    responses: list[list[int]]
    chunk: ChunkScores
    input_ids: torch.Tensor = field(init=False)
    attention_mask: torch.Tensor = field(init=False)
    rows_on: dict[torch.device, _Rows] = field(init=False)

    def __post_init__(self) -> None:
        sequences = [self.scorer.fed(s, r) for s, r in zip(self.samples, self.responses, strict=True)]
        width, device = max(map(len, sequences)), self.scorer.device
        # Right padding: a causal model never lets a token see what follows it, so padding can't change a score.
        self.input_ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=device)
        self.attention_mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
        head = self.scorer.head
        lengths = torch.tensor([len(r) for r in self.responses])
        sample = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        token = torch.cat([torch.arange(len(r)) for r in self.responses])
        prompts = torch.tensor([len(s.prompt) for s in self.samples])
        shift = 1 if self.scorer.options.alignment == "next_token" else 0
        position = sample * width + prompts[sample] + token - shift
        row_of = torch.full((len(sequences) * width,), -1)
        row_of[position] = torch.arange(len(position))
        targets = torch.tensor([token for r in self.responses for token in r], device=head.device)
        self.rows_on = {HOME: _Rows(sample, token, position, row_of, head[targets].to(HOME))}

    def observe(
        self, position: int, routed: RoutedPass | None, shared: SharedPass | None, output: torch.Tensor
    ) -> None:
        """Score, rank and check one layer. output: MoE_l(x), (tokens, H)."""
        site, at = self.scorer.sites[position], self._rows(output.device)
        head, rows = at.head.float(), len(at.sample)
        parts: list[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]] = []  # scores, row, first neuron
        total, magnitude, square = (torch.zeros(rows, device=output.device) for _ in range(3))
        product = output[at.position].float() * head
        expected = product.sum(1)
        if routed is not None:
            row = at.row_of[routed.token]
            kept = ((row >= 0) & (routed.weight != 0)).nonzero()[:, 0]
            row, expert, weight = row[kept], routed.expert[kept], routed.weight[kept]
            pull = _routed_pull(routed.experts, expert, at.head[row])
            scores, exact = self._formulations(
                routed.activation[kept], routed.intermediate[kept], pull, weight[:, None]
            )
            total.index_add_(0, row, exact.sum(1))
            magnitude.index_add_(0, row, exact.abs().sum(1))
            square.index_add_(0, row, exact.square().sum(1))
            if routed.experts.has_bias:
                bias = (routed.experts.down_proj_bias[expert].float() * head[row]).sum(1)
                expected.index_add_(0, row, -weight * bias)
            parts.append((scores, row, expert * site.layer.width))
            self._count(position, at.sample[row], expert, weight)
        if shared is not None:
            layer, weight = site.layer, shared.weight[at.position].float()
            down = shared.mlp.down_proj
            pull = (at.head @ down.weight).float()
            activation, intermediate = shared.activation[at.position], shared.intermediate[at.position]
            scores, exact = self._formulations(activation, intermediate, pull, weight[:, None])
            total += exact.sum(1)
            magnitude += exact.abs().sum(1)
            square += exact.square().sum(1)
            if down.bias is not None:
                expected -= weight * (down.bias.float() * head).sum(1)
            row = torch.arange(rows, device=output.device).repeat_interleave(layer.shared)
            number = torch.arange(layer.shared, device=output.device).repeat(rows)
            split = {name: value.reshape(rows * layer.shared, layer.shared_width) for name, value in scores.items()}
            parts.append((split, row, layer.routed * layer.width + number * layer.shared_width))
            self._count(position, at.sample[row], layer.routed + number, weight[row])
        difference = (total - expected).abs()
        self._keep_largest(self.chunk.conservation, position, at, difference / magnitude.clamp_min(1e-30))
        scale = square.sqrt() + product.square().sum(1).sqrt() + expected.abs()
        self._check(position, at, difference / scale.clamp_min(1e-30))
        self._rank(position, at, parts)

    def _rows(self, device: torch.device) -> _Rows:
        """The scored rows on a layer's device; layers of one model may lie on several."""
        if device not in self.rows_on:
            home = self.rows_on[HOME]
            self.rows_on[device] = _Rows(*(getattr(home, f.name).to(device) for f in fields(_Rows)))
        return self.rows_on[device]

    def _formulations(
        self, activation: torch.Tensor, intermediate: torch.Tensor, pull: torch.Tensor, weight: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Scores by formulation, and the exact contributions with the gate's weight, all float32 (slots, N)."""
        options = self.scorer.options
        activation, intermediate, weighted = activation.float(), intermediate.float(), pull * weight
        exact = intermediate * weighted
        scale = weighted if options.gate_weighting else pull
        compute: dict[str, Callable[[], torch.Tensor]] = {
            "projection": lambda: activation * scale,
            "glu": lambda: exact if options.gate_weighting else intermediate * pull,
            "activation": lambda: activation,
        }
        return {name: compute[name]() for name in options.formulations}, exact

    def _count(self, position: int, sample: torch.Tensor, expert: torch.Tensor, weight: torch.Tensor) -> None:
        experts = self.chunk.routed_tokens.shape[2]
        cell = sample * experts + expert
        tokens = torch.bincount(cell, minlength=len(self.index) * experts).view(-1, experts)
        mass = torch.bincount(cell, weights=weight.double(), minlength=len(self.index) * experts).view(-1, experts)
        self.chunk.routed_tokens[self.index, position] += tokens.cpu().numpy().astype(np.int32)
        self.chunk.gate_mass[self.index, position] += mass.cpu().numpy().astype(np.float32)

    def _keep_largest(self, array: np.ndarray, position: int, at: _Rows, values: torch.Tensor) -> None:
        worst = torch.full((len(self.index),), -torch.inf, device=values.device)
        worst.scatter_reduce_(0, at.sample, values, "amax")
        array[self.index, position] = worst.cpu().numpy()

    def _check(self, position: int, at: _Rows, imbalance: torch.Tensor) -> None:
        """Refuse a layer whose contributions miss its output by more than rounding explains.

        The difference is measured against what rounding can make of it, sqrt(Σ f²) + sqrt(Σ_h (MoE_h · head_h)²) +
        |MoE · head|, and not against Σ|f|, to which a whole expert is small when thousands of neurons cancel out.
        """
        self._keep_largest(self.chunk.imbalance, position, at, imbalance)
        largest = float(imbalance.max())
        if not largest <= self.scorer.tolerance:  # NaN fails too
            site = self.scorer.sites[position]
            raise ConservationError(
                f"{site.name} ({type(site.block).__name__}): contributions miss the layer's output by {largest:.2g} of "
                f"their size, above the tolerance {self.scorer.tolerance:g}; its output is not the weighted sum of the "
                "experts seen, or weights are not finite, so this model can't be measured"
            )

    def _rank(
        self, position: int, at: _Rows, parts: list[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]
    ) -> None:
        samples, ranks = len(self.index), self.scorer.ranks
        for formulation in self.scorer.options.formulations:
            groups = [Slots(scores[formulation], at.sample[row], at.token[row], first) for scores, row, first in parts]
            for selection in self.scorer.options.selections:
                entries = SELECTIONS[selection](groups, samples, ranks)
                stored = self.chunk.ranked[formulation, selection]
                for array, values in zip(stored, to_arrays(entries, samples, ranks), strict=True):
                    array[self.index, position] = values.numpy()


def _routed_pull(experts: Foreign, expert: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """W_down[:, j] · W_head[y_t] of every neuron of each slot's expert: float32 (slots, N); slots go by expert."""
    counts = torch.bincount(expert, minlength=experts.num_experts)
    ends = torch.cumsum(counts, 0, dtype=torch.int32)
    # The down projection read the other way round: from H numbers to N.
    return _grouped_linear(head, experts.down_proj, ends, is_transposed=not experts.is_transposed).float()
