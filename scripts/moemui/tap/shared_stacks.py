"""Shared experts that are one 3-D weight a projection and take a weight a token from the router (Inkling).

No linear map of theirs can be hooked, so act(x W_gate) and the up projection are computed once more: a few always-on
experts. They are masked by zeroing the masked neurons' rows of W_down while the tap holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from moemui.tap.families import SharedStack

# act(x W_gate), its product with up, both (wanted tokens, E_s·N); G_s (…, E_s); W_down (E_s·N, H); the output.
Passed = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def watch(
    stack: SharedStack, *, keep: torch.Tensor | None, passed: Passed | None, wanted: torch.Tensor | None = None
) -> list[Any]:
    """Hook the shared experts; returns the handles.

    keep: (E_s·N,), 1 keeps a neuron and 0 masks it. wanted: numbers of the tokens to keep, int64; None keeps all.
    """
    module = stack.module

    def after(_: nn.Module, inputs: tuple[Any, ...], words: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        assert passed is not None
        states, weight = (*inputs, *words.values())
        with torch.no_grad():
            flat = states.reshape(-1, states.shape[-1])
            weight = weight.reshape(len(flat), -1)
            if wanted is not None:
                flat, weight = flat[wanted.to(flat.device)], weight[wanted.to(flat.device)]
            gate = torch.einsum("th,enh->ten", flat, module.gate_proj)
            activation = module.act_fn(gate)
            intermediate = activation * torch.einsum("th,enh->ten", flat, module.up_proj)
            down = module.down_proj.transpose(1, 2).flatten(0, 1)
        return passed(activation.flatten(1), intermediate.flatten(1), weight, down, output)

    handles: list[Any] = []
    if keep is not None:
        handles.append(_MaskedWeight(module.down_proj, keep.view(len(module.down_proj), 1, -1)))
    if passed is not None:
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    return handles


class _MaskedWeight:
    """A weight with masked neurons set to 0 until `remove`."""

    def __init__(self, weight: nn.Parameter, keep: torch.Tensor):
        self.weight, self.before = weight, weight.data
        weight.data = weight.data * keep.to(weight)

    def remove(self) -> None:
        """Give the weight its values back."""
        self.weight.data = self.before
