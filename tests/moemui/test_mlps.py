"""One MLP: act(gate) by hand under ups that are clamped, shifted or capped, and MLPs that are refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import tiny_models
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tap import families, mlps

GATES = torch.tensor([[0.0, 1.0, -2.0, 3.0]])
SILU = torch.tensor([[0.0, 0.731059, -0.238406, 2.857722]])  # z / (1 + exp(−z))
UPS = torch.tensor([[0.5, 2.0, -0.25, -3.0]])


class Gated(nn.Module):
    """An MLP of four neurons whose gate is the first half of its input, and up the second."""

    def __init__(self, up):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.down_proj = nn.Linear(4, 8, bias=False)
        self.gate_proj.weight.data = torch.eye(8)[:4]
        self.up_proj.weight.data = torch.eye(8)[4:]
        self.up = up

    def forward(self, states):
        return self.down_proj(nn.functional.silu(self.gate_proj(states)) * self.up(self.up_proj(states)))


class Fused(nn.Module):
    """Gate and up from one linear map, in the order given."""

    def __init__(self, gate_first, up=lambda up: up, hidden=8, width=4):
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden, 2 * width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)
        if 2 * width == hidden:
            self.gate_up_proj.weight.data = torch.eye(hidden)
        self.gate_first, self.up = gate_first, up

    def forward(self, states):
        halves = self.gate_up_proj(states).chunk(2, dim=-1)
        gate, up = halves if self.gate_first else halves[::-1]
        return self.down_proj(nn.functional.silu(gate) * self.up(up))


def watched(module):
    """act(gate) and what is multiplied with W_down, as the hooks see them for the inputs (GATES, UPS)."""
    mlp = mlps.describe("layer.mlp", module.requires_grad_(False))
    seen = []

    def passed(activation, intermediate, output):
        seen.append((activation, intermediate))
        return output

    handles = mlps.watch(mlp, keep=None, probe=mlp.up_probe, passed=passed)
    module(torch.cat([GATES, UPS], dim=1))
    for handle in handles:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("up", "ups"),
    [
        (lambda up: up, [0.5, 2.0, -0.25, -3.0]),
        (lambda up: up.clamp(-1.5, 1.5), [0.5, 1.5, -0.25, -1.5]),
        (lambda up: up.clamp(-0.3, 0.3), [0.3, 0.3, -0.25, -0.3]),  # no up at all gives a factor of 1
        (lambda up: up + 1, [1.5, 3.0, 0.75, -2.0]),
        (lambda up: up.clamp(-2.5, 2.5) + 1, [1.5, 3.0, 0.75, -1.5]),
        (lambda up: 2 * torch.tanh(up / 2), [0.489837, 1.523188, -0.248706, -1.810297]),
    ],
    ids=["plain", "clamped", "clamped below 1", "plus 1", "clamped, plus 1", "capped by tanh"],
)
@pytest.mark.parametrize("kind", [Gated, lambda up: Fused(True, up)], ids=["two maps", "one map"])
def test_act_of_gate_by_hand(kind, up, ups):
    activation, intermediate = watched(kind(up))
    torch.testing.assert_close(activation, SILU, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(intermediate, SILU * torch.tensor([ups]), rtol=1e-5, atol=1e-6)


def test_a_norm_across_neurons_before_the_down_projection_is_refused_by_name():
    config = transformers.BitNetConfig(**tiny_models.COMMON, intermediate_size=24)
    model = transformers.BitNetForCausalLM(config).eval().requires_grad_(False)
    with pytest.raises(
        families.UnsupportedModelError, match=r"model\.layers\.0\.mlp \(BitNetMLP\) has between its pro"
    ):
        Scorer(model, Options(largest_threshold=0.2)).score([Sample("a", [5, 6], [7])])


def test_a_fused_map_that_computes_up_first_is_refused_by_name():
    model = tiny_models.build("llama")
    for layer in model.model.layers:
        layer.mlp = Fused(False, hidden=32, width=24).requires_grad_(False)
    with pytest.raises(families.UnsupportedModelError, match=r"model\.layers\.0\.mlp \(Fused\) has between its proj"):
        Scorer(model, Options(largest_threshold=0.2)).score([Sample("a", [5, 6], [7])])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_that_need_scales_from_elsewhere_are_refused_with_their_type(dtype):
    model = tiny_models.build("llama")
    down = model.model.layers[1].mlp.down_proj
    down.weight.data = down.weight.data.to(dtype)
    with pytest.raises(
        families.UnsupportedModelError, match=rf"layers\.1\.mlp\.down_proj is a Linear of {dtype}, so its weights"
    ):
        families.sites(model)
