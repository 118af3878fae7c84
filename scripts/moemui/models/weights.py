"""Whether a checkpoint's weights can be measured: readable before they are loaded, whole and finite afterwards.

Neurons are read from W_down, so a weight must be numbers in memory. Quantised weights that transformers turns back
into numbers while it loads them (MXFP4, FP8) are; packed ones, and weights left on a disk, are refused by name.
Nothing here imports torch or transformers before a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

DEQUANTISED = ("mxfp4", "fp8")  # what `dequantising` asks transformers to turn back into numbers
# Names that FP8 files give the scales of a weight, by what is added to, or put instead of, its own last part.
FP8_SCALES = ("{name}_scale_inv", "{stem}.scale", "{stem}.qscale_weight")


class UnreadableWeightsError(ValueError):
    """Weights that are no numbers one could read; the text names the method, the reason and what to do."""


def quantisation(config: Path) -> dict[str, Any] | None:
    """What a config.json says about quantised weights, with `quant_method` filled in; None where it says nothing."""
    if not config.is_file():
        return None
    record = json.loads(config.read_text(encoding="utf-8"))
    for part in (record, record.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if found:
                packed = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else "unnamed"
                return {**found, "quant_method": str(found.get("quant_method") or packed)}
    return None


def refuse_packed(config: Path, name: str) -> str | None:
    """The method whose weights are dequantised while they load, None where nothing is quantised.

    Raises UnreadableWeightsError for any other method. config: a config.json; name: the checkpoint's, for the message.
    """
    found = quantisation(config)
    if found is None:
        return None
    method = found["quant_method"]
    if method not in DEQUANTISED:
        raise UnreadableWeightsError(
            f"the weights of {name} are quantised ({method}) and stay packed in memory, so no down projection can be "
            "read and their experts run outside transformers' dispatch; name the unquantised checkpoint, or one that "
            f"was dequantised ({' and '.join(DEQUANTISED)} are dequantised on load)"
        )
    if found.get("expert_dtype", "fp8") != "fp8":
        raise UnreadableWeightsError(
            f"the experts of {name} are packed as {found['expert_dtype']} inside an {method} checkpoint, which is not "
            "read here; name a checkpoint that was dequantised"
        )
    return str(method)


def dequantising(folder: Path, name: str) -> dict[str, Any]:
    """What `from_pretrained` is told so that quantised weights load as numbers; empty where nothing is quantised.

    Raises UnreadableWeightsError as `refuse_packed` does, and for FP8 weights whose blocks do not come out even.
    """
    config = folder / "config.json"
    method = refuse_packed(config, name)
    if method is None:
        return {}
    from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

    if method == "mxfp4":
        # GPT-OSS: packed weights run through kernels of their own, in which no neuron can be seen.
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    record = quantisation(config)
    assert record is not None
    _refuse_uneven_blocks(folder, record.get("weight_block_size"), name)
    return {"quantization_config": FineGrainedFP8Config(dequantize=True)}


def _refuse_uneven_blocks(folder: Path, block: tuple[int, int] | None, name: str) -> None:
    """transformers takes a block's size as rows / rows of scales: wrong, and silently so where that happens to divide,
    when the last block is cut short (192 rows in blocks of 128 have 2 rows of scales, which it reads as blocks of 96).
    """
    shapes = {key: (kind, shape) for key, kind, shape in _tensors(folder)}
    for key, (kind, shape) in shapes.items():
        if not kind.startswith("F8_E4M3"):
            continue
        forms = (form.format(name=key, stem=key.rpartition(".")[0]) for form in FP8_SCALES)
        scales = next((shapes[form][1] for form in forms if form in shapes), None)
        if scales is None:
            raise UnreadableWeightsError(
                f"{name} holds {key} in FP8 without scales beside it ({FP8_SCALES[0].format(name=key)}), so its "
                "numbers are unknown; name a complete checkpoint or one that was dequantised"
            )
        if any(size != 1 for size in scales) and not _even(shape[-2:], scales[-2:], block):
            raise UnreadableWeightsError(
                f"{name} holds {key}, {_by(shape)} in FP8, with {_by(scales)} scales: no whole number of blocks of "
                f"{_by(block or ())}, which transformers would dequantise wrongly; name a checkpoint that was "
                "dequantised with its authors' own program"
            )


def _even(shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None) -> bool:
    if len(shape) != len(scales):
        return False
    sizes = block or tuple(length / count for length, count in zip(shape, scales, strict=True))
    return all(
        count * size == length or (count == 1 and length <= size)
        for length, count, size in zip(shape, scales, sizes, strict=True)
    )


def _tensors(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of everything in a folder's safetensors files, from their headers alone."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as stored:
            for key in stored.keys():  # noqa: SIM118 (it is no mapping)
                view = stored.get_slice(key)
                yield key, str(view.get_dtype()), tuple(view.get_shape())


def refuse_unusable(model: Any, report: Mapping[str, Any], name: str) -> None:
    """Refuse a loaded model whose weights are invented, not in memory, or not finite.

    report: what `from_pretrained` tells with output_loading_info. Raises ValueError for weights that the files lack,
    so that they would be random; UnreadableWeightsError for weights that were left on the CPU or a disk, where no
    module holds them; ValueError for NaN and infinite ones.
    """
    invented = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if invented or report["error_msgs"]:
        raise ValueError(
            f"{name} lacks weights that its architecture needs, and they would be random numbers: "
            f"{shorten(invented or report['error_msgs'])}; the files are incomplete, or config.json belongs to "
            "another model"
        )
    weights = list(model.named_parameters())
    away = [key for key, weight in weights if weight.is_meta]
    if away:
        raise UnreadableWeightsError(
            f"{name} does not fit on the devices, so {len(away)} of its {len(weights)} weights stayed on the CPU or a "
            f"disk, where they can't be read: {shorten(away)}; give it more memory or more devices, or a smaller dtype"
        )
    spoilt = [key for key, weight in weights if weight.numel() and not _finite(weight)]
    if spoilt:
        raise ValueError(
            f"{name} holds NaN or infinite numbers in {len(spoilt)} of its {len(weights)} weights: {shorten(spoilt)}; "
            "the files are damaged, or the numbers are too large for the dtype (float16 ends at 65504): fetch them "
            "again, or load as bfloat16 or float32"
        )


def _finite(weight: Any) -> bool:
    # Smallest and largest carry a NaN or an infinity through, and nothing of the weight's own size is made.
    smallest, largest = weight.detach().aminmax()
    return bool(smallest.isfinite() & largest.isfinite())


def shorten(names: Iterable[object], shown: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def _by(lengths: Iterable[int]) -> str:
    return " × ".join(map(str, lengths))
