"""What the package measures on a tiny model and what the oracle says of the same samples, worked out once a model."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from conformance import oracle, zoo
from conformance.oracle import Truth
from moemui.contributions import ChunkScores, Options, Sample, Scorer

EVERYTHING = Options(largest_threshold=1.0)
# Prompts and responses of different lengths, so that a batch is padded; one response is a single token.
SAMPLES = (
    Sample("a", [5, 9, 3], [7, 11, 30, 4]),
    Sample("b", [12, 4], [33]),
    Sample("c", [40, 41, 8, 22], [21, 8, 60]),
)

# Architectures that the package refuses, each with the part of the message that gives the reason.
REFUSED: dict[str, str] = {}


@dataclass(frozen=True)
class Case:
    """One architecture: its model, the package's scores of SAMPLES, and the oracle's layers, sample by sample."""

    model: nn.Module
    scorer: Scorer
    chunk: ChunkScores
    truths: list[list[Truth]]


@functools.cache
def measure(name: str) -> Case:
    """Build an architecture of the zoo and measure it both ways."""
    model = zoo.build(name)
    scorer = Scorer(model, EVERYTHING)
    chunk = scorer.score(SAMPLES)
    return Case(model, scorer, chunk, truths(name))


@functools.cache
def truths(name: str) -> list[list[Truth]]:
    """The oracle's layers of every sample."""
    model = zoo.build(name)
    return [oracle.truths(model, sample.prompt, sample.response) for sample in SAMPLES]
