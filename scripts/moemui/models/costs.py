"""What jobs take, before they run: memory, seconds and bytes, from the size of a model and the amount of work.

A simple model with few constants; each says where it comes from. "Embedded" means: measured on the embedded study and
its smallest form (config/config.yaml, config/smoke.yaml), one thread of a 2-core x86-64 machine, CPU build of torch
2.13. A plan multiplies by what other records measured, so a constant needs to be right in kind more than in size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moemui.models.model_size import WIDTHS, ModelSize

if TYPE_CHECKING:
    from moemui.geometry import Layer
    from moemui.models.recipe import Recipe

MB = 10**6
# Memory (bytes).
LIBRARIES = 500 * MB  # resident with torch, transformers and lm_eval imported, nothing loaded (embedded: 415 to 509 MB)
ANALYSIS_LIBRARIES = 200 * MB  # with numpy, pandas and pyarrow (embedded: 182 to 250 MB)
# Weights are read through a memory map, which counts as resident, beside their copy; where their type changes, experts
# are put together from a second copy. A model of 218 million numbers in bfloat16 files (0.44 GB) had a peak of 1.33 GB
# when loaded as bfloat16 (predicted 1.37), of 2.23 to 2.41 GB as float32 (2.38), and of 2.73 GB when it scored batches
# of 16,384 tokens (2.85).
CHANGED_TYPE = 1.65
# On the way to a GPU so many files of weights are held in main memory, files of 5 GB where they are not here yet:
# assumed, not measured.
GPU_READERS, USUAL_FILE = 4, 5000 * MB
SLOT_COPIES = 10  # float32 copies of the neurons in use that scoring holds for a layer's tokens: counted in the code
# Beside the weights of a model of unknown shape: a share of them, at most so much.
UNKNOWN_SHARE, UNKNOWN_WORKING = 0.2, 8000 * MB
OPTIMISER_BYTES = 16  # a parameter in training: weight, gradient, two moments, float32 each
EXAMPLE_BYTES = 2000  # of a training example with its tokens, all of which are made before the first step (embedded)
EXAMPLE_TOKENS = 25  # of a training example (embedded: 21 to 25)
SPARE = 1.2  # asked for over what is predicted
LIKELIHOOD_TOKENS = 512  # length assumed of a multiple-choice prompt, whose logits are all needed

# Time.
MODEL_START = 4.0  # seconds to import torch, transformers, lm_eval and to write a record (embedded: 3.7 to 4.3)
TRAINING_START = 7.0  # the same, with making examples and saving weights (embedded)
SAMPLE_SECONDS = 1.2e-3  # to take a sample through lm_eval or the scorer once, beside the model (embedded)
SCORING = {1: 1.4, 2: 1.6, 3: 1.9}  # extraction over the plain forward pass by formulations (benchmarks/extraction.py)
ENTRY_SECONDS = 1.0e-6  # to rank and write one entry of a store (embedded)
TRAINING_PASSES = 3  # forward and backward pass over the forward pass
UPDATE_SECONDS = 4e-9  # of a parameter in a step of AdamW (embedded)

# Disk.
KEY_FILE_GROUP = 7700  # bytes of one setting in key_neurons.h5 without its sets (embedded)
KEY_ENTRY = 4 * 0.34  # bytes of one key neuron, compressed (embedded)
TABLE_ROW = 390  # bytes of a row of expert_frequency, Parquet and CSV, of the model and of the study (embedded)


@dataclass(frozen=True)
class Machine:
    """What does the arithmetic of one job.

    flops: multiplications and additions a second; bandwidth: bytes of weights read a second; call: seconds of a layer
    in every forward pass, token: of a token in every layer, beside the arithmetic; reading: bytes a second from a disk.
    spread: by what factor the truth may lie off in either direction. basis: in words.
    """

    name: str
    flops: float
    bandwidth: float
    call: float
    token: float
    reading: float
    spread: float
    basis: str


CORE = Machine(
    "one CPU core", 5e10, 1e10, 3e-4, 2.5e-6, 2e8, 3.0, "constants measured on the embedded study, one CPU core"
)
GPU = Machine(
    "one GPU", 5e13, 1e12, 1e-3, 0.0, 1e9, 4.0, "assumed for a data-centre GPU (50 TFLOP/s, 1 TB/s), not measured"
)


@dataclass(frozen=True)
class Work:
    """What a job with a model does, in plain numbers.

    samples: answered or scored, each time anew; tokens: put through the model in wide batches; steps: of generation,
    one forward pass each; generated: tokens that come of them; entries: ranked scores that are stored; updates: steps
    of training; formulations: scored at once.
    """

    samples: float = 0
    tokens: float = 0
    steps: float = 0
    generated: float = 0
    entries: float = 0
    updates: int = 0
    formulations: int = 1


def seconds(stage: str, size: ModelSize, work: Work, machine: Machine, *, dtype: str) -> float:
    """Seconds of one job of a stage with a model: train, responses, contributions or masking."""
    load = MODEL_START + (size.file_bytes or size.weight_bytes(dtype)) / machine.reading + work.samples * SAMPLE_SECONDS
    forward = _passes(size, work.tokens, machine)
    if stage == "train":
        calls = work.updates * (size.layers or 0) * machine.call
        return TRAINING_START + TRAINING_PASSES * (forward + calls) + work.updates * size.parameters * UPDATE_SECONDS
    if stage == "contributions":
        return load + SCORING[min(work.formulations, 3)] * forward + work.entries * ENTRY_SECONDS
    read = min(size.parameters, size.active * (work.generated / work.steps if work.steps else 0)) * WIDTHS[dtype]
    each = (size.layers or 0) * machine.call + read / machine.bandwidth
    return load + forward + work.steps * each + _passes(size, work.generated, machine)


def _passes(size: ModelSize, tokens: float, machine: Machine) -> float:
    return tokens * (2 * size.active / machine.flops + (size.layers or 0) * machine.token)


def host_memory(size: ModelSize, *, dtype: str, on_gpu: bool, working: float) -> float:
    """Bytes of main memory that a job with a loaded model takes. working: as `working_memory` says, on the CPU."""
    weights = size.weight_bytes(dtype)
    disk = float(size.file_bytes or weights)
    if on_gpu:
        return LIBRARIES + min(disk, GPU_READERS * (size.largest_file or USUAL_FILE))
    kept = 1.0 if abs(disk / weights - 1) < 0.05 else CHANGED_TYPE
    return LIBRARIES + disk + max(kept * weights, weights + working)


def gpu_memory(size: ModelSize, *, dtype: str, working: float) -> float:
    """Bytes that a job takes of all its GPUs together."""
    return size.weight_bytes(dtype) + working


def working_memory(
    size: ModelSize, *, dtype: str, batch: int, length: int, scored_tokens: int, likelihood: bool
) -> float:
    """Bytes beside the weights: cache and logits of a batch of answers, or what scoring holds of a layer.

    batch, length: sequences answered at a time and their tokens; scored_tokens: padded tokens of a scoring batch;
    either may be 0. likelihood: whether logits of all positions may be wanted. For a size that doesn't
    know its shape, a share of the weights instead.
    """
    if size.hidden is None or size.layers is None or size.vocabulary is None or size.used is None:
        return min(UNKNOWN_SHARE * size.weight_bytes(dtype), UNKNOWN_WORKING)
    width = WIDTHS[dtype]
    cache = 2 * batch * length * size.layers * size.hidden * width  # at most: grouped attention keeps less
    logits = batch * (min(length, LIKELIHOOD_TOKENS) if likelihood else 1) * size.vocabulary * (width + 4)
    scoring = 4 * scored_tokens * (SLOT_COPIES * size.used + 4 * size.hidden)
    return max(cache + logits, scoring)


def training_memory(size: ModelSize, recipe: Recipe) -> float:
    """Bytes that training takes: examples, optimiser, and what a batch leaves for the backward pass."""
    kept = 4 * EXAMPLE_TOKENS * recipe.batch * recipe.layers * (16 * recipe.hidden + 8 * (size.used or 0))
    return LIBRARIES + OPTIMISER_BYTES * size.parameters + EXAMPLE_BYTES * recipe.batch * recipe.steps + kept


def training_work(recipe: Recipe, tokens: float | None = None) -> Work:
    """What training by a recipe does. tokens: read in all, where that is known."""
    expected = recipe.batch * recipe.steps * EXAMPLE_TOKENS
    return Work(tokens=expected if tokens is None else tokens, updates=recipe.steps)


@dataclass(frozen=True)
class Reading:
    """An analysis by what it reads: seconds to start, and of a MB. kind: the ending of the inputs that count."""

    kind: str
    start: float
    per_mb: float

    def seconds(self, mb: float) -> float:
        """Of a job that reads so many MB of its kind."""
        return self.start + self.per_mb * mb


# Fitted through the two studies that CORE comes from: start is the smoke study's, per_mb what the embedded one adds.
ANALYSES = {
    "task_data": Reading("", 0.1, 0.0),
    "checkpoint": Reading(".safetensors", 0.3, 0.005),
    "key_neurons": Reading(".zarr", 0.5, 0.12),
    "model_utilization": Reading(".h5", 1.5, 0.15),
    "model_experts": Reading(".h5", 0.8, 0.24),
    "model_expert_structure": Reading(".h5", 1.7, 0.11),
    "model_diversity": Reading(".h5", 1.3, 0.1),
    "enrichment": Reading(".parquet", 2.3, 7.2),
    "sensitivity": Reading(".parquet", 1.2, 1.2),
    "threshold_selection": Reading(".parquet", 0.8, 1.0),
    "comparisons": Reading(".h5", 1.0, 0.032),
    "dynamics": Reading(".h5", 0.5, 0.155),
    "laws": Reading(".h5", 2.9, 0.26),
    "diagnostics": Reading(".parquet", 1.3, 0.4),
    "key_neuron_exports": Reading(".h5", 1.0, 0.5),
    "expert_set_exports": Reading(".parquet", 1.0, 1.0),
    "experiment_decisions": Reading(".parquet", 2.0, 2.0),
    "experiments_page": Reading(".parquet", 7.0, 1.5),
    "gather": Reading(".parquet", 0.3, 2.6),
    "report": Reading(".parquet", 7.0, 1.5),
    "tracking": Reading(".json", 3.0, 5.0),
}
# Bytes in memory of a byte on disk, by the ending of an input: Parquet of text columns takes up to 150 (measured); the
# others twice to five times what the embedded study's largest files took.
IN_MEMORY = {".parquet": 200, ".h5": 3, ".zarr": 10, ".jsonl": 20, ".json": 20}


def analysis_memory(sizes: Mapping[str, float]) -> float:
    """Bytes of memory of a job without a model. sizes: bytes of its inputs by their ending, such as .parquet."""
    return ANALYSIS_LIBRARIES + sum(IN_MEMORY.get(kind, 0) * size for kind, size in sizes.items())


def key_file_bytes(layers: Sequence[Layer], *, samples: int, settings: int, thresholds: Sequence[float]) -> float:
    """Bytes of key_neurons.h5 of a task: settings are (formulation, selection) pairs; thresholds of all rules."""
    entries = sum(max(1, int(threshold * layer.neurons)) for threshold in thresholds for layer in layers)
    return settings * (KEY_FILE_GROUP * len(thresholds) + KEY_ENTRY * samples * entries)
