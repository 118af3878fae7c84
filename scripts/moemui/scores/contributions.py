"""Neuron contributions f(i, j, l, y_t) of responses, ranked a sample and layer (SPEC sections 2 and 3).

One forward pass over prompt and response through the tap gives, for response tokens only, the three formulations, their
highest entries, routing counts, and the conservation error that proves that the whole of every layer's output was seen.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from moemui.geometry import Geometry
from moemui.scores import scoring
from moemui.scores.chunk_scores import ChunkScores
from moemui.scores.scoring import BatchScores, ConservationError
from moemui.tap import families, heads
from moemui.tap.capture import Tap, experts_implementation
from moemui.tap.families import Foreign

__all__ = ["ChunkScores", "ConservationError", "Options", "Sample", "Scorer", "batches"]

log = logging.getLogger(__name__)

FORMULATIONS = ("projection", "glu", "activation")
SELECTIONS = ("pairs", "neurons", "per_token")
ALIGNMENTS = ("next_token", "same_token")
PADDING_SIDES = ("right", "left")
# Largest imbalance (see `scoring`) that passes, by the weights' type; in half precision eight of its rounding steps. At
# hidden sizes 64 to 2,048 clean bfloat16 models reached 0.003 to 0.005; one expert unseen gave 0.2 to 0.7, a gate too
# large by a fifth 0.11.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 8 * 2**-11, torch.bfloat16: 8 * 2**-8}
IDENTITY_POSITIONS = 64  # last positions whose logits are compared: a vocabulary's logits of a long prompt fill a GPU


@dataclass(frozen=True)
class Options:
    """What is scored and how; recorded with every result. SPEC section 2 names the choices.

    largest_threshold: share η of a layer's neurons up to which ranks are stored; a smaller one is a read of the store.
    max_batch_tokens: padded tokens a forward pass; bounds memory, changes no result.
    """

    formulations: tuple[str, ...] = FORMULATIONS
    selections: tuple[str, ...] = ("pairs", "neurons")
    largest_threshold: float = 0.002
    alignment: str = "next_token"
    gate_weighting: bool = True
    head: str = "raw"
    eos: str = "exclude"
    max_batch_tokens: int = 4096

    def __post_init__(self) -> None:
        for name, found, allowed in (
            ("formulations", self.formulations, FORMULATIONS),
            ("selections", self.selections, SELECTIONS),
            ("alignment", (self.alignment,), ALIGNMENTS),
            ("head", (self.head,), ("raw", "final_norm")),
            ("eos", (self.eos,), ("exclude", "include")),
        ):
            if len(set(found)) < len(found):
                raise ValueError(f"{name} is {list(found)}; each is named once")
            if not found or (unknown := [value for value in found if value not in allowed]):
                raise ValueError(
                    f"{name} is {list(found)}; allowed are {list(allowed)}" + (f", not {unknown}" if found else "")
                )
        if not 0 < self.largest_threshold <= 1:
            raise ValueError(f"largest_threshold is {self.largest_threshold}; it is a share, above 0 and at most 1")
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens is {self.max_batch_tokens}; it is 1 or more")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Options:
        """Options from plain types, such as `to_dict` gives; lists become tuples."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def ranks(self, geometry: Geometry) -> int:
        """Ranked entries to keep a sample and layer: the largest k_l of the largest threshold."""
        return int(geometry.key_count(self.largest_threshold).max())

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for store attributes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Sample:
    """A prompt and its response as token ids; `response` as produced, a closing end-of-sequence token included."""

    id: str
    prompt: Sequence[int]
    response: Sequence[int]


class Scorer:
    """Scores samples on a loaded model. Make one a model; `score` may be called for any number of chunks.

    padding_side: where a batch's shorter samples are filled up, "right" or "left"; changes no result beyond rounding.
    """

    def __init__(self, model: Foreign, options: Options, *, eos_ids: Sequence[int] = (), padding_side: str = "right"):
        if padding_side not in PADDING_SIDES:
            raise ValueError(f"padding_side is {padding_side!r}; allowed are {list(PADDING_SIDES)}")
        self.model, self.options, self.eos_ids, self.padding_side = model, options, frozenset(eos_ids), padding_side
        self.sites = families.sites(model)
        self.geometry = families.geometry(self.sites)
        self.head = heads.unembedding(model, options.head)
        self.ranks = options.ranks(self.geometry)
        if self.head.is_meta:
            raise families.UnsupportedModelError(
                "the output embedding is not in memory (offloaded to CPU or disk); give the model more memory or more "
                "devices"
            )
        self.dtypes = {self.head.dtype, *(site.dtype for site in self.sites)}
        self.tolerance = max(TOLERANCE[dtype] for dtype in self.dtypes)
        self.context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self.device = model.get_input_embeddings().weight.device
        self.max_batch_tokens = options.max_batch_tokens

    def scored_tokens(self, sample: Sample) -> list[int]:
        """The response tokens y_1..y_m that count; without the closing end-of-sequence token unless asked for.

        Raises ValueError for an empty prompt, which has no state that predicts y_1, for a sample longer than the
        model's context, and for tokens that the head has no row for.
        """
        if not len(sample.prompt):
            raise ValueError(
                f"sample {sample.id} has an empty prompt, so no state predicts its first response token; "
                "give it a prompt"
            )
        response = list(sample.response)
        if self.options.eos == "exclude":
            while response and response[-1] in self.eos_ids:
                response.pop()
        if self.context is not None and len(self.fed(sample, response)) > self.context:
            raise ValueError(
                f"sample {sample.id} has {len(sample.prompt)} prompt and {len(response)} response tokens, but the "
                f"model's context holds {self.context}; shorten or leave out the sample"
            )
        lowest, highest = min((*sample.prompt, *response)), max((*sample.prompt, *response))
        if lowest < 0:
            raise ValueError(
                f"sample {sample.id} holds token {lowest}; tokens count from 0, so make its responses again"
            )
        if highest >= len(self.head):
            raise ValueError(
                f"sample {sample.id} holds token {highest}, but the head has {len(self.head)} rows; "
                "the tokenizer belongs to another model"
            )
        return response

    def fed(self, sample: Sample, response: Sequence[int]) -> list[int]:
        """The tokens that go through the model. Under next_token the last one predicts nothing, so it stays outside."""
        shown = response[:-1] if self.options.alignment == "next_token" else response
        return [*sample.prompt, *shown]

    @torch.no_grad()
    def score(self, samples: Sequence[Sample], progress: Callable[[int], None] = lambda done: None) -> ChunkScores:
        """Scores of a chunk of samples; memory grows with the chunk, not with the study.

        progress is called with the number of samples done after every forward pass. An empty response has no entries
        and no tokens. Where memory runs out, the batch is halved, and so are those that follow. Raises
        ConservationError above tolerance (NaN weights included), and what ran out of memory where a single sample does
        not fit.
        """
        responses = [self.scored_tokens(sample) for sample in samples]
        chunk = self._empty([len(response) for response in responses])
        lengths = [len(self.fed(sample, response)) for sample, response in zip(samples, responses, strict=True)]
        done = sum(not response for response in responses)
        waiting = list(batches(lengths, [bool(r) for r in responses], self.max_batch_tokens))[::-1]
        while waiting:
            batch = waiting.pop()
            scores = self._fitting([samples[i] for i in batch], [responses[i] for i in batch])
            if scores is None:
                self.max_batch_tokens = max(1, max(lengths[i] for i in batch) * (len(batch) // 2))
                log.warning(
                    "a batch of %d samples did not fit into memory; going on with at most %d tokens a batch",
                    len(batch),
                    self.max_batch_tokens,
                )
                left = {i for part in [batch, *waiting] for i in part}
                waiting = list(batches(lengths, [i in left for i in range(len(samples))], self.max_batch_tokens))[::-1]
                continue
            chunk.put(batch, scores)
            done += len(batch)
            progress(done)
        return chunk

    def _fitting(self, samples: Sequence[Sample], responses: Sequence[Sequence[int]]) -> ChunkScores | None:
        """As `_forward`; None where memory ran out for more than one sample."""
        try:
            return self._forward(samples, responses)
        except (MemoryError, RuntimeError) as error:
            if len(samples) == 1 or not _ran_out_of_memory(error):
                raise
        # After the block, since the error holds on to what the pass had made.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _empty(self, response_tokens: Sequence[int]) -> ChunkScores:
        options = self.options
        return ChunkScores.empty(
            response_tokens=response_tokens,
            layers=len(self.sites),
            experts=max(layer.experts for layer in self.geometry.layers),
            ranks=self.ranks,
            settings=[(f, s) for f in options.formulations for s in options.selections],
        )

    def _forward(self, samples: Sequence[Sample], responses: Sequence[Sequence[int]]) -> ChunkScores:
        """One forward pass through the tap over samples whose responses are not empty."""
        sequences = [self.fed(sample, response) for sample, response in zip(samples, responses, strict=True)]
        width, options = max(map(len, sequences)), self.options
        ids, mask, starts = [], [], []
        for number, (sample, sequence) in enumerate(zip(samples, sequences, strict=True)):
            fill = [0] * (width - len(sequence))
            left = self.padding_side == "left"
            ids.append(fill + sequence if left else sequence + fill)
            mask.append(fill + [1] * len(sequence) if left else [1] * len(sequence) + fill)
            shift = 1 if options.alignment == "next_token" else 0
            starts.append(number * width + (len(fill) if left else 0) + len(sample.prompt) - shift)
        targets = torch.tensor([token for response in responses for token in response], device=self.head.device)
        at = scoring.rows([len(r) for r in responses], starts, len(sequences) * width, self.head[targets])
        batch = BatchScores(
            self.sites,
            at,
            self._empty([len(response) for response in responses]),
            ranks=self.ranks,
            gate_weighting=options.gate_weighting,
            tolerance=self.tolerance,
        )
        inputs = {
            "input_ids": torch.tensor(ids, device=self.device),
            "attention_mask": torch.tensor(mask, device=self.device),
        }
        if self.padding_side == "left":
            # On the right side nothing precedes a sample, so the model's own positions are right.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        with Tap(self.sites, observer=batch.observe, wanted=at.row_of >= 0):
            self.model.get_decoder()(**inputs, use_cache=False)
        return batch.finished()

    @property
    def identity_tolerance(self) -> float:
        """Largest identity error that passes: one rounding step in half precision, 1e-6 in float32."""
        return max(1e-6, *(torch.finfo(dtype).eps for dtype in self.dtypes))

    @torch.no_grad()
    def identity_error(self, sample: Sample) -> float:
        """Largest difference between logits with and without the tap, over the largest logit; 0 is bit-equal.

        Compared are the sample's last positions, at most `IDENTITY_POSITIONS`.
        """
        ids = torch.tensor([[*sample.prompt, *sample.response][: self.context]], device=self.device)
        keep = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            keep = {"logits_to_keep": IDENTITY_POSITIONS}
        with experts_implementation(self.sites, "grouped_mm"):
            plain = self.model(input_ids=ids, use_cache=False, **keep).logits.float()
        with Tap(self.sites, observer=lambda position, passed: None):
            tapped = self.model(input_ids=ids, use_cache=False, **keep).logits.float()
        return float((tapped - plain).abs().max() / plain.abs().max().clamp_min(1e-30))


def batches(lengths: Sequence[int], wanted: Sequence[bool], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of the wanted samples in batches of like length whose padded size is at most max_tokens.

    A sample longer than max_tokens gets a batch of its own.
    """
    batch: list[int] = []
    for index in sorted((i for i, want in enumerate(wanted) if want), key=lambda i: lengths[i]):
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _ran_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator and CUDA's libraries raise a plain RuntimeError.
    words = ("not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)
