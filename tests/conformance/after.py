"""What a decoder layer does with MoE_l: its experts are silenced, and what the layer then lacks is looked at.

This is where the definition of MoE_l is held against the models. The package and the oracle only show that the neurons
add up to what both call MoE_l; here the decoder layer itself shows that it is this sum that it adds to the stream, up
to a constant, and which modules of its own it passes the sum through before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from conformance.oracle import eager, first_tensor
from conformance.reading import MoELayer, decoder_layers, layers

KINDS = {"Norm": "norm", "Convolution": "convolution", "Residual": "residual weights"}


@dataclass(frozen=True)
class After:
    """What lies between MoE_l and what the decoder layer adds for it.

    passed: the layer's own modules that the sum goes through, in order. factor: the number that multiplies it at last;
    None where the stream has several lanes and a hyper-connection gives each its own. left: what the modules that
    add up to MoE_l still put out without any expert, (tokens, H): biases behind the experts.
    """

    passed: tuple[nn.Module, ...]
    factor: float | None
    left: torch.Tensor

    @property
    def words(self) -> str | None:
        """For the table; None where MoE_l is added as it is."""
        kinds = [next(kind for part, kind in KINDS.items() if part in type(m).__name__) for m in self.passed]
        if self.factor is None:
            kinds.append("hyper-connection")
        elif abs(self.factor - 1) > 1e-5:
            kinds.append(f"factor {self.factor:.4g}")
        return f"{' and '.join(kinds)} after the block: not part of it" if kinds else None


@dataclass
class Run:
    """One forward pass: the decoder layer's output and what went into and came out of its own modules."""

    output: torch.Tensor
    parts: list[torch.Tensor]
    inputs: dict[nn.Module, list[torch.Tensor]]
    outputs: dict[nn.Module, list[torch.Tensor]]

    @property
    def moe(self) -> torch.Tensor:
        """Sum of the modules that are said to make up MoE_l, (tokens, H)."""
        return sum(self.parts)


def run(model: nn.Module, layer: MoELayer, silent: Collection[nn.Module], ids: torch.Tensor) -> Run:
    """A forward pass in which the modules in `silent` put out zeros."""
    decoder_layer = decoder_layers(model)[layer.index]
    own = [module for module in decoder_layer.children() if not isinstance(module, nn.ModuleList)]
    found = Run(torch.empty(0), [torch.empty(0)] * len(layer.parts), {}, {})
    hidden = model.get_output_embeddings().weight.shape[1]

    def tensors(values: Any) -> list[torch.Tensor]:
        listed = values if isinstance(values, (tuple, list)) else (values,)
        return [v.detach().double() for v in listed if torch.is_tensor(v) and v.is_floating_point()]

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.inputs[module] = tensors([*args, *kwargs.values()])

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        found.outputs[module] = tensors(output)

    def silence(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(output)

    def part(number: int) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            found.parts[number] = first_tensor(output).detach().double().reshape(-1, hidden)

        return hook

    def whole(module: nn.Module, args: tuple, output: Any) -> None:
        found.output = first_tensor(output).detach().double()

    handles = [module.register_forward_hook(silence) for module in silent]
    for module in own:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    handles += [module.register_forward_hook(part(number)) for number, module in enumerate(layer.parts)]
    handles.append(decoder_layer.register_forward_hook(whole))
    try:
        with torch.no_grad(), eager(model):
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def of_layer(model: nn.Module, layer: MoELayer, ids: torch.Tensor) -> After:
    """Follow MoE_l through one decoder layer. Raises AssertionError where the layer adds something else."""
    loud, silent = run(model, layer, (), ids), run(model, layer, list(layer.leaves.values()), ids)
    change, added = loud.moe - silent.moe, loud.output - silent.output
    if (gate := getattr(decoder_layers(model)[layer.index], "per_layer_input_gate", None)) is not None:
        added = loud.inputs[gate][0] - silent.inputs[gate][0]  # Gemma's stream before it turns into more than a sum
    hidden = change.shape[1]
    passed: list[nn.Module] = []
    while (factor := _constant(added, change)) is None:
        following = _entered(change, loud, silent, passed)
        if following is None:
            _check_lanes(added.reshape(len(change), -1, hidden), change, loud)
            break
        passed.append(following)
        change = (loud.outputs[following][0] - silent.outputs[following][0]).reshape(-1, hidden)
    return After(tuple(passed), factor, silent.moe)


def of_architecture(model: nn.Module) -> After:
    """Of a model's last layer, over three tokens."""
    return of_layer(model, layers(model)[-1], torch.tensor([[40, 41, 8]]))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to float32's rounding."""
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _constant(added: torch.Tensor, change: torch.Tensor) -> float | None:
    """The one number by which all of `change` was multiplied before it was added; None where there is none."""
    if added.numel() != change.numel():
        return None
    added = added.reshape(change.shape)
    factor = float((added * change).sum() / change.square().sum())
    return factor if abs(factor) > 1e-3 and close(added, factor * change) else None


def _entered(change: torch.Tensor, loud: Run, silent: Run, passed: list[nn.Module]) -> nn.Module | None:
    """The layer's module whose input changes by exactly `change`."""
    for module, states in loud.inputs.items():
        for with_experts, without in zip(states, silent.inputs[module], strict=True):
            difference = with_experts - without
            fits = module not in passed and difference.numel() == change.numel()
            if fits and close(difference.reshape(change.shape), change):
                return module
    return None


def _check_lanes(added: torch.Tensor, change: torch.Tensor, loud: Run) -> None:
    """Every lane of the stream gets MoE_l times the weight that a hyper-connection of the layer gave it."""
    weights = (added * change[:, None]).sum(2) / change.square().sum(1)[:, None]  # (tokens, lanes)
    assert close(weights[:, :, None] * change[:, None], added), "the layer adds something else than MoE_l"
    given = [o for module, outputs in loud.outputs.items() for o in outputs if o.numel() == weights.numel()]
    assert weights.shape[1] > 1, "the layer weighs MoE_l token by token"
    assert any(close(o.reshape(weights.shape), weights) for o in given), "no hyper-connection gave these weights"
