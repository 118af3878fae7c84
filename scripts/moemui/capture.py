"""One tap for every architecture: see, score and mask neurons while a model runs as it always does.

transformers runs all routed experts through one dispatch. `Tap` registers an experts forward there that
computes what `grouped_mm` computes, and hooks the shared (or dense) MLPs at their down projection. What
passes by is handed to an observer or multiplied by a mask; the model's own code is never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate, _grouped_linear

from moemui.families import Foreign, Site, UnsupportedModelError

IMPLEMENTATION = "moemui"


@dataclass(frozen=True)
class RoutedPass:
    """What went through a layer's routed experts, one slot for each (token, expert) used, ordered by expert.

    token, expert: int64 (slots,), `token` counting through the flattened batch; weight: G, (slots,).
    activation: act(x W_gate); intermediate: what is multiplied with W_down; both (slots, N).
    """

    experts: Foreign
    token: torch.Tensor
    expert: torch.Tensor
    weight: torch.Tensor
    activation: torch.Tensor
    intermediate: torch.Tensor


@dataclass(frozen=True)
class SharedPass:
    """What went through a layer's shared MLP: activation and intermediate (tokens, width), weight (tokens,)."""

    mlp: Foreign
    weight: torch.Tensor
    activation: torch.Tensor
    intermediate: torch.Tensor


# Called once a layer, after its block: (layer position, routed, shared, block output (tokens, H)).
Observer = Callable[[int, RoutedPass | None, SharedPass | None, torch.Tensor], None]


@dataclass
class _Passing:
    """A layer's pass under way, and its masks."""

    observed: bool = False  # whether anybody looks: a masked run keeps no activations
    neutral_up: float | None = None  # see `neutral_up`
    keep_routed: torch.Tensor | None = None  # (E_r, N), 1 keeps a neuron
    keep_shared: torch.Tensor | None = None  # (width of the shared MLP,)
    routed: RoutedPass | None = None
    shared_gate: torch.Tensor | None = None
    shared_activation: torch.Tensor | None = None
    shared: SharedPass | None = None
    seen: bool = field(default=False)


class Tap:
    """A context manager under which every forward pass of `model` is observed, masked, or both.

    sites: what `families.sites(model)` returns. observer: gets every layer's pass; None observes nothing.
    masked_neurons: per site the indices inside the layer of the neurons whose intermediate activation is
    set to 0; None masks nothing. On leaving, also after an exception, the model is as it was. Raises
    RuntimeError when a layer's experts were bypassed, as hub kernels and FP8 experts do.
    """

    def __init__(
        self,
        model: Foreign,
        sites: Sequence[Site],
        *,
        observer: Observer | None = None,
        masked_neurons: Sequence[torch.Tensor] | None = None,
    ):
        self.model, self.sites, self.observer = model, sites, observer
        self._passing = [_Passing() for _ in sites]
        if masked_neurons is not None:
            if len(masked_neurons) != len(sites):
                raise ValueError(f"masked_neurons has {len(masked_neurons)} layers, the model {len(sites)}")
            for site, passing, neurons in zip(sites, self._passing, masked_neurons, strict=True):
                _set_mask(site, passing, neurons)
        self._handles: list[Any] = []
        self._before: str | None = None

    def __enter__(self) -> Tap:
        ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts_forward)
        try:
            self._attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def _attach(self) -> None:
        if any(site.experts is not None for site in self.sites):
            self._before = self.model.config._experts_implementation
            self.model.set_experts_implementation(IMPLEMENTATION)
        for position, (site, passing) in enumerate(zip(self.sites, self._passing, strict=True)):
            passing.observed = self.observer is not None
            if site.experts is not None:
                passing.neutral_up = neutral_up(site) if passing.observed else None
                if site.experts in _ACTIVE:
                    raise RuntimeError(f"{site.name} is already tapped; leave the outer Tap first")
                _ACTIVE[site.experts] = passing
            if site.shared is not None:
                self._hook_shared(site, passing)
            self._handles.append(site.block.register_forward_hook(self._block_hook(position, site, passing)))

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for site, passing in zip(self.sites, self._passing, strict=True):
            if site.experts is not None and _ACTIVE.get(site.experts) is passing:
                del _ACTIVE[site.experts]
        if self._before is not None:
            self.model.set_experts_implementation(self._before)
            self._before = None

    def _hook_shared(self, site: Site, passing: _Passing) -> None:
        mlp = site.shared
        assert mlp is not None

        def after_gate(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            # Elementwise, so cheaper than keeping a handle on every activation function there is.
            passing.shared_activation = mlp.act_fn(output)

        def before_down(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            intermediate = inputs[0]
            if passing.keep_shared is not None:
                intermediate = intermediate * passing.keep_shared.to(intermediate)
            if self.observer is not None:
                flat = intermediate.reshape(-1, intermediate.shape[-1])
                activation = passing.shared_activation
                assert activation is not None
                ones = torch.ones(len(flat), device=flat.device)
                passing.shared = SharedPass(mlp, ones, activation.reshape(flat.shape), flat)
            return None if passing.keep_shared is None else (intermediate, *inputs[1:])

        def after_shared_gate(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            passing.shared_gate = torch.sigmoid(output.float()).reshape(-1)

        if self.observer is not None:
            self._handles.append(mlp.gate_proj.register_forward_hook(after_gate))
            if site.shared_gate is not None:
                self._handles.append(site.shared_gate.register_forward_hook(after_shared_gate))
        self._handles.append(mlp.down_proj.register_forward_pre_hook(before_down))

    def _block_hook(self, position: int, site: Site, passing: _Passing) -> Callable[..., None]:
        def after_block(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if site.experts is not None and not passing.seen:
                raise RuntimeError(
                    f"{site.name} ran without its experts passing the dispatch (a fused kernel or quantised experts); "
                    "load the model without them"
                )
            passing.seen = False
            if self.observer is None:
                return
            moe = output if torch.is_tensor(output) else output[0]
            shared = passing.shared
            if shared is not None and passing.shared_gate is not None:
                shared = SharedPass(shared.mlp, passing.shared_gate, shared.activation, shared.intermediate)
            routed = passing.routed
            passing.routed = passing.shared = passing.shared_gate = passing.shared_activation = None
            self.observer(position, routed, shared, moe.reshape(-1, moe.shape[-1]))

        return after_block


_ACTIVE: dict[nn.Module, _Passing] = {}


def _experts_forward(
    self: Foreign, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """transformers' `grouped_mm` experts forward, bit for bit, with the intermediate activations in sight."""
    passing = _ACTIVE.get(self)
    if passing is None:
        raise RuntimeError(f"{type(self).__name__} runs through the tap but was not found in the model's layers")
    if self._is_expert_parallel:
        raise RuntimeError("expert-parallel experts are not supported yet; load the model without expert parallelism")
    tokens, top_k = top_k_index.shape
    expert, order = torch.sort(top_k_index.reshape(-1))
    token = order // top_k
    weight = top_k_weights.reshape(-1)[order]
    counts = torch.histc(
        expert.float() if expert.device.type in ("cpu", "mps") else expert.int(),
        bins=self.num_experts,
        min=0,
        max=self.num_experts - 1,
    )
    ends = torch.cumsum(counts, 0, dtype=torch.int32)

    def linear(states: torch.Tensor, name: str) -> torch.Tensor:
        bias = getattr(self, f"{name}_bias")[expert] if self.has_bias else None
        return _grouped_linear(states, getattr(self, name), ends, bias=bias, is_transposed=self.is_transposed)

    if not self.has_gate:
        activation = intermediate = self.act_fn(linear(hidden_states[token], "up_proj"))
    elif passing.observed:
        activation, intermediate = _gate(self, linear(hidden_states[token], "gate_up_proj"), passing.neutral_up)
    else:
        activation = intermediate = self._apply_gate(linear(hidden_states[token], "gate_up_proj"))
    if passing.keep_routed is not None:
        intermediate = intermediate * passing.keep_routed.to(intermediate)[expert]
    output = linear(intermediate, "down_proj")
    if self.has_post_expert_norm:
        output = self.post_expert_norm(output)
    weighted = output * weight.unsqueeze(-1)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    passing.seen = True
    if passing.observed:
        passing.routed = RoutedPass(self, token, expert, weight.float(), activation, intermediate)
    return weighted[inverse].view(tokens, top_k, -1).sum(dim=1).to(hidden_states.dtype)


def _gate(experts: Foreign, gate_up: torch.Tensor, neutral: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """act(x W_gate) and act(x W_gate) ⊙ up(x W_up), each (slots, N)."""
    if neutral is None:
        gate, up = gate_up.chunk(2, dim=-1)
        activation = experts.act_fn(gate)
        return activation, activation * up
    # At the up for which its factor is 1, the whole is act(gate).
    alone = gate_up.clone()
    _up_part(experts, alone).fill_(neutral)
    return experts._apply_gate(alone), experts._apply_gate(gate_up)


def neutral_up(site: Site) -> float | None:
    """The value of up at which experts with a gate of their own give act(gate); None for the ordinary SwiGLU.

    Such gates (GPT-OSS: clamps and up + 1) are a product act(gate) · b(up); b is 1 at up = 0 where the gate adds 1,
    and at up = 1 otherwise. Raises UnsupportedModelError for a gate that is no such product: act(gate) then has no
    meaning.
    """
    experts = site.experts
    assert experts is not None
    if not experts.has_gate or (type(experts)._apply_gate is _default_apply_gate and experts.is_concatenated):
        return None
    weight = experts.gate_up_proj

    def at(gate: float, up: float) -> float:
        probe = torch.full((1, 8), gate, dtype=torch.float32, device=weight.device)
        _up_part(experts, probe).fill_(up)
        return float(experts._apply_gate(probe)[0, 0])

    crossed = at(0.5, 0.25) * at(1.5, 0.75), at(0.5, 0.75) * at(1.5, 0.25)
    if abs(crossed[0] - crossed[1]) > 1e-5 * (abs(crossed[0]) + abs(crossed[1])) + 1e-12:
        raise UnsupportedModelError(
            f"{site.name}: the gate of {type(experts).__name__} is no product of a function of gate and one of up, "
            "so act(gate) has no meaning; this model can't be measured"
        )
    return 0.0 if at(1.0, 0.0) != 0 else 1.0


def _up_part(experts: Foreign, gate_up: torch.Tensor) -> torch.Tensor:
    """The view of gate_up that holds up."""
    return gate_up.chunk(2, dim=-1)[1] if experts.is_concatenated else gate_up[..., 1::2]


def _set_mask(site: Site, passing: _Passing, neurons: torch.Tensor) -> None:
    layer = site.layer
    if len(neurons) and not 0 <= int(neurons.min()) <= int(neurons.max()) < layer.neurons:
        found = f"{int(neurons.min())}..{int(neurons.max())}"
        raise ValueError(f"layer {layer.index}: masked neurons {found} lie outside 0..{layer.neurons - 1}")
    keep = torch.ones(layer.neurons)
    keep[neurons.long()] = 0
    routed = layer.routed * layer.width
    if site.experts is not None:
        passing.keep_routed = keep[:routed].view(layer.routed, layer.width).to(site.experts.down_proj.device)
    if site.shared is not None:
        passing.keep_shared = keep[routed:].to(site.shared.down_proj.weight.device)
