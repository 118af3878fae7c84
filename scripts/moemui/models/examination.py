"""What an examination of a model found: plain numbers, and the same in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from moemui.geometry import Layer
from moemui.scores.disk import readable

UNKNOWN_SAMPLES = 1000  # what a prediction is given for where nobody says how many samples a task has


@dataclass(frozen=True)
class Workload:
    """A task of a study, as far as it is known before anything runs.

    samples: None where it isn't known; a prediction is then given for `UNKNOWN_SAMPLES`. prompt_tokens,
    response_tokens: of a sample, assumed. note: what else to say beside its prediction.
    """

    name: str
    samples: int | None = None
    prompt_tokens: int = 256
    response_tokens: int = 256
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a workload will take of a checkpoint on this machine.

    bytes, most_bytes: of its contributions store, as a rule and at most. seconds: of its extraction, None where the
    speed could not be measured; making the responses comes on top.
    """

    name: str
    samples: int
    samples_assumed: bool
    prompt_tokens: int
    response_tokens: int
    bytes: int
    most_bytes: int
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Examination:
    """What was found. None stands for what could not be looked at; `problem` or `remark` says why.

    problem: why the model can't be measured, in a sentence; None where nothing speaks against it.
    weights: "loaded", "random" (there are none, so they were drawn) or "none" (only the structure was looked at).
    neurons, experts: the denominators of MUI and of key-expert proportion. key_counts: (η, largest k of a layer).
    conservation_error, imbalance, tolerance: as `moemui.scores.contributions` names them, on `checked_tokens`
    response tokens.
    Speeds are tokens a second, prompts included; peak_bytes is the most memory that was in use.
    """

    model: str
    kind: str
    dtype: str
    architecture: str | None = None
    model_class: str | None = None
    problem: str | None = None
    remark: str | None = None
    weights: str = "none"
    parameters: int | None = None
    layers: tuple[Layer, ...] = ()
    neurons: int | None = None
    experts: int | None = None
    key_counts: tuple[tuple[float, int], ...] = ()
    checked_tokens: int | None = None
    identity_error: float | None = None
    conservation_error: float | None = None
    imbalance: float | None = None
    tolerance: float | None = None
    device: str | None = None
    extraction_speed: float | None = None
    forward_speed: float | None = None
    peak_bytes: int | None = None
    predictions: tuple[Prediction, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether nothing speaks against measuring this model."""
        return self.problem is None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"supported": self.supported, **asdict(self)}


def render(found: Examination) -> str:
    """An examination in words, one fact a line."""
    verdict = "supported" if found.weights != "none" else "its structure is supported, its numbers were not checked"
    lines = [f"{found.model}: {verdict if found.supported else 'not supported'}"]
    if found.problem:
        lines.append(f"  why: {found.problem}")
    if found.remark:
        lines.append(f"  note: {found.remark}")
    if found.model_class:
        lines.append(f"architecture: {found.architecture}, {found.model_class}")
        lines.append(f"weights: {found.weights}, {found.parameters:,} numbers as {found.dtype}")
    lines += _geometry_lines(found)
    if found.identity_error is not None:
        lines += [
            f"on {found.checked_tokens} random response tokens:",
            f"  identity: logits differ by {found.identity_error:.2g} of the largest one under the tap",
            f"  conservation: contributions miss a layer's output by {found.conservation_error:.2g} of their size; "
            f"imbalance {found.imbalance:.2g}, allowed {found.tolerance:.2g}",
        ]
    if found.extraction_speed is not None and found.forward_speed is not None:
        lines += [
            f"on this machine ({found.device}), tokens a second, prompts included:",
            f"  plain forward pass {found.forward_speed:,.0f}, extraction {found.extraction_speed:,.0f} "
            f"({found.forward_speed / found.extraction_speed:.2f} times as long)",
            f"  peak memory {readable(found.peak_bytes or 0)}",
        ]
    if found.predictions:
        lines.append("the contributions of one checkpoint will take:")
    lines += [_prediction_line(prediction) for prediction in found.predictions]
    return "\n".join(lines)


def _geometry_lines(found: Examination) -> list[str]:
    if not found.layers:
        return []
    alike = [list(group) for _, group in groupby(found.layers, key=lambda layer: replace(layer, index=0))]
    lines = [f"geometry: {len(found.layers)} layers with neurons"]
    for group in alike:
        first, last = group[0], group[-1]
        which = f"layer {first.index}" if len(group) == 1 else f"layers {first.index} to {last.index}"
        if last.index - first.index >= len(group):
            which = f"{len(group)} of the {which}"  # others between them have no experts
        parts = []
        if first.routed:
            parts.append(f"{first.routed} routed experts of {first.width:,} neurons, top {first.top_k}")
        if first.shared and first.routed:
            parts.append(f"{first.shared} shared of {first.shared_width:,}")
        elif first.shared:
            parts.append(f"a dense MLP of {first.shared_width:,} neurons")
        lines.append(f"  {which}: {', '.join(parts)}")
    counts = ", ".join(f"{100 * threshold:g} %: {count}" for threshold, count in found.key_counts)
    return [
        *lines,
        f"  MUI is over {found.neurons:,} neurons, the key-expert proportion over {found.experts:,} experts",
        f"  most key neurons of a sample in a layer at {counts}",
    ]


def _prediction_line(prediction: Prediction) -> str:
    assumed = " (how many it has is not known)" if prediction.samples_assumed else ""
    time = "" if prediction.seconds is None else f", {_duration(prediction.seconds)}"
    return (
        f"  {prediction.name}: about {readable(prediction.bytes)}, at most {readable(prediction.most_bytes)}{time} for "
        f"{prediction.samples:,} samples{assumed} of {prediction.prompt_tokens} prompt and "
        f"{prediction.response_tokens} response tokens" + (f"; {prediction.note}" if prediction.note else "")
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
