"""Find the neurons of a loaded model: MoE layers, their experts and shared MLPs, the unembedding.

Nothing is typed by hand for a model: routed experts are the modules that transformers runs through its
experts dispatch, shared experts are known by the names that transformers gives them, and everything
else is read from their weights. What has another structure is refused by name (SPEC section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moemui.geometry import Geometry, Layer

Foreign = Any  # a module of transformers: what it has besides nn.Module differs by class
SHARED_NAMES = ("shared_experts", "shared_expert", "shared_mlp")
SUPPORTED = (
    "supported are MoE blocks that run through transformers' experts dispatch, with shared experts or without, "
    "and dense gated MLPs with gate_proj, up_proj and down_proj"
)


class UnsupportedModelError(ValueError):
    """A structure whose contributions cannot be told apart; the text names the module and the reason."""


@dataclass(frozen=True, eq=False)
class Site:
    """The modules of one MoE layer (or one dense MLP).

    block: its output is the layer's Σ G·E(x), where conservation is checked.
    experts: the routed experts in transformers' dispatch; None in a dense layer.
    shared: one gated MLP that fuses the shared experts; None where there is none.
    shared_gate: a linear map to one number whose sigmoid scales `shared`; None means 1.
    """

    name: str
    layer: Layer
    block: Foreign
    experts: Foreign | None
    shared: Foreign | None
    shared_gate: Foreign | None


def is_dispatched(module: nn.Module) -> bool:
    """Whether a module is a set of routed experts in transformers' experts dispatch."""
    # Set by transformers.integrations.moe.use_experts_implementation on every class it wraps.
    return hasattr(module, "_is_expert_parallel") and hasattr(module, "down_proj")


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the decoder layers: the only ModuleList of the text config's length.

    Raises UnsupportedModelError when there is none.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    depth = getattr(text, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and name.rsplit(".", 1)[-1] in ("layers", "h"):
            return name, module
    raise UnsupportedModelError(f"{type(model).__name__} has no list of {depth} decoder layers; {SUPPORTED}")


def sites(model: nn.Module) -> list[Site]:
    """All MoE layers in order; for a model without experts, all dense MLPs.

    Raises UnsupportedModelError, with the module and the reason, for any other structure.
    """
    prefix, layers = decoder_layers(model)
    names = {module: name for name, module in model.named_modules()}
    found = [_moe_site(names, index, layer) for index, layer in enumerate(layers) if _dispatched(layer)]
    if found:
        return found
    return [_dense_site(f"{prefix}.{index}", index, layer) for index, layer in enumerate(layers)]


def geometry(model_sites: list[Site]) -> Geometry:
    """The geometry of the model whose sites are given."""
    return Geometry(tuple(site.layer for site in model_sites))


def unembedding(model: Foreign, head: str = "raw") -> torch.Tensor:
    """W_head, one row of H numbers a token: (vocabulary, H), the model's own dtype and device.

    head: "raw" takes the rows as they are, "final_norm" folds the final norm's weight into them.
    Raises UnsupportedModelError without an output embedding, or for a final norm that is no scaling.
    """
    output = model.get_output_embeddings()
    if output is None or not torch.is_tensor(getattr(output, "weight", None)):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no output embedding; load it as a causal language model"
        )
    rows: torch.Tensor = output.weight
    if head == "raw":
        return rows
    if head != "final_norm":
        raise ValueError(f"head is {head!r}; allowed are 'raw' and 'final_norm'")
    norm = getattr(model.get_decoder(), "norm", None)
    if norm is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no final norm to fold; use head: raw")
    # A vector of ones has root mean square 1, so an RMS norm maps it to its own effective weight, 1 + w included.
    ones = torch.ones(rows.shape[1], dtype=torch.float32, device=rows.device)
    scale = norm(ones.to(rows.dtype)).float()
    if not torch.allclose(norm(2 * ones.to(rows.dtype)).float(), scale, rtol=1e-2) or not scale.abs().sum() > 0:
        raise UnsupportedModelError(f"the final norm {type(norm).__name__} is no plain scaling; use head: raw")
    return (rows.float() * scale).to(rows.dtype)


def end_tokens(model: Foreign, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's and all of the generation config's, ascending; empty without any."""
    listed = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
    return sorted(token for token in found if token is not None)


def _dispatched(layer: nn.Module) -> list[Foreign]:
    return [module for module in layer.modules() if is_dispatched(module)]


def _moe_site(names: dict[nn.Module, str], index: int, layer: nn.Module) -> Site:
    experts = _dispatched(layer)
    if len(experts) != 1:
        raise UnsupportedModelError(f"decoder layer {index} has {len(experts)} sets of routed experts; {SUPPORTED}")
    routed = experts[0]
    block = next(m for m in layer.modules() if any(child is routed for child in m.children()))
    name = names[block]
    if block is layer:
        raise UnsupportedModelError(
            f"{name}: the experts sit on the decoder layer itself, without a block; {SUPPORTED}"
        )
    if getattr(routed, "has_post_expert_norm", False):
        raise UnsupportedModelError(f"{name}: experts with a norm after each expert are not supported yet; {SUPPORTED}")
    outside = [n for n, m in layer.named_modules() if n.rsplit(".", 1)[-1] in SHARED_NAMES and not _inside(block, m)]
    if outside:
        raise UnsupportedModelError(f"{name}: the shared MLP {outside[0]} lies outside the MoE block; {SUPPORTED}")
    shared = next((c for n, c in block.named_children() if n in SHARED_NAMES), None)
    down = routed.down_proj
    width = down.shape[1] if routed.is_transposed else down.shape[2]
    total = _gated_width(f"{name}.shared", shared) if shared is not None else 0
    count, shared_width = (total // width, width) if total and total % width == 0 else (min(total, 1), total)
    return Site(
        name=name,
        layer=Layer(
            index=index,
            routed=routed.num_experts,
            shared=count,
            width=width,
            shared_width=shared_width,
            top_k=_top_k(block, routed),
        ),
        block=block,
        experts=routed,
        shared=shared,
        shared_gate=getattr(block, "shared_expert_gate", None),
    )


def _dense_site(name: str, index: int, layer: nn.Module) -> Site:
    blocks = [(n, m) for n, m in layer.named_children() if n in ("mlp", "feed_forward", "block_sparse_moe", "moe")]
    if not blocks:
        raise UnsupportedModelError(f"{name} has neither experts nor an MLP; {SUPPORTED}")
    child, block = blocks[0]
    if any(isinstance(m, nn.ModuleList) for m in block.modules()):
        raise UnsupportedModelError(f"{name}.{child} keeps one module per expert, outside the dispatch; {SUPPORTED}")
    width = _gated_width(f"{name}.{child}", block)
    dense = Layer(index=index, routed=0, shared=1, width=0, shared_width=width, top_k=0)
    return Site(name=f"{name}.{child}", layer=dense, block=block, experts=None, shared=block, shared_gate=None)


def _gated_width(name: str, mlp: Foreign) -> int:
    parts: dict[str, Any] = {n: getattr(mlp, n, None) for n in ("gate_proj", "up_proj", "down_proj")}
    missing = [n for n, part in parts.items() if not hasattr(part, "in_features")]
    if missing or not hasattr(mlp, "act_fn"):
        lacking = ", ".join(missing or ["act_fn"])
        raise UnsupportedModelError(f"{name} ({type(mlp).__name__}) lacks {lacking}; {SUPPORTED}")
    return int(parts["down_proj"].in_features)


def _top_k(block: Foreign, experts: Foreign) -> int:
    for module in (*block.children(), block):
        for attribute in ("top_k", "num_experts_per_tok"):
            if isinstance(value := getattr(module, attribute, None), int):
                return value
    config = experts.config
    for attribute in ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k"):
        if isinstance(value := getattr(config, attribute, None), int):
            return value
    raise UnsupportedModelError(f"{type(block).__name__} does not say how many experts a token uses; {SUPPORTED}")


def _inside(block: nn.Module, module: nn.Module) -> bool:
    return any(m is module for m in block.modules())
