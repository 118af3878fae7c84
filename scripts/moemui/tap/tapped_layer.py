"""The hooks of one layer, and what has passed them in the pass under way: from modules to `LayerPass`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from moemui.tap import experts_forward, mlps, shared_stacks
from moemui.tap.experts_forward import RoutedPass, TappedExperts, frozen_norm
from moemui.tap.families import Foreign, Site, UnsupportedModelError
from moemui.tap.layer_pass import LayerPass, SharedPass
from moemui.tap.mlps import MLP
from moemui.tap.module_lists import ListedExperts

# Called once a layer, after all of its blocks: (layer position, what passed).
Observer = Callable[[int, LayerPass], None]

_HELD: dict[Foreign, TappedLayer] = {}


@dataclass(eq=False)
class TappedLayer:
    """One layer under the tap; `attach` hooks its modules, `detach` lets them go.

    position: of the site among the sites. observer, wanted: as `capture.Tap`. keep: (M_l,), 1 keeps a neuron and 0
    masks it; None masks none.
    """

    position: int
    site: Site
    observer: Observer | None
    keep: torch.Tensor | None
    wanted: torch.Tensor | None
    routed: RoutedPass | None = None
    shared: SharedPass | None = None
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    biases: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    mixed: set[str] = field(default_factory=set)
    outputs: dict[Foreign, torch.Tensor] = field(default_factory=dict)
    seen: bool = False
    _listed: ListedExperts | None = None
    _undo: list[Callable[[], object]] = field(default_factory=list)
    _grad_before: list[bool] = field(default_factory=list)

    def attach(self) -> None:
        """Hook the layer's modules; `detach` undoes a part of it as well as the whole."""
        site, observed = self.site, self.observer is not None
        self._hold()
        self._index = None if self.wanted is None else self.wanted.nonzero()[:, 0]
        keep_routed, keep_shared = self._masks()
        if site.experts is not None:
            probe = experts_forward.up_probe(site.experts, site.name) if observed else None
            passed = self._saw_routed if observed else None
            tapped = TappedExperts(keep_routed, probe, self.wanted, passed, self._saw)
            self._undo.append(experts_forward.tap(site.experts, tapped))
        if site.listed:
            self._listed = ListedExperts(site)
            self._hooked(*self._listed.watch(keep_routed, observed))
        if isinstance(site.shared, MLP):
            probe = site.shared.up_probe if observed else None
            shared_passed = self._saw_shared if observed else None
            self._hooked(
                *mlps.watch(site.shared, keep=keep_shared, probe=probe, passed=shared_passed, wanted=self._index)
            )
        elif site.shared is not None:
            stack_passed = self._saw_stack if observed else None
            self._hooked(*shared_stacks.watch(site.shared, keep=keep_shared, passed=stack_passed, wanted=self._index))
        if observed:
            for region in site.regions:
                self._hooked(region.register_forward_pre_hook(self._enter_region))
                for module in region.modules():
                    if "Norm" in type(module).__name__ and not list(module.children()):
                        self._hooked(module.register_forward_hook(self._after_norm))
                    elif isinstance(module, nn.Linear):
                        self._hooked(module.register_forward_hook(self._after_linear))
        for root in site.roots:
            self._hooked(root.register_forward_hook(self._after_root))
        if observed:
            for region in site.regions:
                self._hooked(region.register_forward_hook(self._leave_region, always_call=True))

    def detach(self) -> None:
        """Let go of the modules, and of what a broken-off pass has left."""
        while self._undo:
            self._undo.pop()()
        if self._grad_before:  # KeyboardInterrupt passes by the hook that would have done this
            torch.set_grad_enabled(self._grad_before[0])
        self._clear()

    def _hooked(self, *handles: Any) -> None:
        self._undo += [handle.remove for handle in handles]

    def _hold(self) -> None:
        for root in self.site.roots:
            if root in _HELD:
                raise RuntimeError(f"{self.site.name} is already tapped; leave the outer Tap first")
            _HELD[root] = self
            self._undo.append(partial(_HELD.pop, root))
        for region in self.site.regions:
            for name, parameter in region.named_parameters():
                if parameter.is_meta:
                    raise UnsupportedModelError(
                        f"{self.site.name}: {name} is not in memory (offloaded to CPU or disk); give the model more "
                        "memory or more devices"
                    )
                if self.observer is not None and parameter.requires_grad:
                    # Only head vectors are pulled back; with gradients of weights, every activation would be kept.
                    parameter.requires_grad_(False)
                    self._undo.append(partial(parameter.requires_grad_, True))

    def _masks(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if self.keep is None:
            return None, None
        layer, device = self.site.layer, next(self.site.regions[0].parameters()).device
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
        self.shared = SharedPass(self._index, activation, intermediate, None, down.weight.T, down.bias)
        return self._anchor("shared", output)

    def _saw_stack(
        self,
        activation: torch.Tensor,
        intermediate: torch.Tensor,
        weight: torch.Tensor,
        down: torch.Tensor,
        output: torch.Tensor,
    ) -> torch.Tensor:
        self.shared = SharedPass(self._index, activation, intermediate, weight, down, None)
        return self._anchor("shared", output)

    def _anchor(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """The output again, as something that `LayerPass.pull` can pull back to."""
        leaf = self.leaves[name] = output.detach().requires_grad_(True)
        return leaf.clone()  # a block may work in place, which a leaf forbids

    def _after_norm(self, norm: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """For norms that what is observed passes through: the same numbers, as a linear map with the scale held."""
        states = inputs[0] if inputs else None
        if not torch.is_tensor(states) or not states.requires_grad or not torch.is_grad_enabled():
            return None
        with torch.no_grad():
            factor = frozen_norm(norm, states, output).to(states.dtype)
        linear = states * factor
        self._mark_mixed(linear)
        return output.detach() + (linear - linear.detach())

    def _after_linear(self, module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """For linear maps that what is observed passes through: mark what their bias adds."""
        if not torch.is_grad_enabled() or not torch.is_tensor(inputs[0]) or not inputs[0].requires_grad:
            return None
        self._mark_mixed(output)
        if module.bias is None:
            return None
        bias = module.bias
        assert torch.is_tensor(bias)
        leaf = torch.zeros_like(output).requires_grad_(True)
        self.biases.append((leaf, bias))
        return output + leaf

    def _mark_mixed(self, output: torch.Tensor) -> None:
        names = [name for name in self.leaves if name not in self.mixed]
        if names:
            leaves, one = [self.leaves[name] for name in names], torch.ones_like(output)
            grads = torch.autograd.grad(output, leaves, one, retain_graph=True, allow_unused=True)
            self.mixed |= {name for name, grad in zip(names, grads, strict=True) if grad is not None}

    def _enter_region(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("neurons can't be observed under torch.inference_mode; use torch.no_grad instead")
        self._grad_before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)

    def _leave_region(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._grad_before:
            torch.set_grad_enabled(self._grad_before.pop())

    def _after_root(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        self.outputs[module] = _first(output)
        if len(self.outputs) == len(self.site.roots):
            try:
                self._finish()
            finally:
                self._clear()
        return None if self.observer is None else _detached(output)

    @torch.no_grad()
    def _finish(self) -> None:
        if self.site.experts is not None and not self.seen:
            raise RuntimeError(
                f"{self.site.name} ran without its experts passing the dispatch (a fused kernel or quantised experts); "
                "load the model without them"
            )
        if self.observer is None:
            return
        routed = self._listed.spans(self.wanted) if self._listed is not None else self.routed
        outputs = tuple(self.outputs.values())
        width = outputs[0].shape[-1]
        total = outputs[0].detach().reshape(-1, width)
        for output in outputs[1:]:
            total = total + output.detach().reshape(-1, width)
        leaves, biases, mixed = dict(self.leaves), tuple(self.biases), frozenset(self.mixed)
        self.observer(self.position, LayerPass(routed, self.shared, total, outputs, leaves, biases, mixed))

    def _clear(self) -> None:
        self.routed = self.shared = None
        self.leaves.clear()
        self.biases.clear()
        self.mixed.clear()
        self.outputs.clear()
        self.seen = False
        if self._listed is not None:
            self._listed.clear()


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
