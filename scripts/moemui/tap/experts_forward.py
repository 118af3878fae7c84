"""The experts forward that the tap puts into transformers' dispatch: `grouped_mm`'s numbers with the neurons in sight.

Slots, one for each (token, expert) used, are ordered by expert and worked through in spans of whole experts. On a CPU
a span fits into the cache, where elementwise work costs next to nothing; on a GPU all slots are one span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from transformers.integrations.moe import _default_apply_gate, _grouped_linear

from moemui.tap.families import Foreign, UnsupportedModelError
from moemui.tap.heads import norm_weight
from moemui.tap.mlps import UpProbe, probe_up

SPAN_SLOTS = 1024  # on a CPU: 1 MB an array of 256 neurons in float32


class Down(Protocol):
    """The down projections of a span's experts."""

    def pull(self, vectors: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        """W_down[:, j] · vector of every neuron of each slot's expert: (slots, N); slots go by expert."""
        ...

    def bias(self, expert: torch.Tensor) -> torch.Tensor | None:
        """Each slot's b_down, (slots, H); None where there is none."""
        ...


@dataclass(frozen=True)
class RoutedSpan:
    """Slots of some experts, ordered by expert; those that count: of a weight that is not 0, of a token that is wanted.

    token, expert: int64 (slots,), `token` counting through the flattened batch; weight: the router's, float32 (slots,).
    activation: act(x W_gate); intermediate: what is multiplied with W_down; both (slots, N).
    norm: the frozen norm behind each expert, as a factor of its output, (slots, H); None where there is none.
    """

    token: torch.Tensor
    expert: torch.Tensor
    weight: torch.Tensor
    activation: torch.Tensor
    intermediate: torch.Tensor
    down: Down
    norm: torch.Tensor | None = None


RoutedPass = tuple[RoutedSpan, ...]


@dataclass(frozen=True)
class TappedExperts:
    """What the tap wants of one set of experts.

    keep: (E_r, N), 1 keeps a neuron and 0 masks it; None masks none. probe: see `up_probe`. wanted: bool (tokens,), of
    which tokens spans are kept; None keeps all.
    passed: gets the spans and the experts' output, and returns the output to go on with; None observes nothing, and
    then no activations are kept.
    """

    keep: torch.Tensor | None
    probe: UpProbe | None
    wanted: torch.Tensor | None
    passed: Callable[[RoutedPass, torch.Tensor], torch.Tensor] | None
    seen: Callable[[], None]


_TAPPED: dict[Foreign, TappedExperts] = {}
_PROBES: WeakKeyDictionary[Foreign, UpProbe] = WeakKeyDictionary()  # a tap comes with every batch, a gate once


def tap(experts: Foreign, tapped: TappedExperts) -> Callable[[], object]:
    """Have `forward` serve these experts; returns what undoes it."""
    _TAPPED[experts] = tapped
    return partial(_TAPPED.pop, experts)


def up_probe(experts: Foreign, name: str) -> UpProbe | None:
    """How to get act(gate) alone out of experts with a gate of their own; None for the ordinary SwiGLU.

    Raises UnsupportedModelError for a gate that is no act(gate) times a function of up.
    """
    if not experts.has_gate or (type(experts)._apply_gate is _default_apply_gate and experts.is_concatenated):
        return None
    if experts in _PROBES:
        return _PROBES[experts]

    def at(gate: float, up: float, others: float | None = None) -> float:
        probe = torch.full((1, 8), gate if others is None else others, device=experts.down_proj.device).float()
        _up_part(experts, probe).fill_(up)
        probe[0, 0] = gate  # in either layout the first number is the first neuron's gate
        return float(experts._apply_gate(probe)[0, 0])

    return _PROBES.setdefault(experts, probe_up(f"{name} ({type(experts).__name__})", at))


def forward(
    self: Foreign, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """transformers' `grouped_mm` experts forward, bit for bit, for experts that a Tap holds."""
    tapped = _TAPPED.get(self)
    if tapped is None:
        raise RuntimeError(f"{type(self).__name__} runs through the tap but was not found in the model's layers")
    if self._is_expert_parallel:
        raise UnsupportedModelError(
            f"{type(self).__name__} became expert-parallel, so this process sees only a part of its experts; load the "
            "model with device_map instead"
        )
    tokens, top_k = top_k_index.shape
    all_experts, order = torch.sort(top_k_index.reshape(-1))
    weights = top_k_weights.reshape(-1)
    passed: list[RoutedSpan] = []
    # Written in the order of (token, k), which is the order in which grouped_mm adds up a token's experts.
    weighted: torch.Tensor | None = None
    with torch.no_grad():
        for first, last, slots, ends in _spans(self, all_experts):
            expert, place = all_experts[slots], order[slots]
            token, weight = place // top_k, weights[place]
            group = _Group(self, first, last, ends)
            output, gate_up, activation, intermediate = _outputs(self, tapped, hidden_states[token], expert, group)
            norm = None
            if self.has_post_expert_norm:
                normed = self.post_expert_norm(output)
                norm = None if tapped.passed is None else frozen_norm(self.post_expert_norm, output, normed)
                output = normed
            if tapped.passed is not None:
                span = RoutedSpan(token, expert, weight, activation, intermediate, group, norm)
                passed += _kept(self, tapped, span, gate_up)
            if output.dtype == weight.dtype:
                output.mul_(weight.unsqueeze(-1))
            else:
                output = output * weight.unsqueeze(-1)
            if weighted is None:
                weighted = output.new_empty(tokens * top_k, output.shape[-1])
            weighted[place] = output
        if weighted is None:
            weighted = hidden_states.new_zeros(0, hidden_states.shape[-1])
        total = weighted.view(tokens, top_k, -1).sum(dim=1).to(hidden_states.dtype)
    tapped.seen()
    return total if tapped.passed is None else tapped.passed(tuple(passed), total)


def frozen_norm(norm: Foreign, states: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
    """What an RMS norm multiplies `states` with to give `normed`, its scale held: float32, of their shape.

    Raises UnsupportedModelError for a norm of another kind.
    """
    weight = norm_weight(norm, states.shape[-1], states.dtype, states.device)
    if weight is None:
        raise UnsupportedModelError(
            f"experts are followed by {type(norm).__name__}, which is no RMS norm, so what a neuron adds to its output "
            "has no meaning; this model can't be measured"
        )
    direction = states.float() * weight
    size = direction.square().sum(-1, keepdim=True)
    return weight * ((normed.float() * direction).sum(-1, keepdim=True) / size.clamp_min(1e-30))


@dataclass(frozen=True)
class _Group:
    """The weights of experts first..last − 1, and where their slots end in a span: int32 (last − first,)."""

    experts: Foreign
    first: int
    last: int
    ends: torch.Tensor

    def linear(self, states: torch.Tensor, name: str, expert: torch.Tensor) -> torch.Tensor:
        """states times the weights of that name, plus their bias."""
        experts = self.experts
        bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
        weight = getattr(experts, name)[self.first : self.last]
        return _grouped_linear(states, weight, self.ends, bias=bias, is_transposed=experts.is_transposed)

    def pull(self, vectors: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        ends = _ends(expert, self.first, self.last)  # some slots may have been left out since
        # The down projection read the other way round: from H numbers to N.
        weight = self.experts.down_proj[self.first : self.last]
        return _grouped_linear(vectors, weight, ends, is_transposed=not self.experts.is_transposed)

    def bias(self, expert: torch.Tensor) -> torch.Tensor | None:
        return self.experts.down_proj_bias[expert] if self.experts.has_bias else None


def _spans(experts: Foreign, expert: torch.Tensor) -> Iterator[tuple[int, int, slice, torch.Tensor]]:
    """Runs of whole experts: first, last + 1, their slots, and where each expert's slots end in the run (int32)."""
    count = experts.num_experts
    ends = _ends(expert, 0, count)
    if expert.device.type != "cpu":
        yield 0, count, slice(0, len(expert)), ends
        return
    listed = [0, *ends.tolist()]
    first = 0
    while first < count:
        last = first + 1
        while last < count and listed[last + 1] - listed[first] <= SPAN_SLOTS:
            last += 1
        if listed[last] > listed[first]:
            yield first, last, slice(listed[first], listed[last]), ends[first:last] - listed[first]
        first = last


def _ends(expert: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Where the slots of experts first..last − 1 end, `expert` being ascending: int32 (last − first,)."""
    numbers = torch.arange(first, last, device=expert.device)
    return torch.searchsorted(expert, numbers, right=True).to(torch.int32)


def _outputs(
    experts: Foreign, tapped: TappedExperts, states: torch.Tensor, expert: torch.Tensor, group: _Group
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output (slots, H), gate_up (slots, 2N), and (slots, N): act(x W_gate) and what is multiplied with W_down.

    With a gate of their own, experts give act(gate) · up at once; then the third is the fourth.
    """
    if not experts.has_gate:
        gate_up = group.linear(states, "up_proj", expert)
        activation = intermediate = experts.act_fn(gate_up)
    else:
        gate_up = group.linear(states, "gate_up_proj", expert)
        if tapped.passed is not None and tapped.probe is None:
            gate, up = gate_up.chunk(2, dim=-1)
            activation = experts.act_fn(gate)
            intermediate = activation * up
        else:
            activation = intermediate = experts._apply_gate(gate_up)
    if tapped.keep is not None:
        intermediate = intermediate * tapped.keep.to(intermediate)[expert]
    return group.linear(intermediate, "down_proj", expert), gate_up, activation, intermediate


def _kept(experts: Foreign, tapped: TappedExperts, span: RoutedSpan, gate_up: torch.Tensor) -> list[RoutedSpan]:
    """A span with the slots that count alone, in a list; an empty list where none does.

    gate_up: (slots, 2N); it has done its work, so act(x W_gate) is made out of it where it did not come about.
    """
    used = span.weight != 0
    if tapped.wanted is not None:
        used &= tapped.wanted.to(used.device)[span.token]
    kept = used.nonzero()[:, 0]
    if not len(kept):
        return []

    def rows(values: torch.Tensor) -> torch.Tensor:
        return values if len(kept) == len(values) else values[kept]

    if tapped.probe is None:
        activation = rows(span.activation)
    else:
        alone = rows(gate_up)
        _up_part(experts, alone).fill_(tapped.probe.up)
        activation = tapped.probe.activation(experts._apply_gate(alone))
    norm = None if span.norm is None else rows(span.norm)
    intermediate, weight = rows(span.intermediate), rows(span.weight).float()
    return [RoutedSpan(rows(span.token), rows(span.expert), weight, activation, intermediate, span.down, norm)]


def _up_part(experts: Foreign, gate_up: torch.Tensor) -> torch.Tensor:
    """The view of gate_up that holds up."""
    return gate_up.chunk(2, dim=-1)[1] if experts.is_concatenated else gate_up[..., 1::2]
