"""Can this model be measured, does it pass its checks, and what will a study of it cost?

`examine` looks at a model from the outside in and stops at the first fault: configuration, structure (on torch's meta
device, without a weight), whether the weights fit in memory, the weights, a random sentence, the speed. What it finds
are plain numbers, see `moemui.models.examination`.
"""

from __future__ import annotations

import re
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemui.models import checkpoints, weights
from moemui.models.examination import UNKNOWN_SAMPLES, Examination, Prediction, Workload
from moemui.scores import disk

if TYPE_CHECKING:
    from moemui.geometry import Geometry
    from moemui.scores.contributions import Options, Scorer

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Random sentences, prompt and response half each: one whose balance is checked, and those that give the speed.
SENTENCE_TOKENS = 64
SPEED_SAMPLES, SPEED_TOKENS = 8, 1024
SPARE = 1.2  # weights and what a forward pass needs beside them, over the weights
# Faults of the machine or the network, which say nothing about a model.
OUTSIDE = (ConnectionError, MemoryError, disk.FullDiskError)


class NoModelError(FileNotFoundError):
    """Nothing is where the model's name points to."""


def examine(
    model: str,
    *,
    revision: str | None = None,
    gguf: str | None = None,
    dtype: str = "bfloat16",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    options: Mapping[str, Any] | None = None,
    thresholds: Sequence[float] = (0.0008, 0.001, 0.002),
    workloads: Sequence[Workload] = (Workload("any task"),),
    seed: int = 0,
) -> Examination:
    """Look at a model as far as it can be looked at here; a fault of the model ends in `problem`, not in an exception.

    model: a hub id, a folder (with gguf: a file in it), a GGUF file, or a config.json. Without weights beside the
    configuration they are drawn at random where they fit in memory. dtype, device_map: as `checkpoints.load`.
    options: of `contributions.Options`, without its largest threshold. thresholds: η whose k is told; the largest one
    decides how much is stored. workloads: what to predict. seed: of the random sentences and weights.

    Raises NoModelError for a name that points to nothing, ConnectionError where the hub can't be reached, ValueError
    for options that are not allowed and for a repository or revision that the hub doesn't have, FullDiskError where
    not even one sample's scores have room.
    """
    if dtype not in checkpoints.DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed are {', '.join(checkpoints.DTYPES)}")
    named = _find(model, gguf)
    from moemui.scores.contributions import Options  # seconds, for which a slip of the pen need not wait

    scoring = Options.from_mapping({**(options or {}), "largest_threshold": max(thresholds)})
    entry = {"revision": revision} if named.kind == "hub" else {}
    where = named.config or checkpoints.configuration(named.source, entry)
    visit = _Visit(Examination(model=model, kind=named.kind, dtype=dtype), trust_remote_code)
    try:
        visit.configure(where, named.gguf)
        geometry = visit.look_at_structure(thresholds)
        visit.predict(workloads, geometry, scoring)
        if named.weights and named.gguf is None:
            weights.refuse_packed(where / "config.json", model)
        if visit.has_room(_free_bytes(device_map)):
            if named.weights:
                source = {**named.source, "trust_remote_code": trust_remote_code}
                loaded, _ = checkpoints.load(checkpoints.resolve(source, entry), dtype, device_map=device_map)
                visit.note(weights="loaded")
            else:
                loaded = visit.draw_weights(seed)
            visit.measure(loaded, scoring, workloads, seed)
    except OUTSIDE:
        raise
    except Exception as error:  # whatever a model's own code raises is a finding about that model
        visit.note(problem=_sentence(error))
    return visit.found


def outline(folder: Path, gguf: str | None = None) -> Examination:
    """What follows from a folder's config.json, or GGUF file, alone: parameters and layers. Code of its own is not run.

    Raises what transformers raises for a configuration that it can't build, UnsupportedModelError for one that has no
    neurons to measure, ValueError for an architecture that transformers doesn't have.
    """
    visit = _Visit(Examination(model=str(folder), kind="config", dtype="bfloat16"), trust_remote_code=False)
    visit.configure(folder, gguf)
    visit.look_at_structure(())
    return visit.found


@dataclass(frozen=True)
class _Named:
    """What a model's name points to. config: the folder of its config.json, or a JSON file; None on the hub."""

    kind: str
    source: dict[str, Any]
    config: Path | None
    gguf: str | None = None
    weights: bool = True


def _find(model: str, gguf: str | None) -> _Named:
    path = Path(model).expanduser()
    if path.is_dir():
        if gguf is not None:
            if not (path / gguf).is_file():
                raise NoModelError(f"there is no file {gguf} in {path}; name a GGUF file that lies there")
            return _Named("gguf", {"path": str(path), "gguf": gguf}, path, gguf)
        if not (path / "config.json").is_file():
            raise NoModelError(f"{path} has no config.json; name the folder that holds it, or a GGUF file in this one")
        has = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
        return _Named("folder" if has else "config", {"path": str(path)}, path, weights=has)
    if path.is_file():
        if path.suffix == ".gguf":
            return _Named("gguf", {"path": str(path.parent), "gguf": path.name}, path.parent, path.name)
        # transformers looks for the code that a configuration brings in its folder.
        return _Named("config", {}, path.parent if path.name == "config.json" else path, weights=False)
    if HUB_ID.fullmatch(model) and gguf is None:
        return _Named("hub", {"hub": model}, None)
    raise NoModelError(
        f"there is no folder or file {model}; name a hub id (owner/name), a folder with config.json, a GGUF file or a "
        "config.json"
    )


class _Visit:
    """The steps of an examination; what they find stands in `found`, also when a later step fails."""

    def __init__(self, found: Examination, trust_remote_code: bool):
        self.found, self.trust_remote_code = found, trust_remote_code
        self.config: Any = None
        self.needed = 0  # bytes for a forward pass

    def note(self, **facts: Any) -> None:
        """Write down what was found."""
        self.found = replace(self.found, **facts)

    def configure(self, where: Path, gguf: str | None) -> None:
        """Read the configuration. where: a folder, or a JSON file."""
        from transformers import AutoConfig

        if gguf is not None:
            self.config = AutoConfig.from_pretrained(where, gguf_file=gguf)
        else:
            file = where / "config.json" if where.is_dir() else where
            checkpoints.refuse_unknown(file, str(where), trusted=self.trust_remote_code)
            self.config = AutoConfig.from_pretrained(where, trust_remote_code=self.trust_remote_code)
        self.note(architecture=str(self.config.model_type))

    def look_at_structure(self, thresholds: Sequence[float]) -> Geometry:
        """Everything that follows from the configuration alone."""
        import torch

        from moemui.tap import families

        with torch.device("meta"):
            skeleton = self._build()
        parameters = list(skeleton.parameters())  # tied ones once
        self.needed = int(SPARE * sum(weight.numel() * weight.element_size() for weight in parameters))
        self.note(
            model_class=type(skeleton).__name__,
            parameters=sum(weight.numel() for weight in parameters),
            dtype=str(skeleton.dtype).removeprefix("torch."),
        )
        geometry = families.geometry(families.sites(skeleton))
        self.note(
            layers=geometry.layers,
            neurons=geometry.neurons,
            experts=geometry.experts,
            key_counts=tuple((threshold, int(geometry.key_count(threshold).max())) for threshold in thresholds),
        )
        return geometry

    def predict(self, workloads: Sequence[Workload], geometry: Geometry, options: Options) -> None:
        """The disk that each workload will take; its time is added when the speed is known."""
        from moemui.scores import store

        settings = [(f, s) for f in options.formulations for s in options.selections]
        predictions = []
        for work in workloads:
            number = UNKNOWN_SAMPLES if work.samples is None else work.samples
            layout = store.Layout(geometry, settings, options.ranks(geometry), [work.response_tokens] * number)
            estimate = store.estimate(layout)
            predictions.append(
                Prediction(
                    name=work.name,
                    samples=number,
                    samples_assumed=work.samples is None,
                    prompt_tokens=work.prompt_tokens,
                    response_tokens=work.response_tokens,
                    bytes=estimate.usual,
                    most_bytes=estimate.most,
                    note=work.note,
                )
            )
        self.note(predictions=tuple(predictions))

    def has_room(self, free: int) -> bool:
        """Whether the weights fit in memory; says so where they don't."""
        if self.needed <= free:
            return True
        self.note(
            remark=f"a forward pass with these weights needs about {disk.readable(self.needed)}, and "
            f"{disk.readable(free)} are free, so only the structure was looked at; look again where they fit, or with "
            "device_map auto on several GPUs"
        )
        return False

    def draw_weights(self, seed: int) -> Any:
        """The model with random weights, on the first GPU, else in memory."""
        import torch

        torch.manual_seed(seed)
        with torch.device("cuda:0" if torch.cuda.is_available() else "cpu"):
            model = self._build().eval()
        self.note(
            weights="random", remark="there are no weights, so random ones were drawn for the checks and the speed"
        )
        return model

    def measure(self, model: Any, options: Options, workloads: Sequence[Workload], seed: int) -> None:
        """Checks on a random sentence, speed and time. A check that fails raises its own error."""
        import numpy as np

        from moemui.scores import extraction
        from moemui.scores.contributions import Sample, Scorer

        scorer = Scorer(model, options)
        generator = np.random.default_rng(seed)

        def samples(number: int, tokens: int) -> list[Sample]:
            half = max(1, min(tokens, scorer.context or tokens) // 2)
            ids = generator.integers(0, len(scorer.head), (number, 2, half)).tolist()
            return [Sample(f"random {i}", prompt, response) for i, (prompt, response) in enumerate(ids)]

        sentence = samples(1, SENTENCE_TOKENS)[0]
        row = {"id": sentence.id, "prompt_ids": sentence.prompt, "response_ids": sentence.response}
        with tempfile.TemporaryDirectory() as folder:
            quality = extraction.extract(scorer, [row], Path(folder) / "contributions.zarr", attributes={})
        self.note(
            checked_tokens=quality.response_tokens,
            identity_error=quality.identity_error,
            conservation_error=quality.conservation_error,
            imbalance=quality.imbalance,
            tolerance=scorer.tolerance,
        )
        speed = _speed(scorer, samples(SPEED_SAMPLES, SPEED_TOKENS // SPEED_SAMPLES))
        self.note(**speed)
        timed = [
            replace(p, seconds=p.samples * (p.prompt_tokens + p.response_tokens) / speed["extraction_speed"])
            for p in self.found.predictions
        ]
        self.note(predictions=tuple(timed))

    def _build(self) -> Any:
        """A model with the weights that its class draws, on torch's default device."""
        import torch
        from transformers import AutoModelForCausalLM

        dtype: Any = self.found.dtype
        if dtype == "auto":
            dtype = getattr(self.config.get_text_config(decoder=True), "dtype", None) or "float32"
        chosen = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return AutoModelForCausalLM.from_config(self.config, dtype=chosen, trust_remote_code=self.trust_remote_code)


def _free_bytes(device_map: str | None) -> int:
    """Memory that a model may take: of the first GPU, of all of them when it is spread, without one of the machine."""
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    gpus = [room for device, room in free.items() if device not in ("cpu", "disk")]
    if not gpus:
        return int(free["cpu"])
    return int(sum(gpus) if device_map == "auto" else gpus[0])


def _speed(scorer: Scorer, samples: Sequence[Any]) -> dict[str, Any]:
    """Tokens a second of the plain forward pass and of extraction over the same samples, and the peak memory."""
    import torch

    ids = torch.tensor([[*s.prompt, *s.response] for s in samples], device=scorer.device)
    with torch.no_grad():
        forward = _seconds(lambda: scorer.model(input_ids=ids, use_cache=False))
    extraction = _seconds(lambda: scorer.score(samples))
    gpus = range(torch.cuda.device_count()) if scorer.device.type == "cuda" else ()
    # Linux counts the resident set in kilobytes.
    peak = sum(map(torch.cuda.max_memory_allocated, gpus)) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": torch.cuda.get_device_name(scorer.device) if gpus else "CPU",
        "forward_speed": ids.numel() / forward,
        "extraction_speed": ids.numel() / extraction,
        "peak_bytes": peak,
    }


def _seconds(work: Callable[[], object]) -> float:
    import torch

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    work()  # the first time includes setting up
    start = now()
    work()
    return now() - start


def _sentence(error: Exception) -> str:
    """An exception's text in one line; of another library, with the class that says what kind it is."""
    text = " ".join(str(error).split()) or type(error).__name__
    ours = type(error).__module__.startswith("moemui") or type(error) is ValueError
    return text if ours else f"{type(error).__name__}: {text}"
