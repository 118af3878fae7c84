"""Where the weights of a model's neurons lie, as arrays that can be read and written neuron by neuron.

Architectures keep them in many layouts: experts in one 3-D weight, transposed or not, gate and up one after the other
or interleaved, with biases or without; several shared experts fused into one MLP. A `Group` is the experts of one kind
in a layer, each of whose weights it shows as (experts, neurons, …).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from moemui.tap import experts_forward, families, mlps
from moemui.tap.families import SharedStack, Site, UnsupportedModelError
from moemui.tap.mlps import MLP, Foreign


class Part(NamedTuple):
    """A weight or bias of some experts: its axis `axis` unfolds into what `order` names. output: whether it is W_down.

    Where `order` does not name the expert, the first axis is it.
    """

    tensor: nn.Parameter
    axis: int
    order: tuple[str, ...]
    output: bool = False

    @property
    def is_bias(self) -> bool:
        """Whether each neuron has one number of it, or one for its gate and one for up."""
        return self.tensor.dim() == (1 if "expert" in self.order else 2)


@dataclass(frozen=True)
class Group:
    """The routed or the shared experts of a layer. first: flat number of their first neuron. width: neurons of each."""

    name: str
    first: int
    experts: int
    width: int
    parts: tuple[Part, ...]

    def view(self, part: Part) -> torch.Tensor:
        """A part as (experts, neurons, …); what is written to it is written to the model."""
        sizes = {"expert": self.experts, "neuron": self.width, "half": 2}
        unfolded = part.tensor.detach().unflatten(part.axis, [sizes[name] for name in part.order])
        neuron = part.axis + part.order.index("neuron")
        if "expert" in part.order:
            return unfolded.movedim((part.axis + part.order.index("expert"), neuron), (0, 1))
        return unfolded.movedim(neuron, 1)

    def holds(self, neurons: np.ndarray) -> np.ndarray:
        """Which flat numbers are of these experts: bool, the shape of `neurons`."""
        return (neurons >= self.first) & (neurons < self.first + self.experts * self.width)

    def place(self, neurons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expert, from 0, and place in it of flat numbers that these experts hold."""
        return np.divmod(neurons - self.first, self.width)

    def numbers(self) -> np.ndarray:
        """The flat numbers: int64, (experts, neurons)."""
        return self.first + np.arange(self.experts * self.width).reshape(self.experts, self.width)

    def vectors(self, *, output: bool = True) -> torch.Tensor:
        """All weights of each neuron behind one another, without biases: float32, (experts, neurons, weights).

        output: whether those of W_down are among them.
        """
        wanted = [part for part in self.parts if not part.is_bias and (output or not part.output)]
        return torch.cat([self.view(part).flatten(2).float() for part in wanted], dim=2)


def groups(sites: Sequence[Site]) -> Iterator[Group]:
    """The routed, then the shared experts of every layer, in the order of their neurons' numbers.

    Raises UnsupportedModelError for experts that are one module each, shared experts in one 3-D weight, and experts
    whose neurons are not apart from each other between the projections, or not silent there with all weights 0.
    """
    offsets = families.geometry(list(sites)).layer_offsets
    for site, first in zip(sites, offsets, strict=False):
        layer, experts = site.layer, site.experts
        if site.listed or isinstance(site.shared, SharedStack):
            what = "its experts as one module each" if site.listed else "its shared experts in one 3-D weight"
            raise UnsupportedModelError(f"{site.name} keeps {what}, where surgery does not reach; choose another model")
        if experts is not None:
            yield Group(site.name, int(first), layer.routed, layer.width, _routed(experts, site.name, layer.width))
        if isinstance(site.shared, MLP):
            start = int(first) + layer.routed * layer.width
            yield Group(site.shared.name, start, layer.shared, layer.shared_width, _fused(site.shared))


def _routed(experts: Foreign, name: str, width: int) -> tuple[Part, ...]:
    experts_forward.up_probe(experts, name)  # refuses gates that mix neurons
    rest = torch.zeros(1, width * (2 if experts.has_gate else 1), device=experts.down_proj.device)
    _refuse_restless(name, experts._apply_gate(rest) if experts.has_gate else experts.act_fn(rest))
    into: str = "up_proj"
    order: tuple[str, ...] = ("neuron",)
    if experts.has_gate:
        into = "gate_up_proj"
        order = ("half", "neuron") if experts.is_concatenated else ("neuron", "half")
    parts = [
        Part(getattr(experts, into), 2 if experts.is_transposed else 1, order),
        Part(experts.down_proj, 1 if experts.is_transposed else 2, ("neuron",), output=True),
    ]
    if experts.has_bias:
        parts.append(Part(getattr(experts, f"{into}_bias"), 1, order))
    return tuple(parts)


def _fused(mlp: MLP) -> tuple[Part, ...]:
    _ = mlp.up_probe  # refuses gates that mix neurons
    rest = torch.zeros(1, mlp.width * (2 if mlp.fused else 1), device=mlp.part("down").weight.device)
    _refuse_restless(mlp.name, mlps.between(mlp, rest, rest))
    order = ("half", "expert", "neuron") if mlp.fused else ("expert", "neuron")
    maps = [mlp.part("up")] if mlp.gate is None or mlp.fused else [mlp.part("gate"), mlp.part("up")]
    parts = [Part(tensor, 0, order) for m in maps for tensor in (m.weight, m.bias) if tensor is not None]
    return (*parts, Part(mlp.part("down").weight, 1, ("expert", "neuron"), output=True))


def _refuse_restless(name: str, intermediate: torch.Tensor) -> None:
    if bool((intermediate != 0).any()):
        raise UnsupportedModelError(
            f"{name}: a neuron all of whose weights are 0 has the activation {float(intermediate.max()):g}, so none "
            "can be added that does nothing; choose another model"
        )
