"""One tap for every architecture: see, score and mask neurons while a model runs as it always does.

transformers runs all routed experts through one dispatch. `Tap` registers an experts forward there that computes what
`grouped_mm` computes, and hooks the shared (or dense, or listed) MLPs at their projections. What passes by is handed to
an observer or multiplied by a mask; the model's own code is never copied.

What a block does to its experts' sum (a routed scale, an average, a latent projection, a shared expert's gate, a norm)
is not known by name either: head vectors are pulled back through it by autograd, with the scale of norms frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moemui import experts_forward, mlps, shared_stacks
from moemui.experts_forward import RoutedPass, TappedExperts, frozen_norm
from moemui.families import Foreign, Site, UnsupportedModelError
from moemui.layer_pass import LayerPass, SharedPass
from moemui.mlps import MLP
from moemui.module_lists import ListedExperts

IMPLEMENTATION = "moemui"


# Called once a layer, after all of its blocks: (layer position, what passed).
Observer = Callable[[int, LayerPass], None]


class Tap:
    """A context manager under which every forward pass of `model` is observed, masked, or both.

    sites: what `families.sites(model)` returns. observer: gets every layer's pass; None observes nothing.
    masked_neurons: per site the indices inside the layer of the neurons whose intermediate activation is set to 0; None
    masks nothing. On leaving, also after an exception, the model is as it was. Raises UnsupportedModelError for weights
    that are not in memory and gates that are no product, RuntimeError when a layer's experts were bypassed, as hub
    kernels and FP8 experts do.
    """

    def __init__(
        self,
        model: Foreign,
        sites: Sequence[Site],
        *,
        observer: Observer | None = None,
        masked_neurons: Sequence[torch.Tensor] | None = None,
    ):
        if masked_neurons is not None and len(masked_neurons) != len(sites):
            raise ValueError(f"masked_neurons has {len(masked_neurons)} layers, the model {len(sites)}")
        self.model, self.sites = model, sites
        masks: Sequence[torch.Tensor | None] = [None] * len(sites) if masked_neurons is None else masked_neurons
        self._layers = [
            _TappedLayer(position, site, observer, keep_neurons(site, masked))
            for position, (site, masked) in enumerate(zip(sites, masks, strict=True))
        ]
        self._before: str | None = None

    def __enter__(self) -> Tap:
        ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward.forward)
        try:
            if any(site.experts is not None for site in self.sites):
                self._before = self.model.config._experts_implementation
                self.model.set_experts_implementation(IMPLEMENTATION)
            for layer in self._layers:
                layer.attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        for layer in self._layers:
            layer.detach()
        if self._before is not None:
            self.model.set_experts_implementation(self._before)
            self._before = None


def keep_neurons(site: Site, masked: torch.Tensor | None) -> torch.Tensor | None:
    """1 for every neuron of the layer that stays and 0 for a masked one: float32 (M_l,); None where none is masked."""
    if masked is None:
        return None
    layer = site.layer
    if len(masked) and not 0 <= int(masked.min()) <= int(masked.max()) < layer.neurons:
        found = f"{int(masked.min())}..{int(masked.max())}"
        raise ValueError(f"layer {layer.index}: masked neurons {found} lie outside 0..{layer.neurons - 1}")
    keep = torch.ones(layer.neurons)
    keep[masked.long()] = 0
    return keep


@dataclass
class _TappedLayer:
    """The hooks of one layer and what has passed them in the pass under way."""

    position: int
    site: Site
    observer: Observer | None
    keep: torch.Tensor | None
    routed: RoutedPass | None = None
    shared: SharedPass | None = None
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    biases: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    outputs: dict[Foreign, torch.Tensor] = field(default_factory=dict)
    seen: bool = False
    _experts: TappedExperts | None = None
    _listed: ListedExperts | None = None
    _handles: list[Any] = field(default_factory=list)
    _with_gradient: list[nn.Parameter] = field(default_factory=list)
    _grad_before: list[bool] = field(default_factory=list)

    def attach(self) -> None:
        """Hook the layer's modules; `detach` undoes a part of it as well as the whole."""
        site, observed = self.site, self.observer is not None
        self._take_weights()
        keep_routed, keep_shared = self._masks()
        if site.experts is not None:
            probe = experts_forward.up_probe(site.experts, site.name) if observed else None
            self._experts = TappedExperts(keep_routed, probe, self._saw_routed if observed else None, self._saw)
            experts_forward.tap(site.experts, self._experts)
        if site.listed:
            self._listed = ListedExperts(site)
            self._handles += self._listed.watch(keep_routed, observed)
        if isinstance(site.shared, MLP):
            probe = mlps.up_probe(site.shared) if observed else None
            passed = self._saw_shared if observed else None
            self._handles += mlps.watch(site.shared, keep=keep_shared, probe=probe, passed=passed)
        elif site.shared is not None:
            stack_passed = self._saw_stack if observed else None
            self._handles += shared_stacks.watch(site.shared, keep=keep_shared, passed=stack_passed)
        for root in site.roots:
            if observed:
                self._handles.append(root.register_forward_pre_hook(self._before_root))
                for module in root.modules():
                    if "Norm" in type(module).__name__ and not list(module.children()):
                        self._handles.append(module.register_forward_hook(_freeze_norm))
                    elif isinstance(module, nn.Linear) and module.bias is not None:
                        self._handles.append(module.register_forward_hook(self._after_biased))
            self._handles.append(root.register_forward_hook(self._after_root, always_call=True))

    def detach(self) -> None:
        """Let go of the modules, and of what a broken-off pass has left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter in self._with_gradient:
            parameter.requires_grad_(True)
        self._with_gradient.clear()
        if self.site.experts is not None:
            experts_forward.release(self.site.experts, self._experts)
        self._clear()

    def _take_weights(self) -> None:
        for root in self.site.roots:
            for name, parameter in root.named_parameters():
                if parameter.is_meta:
                    raise UnsupportedModelError(
                        f"{self.site.name}: {name} is not in memory (offloaded to CPU or disk); give the model more "
                        "memory or more devices"
                    )
                if self.observer is not None and parameter.requires_grad:
                    # Only head vectors are pulled back; with gradients of weights, every activation would be kept.
                    self._with_gradient.append(parameter.requires_grad_(False))

    def _masks(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if self.keep is None:
            return None, None
        layer, device = self.site.layer, next(self.site.roots[0].parameters()).device
        routed = layer.routed * layer.width
        keep = self.keep.to(device)
        return keep[:routed].view(layer.routed, layer.width), keep[routed:]

    def _saw(self) -> None:
        self.seen = True

    def _saw_routed(self, passed: RoutedPass, output: torch.Tensor) -> torch.Tensor:
        self.routed = passed
        return self._anchor("routed", output)

    def _saw_shared(self, activation: torch.Tensor, intermediate: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.site.shared, MLP)
        down = self.site.shared.part("down")
        self.shared = SharedPass(activation, intermediate, None, down.weight.T, down.bias)
        return self._anchor("shared", output)

    def _saw_stack(
        self,
        activation: torch.Tensor,
        intermediate: torch.Tensor,
        weight: torch.Tensor,
        down: torch.Tensor,
        output: torch.Tensor,
    ) -> torch.Tensor:
        self.shared = SharedPass(activation, intermediate, weight, down, None)
        return self._anchor("shared", output)

    def _anchor(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """The output again, as something that `LayerPass.pull` can pull back to."""
        leaf = self.leaves[name] = output.detach().requires_grad_(True)
        return leaf.clone()  # a block may work in place, which a leaf forbids

    def _after_biased(self, module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """For linear maps that what is observed passes through: mark what their bias adds."""
        if not torch.is_grad_enabled() or not inputs[0].requires_grad:
            return None
        leaf = torch.zeros_like(output).requires_grad_(True)
        bias = module.bias
        assert torch.is_tensor(bias)
        self.biases.append((leaf, bias))
        return output + leaf

    def _before_root(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("neurons can't be observed under torch.inference_mode; use torch.no_grad instead")
        self._grad_before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)

    def _after_root(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if self._grad_before:
            torch.set_grad_enabled(self._grad_before.pop())
        if output is None:  # an exception passes through
            return None
        if module is self.site.roots[0] and self.site.experts is not None and not self.seen:
            raise RuntimeError(
                f"{self.site.name} ran without its experts passing the dispatch (a fused kernel or quantised experts); "
                "load the model without them"
            )
        self.seen = False
        if self.observer is None:
            return None
        self.outputs[module] = _first(output)
        if len(self.outputs) == len(self.site.roots):
            try:
                self._finish(self.observer)
            finally:
                self._clear()
        return _detached(output)

    @torch.no_grad()
    def _finish(self, observer: Observer) -> None:
        routed = self._listed.spans() if self._listed is not None else self.routed
        outputs = tuple(self.outputs.values())
        width = outputs[0].shape[-1]
        total = outputs[0].detach().reshape(-1, width)
        for output in outputs[1:]:
            total = total + output.detach().reshape(-1, width)
        biases = tuple(self.biases)
        observer(self.position, LayerPass(routed, self.shared, total, outputs, dict(self.leaves), biases))

    def _clear(self) -> None:
        self.routed = self.shared = None
        self.leaves.clear()
        self.biases.clear()
        self.outputs.clear()
        self._grad_before.clear()
        self.seen = False
        if self._listed is not None:
            self._listed.clear()


@torch.no_grad()
def _factor(norm: Foreign, states: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
    return frozen_norm(norm, states, normed).to(states.dtype)


def _freeze_norm(norm: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """For norms that what is observed passes through: the same numbers, as a linear map with the scale held."""
    states = inputs[0] if inputs else None
    if not torch.is_tensor(states) or not states.requires_grad or not torch.is_grad_enabled():
        return None
    linear = states * _factor(norm, states.detach(), output.detach())
    return output.detach() + (linear - linear.detach())


def _first(output: Any) -> torch.Tensor:
    if torch.is_tensor(output):
        return output
    return next(part for part in output if torch.is_tensor(part) and part.is_floating_point())


def _detached(output: Any) -> Any:
    if torch.is_tensor(output):
        return output.detach()
    if isinstance(output, tuple):
        return tuple(_detached(part) for part in output)
    return output
