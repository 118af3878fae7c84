"""Find the neurons of a loaded model: MoE layers, their experts and shared MLPs.

Nothing is typed by hand for a model: routed experts are the modules that transformers runs through its experts
dispatch, or a list of MLPs behind a router, shared experts and dense MLPs are known by the names below, which
transformers gives them, and everything else is read from their weights. What has another structure is refused by name
(SPEC section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moemui.geometry import Geometry, Layer
from moemui.tap import mlps
from moemui.tap.mlps import MLP, SUPPORTED, Foreign, UnsupportedModelError

__all__ = ["Foreign", "SharedStack", "Site", "UnsupportedModelError", "geometry", "sites"]

SHARED_NAMES = ("shared_experts", "shared_expert", "shared_mlp")
BLOCK_NAMES = ("mlp", "feed_forward", "ffn", "mixer", "block_sparse_moe", "moe", "shared_mlp")
# What a layer that has no MLP may consist of, by parts of its children's names.
NO_MLP = ("attn", "attention", "norm", "mamba", "mixer", "conv", "ssm", "dropout", "router", "gate")
OTHER_MODALITIES = ("vision", "visual", "audio")
# Gemma 4 has no block: experts and MLP lie on the layer, each behind a norm of its own, and their sum is formed after.
BRANCH_NORMS = {"experts": "post_feedforward_layernorm_2", "mlp": "post_feedforward_layernorm_1"}


@dataclass(frozen=True, eq=False)
class SharedStack:
    """Shared experts kept as one 3-D weight each for gate_proj, up_proj and down_proj, scaled by the router (Inkling).

    Called with the hidden states and one weight a token and expert.
    """

    name: str
    module: Foreign


@dataclass(frozen=True, eq=False)
class Site:
    """The modules of one MoE layer (or one dense MLP).

    roots: the modules whose outputs add up to MoE_l, where conservation is checked; one, unless the shared experts lie
        outside the routed experts' block. regions: the modules that hold everything from the experts to the roots.
    experts: the routed experts in transformers' dispatch, or None.
    listed: the routed experts of a model that keeps one module for each; empty otherwise. router: returns their indices
        and weights.
    shared: the MLP that fuses the shared experts (or is the dense MLP); None where there is none.
    """

    name: str
    layer: Layer
    roots: tuple[Foreign, ...]
    regions: tuple[Foreign, ...]
    experts: Foreign | None = None
    listed: tuple[MLP, ...] = ()
    router: Foreign | None = None
    shared: MLP | SharedStack | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the down projections' weights."""
        if self.experts is not None:
            found: torch.dtype = self.experts.down_proj.dtype
            return found
        mlp = self.listed[0] if self.listed else self.shared
        assert isinstance(mlp, MLP)
        weight: torch.Tensor = mlp.part("down").weight
        return weight.dtype


def is_dispatched(module: nn.Module) -> bool:
    """Whether a module is a set of routed experts in transformers' experts dispatch."""
    # Set by transformers.integrations.moe.use_experts_implementation on every class it wraps.
    return hasattr(module, "_is_expert_parallel") and hasattr(module, "down_proj")


def sites(model: Foreign) -> list[Site]:
    """All MoE layers in order; for a model without experts, all dense MLPs.

    Raises UnsupportedModelError, with the module and the reason, for any other structure.
    """
    prefix, layers = decoder_layers(model)
    named = [(f"{prefix}.{index}", index, layer) for index, layer in enumerate(layers)]
    found = [_moe_site(*layer) or _listed_site(*layer) for layer in named]
    if any(found):
        for site, (name, _, layer) in zip(found, named, strict=True):
            if site is None:
                _refuse_other_experts(name, layer)  # dense layers in between are not counted
    else:
        found = [_dense_site(*layer) for layer in named]
    known = [site for site in found if site is not None]
    if not known:
        raise UnsupportedModelError(f"{type(model).__name__} has neither experts nor MLPs in its layers; {SUPPORTED}")
    seen: dict[nn.Module, str] = {}
    for site in known:
        for root in site.roots:
            if root in seen:
                raise UnsupportedModelError(
                    f"{site.name} is the same module as {seen[root]}, so its neurons work in several layers and have "
                    "no place of their own; this model can't be measured"
                )
            seen[root] = site.name
    return known


def geometry(model_sites: list[Site]) -> Geometry:
    """The geometry of the model whose sites are given."""
    return Geometry(tuple(site.layer for site in model_sites))


def decoder_layers(model: Foreign) -> tuple[str, nn.ModuleList]:
    """Name and list of the decoder layers: the text decoder's only ModuleList of its config's length.

    Raises UnsupportedModelError when there is none.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    depth = getattr(text, "num_hidden_layers", None)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    names = {module: name for name, module in model.named_modules()}
    for module in decoder.modules():
        name = names.get(module, "layers")
        if isinstance(module, nn.ModuleList) and len(module) == depth and name.rsplit(".", 1)[-1] in ("layers", "h"):
            return name, module
    lists = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {depth} decoder layers called layers or h, but {lists}; {SUPPORTED}"
    )


def _moe_site(name: str, index: int, layer: nn.Module) -> Site | None:
    experts = {
        where: module
        for where, module in layer.named_modules()
        if is_dispatched(module) and not any(word in where for word in OTHER_MODALITIES)
    }
    if not experts:
        return None
    if len(experts) != 1:
        raise UnsupportedModelError(f"{name} has {len(experts)} sets of routed experts; {SUPPORTED}")
    ((where, routed),) = experts.items()
    if routed._is_expert_parallel:
        raise UnsupportedModelError(
            f"{name}.{where} is expert-parallel, so this process sees only a part of its experts; load the model with "
            "device_map instead"
        )
    for weight in ("down_proj", "gate_up_proj" if routed.has_gate else "up_proj"):
        tensor = getattr(routed, weight)
        if not torch.is_tensor(tensor) or tensor.dtype not in mlps.READABLE or tensor.dim() != 3:
            raise UnsupportedModelError(
                f"{name}.{where}.{weight} is quantised ({getattr(tensor, 'dtype', type(tensor).__name__)}), so its "
                f"neurons can't be read; load the model dequantised; {SUPPORTED}"
            )
    shared_where = _shared_name(layer, where)
    shared = None if shared_where is None else _shared(f"{name}.{shared_where}", layer.get_submodule(shared_where))
    if shared is None:
        shared_where = None
    down = routed.down_proj
    width = int(down.shape[1] if routed.is_transposed else down.shape[2])
    count, shared_width = _split(shared, width)
    parts = [where] if shared_where is None else [where, shared_where]
    root_names = _roots(parts)
    found = Layer(
        index=index,
        routed=int(routed.num_experts),
        shared=count,
        width=width,
        shared_width=shared_width,
        top_k=_top_k(layer.get_submodule(root_names[0]), layer, routed.config),
    )
    roots = regions = tuple(layer.get_submodule(root) for root in root_names)
    norms = tuple(n for root in root_names if (n := layer._modules.get(BRANCH_NORMS.get(root, ""))) is not None)
    if len(norms) == len(roots):
        roots, regions = norms, (layer,)
    return Site(f"{name}.{root_names[0]}", found, roots, regions, experts=routed, shared=shared)


def _listed_site(name: str, index: int, layer: nn.Module) -> Site | None:
    """Experts that are a list of modules behind a router, as in models that bring their own code."""
    for where, block in layer.named_modules():
        experts = block._modules.get("experts")
        if not isinstance(experts, nn.ModuleList):
            continue
        listed = tuple(mlps.describe(f"{name}.{where}.experts.{i}", expert) for i, expert in enumerate(experts))
        routers = [child for key, child in block._modules.items() if key in ("gate", "router") and child is not None]
        if len(routers) != 1 or isinstance(routers[0], nn.Linear):
            raise UnsupportedModelError(
                f"{name}.{where} ({type(block).__name__}) keeps one module per expert, but has no router of its own "
                f"that returns indices and weights, so which token used which expert can't be seen; {SUPPORTED}"
            )
        widths = {expert.width for expert in listed}
        if len(widths) != 1:
            raise UnsupportedModelError(f"{name}.{where} has experts of widths {sorted(widths)}; {SUPPORTED}")
        shared_where = next((f"{where}.{n}" for n in SHARED_NAMES if block._modules.get(n) is not None), None)
        shared = None if shared_where is None else _shared(f"{name}.{shared_where}", layer.get_submodule(shared_where))
        width = widths.pop()
        count, shared_width = _split(shared, width)
        found = Layer(index, len(listed), count, width, shared_width, _top_k(block, layer, _config(block)))
        return Site(f"{name}.{where}", found, (block,), (block,), listed=listed, router=routers[0], shared=shared)
    return None


def _dense_site(name: str, index: int, layer: nn.Module) -> Site | None:
    for child in BLOCK_NAMES:
        block = layer._modules.get(child)
        if block is None or (child == "mixer" and "up_proj" not in block._modules):
            continue  # a mixer without an MLP's maps is attention or a state-space model
        _refuse_other_experts(f"{name}.{child}", block)
        mlp = mlps.describe(f"{name}.{child}", block)
        dense = Layer(index=index, routed=0, shared=1, width=0, shared_width=mlp.width, top_k=0)
        return Site(mlp.name, dense, (block,), (block,), shared=mlp)
    unknown = {
        child: part
        for child, part in layer.named_children()
        if not any(word in child for word in NO_MLP) and any(p.dim() == 2 for p in part.parameters())
    }
    if unknown:
        raise UnsupportedModelError(
            f"{name} ({type(layer).__name__}) has no MLP of its own module, but {', '.join(unknown)}, whose neurons "
            f"can't be told; {SUPPORTED}"
        )
    return None


def _refuse_other_experts(name: str, module: nn.Module) -> None:
    strange = [n for n, _ in module.named_modules() if "expert" in n or "router" in n]
    if strange:
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) has {strange[0]} outside the dispatch; {SUPPORTED}"
        )


def _shared_name(layer: nn.Module, experts: str) -> str | None:
    """Where the shared MLP lies in the layer: by its name, or beside experts that lie on the layer itself."""
    named = [
        where
        for where, _ in layer.named_modules()
        if where.rsplit(".", 1)[-1] in SHARED_NAMES and not any(word in where for word in OTHER_MODALITIES)
    ]
    if len(named) > 1:
        raise UnsupportedModelError(f"{type(layer).__name__} has {len(named)} shared MLPs, {named}; {SUPPORTED}")
    if not named and "." not in experts and layer._modules.get("mlp") is not None:
        return "mlp"
    return named[0] if named else None


def _shared(name: str, module: Foreign) -> MLP | SharedStack | None:
    """The shared MLP; None for one without neurons, as DeepSeek-V2's class builds it for no shared experts."""
    down = getattr(module, "down_proj", None)
    if isinstance(down, nn.Parameter) and down.dim() == 3 and down.dtype in mlps.READABLE:
        return SharedStack(name, module)
    mlp = mlps.describe(name, module)
    return mlp if mlp.width else None


def _split(shared: MLP | SharedStack | None, width: int) -> tuple[int, int]:
    """E_s and the width of one shared expert: a fused width that is a multiple of N counts as that many experts."""
    if shared is None:
        return 0, 0
    if isinstance(shared, SharedStack):
        return int(shared.module.down_proj.shape[0]), int(shared.module.down_proj.shape[2])
    return (shared.width // width, width) if shared.width % width == 0 else (1, shared.width)


def _roots(parts: list[str]) -> list[str]:
    """Names of the modules whose outputs add up to MoE_l: what the parts share, else each part's own branch."""
    split = [part.split(".") for part in parts]
    common: list[str] = []
    for step in zip(*split, strict=False):
        if len(set(step)) > 1:
            break
        common.append(step[0])
    if len(parts) == 1:
        common = split[0][:-1]  # the block around the experts
    return [".".join(common)] if common else [part[0] for part in split]


def _top_k(block: Foreign, layer: nn.Module, config: Any) -> int:
    for module in (*block.children(), block, *layer.children()):
        for attribute in ("top_k", "num_experts_per_tok"):
            if isinstance(value := getattr(module, attribute, None), int):
                return value
    for attribute in ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k", "moe_top_k"):
        if isinstance(value := getattr(config, attribute, None), int):
            return value
    raise UnsupportedModelError(f"{type(block).__name__} does not say how many experts a token uses; {SUPPORTED}")


def _config(block: nn.Module) -> Any:
    return next((m.config for m in block.modules() if hasattr(m, "config")), None)
