"""Every contribution of a sample worked out the slow way: one token, one expert, one neuron at a time, in float64.

Shares nothing with the package under test. Hooks of its own read what went into the experts and shared MLPs of the
model's own eager code; everything after that is arithmetic on the weights.

What follows the experts inside their block (a factor, a shared expert's gate, an average, a latent projection) is a
map y = J z + c from the experts' output z to the block's output y. J is found by running the block again with
stand-ins for the experts: once with zeros, once with each unit vector. Whether z passes through one of the block's
modules with weights (a norm, a linear map) shows in whether that module's input changes with it. Without any, J
multiplies with a number, which belongs to G; otherwise all of J stays with the neuron, whatever its numbers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from conformance.reading import (
    NORMS_AFTER_EXPERTS,
    Array,
    Expert,
    MoELayer,
    act,
    contains,
    factors_after_expert,
    gate_formula,
    layers,
    numbers,
    rms_factors,
    routed_expert,
    shared_experts,
)

FORMULATIONS = ("projection", "glu", "activation")


@dataclass
class Truth:
    """What a layer contributed to one sample's response: m tokens, M neurons (routed experts, then shared ones).

    weighted, plain: every formulation with G and without it, float64 (m, M), NaN where a token used no such neuron.
    moe: MoE_l(x) · W_head[y_t], (m,). biases: its part that belongs to no neuron, (m,).
    gate: G of every expert, (m, E_r + E_s), 0 where unused. used: slots of every expert, same shape.
    top_k: experts that a token chooses. maps: J of "routed" and "shared", where the layer has them.
    """

    weighted: dict[str, Array]
    plain: dict[str, Array]
    moe: Array
    biases: Array
    gate: Array
    used: Array
    top_k: int
    maps: dict[str, Map]


@dataclass(frozen=True)
class Map:
    """J of every token, (tokens, H, H of z). between: the modules with weights that z passes through."""

    matrix: Array
    between: tuple[nn.Module, ...] = ()

    @property
    def factors(self) -> Array | None:
        """The number that the map multiplies with, (tokens,); None where a norm or a linear map lies between."""
        if self.between:
            return None
        factors = self.matrix[:, 0, 0]
        only_scaled = factors[:, None, None] * np.eye(self.matrix.shape[1])
        np.testing.assert_allclose(
            self.matrix, only_scaled, atol=1e-5 * np.abs(factors).max(), err_msg="no module between, yet no scaling"
        )
        return factors


def truths(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> list[Truth]:
    """What every MoE layer contributed to every token of a response, under next_token and the raw head."""
    found = layers(model)
    seen = [_Seen() for _ in found]
    with torch.no_grad(), eager(model), ExitStack() as stack:
        for layer, record in zip(found, seen, strict=True):
            stack.enter_context(_watched(layer, record))
        model(input_ids=torch.tensor([[*prompt, *response[:-1]]]), use_cache=False)
        stack.close()
        head = numbers(model.get_output_embeddings().weight)[list(response)]
        states = [len(prompt) - 1 + t for t in range(len(response))]
        return [_layer_truth(layer, record, states, head) for layer, record in zip(found, seen, strict=True)]


# ---------------------------------------------------------------------------------------------- the forward pass


@dataclass
class _Seen:
    """What hooks saw of one layer in one forward pass, flat over tokens."""

    states: Array | None = None  # into the experts
    chosen: Array | None = None
    weights: Array | None = None
    shared_states: Array | None = None
    shared_weights: Array | None = None  # where the router gives the shared experts one each
    norm_states: Array | None = None
    block_call: tuple[tuple, dict[str, Any]] | None = None
    leaves: dict[nn.Module, Array] = field(default_factory=dict)  # outputs of experts and shared down projection
    parts: dict[nn.Module, Array] = field(default_factory=dict)  # outputs that add up to MoE_l


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """The classes' own forward, which is what defines them."""
    before = getattr(model.config, "_experts_implementation", None)
    if before is not None:
        model.set_experts_implementation("eager")
    try:
        yield
    finally:
        if before is not None:
            model.set_experts_implementation(before)


def first_tensor(output: Any) -> torch.Tensor:
    """A module's output, or the first of several."""
    return output if torch.is_tensor(output) else output[0]


def _rows(tensor: torch.Tensor) -> Array:
    return numbers(tensor.reshape(-1, tensor.shape[-1]))


@contextmanager
def _watched(layer: MoELayer, seen: _Seen) -> Iterator[None]:
    """Hooks that fill `seen` during one forward pass."""

    def experts_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        states, chosen, weights = (*args, *kwargs.values())
        seen.states, seen.chosen, seen.weights = numbers(states), chosen.numpy().copy(), numbers(weights)

    def shared_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.shared_states = _rows(args[0])
        seen.shared_weights = _rows(kwargs["gammas"]) if "gammas" in kwargs else None

    def block_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        def copy(value: Any) -> Any:
            return value.clone() if torch.is_tensor(value) else value

        seen.block_call = tuple(map(copy, args)), {name: copy(value) for name, value in kwargs.items()}

    def norm_input(module: nn.Module, args: tuple) -> None:
        seen.norm_states = _rows(args[0])

    def leaf_output(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen.leaves[module] = _rows(output)

    def part_output(module: nn.Module, args: tuple, output: Any) -> None:
        seen.parts[module] = numbers(first_tensor(output))

    handles = [layer.block.register_forward_pre_hook(block_input, with_kwargs=True)]
    if layer.experts is not None:
        handles.append(layer.experts.register_forward_pre_hook(experts_input, with_kwargs=True))
    if layer.shared is not None:
        handles.append(layer.shared.register_forward_pre_hook(shared_input, with_kwargs=True))
    handles += [leaf.register_forward_hook(leaf_output) for leaf in layer.leaves.values()]
    if (norm := NORMS_AFTER_EXPERTS.get(type(layer.block).__name__)) is not None:
        handles.append(getattr(layer.block, norm).register_forward_pre_hook(norm_input))
    handles += [part.register_forward_hook(part_output) for part in layer.parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------------------------------- J and c


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _maps(layer: MoELayer, seen: _Seen) -> tuple[dict[nn.Module, Map], Array]:
    """J of every leaf, and c, (tokens, H)."""
    tokens = len(next(iter(seen.leaves.values())))
    real = sum(output.reshape(tokens, -1) for output in seen.parts.values())
    if layer.branched:
        maps = {
            leaf: _held_norm(norm, seen.leaves[leaf])
            for leaf, norm in zip(layer.leaves.values(), layer.parts, strict=True)
        }
        offset = np.zeros_like(real)
    else:
        maps, offset = _maps_of_block(layer, seen, tokens)
    made = offset + sum(np.einsum("thz,tz->th", maps[leaf].matrix, z) for leaf, z in seen.leaves.items())
    np.testing.assert_allclose(made, real, rtol=1e-4, atol=1e-5 * np.abs(real).max(), err_msg="no map J z + c")
    return maps, offset


def _held_norm(norm: nn.Module, states: Array) -> Map:
    """An RMS norm of the leaf's own output, its scale held."""
    factors = rms_factors(norm, numbers(norm.weight), states)
    return Map(factors[:, :, None] * np.eye(factors.shape[1]), (norm,))


def _maps_of_block(layer: MoELayer, seen: _Seen, tokens: int) -> tuple[dict[nn.Module, Map], Array]:
    maps = {leaf: Map(np.tile(np.eye(z.shape[1]), (tokens, 1, 1))) for leaf, z in seen.leaves.items()}
    inside = [leaf for leaf in seen.leaves if contains(layer.block, leaf)]
    inputs: dict[nn.Module, Array] = {}

    def run(values: dict[nn.Module, Array]) -> Array:
        with ExitStack() as stack:
            for leaf in inside:
                stack.enter_context(_replaced(leaf, _stand_in(values.get(leaf, np.zeros_like(seen.leaves[leaf])))))
            if (name := NORMS_AFTER_EXPERTS.get(type(layer.block).__name__)) is not None:
                norm = getattr(layer.block, name)
                factors = torch.tensor(rms_factors(norm, numbers(norm.weight), seen.norm_states)).float()
                stack.enter_context(_replaced(norm, lambda x: x * factors.view(x.shape)))
            args, kwargs = seen.block_call
            return numbers(first_tensor(layer.block(*args, **kwargs))).reshape(tokens, -1)

    def watched_run(values: dict[nn.Module, Array]) -> dict[nn.Module, Array]:
        inputs.clear()
        own = [m for m in layer.block.modules() if m not in inside and list(m.parameters(recurse=False))]
        handles = [m.register_forward_pre_hook(lambda m, args: inputs.update({m: numbers(args[0])})) for m in own]
        run(values)
        for handle in handles:
            handle.remove()
        return dict(inputs)

    offset, without = run({}), watched_run({})
    for leaf in inside:
        columns = []
        for k in range(seen.leaves[leaf].shape[1]):
            unit = np.zeros_like(seen.leaves[leaf])
            unit[:, k] = 1
            columns.append(run({leaf: unit}) - offset)
        given = watched_run({leaf: seen.leaves[leaf]})
        between = tuple(m for m, states in given.items() if not np.array_equal(states, without[m]))
        maps[leaf] = Map(np.stack(columns, axis=2), between)
    return maps, offset


def _stand_in(value: Array) -> Callable[..., torch.Tensor]:
    tensor = torch.tensor(value).float()
    return lambda states, *rest, **named: tensor.reshape(*states.shape[:-1], tensor.shape[-1])


# ---------------------------------------------------------------------------------------------- contributions


def _layer_truth(layer: MoELayer, seen: _Seen, positions: Sequence[int], head: Array) -> Truth:
    count, hidden = head.shape
    shared_count, shared_width = layer.shared_split
    size, experts = layer.routed * layer.width + layer.shared_neurons, layer.routed + shared_count
    maps, offset = _maps(layer, seen)
    moe = sum(output.reshape(-1, hidden) for output in seen.parts.values())
    down = layer.leaves.get("shared")
    truth = Truth(
        weighted={name: np.full((count, size), np.nan) for name in FORMULATIONS},
        plain={name: np.full((count, size), np.nan) for name in FORMULATIONS},
        moe=np.array([moe[p] @ v for p, v in zip(positions, head, strict=True)]),
        biases=np.array([offset[p] @ v for p, v in zip(positions, head, strict=True)]),
        gate=np.zeros((count, experts)),
        used=np.zeros((count, experts), dtype=int),
        top_k=0 if seen.chosen is None else seen.chosen.shape[1],
        maps={name: maps[leaf] for name, leaf in layer.leaves.items()},
    )
    for t, (position, v) in enumerate(zip(positions, head, strict=True)):
        if layer.experts is not None:
            factor, pulled = _pull(maps[layer.experts], position, v)
            for number, weight in zip(seen.chosen[position].tolist(), seen.weights[position].tolist(), strict=True):
                if weight == 0:  # a choice that stands for no expert
                    continue
                expert, gate = routed_expert(layer.experts, number), weight * factor
                activation, intermediate = _neurons(layer.experts, expert, seen.states[position])
                own = pulled * factors_after_expert(layer.experts, expert.down.T @ intermediate + expert.down_bias)
                _write(truth, t, number * layer.width, expert, activation, intermediate, gate, own)
                truth.gate[t, number] += gate
                truth.used[t, number] += 1
        if layer.shared is not None:
            factor, pulled = _pull(maps[down], position, v)
            first = layer.routed * layer.width
            for number, expert in enumerate(shared_experts(layer.shared)):
                gate = factor if seen.shared_weights is None else factor * seen.shared_weights[position, number]
                activation, intermediate = _neurons(layer.shared, expert, seen.shared_states[position])
                _write(truth, t, first, expert, activation, intermediate, gate, pulled)
                start = layer.routed + (first - layer.routed * layer.width) // shared_width
                truth.gate[t, start : start + len(expert.down) // shared_width] = gate
                truth.used[t, start : start + len(expert.down) // shared_width] = 1
                first += len(expert.down)
    return truth


def _pull(mapped: Map, position: int, v: Array) -> tuple[float, Array]:
    """The factor that belongs to G, and the head's row carried back to the experts' output."""
    if mapped.factors is not None:
        return float(mapped.factors[position]), v
    return 1.0, mapped.matrix[position].T @ v


def _neurons(mlp: nn.Module, expert: Expert, states: Array) -> tuple[Array, Array]:
    """act(x W_gate) and what is multiplied with W_down, (N,) each; the same where there is no gate."""
    activation, intermediate = np.zeros(len(expert.down)), np.zeros(len(expert.down))
    for j in range(len(expert.down)):
        up = float(expert.up[j] @ states + expert.up_bias[j])
        if expert.gate is None:
            activation[j] = intermediate[j] = act(mlp, up)
        else:
            activation[j], factor = gate_formula(mlp)(mlp, float(expert.gate[j] @ states + expert.gate_bias[j]), up)
            intermediate[j] = activation[j] * factor
    return activation, intermediate


def _write(
    truth: Truth, t: int, first: int, expert: Expert, activation: Array, intermediate: Array, gate: float, pulled: Array
) -> None:
    """What each neuron of an expert gives to response token t."""
    for j in range(len(expert.down)):
        logit = float(expert.down[j] @ pulled)
        for name, value in (("projection", activation[j] * logit), ("glu", intermediate[j] * logit)):
            truth.plain[name][t, first + j] = value
            truth.weighted[name][t, first + j] = gate * value
        truth.plain["activation"][t, first + j] = truth.weighted["activation"][t, first + j] = activation[j]
    truth.biases[t] += gate * float(expert.down_bias @ pulled)
