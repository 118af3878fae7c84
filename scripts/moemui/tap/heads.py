"""The output side of a model: the unembedding, the final norm, the tokens that end a response."""

from __future__ import annotations

from typing import Any

import torch

from moemui.tap.mlps import Foreign, UnsupportedModelError


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
    norms = [m for n, m in model.get_decoder().named_children() if "Norm" in type(m).__name__ and "embed" not in n]
    if len(norms) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} has {len(norms)} norms beside its layers, so which is the final one can't be "
            "told; use head: raw"
        )
    norm = norms[0]
    scale = norm_weight(norm, rows.shape[1], rows.dtype, rows.device)
    if scale is None:
        raise UnsupportedModelError(f"the final norm {type(norm).__name__} is no plain scaling; use head: raw")
    return (rows.float() * scale).to(rows.dtype)


def norm_weight(norm: Foreign, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """The weight of an RMS norm, float32 (width,): x goes to weight · x / rms(x). None for a norm of another kind."""
    # A vector of ones has root mean square 1, so an RMS norm maps it to its own effective weight, 1 + w included.
    ones = torch.ones(width, dtype=dtype, device=device)
    with torch.no_grad():
        scale, twice, minus = (type(norm).forward(norm, factor * ones).float() for factor in (1, 2, -1))
    # A layer norm maps ones to its bias, whatever their sign.
    same = torch.allclose(twice, scale, rtol=1e-2) and torch.allclose(minus, -scale, rtol=1e-2)
    return scale if same and scale.abs().sum() > 0 else None


def end_tokens(model: Foreign, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's and all of the generation config's, ascending; empty without any."""
    listed = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
    return sorted(token for token in found if token is not None)
