"""The shape of a model as MUI sees it: layers, experts, neurons, and how they are numbered.

A neuron has one flat number in the whole model: its layer's offset, plus i·N + j for neuron j of
routed expert i, with the shared experts after the routed ones (SPEC: "Neuron index inside a layer").
Nothing here needs torch, so every analysis can import it in milliseconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layer:
    """One MoE layer; a dense MLP is the case of no routed and one shared expert.

    index: 0-based position among all decoder layers of the model, dense ones included.
    width: N, the neurons of one routed expert; 0 where there is none.
    shared_width: neurons of one shared expert; 0 where there is none.
    top_k: routed experts a token uses.
    """

    index: int
    routed: int
    shared: int
    width: int
    shared_width: int
    top_k: int

    @property
    def experts(self) -> int:
        """E_r + E_s."""
        return self.routed + self.shared

    @property
    def neurons(self) -> int:
        """M_l, the sum of the experts' widths."""
        return self.routed * self.width + self.shared * self.shared_width


@dataclass(frozen=True)
class Geometry:
    """All MoE layers of a model in order, and the numbering of their neurons and experts."""

    layers: tuple[Layer, ...]

    @cached_property
    def layer_offsets(self) -> np.ndarray:
        """Flat number of each layer's first neuron, then the total: int64, (L + 1,)."""
        return np.concatenate([[0], np.cumsum([layer.neurons for layer in self.layers])]).astype(np.int64)

    @cached_property
    def expert_offsets(self) -> np.ndarray:
        """Flat number of each expert's first neuron, then the total: int64, (experts + 1,).

        Experts are numbered through the model: layer by layer, routed before shared.
        """
        widths = [
            width
            for layer in self.layers
            for width in [layer.width] * layer.routed + [layer.shared_width] * layer.shared
        ]
        return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)

    @property
    def neurons(self) -> int:
        """Σ_l M_l, the denominator of MUI."""
        return int(self.layer_offsets[-1])

    @property
    def experts(self) -> int:
        """Σ_l (E_r + E_s), the denominator of KeyExpertProportion."""
        return sum(layer.experts for layer in self.layers)

    @cached_property
    def expert_layer(self) -> np.ndarray:
        """Position in `layers` of every expert: int64, (experts,)."""
        return np.repeat(np.arange(len(self.layers)), [layer.experts for layer in self.layers])

    @cached_property
    def expert_is_shared(self) -> np.ndarray:
        """True for shared experts: bool, (experts,)."""
        return np.array([s >= layer.routed for layer in self.layers for s in range(layer.experts)], dtype=bool)

    @cached_property
    def expert_names(self) -> tuple[str, ...]:
        """Printed names: L17-E8 is routed expert 8 (from 0) of layer 17, L28-S1 its first shared one."""
        return tuple(
            f"L{layer.index}-" + (f"E{e}" if e < layer.routed else f"S{e - layer.routed + 1}")
            for layer in self.layers
            for e in range(layer.experts)
        )

    @cached_property
    def neuron_is_shared(self) -> np.ndarray:
        """True for neurons of shared experts: bool, (neurons,)."""
        return np.repeat(self.expert_is_shared, np.diff(self.expert_offsets))

    def expert_of(self, neurons: np.ndarray) -> np.ndarray:
        """Expert number of every flat neuron number: int64, the shape of `neurons`."""
        return np.searchsorted(self.expert_offsets, neurons, side="right") - 1

    def layer_of(self, neurons: np.ndarray) -> np.ndarray:
        """Position in `layers` of every flat neuron number: int64, the shape of `neurons`."""
        return np.searchsorted(self.layer_offsets, neurons, side="right") - 1

    def key_count(self, threshold: float) -> np.ndarray:
        """k_l = max(1, floor(η·M_l)) of every layer, SPEC section 3: int64, (L,).

        Raises ValueError for a threshold outside (0, 1].
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it is a share of a layer's neurons, above 0 and at most 1")
        # 0.1 % of 8,000 is 8, though 0.001 * 8000 may fall just below it in floating point.
        return np.array([max(1, int(threshold * layer.neurons + 1e-9)) for layer in self.layers], dtype=np.int64)

    def to_dict(self) -> dict[str, list[dict[str, int]]]:
        """Plain types, for JSON and store attributes."""
        return {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, record: dict[str, list[dict[str, int]]]) -> Geometry:
        """The inverse of `to_dict`."""
        return cls(tuple(Layer(**layer) for layer in record["layers"]))
