"""How large a model is, from whatever of it is at hand: its files, its config.json, its recipe, or a number.

Nothing here imports torch or transformers: a dry-run asks. What can't be known is None, and `basis` says where the rest
comes from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moemui.models.recipe import Recipe

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number in memory
# Bytes and numbers of a stored element; MXFP4 packs two numbers into a byte.
STORED = {"F64": (8, 1), "F32": (4, 1), "F16": (2, 1), "BF16": (2, 1), "F8_E4M3": (1, 1), "F8_E5M2": (1, 1),
          "U8": (1, 2), "I8": (1, 1)}  # fmt: skip
USUAL_WIDTH = 2  # of numbers in files whose own type can't be read; checkpoints on the hub are in 16 bit
GGUF_BITS = 4.5  # of a number in a GGUF file, the fewest in common use, so that the count is at most overstated
WEIGHT_FILES = (".safetensors", ".bin", ".gguf")
# What families call the same thing in config.json.
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
TOP_K = ("num_experts_per_tok", "moe_topk", "moe_top_k")
EXPERT_WIDTH = ("moe_intermediate_size", "intermediate_size")
TRAINED_VOCABULARY = 128  # of the models trained here, within a few words


@dataclass(frozen=True)
class ModelSize:
    """parameters: all numbers; active: those that one token is multiplied with (all where that isn't known).

    file_bytes: of its weights on disk, largest_file the largest of them; None where they are not there yet.
    hidden, layers, vocabulary: H, decoder layers, rows of the head; neurons: M_l of a layer; used: those that a token
    uses. None where no configuration is at hand. basis: in words, where the numbers come from.
    """

    parameters: float
    active: float
    basis: str
    file_bytes: int | None = None
    largest_file: int | None = None
    hidden: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    neurons: int | None = None
    used: int | None = None

    def weight_bytes(self, dtype: str) -> float:
        """Bytes of the weights in memory; raises KeyError for a dtype that is none of `WIDTHS`."""
        return self.parameters * WIDTHS[dtype]


def of_manifest(manifest: Mapping[str, Any]) -> ModelSize:
    """The size of a pinned checkpoint (checkpoint.json), from its files where they can be read, else from their bytes.

    Raises ValueError for a manifest that lists no weights.
    """
    folder = Path(manifest["path"])
    weights = {name: int(file["bytes"]) for name, file in manifest["files"].items() if name.endswith(WEIGHT_FILES)}
    if any(name.endswith(".safetensors") for name in weights):
        weights = {name: size for name, size in weights.items() if name.endswith(".safetensors")}
    if not sum(weights.values()):
        raise ValueError(
            f"the checkpoint in {folder} lists no weights (files that end in {', '.join(WEIGHT_FILES)}); "
            "resolve it again"
        )
    total = sum(weights.values())
    if manifest.get("gguf"):
        parameters, basis = 8 * total / GGUF_BITS, f"at most: its file at {GGUF_BITS} bits a number"
    else:
        counts = [_numbers(folder / name) for name in weights]
        if None in counts:
            parameters, basis = total / USUAL_WIDTH, f"its files at {USUAL_WIDTH} bytes a number, assumed"
        else:
            parameters, basis = float(sum(count for count in counts if count is not None)), "its files"
    known = replace(of_parameters(parameters, basis), file_bytes=total, largest_file=max(weights.values()))
    config = folder / "config.json"
    return with_config(known, json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else known


def of_parameters(parameters: float, basis: str = "parameters in the configuration") -> ModelSize:
    """A size of which only the number of parameters is known."""
    return ModelSize(parameters, parameters, basis)


def of_recipe(recipe: Recipe) -> ModelSize:
    """The size, within a tenth, of a model that is trained here."""
    shared = recipe.shared_experts if recipe.family == "deepseek_v2" else 0
    layer = 4 * recipe.hidden**2 + recipe.experts * recipe.hidden  # attention and router
    outside = 2 * TRAINED_VOCABULARY * recipe.hidden + recipe.layers * layer
    expert = 3 * recipe.hidden * recipe.neurons_per_expert
    return ModelSize(
        parameters=outside + recipe.layers * (recipe.experts + shared) * expert,
        active=outside + recipe.layers * (recipe.top_k + shared) * expert,
        basis="its recipe",
        hidden=recipe.hidden,
        layers=recipe.layers,
        vocabulary=TRAINED_VOCABULARY,
        neurons=(recipe.experts + shared) * recipe.neurons_per_expert,
        used=(recipe.top_k + shared) * recipe.neurons_per_expert,
    )


def with_config(size: ModelSize, config: Mapping[str, Any]) -> ModelSize:
    """`size` with what its config.json says about its shape, as far as that uses names that are known here."""
    text = {**config, **(config.get("text_config") or {})}
    hidden, layers = _first(text, ("hidden_size",)), _first(text, ("num_hidden_layers",))
    experts, top_k, width = _first(text, EXPERTS), _first(text, TOP_K), _first(text, EXPERT_WIDTH)
    neurons, used, active = None, None, size.parameters
    if width is not None and not experts:
        neurons = used = width
    elif width is not None and experts is not None and top_k is not None:
        shared = int(text.get("shared_expert_intermediate_size") or (text.get("n_shared_experts") or 0) * width)
        neurons, used = experts * width + shared, top_k * width + shared
        if hidden is not None and layers is not None:
            idle = layers * (experts - top_k) * 3 * hidden * width
            # Dense layers among the others make this too much; a token never uses less than its share of everything.
            active = max(size.parameters - idle, size.parameters * top_k / experts)
    return replace(
        size,
        active=active,
        hidden=hidden,
        layers=layers,
        vocabulary=_first(text, ("vocab_size",)),
        neurons=neurons,
        used=used,
    )


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)


def _numbers(file: Path) -> float | None:
    """How many numbers a safetensors file holds, from its header; None for other files and where it isn't readable."""
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    return _numbers_at(str(file), file.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _numbers_at(path: str, _changed: int) -> float | None:
    try:
        with open(path, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        return float(sum(math.prod(tensor["shape"]) * STORED[tensor["dtype"]][1] for tensor in tensors))
    except (OSError, ValueError, KeyError):  # another layout, or one that is still being written
        return None
