"""What passes through one layer's experts in a forward pass, as the tap hands it to an observer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moemui.tap.experts_forward import RoutedPass


@dataclass(frozen=True)
class SharedPass:
    """What went through a layer's shared experts, for the tokens that are wanted.

    token: their places in the flattened batch, int64 (rows,), ascending; None for all of them.
    activation: act(x W_gate); intermediate: what is multiplied with W_down; both (rows, neurons).
    weight: the factor G_s that intermediate does not hold yet, (rows, E_s), or None where the block applies it later.
    down: (neurons, H); bias: (H,) or None.
    """

    token: torch.Tensor | None
    activation: torch.Tensor
    intermediate: torch.Tensor
    weight: torch.Tensor | None
    down: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Pulled:
    """Vectors of MoE_l's space pulled back to the outputs of the routed and the shared experts: (tokens, their width).

    Where nothing lies between, they are the vectors that were given. bias: (tokens,), the vectors times what linear
    maps in between add of their own, which belongs to no neuron; None where they add nothing.
    mixed: "routed" or "shared" where a norm or a linear map lies between; what only scales belongs to G.
    """

    routed: torch.Tensor
    shared: torch.Tensor
    bias: torch.Tensor | None
    mixed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LayerPass:
    """One layer's pass: its experts, and MoE_l (tokens, H)."""

    routed: RoutedPass | None
    shared: SharedPass | None
    output: torch.Tensor
    _outputs: tuple[torch.Tensor, ...]
    _leaves: dict[str, torch.Tensor]
    _biases: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    _mixed: frozenset[str]

    def pull(self, vectors: torch.Tensor) -> Pulled:
        """Pull vectors (tokens, H) back through whatever lies between the experts and MoE_l; works once a pass."""
        outputs = [output for output in self._outputs if output.requires_grad]
        if not outputs:
            return Pulled(vectors, vectors, None)
        names = list(self._leaves)
        leaves = [*self._leaves.values(), *(leaf for leaf, _ in self._biases)]
        given = [vectors.to(output.dtype).view(output.shape) for output in outputs]
        grads = torch.autograd.grad(outputs, leaves, given, allow_unused=True)
        flat = [None if grad is None else grad.reshape(-1, grad.shape[-1]) for grad in grads]
        pulled = {name: grad for name, grad in zip(names, flat, strict=False) if grad is not None}
        terms = [
            (grad.float() * bias.float()).sum(1)
            for grad, (_, bias) in zip(flat[len(names) :], self._biases, strict=True)
            if grad is not None
        ]
        bias = torch.stack(terms).sum(0) if terms else None
        return Pulled(pulled.get("routed", vectors), pulled.get("shared", vectors), bias, self._mixed)
