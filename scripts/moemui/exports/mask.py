"""mask.safetensors: a task's key neurons as a mask of the model, for tools that prune or steer.

For each MoE layer L (0-based index in the model), of its routed and of its shared experts, where it has any:

    layers.L.routed.key        bool   [E_r, N]  key in at least one sample
    layers.L.routed.incidence  int32  [E_r, N]  q_u, samples in which the neuron is key
    layers.L.shared.key        bool   [E_s, N_s]
    layers.L.shared.incidence  int32  [E_s, N_s]

A dense model has one shared expert a layer. Neuron j of a routed expert is column j of its down_proj, or row j where
weights lie transposed (Aria, GPT-OSS and others; their modules have is_transposed in transformers); neuron j of shared
expert s (from 0) is column s·N_s + j of the fused MLP's. Setting these to 0 masks the neurons: nothing else of the
model hears of them.

The metadata has one entry, "moemui": a JSON object with format and format_version, model, checkpoint, task,
formulation, selection, threshold, rule, variant, n_samples, n_key. One, because several are written in random order.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from moemui.geometry import Geometry
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

FORMAT, FORMAT_VERSION = "moemui-mask", 1


def tensors(*, sets: KeySets, geometry: Geometry) -> dict[str, np.ndarray]:
    """The file's arrays by name, see above; all False and 0 without samples."""
    incidence = sets.incidence(geometry.neurons).astype(np.int32)
    found: dict[str, np.ndarray] = {}
    for layer, first in zip(geometry.layers, geometry.layer_offsets, strict=False):
        middle = first + layer.routed * layer.width
        for kind, experts, width, start in (
            ("routed", layer.routed, layer.width, first),
            ("shared", layer.shared, layer.shared_width, middle),
        ):
            if experts:
                own = incidence[start : start + experts * width].reshape(experts, width)
                found[f"layers.{layer.index}.{kind}.key"] = own > 0
                found[f"layers.{layer.index}.{kind}.incidence"] = own
    return found


def write(path: str | Path, *, key_neurons: KeyNeurons, setting: Setting) -> int:
    """Write the mask of a task at one setting; the number of key neurons.

    Raises KeyError, naming the stored settings, for one that is not stored.
    """
    sets = key_neurons.sets(*setting)
    found = tensors(sets=sets, geometry=key_neurons.geometry)
    n_key = sum(int(values.sum()) for name, values in found.items() if name.endswith(".key"))
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": key_neurons.model,
        "checkpoint": key_neurons.checkpoint,
        "task": key_neurons.task,
        **setting._asdict(),
        "n_samples": sets.n_samples,
        "n_key": n_key,
    }
    # Not save_file, whose files nobody else on a shared disk may read.
    Path(path).write_bytes(save(found, {"moemui": json.dumps(about)}))
    return n_key
