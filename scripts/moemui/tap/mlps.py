"""One MLP of a model as MUI sees it: which of its linear maps is the gate, up and down projection, and how to watch it.

The MLP's own code between its projections is never copied: where act(x W_gate) is wanted, that code runs once more on
the projections' outputs, with up's held at a value whose factor is known.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

Foreign = Any  # a module of transformers: what it has besides nn.Module differs by class
# (gate, up, down), then (gate and up fused, or up alone, down), as transformers names them.
GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
OTHERS = (
    ("gate_up_proj", "down_proj"),
    ("input_linear", "output_linear"),
    ("up_proj", "down_proj"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)
READABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # a float8 needs scales that lie elsewhere
SUPPORTED = (
    "supported are MoE blocks that run through transformers' experts dispatch or keep one MLP a module, with shared "
    "experts or without, and dense MLPs, whose projections are plain linear maps"
)


class UnsupportedModelError(ValueError):
    """A structure whose contributions cannot be told apart; the text names the module and the reason."""


@dataclass(frozen=True)
class UpProbe:
    """An output of up, the same for all neurons, and the factor by which it multiplies act(gate)."""

    up: float
    factor: float

    def activation(self, product: torch.Tensor) -> torch.Tensor:
        """act(gate) from act(gate) times the factor."""
        return product if self.factor == 1 else product / self.factor


@dataclass(frozen=True, eq=False)
class MLP:
    """act(x W_gate) ⊙ up(x W_up) → W_down, or act(x W_up) → W_down where there is no gate.

    gate, up, down: names of the linear maps in `module`; gate and up are the same where one map computes both (the
    gate's half first), and gate is None where there is none.
    """

    name: str
    module: Foreign
    gate: str | None
    up: str
    down: str

    @property
    def width(self) -> int:
        """Neurons."""
        return int(self.part("down").in_features)

    @property
    def fused(self) -> bool:
        """Whether one linear map computes gate and up."""
        return self.gate == self.up

    @cached_property
    def up_probe(self) -> UpProbe | None:
        """How to get act(x W_gate) alone out of the MLP's own code; None without a gate.

        Raises UnsupportedModelError where what lies between the projections is no act(gate) times a function of up.
        """
        if self.gate is None:
            return None

        def at(gate: float, up: float, others: float | None = None) -> float:
            device = self.part("down").weight.device
            gates, ups = (torch.full((1, self.width), v, dtype=torch.float32, device=device) for v in (gate, up))
            gates[:, 1:] = gate if others is None else others
            both = torch.cat([gates, ups], dim=-1)
            return float(between(self, both, both)[0, 0] if self.fused else between(self, gates, ups)[0, 0])

        return probe_up(f"{self.name} ({type(self.module).__name__})", at)

    def part(self, which: str) -> Foreign:
        """The linear map that is the "gate", "up" or "down" projection."""
        return self.module._modules[getattr(self, which)]

    def activation(self, gate_output: torch.Tensor, probe: UpProbe) -> torch.Tensor:
        """act(x W_gate) from the output of `part("gate")`: (…, width)."""
        if self.fused:
            outputs = gate_output.clone()
            outputs[..., self.width :] = probe.up
            return probe.activation(between(self, outputs, outputs))
        return probe.activation(between(self, gate_output, torch.full_like(gate_output, probe.up)))


def describe(name: str, module: Foreign) -> MLP:
    """Find the projections of an MLP. name: where it lies in the model, for messages.

    Raises UnsupportedModelError where a projection is missing or is no plain linear map.
    """
    children = module._modules
    found: MLP | None = None
    for gate, up, down in GATED:
        if all(part in children for part in (gate, up, down)):
            found = MLP(name, module, gate, up, down)
    if found is None:
        for up, down in OTHERS:
            if up in children and down in children:
                found = MLP(name, module, None, up, down)
                break
    if found is None:
        wanted = "gate_proj, up_proj and down_proj"
        raise UnsupportedModelError(f"{name} ({type(module).__name__}) has no {wanted} or the like; {SUPPORTED}")
    needed = [
        parameter.name
        for parameter in inspect.signature(type(module).forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) > 2:  # self and the hidden states
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) takes {', '.join(needed[2:])} beside the hidden states, so its "
            f"output is not its neurons' alone; {SUPPORTED}"
        )
    for part in ("up", "down") if found.gate is None else ("gate", "up", "down"):
        check_linear(f"{name}.{getattr(found, part)}", found.part(part))
    if found.gate is None and found.part("up").out_features == 2 * found.width:
        return replace(found, gate=found.up)
    return found


def check_linear(name: str, part: Foreign) -> None:
    """Refuse a projection whose weights can't be read as they are used."""
    weight = getattr(part, "weight", None)
    if not isinstance(part, nn.Linear) or not torch.is_tensor(weight) or weight.dtype not in READABLE:
        dtype = f" of {weight.dtype}" if torch.is_tensor(weight) else ""
        raise UnsupportedModelError(
            f"{name} is a {type(part).__name__}{dtype}, so its weights can't be read as they are used; if it is "
            f"quantised or an adapter, load the model without that; {SUPPORTED}"
        )


def probe_up(name: str, at: Callable[..., float]) -> UpProbe:
    """How to get act(gate) out of one neuron's intermediate activation, act(gate) · b(up).

    at(gate, up, others=None): that activation in float32, where the other neurons' gate is `others` (else the same).
    b is up in SwiGLU and up + 1 in GPT-OSS, either clamped or capped: b(u) − b(0) is odd and grows like u around 0, and
    no act is. Raises UnsupportedModelError where `at` is no such product: act(gate) then has no meaning.
    """
    points = ((0.5, 0.25), (0.1, 0.1), (-1.0, 0.5))
    equal = [(at(gate, up) * at(-2 * gate, 3 * up), at(gate, 3 * up) * at(-2 * gate, up)) for gate, up in points]
    equal += [(at(gate, up) + at(gate, -up), 2 * at(gate, 0.0)) for gate, up in points]
    equal += [(at(gate, up), at(gate, up, others=5.0)) for gate, up in points]
    step = 3e-3  # truncation and float32's rounding weigh about the same
    slope = (at(1.0, step) - at(1.0, -step)) / (2 * step)
    size = max(abs(at(gate, up)) for gate, up in points)
    if slope == 0 or any(abs(a - b) > 1e-5 * (abs(a) + abs(b)) + 1e-6 * size**2 + 1e-12 for a, b in equal):
        raise UnsupportedModelError(
            f"what {name} has between its projections is no act(gate) times a factor from the same neuron's up, so "
            "act(gate) has no meaning; this model can't be measured"
        )
    up = 0.0 if abs(at(1.0, 0.0) / slope) > 0.5 else 1.0
    factor = at(1.0, up) / slope
    return UpProbe(up, round(factor) if abs(factor - round(factor)) < 1e-3 else factor)


def between(mlp: MLP, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """What the MLP's own code makes of its gate's and up's outputs: the input of its down projection."""
    stand_in, down = copy.copy(mlp.module), _Down()
    given: dict[str, nn.Module] = {mlp.up: _Given(up), mlp.down: down}
    if mlp.gate is not None:
        given[mlp.gate] = _Given(gate)
    stand_in.__dict__["_modules"] = {**mlp.module._modules, **given}
    type(mlp.module).forward(stand_in, gate)
    assert down.seen is not None
    return down.seen


def watch(
    mlp: MLP,
    *,
    keep: torch.Tensor | None,
    probe: UpProbe | None,
    passed: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None,
    wanted: torch.Tensor | None = None,
) -> list[Any]:
    """Hook an MLP; returns the handles.

    keep: (width,), 1 keeps a neuron and 0 masks it; None masks none.
    passed: called after each pass with act(x W_gate) and what was multiplied with W_down, both (rows, width), and the
    down projection's output, and returns the output to go on with; None observes nothing.
    wanted: numbers of the rows to keep, int64; None keeps all.
    """
    seen: dict[str, torch.Tensor] = {}

    def rows(states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        return flat if wanted is None else flat[wanted.to(flat.device)]

    def after_gate(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["gate"] = output

    def before_down(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        masked = inputs[0] if keep is None else inputs[0] * keep.to(inputs[0])
        seen["intermediate"] = masked
        return None if keep is None else (masked, *inputs[1:])

    def after_down(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        assert passed is not None
        with torch.no_grad():
            intermediate = activation = rows(seen.pop("intermediate"))
            if probe is not None:
                activation = mlp.activation(rows(seen.pop("gate")), probe)
        return passed(activation, intermediate, output)

    handles = [mlp.part("down").register_forward_pre_hook(before_down)]
    if passed is not None:
        handles.append(mlp.part("down").register_forward_hook(after_down))
        if probe is not None:
            handles.append(mlp.part("gate").register_forward_hook(after_gate))
    return handles


class _Given(nn.Module):
    """A projection whose output is known."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = output

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.output


class _Down(nn.Module):
    """A down projection that only remembers its input."""

    seen: torch.Tensor | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.seen = states
        return states
