"""Experts that are a list of modules, as in models that bring their own code (DeepSeek-MoE-16B).

Each expert is called on the rows of the tokens that chose it, in an order of the block's own. Which token a row belongs
to follows from the router's indices and the rows themselves: they are the block's input, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from moemui.tap import mlps
from moemui.tap.experts_forward import RoutedSpan
from moemui.tap.families import Site, UnsupportedModelError
from moemui.tap.mlps import MLP


@dataclass(frozen=True)
class ListedDown:
    """The down projection of one expert, see `experts_forward.Down`."""

    mlp: MLP

    def pull(self, vectors: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        return vectors @ self.mlp.part("down").weight

    def bias(self, expert: torch.Tensor) -> torch.Tensor | None:
        bias = self.mlp.part("down").bias
        return None if bias is None else bias.expand(len(expert), -1)


@dataclass
class ListedExperts:
    """Watches the experts, the router and the block's input of a layer in the pass under way."""

    site: Site
    states: torch.Tensor | None = None  # the block's input, (tokens, H)
    expert: torch.Tensor | None = None  # the router's choice, (tokens, k)
    weight: torch.Tensor | None = None
    rows: dict[int, torch.Tensor] = field(default_factory=dict)  # what each expert was called on
    passed: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def watch(self, keep: torch.Tensor | None, observed: bool) -> list[Any]:
        """Hook the modules; returns the handles. keep: (E_r, N), 1 keeps a neuron and 0 masks it."""
        handles: list[Any] = []
        for number, mlp in enumerate(self.site.listed):
            probe = mlp.up_probe if observed else None
            keep_here = None if keep is None else keep[number]
            handles += mlps.watch(mlp, keep=keep_here, probe=probe, passed=self._passed(number) if observed else None)
            handles.append(mlp.module.register_forward_pre_hook(self._called(number)))
        assert self.site.router is not None
        handles.append(self.site.router.register_forward_hook(self._chosen))
        handles.append(self.site.roots[0].register_forward_pre_hook(self._entered))
        return handles

    def spans(self, wanted: torch.Tensor | None) -> tuple[RoutedSpan, ...]:
        """The pass of the experts, one span each; forgets it. wanted: bool (tokens,), see `capture.Tap`."""
        if self.states is None or self.expert is None or self.weight is None:
            raise UnsupportedModelError(
                f"{self.site.name}: the router {type(self.site.router).__name__} returned no indices and weights of "
                "shape (tokens, experts used), so which token used which expert can't be seen; this model can't be "
                "measured"
            )
        spans = []
        for number, (activation, intermediate) in sorted(self.passed.items()):
            token, choice = (self.expert == number).nonzero(as_tuple=True)
            order = self._rows_of(number, token)
            token, choice = token[order], choice[order]
            weight = self.weight[token, choice].float()
            used = weight != 0 if wanted is None else (weight != 0) & wanted.to(token.device)[token]
            down = ListedDown(self.site.listed[number])
            expert = torch.full_like(token, number)
            spans.append(
                RoutedSpan(token[used], expert[used], weight[used], activation[used], intermediate[used], down)
            )
        self.clear()
        return tuple(spans)

    def clear(self) -> None:
        """Forget the pass under way."""
        self.states = self.expert = self.weight = None
        self.rows.clear()
        self.passed.clear()

    def _rows_of(self, number: int, token: torch.Tensor) -> torch.Tensor:
        """The order in which the tokens that chose an expert are the rows that it was called on."""
        assert self.states is not None
        rows, wanted = self.rows[number], self.states[token]
        order = torch.arange(len(token), device=token.device)
        if rows.shape == wanted.shape and torch.equal(rows, wanted):
            return order
        if rows.shape == wanted.shape:
            # Rows that are equal in all numbers are equal in every score, so any order among them will do.
            order = _sorted(wanted)[torch.argsort(_sorted(rows))]
            if torch.equal(rows, wanted[order]):
                return order
        raise UnsupportedModelError(
            f"{self.site.name}: expert {number} was not called on the hidden states of the {len(token)} tokens that "
            "the router sent to it, so which token used it can't be seen; this model can't be measured"
        )

    def _entered(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.clear()
        self.states = inputs[0].reshape(-1, inputs[0].shape[-1])

    def _called(self, number: int) -> Callable[..., None]:
        def called(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if number in self.rows:
                raise UnsupportedModelError(
                    f"{self.site.name}: expert {number} was called twice in one pass, so its rows can't be told "
                    "apart; this model can't be measured"
                )
            self.rows[number] = inputs[0].reshape(-1, inputs[0].shape[-1])

        return called

    def _passed(self, number: int) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        def passed(activation: torch.Tensor, intermediate: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            self.passed[number] = activation, intermediate
            return output

        return passed

    def _chosen(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        parts = [part for part in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(part)]
        for indices in parts:
            if not indices.is_floating_point() and indices.dtype != torch.bool:
                for weights in parts:
                    if weights.is_floating_point() and weights.shape == indices.shape:
                        self.expert = indices.reshape(-1, indices.shape[-1])
                        self.weight = weights.reshape(self.expert.shape)


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    """An order of rows by their numbers: int64 (rows,)."""
    # A random direction tells rows apart; equal ones keep their order.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
    return torch.argsort(rows.double() @ direction, stable=True)
