"""How the oracle reads a model: its MoE layers, the weights of every expert, and the formulas of their gates.

Nothing here comes from the package under test. Classes with a gate of their own have it written out by hand, and what
is not known raises LookupError instead of being guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import _default_apply_gate

SHARED_NAMES = ("shared_experts", "shared_expert", "shared_mlp")
# RMS norms between the experts and the block's output, by the block's class.
NORMS_AFTER_EXPERTS = {"AXK1MoE": "post_mlp_layernorm"}
# Where experts and dense MLP sit on the decoder layer, which adds norm(experts) + norm(MLP): the names of both norms.
BRANCH_NORMS = {
    "Gemma4TextDecoderLayer": ("post_feedforward_layernorm_2", "post_feedforward_layernorm_1"),
    "DiffusionGemmaEncoderTextLayer": ("post_feedforward_layernorm_2", "post_feedforward_layernorm_1"),
}
# (up, down) of MLPs without a gate, beside up_proj and down_proj.
UNGATED = (("fc1", "fc2"), ("dense_h_to_4h", "dense_4h_to_h"), ("c_fc", "c_proj"), ("fc_in", "fc_out"))
Array = np.ndarray


def numbers(tensor: torch.Tensor) -> Array:
    """A tensor in float64."""
    return tensor.detach().double().numpy()


# ---------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class MoELayer:
    """One layer with experts, or a dense layer's MLP.

    block: the module that owns the experts; a dense layer's MLP. shared: the MLP that always runs; None without one.
    parts: the modules whose outputs add up to MoE_l. That is the block, and beside it a shared MLP outside of it; where
    the experts sit on the decoder layer itself, it is the norm of the experts and that of the dense MLP beside them.
    """

    index: int
    block: nn.Module
    experts: nn.Module | None
    shared: nn.Module | None
    parts: tuple[nn.Module, ...]

    @property
    def leaves(self) -> dict[str, nn.Module]:
        """The modules whose outputs the neurons add up to, "routed" and "shared", where the layer has them."""
        found = {"routed": self.experts, "shared": None if self.shared is None else down_projection(self.shared)}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def branched(self) -> bool:
        """Whether experts and MLP go through a norm each before they are added."""
        return type(self.block).__name__ in BRANCH_NORMS and self.experts is not None

    @property
    def routed(self) -> int:
        """E_r."""
        return 0 if self.experts is None else len(self.experts.down_proj)

    @property
    def width(self) -> int:
        """N, the neurons of a routed expert; 0 without one."""
        return 0 if self.experts is None else len(routed_expert(self.experts, 0).down)

    @property
    def shared_neurons(self) -> int:
        """Neurons of all shared experts together."""
        return 0 if self.shared is None else sum(len(expert.down) for expert in shared_experts(self.shared))

    @property
    def shared_split(self) -> tuple[int, int]:
        """E_s and the neurons of one: experts of N neurons if the shared MLP is that many times as wide, else one."""
        total = self.shared_neurons
        if not total:
            return 0, 0
        return (total // self.width, self.width) if self.width and total % self.width == 0 else (1, total)


def layers(model: nn.Module) -> list[MoELayer]:
    """The MoE layers of a model in order; of a model without experts, all its MLPs. Experts for images are left out."""
    decoder = decoder_layers(model)
    found = [layer for index, inside in enumerate(decoder) if (layer := _moe_layer(index, inside)) is not None]
    if found:
        return found
    dense = [inside.mlp if hasattr(inside, "mlp") else inside.shared_mlp for inside in decoder]
    return [MoELayer(index, mlp, None, mlp, (mlp,)) for index, mlp in enumerate(dense)]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers in order."""
    decoder = model.get_decoder()
    return list(decoder.layers if hasattr(decoder, "layers") else decoder.h)


def _moe_layer(index: int, decoder_layer: nn.Module) -> MoELayer | None:
    owners = [
        (owner, child)
        for name, owner in decoder_layer.named_modules()
        for child in owner.children()
        if hasattr(child, "_is_expert_parallel") and "vision" not in name
    ]
    if not owners:
        return None
    ((block, experts),) = owners
    if block is decoder_layer:
        norms = tuple(getattr(block, name) for name in BRANCH_NORMS[type(block).__name__])
        return MoELayer(index, block, experts, block.mlp, norms)
    shared = [module for name, module in decoder_layer.named_modules() if name.rsplit(".", 1)[-1] in SHARED_NAMES]
    if not shared:
        return MoELayer(index, block, experts, None, (block,))
    (mlp,) = shared
    return MoELayer(index, block, experts, mlp, (block,) if contains(block, mlp) else (block, mlp))


def contains(module: nn.Module, other: nn.Module) -> bool:
    """Whether `other` is `module` or lies inside of it."""
    return any(inside is other for inside in module.modules())


# ---------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Expert:
    """One gated MLP in float64: matrices with one row a neuron, and biases; gate is None where there is none."""

    gate: Array | None
    up: Array
    down: Array
    gate_bias: Array
    up_bias: Array
    down_bias: Array


def _expert(
    gate: Array | None,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
) -> Expert:
    width, hidden = down.shape
    return Expert(
        gate,
        up,
        down,
        np.zeros(width) if gate_bias is None else gate_bias,
        np.zeros(width) if up_bias is None else up_bias,
        np.zeros(hidden) if down_bias is None else down_bias,
    )


def routed_expert(experts: nn.Module, number: int) -> Expert:
    """The weights of one routed expert."""

    def rows(name: str) -> Array:
        matrix = numbers(getattr(experts, name)[number])
        return matrix.T if experts.is_transposed else matrix

    def bias(name: str) -> Array | None:
        return numbers(getattr(experts, name)[number]) if experts.has_bias else None

    down = rows("down_proj").T
    if not experts.has_gate:
        return _expert(None, rows("up_proj"), down, None, bias("up_proj_bias"), bias("down_proj_bias"))
    both, both_bias = rows("gate_up_proj"), bias("gate_up_proj_bias")
    half = len(both) // 2
    gate, up = (slice(half), slice(half, None)) if experts.is_concatenated else (slice(0, None, 2), slice(1, None, 2))
    biases = (None, None) if both_bias is None else (both_bias[gate], both_bias[up])
    return _expert(both[gate], both[up], down, *biases, bias("down_proj_bias"))


def shared_experts(mlp: nn.Module) -> list[Expert]:
    """The weights of a shared or dense MLP: one wide expert, or several where its weights have three dimensions."""

    def linear(name: str) -> tuple[Array, Array | None]:
        module = getattr(mlp, name)
        return numbers(module.weight), None if module.bias is None else numbers(module.bias)

    names = {name for name, _ in (*mlp.named_children(), *mlp.named_parameters(recurse=False))}
    ungated = next((pair for pair in (("up_proj", "down_proj"), *UNGATED) if names.issuperset(pair)), None)
    down_name = "output_linear" if "output_linear" in names else "down_proj"
    if isinstance(getattr(mlp, "down_proj", None), nn.Parameter):
        three = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        return [_expert(numbers(gate), numbers(up), numbers(down).T) for gate, up, down in zip(*three, strict=True)]
    if {"gate_proj", "up_proj", "down_proj"} <= names:
        (gate, gate_bias), (up, up_bias) = linear("gate_proj"), linear("up_proj")
    elif ungated is not None:
        gate, gate_bias, (up, up_bias) = None, None, linear(ungated[0])
        down_name = ungated[1]
    elif {"gate_up_proj", "down_proj"} <= names or {"input_linear", "output_linear"} <= names:
        both, both_bias = linear("gate_up_proj" if "gate_up_proj" in names else "input_linear")
        gate, up = np.split(both, 2)
        gate_bias, up_bias = (None, None) if both_bias is None else np.split(both_bias, 2)
    else:
        raise LookupError(f"the oracle knows no MLP made of {sorted(names)} ({type(mlp).__name__})")
    down, down_bias = linear(down_name)
    return [_expert(gate, up, down.T, gate_bias, up_bias, down_bias)]


def down_projection(mlp: nn.Module) -> nn.Module:
    """The linear map that is a shared MLP's down projection; the MLP itself where it has no such module."""
    for name in ("down_proj", "output_linear", *(down for _, down in UNGATED)):
        if isinstance(found := getattr(mlp, name, None), nn.Linear):
            return found
    return mlp


# ---------------------------------------------------------------------------------------------- gates

Gate = Callable[[nn.Module, float, float], tuple[float, float]]


def sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))


def silu(z: float) -> float:
    return z * sigmoid(z)


def gelu_tanh(z: float) -> float:
    return float(0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))))


def gelu(z: float) -> float:
    return z * (1 + erf(z / np.sqrt(2))) / 2


ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "silu": silu,
    "SiLU": silu,
    "SiLUActivation": silu,
    "GELUActivation": gelu,
    "GELUTanh": gelu_tanh,
    "NewGELUActivation": gelu_tanh,
    "ReLUSquaredActivation": lambda z: max(z, 0.0) ** 2,
}


def act(mlp: nn.Module, z: float) -> float:
    """The activation function that a class was given, from its name."""
    function = next(
        getattr(mlp, name) for name in ("activation", "act_fn", "activation_fn", "act") if hasattr(mlp, name)
    )
    name = getattr(function, "__name__", type(function).__name__)
    if name not in ACTIVATIONS:
        raise LookupError(f"the oracle knows no activation {name} ({type(mlp).__name__}); write it out in ACTIVATIONS")
    return ACTIVATIONS[name](z)


def _plain(mlp: nn.Module, gate: float, up: float) -> tuple[float, float]:
    return act(mlp, gate), up


def _clamped(mlp: nn.Module, gate: float, up: float) -> tuple[float, float]:
    limit = mlp.limit if hasattr(mlp, "limit") else mlp.swiglu_limit
    return silu(min(gate, limit)), float(np.clip(up, -limit, limit))


def _clamped_plus_one(mlp: nn.Module, gate: float, up: float) -> tuple[float, float]:
    limit, alpha = (mlp.limit, mlp.alpha) if hasattr(mlp, "alpha") else (mlp.swiglu_limit, mlp.swiglu_alpha)
    gate = min(gate, limit)
    return gate * sigmoid(alpha * gate), float(np.clip(up, -limit, limit)) + 1


def _soft_capped(mlp: nn.Module, gate: float, up: float) -> tuple[float, float]:
    gate_cap, up_cap = mlp.act_fn.gate_softcap.softcap, mlp.act_fn.up_softcap.softcap
    return gate_cap * float(np.tanh(gate / gate_cap)) * sigmoid(gate), up_cap * float(np.tanh(up / up_cap))


# (gate, up) → activation and the factor that up makes of it: the classes with formulas of their own.
GATES: dict[str, Gate] = {
    "BeamExperts": _plain,  # its own only in that it computes in float32
    "DeepseekV4Experts": _clamped,
    "DeepseekV4MLP": _clamped,
    "Glm5NextTextExperts": _clamped,
    "Glm5NextTextMLP": _clamped,
    "GptOssExperts": _clamped_plus_one,
    "HYV4Experts": _clamped,
    "Inkling2Experts": _soft_capped,
    "MiniMaxM3VLDenseMLP": _clamped_plus_one,
    "MiniMaxM3VLExperts": _clamped_plus_one,
    "OpenAIPrivacyFilterExperts": _clamped_plus_one,
}


def has_own_gate(mlp: nn.Module) -> bool:
    """Whether a class of routed experts replaces transformers' act(gate) · up."""
    return getattr(type(mlp), "_apply_gate", _default_apply_gate) is not _default_apply_gate


def gate_formula(mlp: nn.Module) -> Gate:
    """The gate of a class. Raises LookupError for one of its own that is not written out in GATES."""
    name = type(mlp).__name__
    if has_own_gate(mlp) and name not in GATES:
        raise LookupError(f"the oracle has no formula for the gate of {name}; write it out in GATES")
    return GATES.get(name, _plain)


# ---------------------------------------------------------------------------------------------- norms


def rms_factors(norm: nn.Module, weight: Array, states: Array) -> Array:
    """What an RMS norm multiplies these states with: with its scale held at the real value it is a linear map."""
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return weight / np.sqrt((states**2).mean(-1, keepdims=True) + eps)


def factors_after_expert(experts: nn.Module, output: Array) -> Array:
    """What the norm after every single expert multiplies its output with; 1 without such a norm."""
    if not experts.has_post_expert_norm:
        return np.ones(len(output))
    if type(experts).__name__ != "MuseSparkExperts":
        raise LookupError(f"the oracle has no formula for the norm after each expert of {type(experts).__name__}")
    weight = 1 + numbers(experts.post_expert_norm.weight)
    return rms_factors(experts.post_expert_norm, weight, output * weight)  # this norm weighs before it measures
