"""What an experiment asks of a model: how well it answers, and which neurons its answers need.

Answers are judged by the reference answer's tokens, all fed at once: greedy decoding writes the reference exactly where
each of its tokens, the end included, is the likeliest after those before it. So accuracy costs one forward pass.
Neurons are those of a response; by default that is the reference answer, the same text at every checkpoint and in every
arm, so that a difference of MUI is one of the model and not of what it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from moemui.geometry import Geometry
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.selection import select
from moemui.models import checkpoints
from moemui.models.synthetic import Example
from moemui.models.training import IGNORED, collate, encode
from moemui.mui.rarefaction import frequency_counts, mui_at
from moemui.scores.contributions import Options, Sample, Scorer

RESPONSES = ("reference", "generated")
AT_ONCE = 256  # examples a forward pass; at these sizes more gain nothing
SPARE_TOKENS = 8  # that a generated response may be longer than its reference


@dataclass(frozen=True)
class Reading:
    """How key neurons are read; the other options of scoring are the main ones.

    threshold: η, share of a layer's neurons. response: whose text is scored, the `reference` answer or what the model
    itself `generated` greedily.
    """

    formulation: str = "projection"
    selection: str = "pairs"
    threshold: float = 0.01
    response: str = "reference"

    def __post_init__(self) -> None:
        if self.response not in RESPONSES:
            raise ValueError(f"response is {self.response!r}; allowed are {', '.join(RESPONSES)}")

    @property
    def options(self) -> Options:
        """The same as the scorer takes it. Raises ValueError for what it does not know."""
        return Options((self.formulation,), (self.selection,), self.threshold)


@dataclass(frozen=True)
class Answers:
    """How a model answers some examples, arrays of (examples,).

    exact: bool, whether it would write the reference answer and end there. token_accuracy: float64, 0..1, share of the
    reference's tokens, its end included, that are the likeliest after those before. nll: float64, nats a token, mean
    negative log-likelihood of those tokens.
    """

    exact: np.ndarray
    token_accuracy: np.ndarray
    nll: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of examples answered exactly, 0..1; NaN without examples."""
        return float(self.exact.mean()) if len(self.exact) else float("nan")


@dataclass(frozen=True)
class Needed:
    """The neurons that responses need: key sets of every sample, and response tokens that each expert got.

    tokens: float64, (samples, experts), numbered as `geometry.expert_offsets`; a shared expert gets all.
    """

    sets: KeySets
    tokens: np.ndarray
    geometry: Geometry

    def mui(self, m: int | None = None, neurons: np.ndarray | None = None) -> float:
        """MUI, 0..1, as it is expected of m of the samples (None: of all).

        neurons: bool, (neurons,), which of them count, such as those of a layer or of shared experts; MUI is the share
        of these then. NaN where none counts. Raises ValueError unless 1 ≤ m ≤ samples.
        """
        incidence, n = self.sets.incidence(self.geometry.neurons), self.sets.n_samples
        own = incidence if neurons is None else incidence[neurons]
        if not len(own):
            return float("nan")
        counts = frequency_counts(incidence=own, n=n)
        return mui_at(counts=counts, m=n if m is None else m, n_neurons=len(own))[0]


class Probe:
    """Asks one loaded model. Make one a model and checkpoint; the model goes into evaluation mode."""

    def __init__(self, model: Any, tokenizer: Any, reading: Reading):
        self.model, self.tokenizer, self.reading = model.eval(), tokenizer, reading
        self.scorer = Scorer(model, reading.options, eos_ids=[tokenizer.eos_token_id])

    @classmethod
    def of(cls, folder: str | Path, reading: Reading) -> Probe:
        """Of a checkpoint folder, such as a snapshot of a training here, in float32."""
        manifest = checkpoints.resolve({"path": str(folder), "trust_remote_code": False}, {})
        return cls(*checkpoints.load(manifest), reading)

    @property
    def geometry(self) -> Geometry:
        """Of the model's MoE layers."""
        return self.scorer.geometry

    @torch.no_grad()
    def answer(self, examples: Sequence[Example]) -> Answers:
        """How the model answers; no examples give empty arrays."""
        exact, right, nll = [], [], []
        encoded = encode(examples, self.tokenizer) if examples else []
        for start in range(0, len(encoded), AT_ONCE):
            ids, mask, targets = (part.to(self.model.device) for part in collate(encoded[start : start + AT_ONCE]))
            states = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            wanted = targets != IGNORED
            logits = self.model.lm_head(states[wanted]).float()
            row = wanted.nonzero()[:, 0].cpu().numpy()
            hit = (logits.argmax(-1) == targets[wanted]).double().cpu().numpy()
            loss = F.cross_entropy(logits, targets[wanted], reduction="none").double().cpu().numpy()
            sizes = np.bincount(row, minlength=len(ids))
            right.append(np.bincount(row, hit, minlength=len(ids)) / sizes)
            nll.append(np.bincount(row, loss, minlength=len(ids)) / sizes)
            exact.append(np.bincount(row, 1 - hit, minlength=len(ids)) == 0)
        none = np.empty(0)
        return Answers(
            np.concatenate([none.astype(bool), *exact]), np.concatenate([none, *right]), np.concatenate([none, *nll])
        )

    def needed(self, examples: Sequence[Example]) -> Needed:
        """The neurons that the responses to these examples need. Raises ValueError without examples.

        Raises moemui.scores.contributions.ConservationError where a part of a layer was not seen.
        """
        if not examples:
            raise ValueError("there are no examples to measure neurons on; give at least one")
        encoded = encode(examples, self.tokenizer)
        if self.reading.response == "generated":
            encoded = [(prompt, self._generated(prompt, len(answer))) for prompt, answer in encoded]
        samples = [Sample(str(number), *pair) for number, pair in enumerate(encoded)]
        scores = self.scorer.score(samples)
        neuron, token, score = scores.ranked[self.reading.formulation, self.reading.selection]
        chosen = select(
            neuron=neuron,
            token=token,
            score=score,
            geometry=self.geometry,
            threshold=self.reading.threshold,
            selection=self.reading.selection,
        )
        counts = [layer.experts for layer in self.geometry.layers]
        tokens = np.concatenate([scores.routed_tokens[:, place, :n] for place, n in enumerate(counts)], axis=1)
        return Needed(chosen.sets, tokens.astype(float), self.geometry)

    @torch.no_grad()
    def _generated(self, prompt: Sequence[int], reference: int) -> list[int]:
        """The model's own greedy response; reference: tokens of the reference answer."""
        ids = torch.tensor([prompt], device=self.model.device)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=reference + SPARE_TOKENS,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return [int(token) for token in out[0, len(prompt) :]]
