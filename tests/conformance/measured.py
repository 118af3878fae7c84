"""What the package measures on a tiny model and what the oracle says of the same samples, worked out once a model."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from conformance import oracle, zoo
from conformance.oracle import Truth
from moemui.scores.contributions import ChunkScores, Options, Sample, Scorer

EVERYTHING = Options(largest_threshold=1.0)
# Prompts and responses of different lengths, so that a batch is padded; one response is a single token.
SAMPLES = (
    Sample("a", [5, 9, 3], [7, 11, 30, 4]),
    Sample("b", [12, 4], [33]),
    Sample("c", [40, 41, 8, 22], [21, 8, 60]),
)

# Models that the package refuses, each with the part of the message that gives the reason.
REFUSED: dict[str, str] = {
    "bitnet": "(BitNetMLP) has between its projections is no act(gate) times",  # a norm over the product
    "bloom": "(BloomMLP) takes residual beside the hidden states",
    "dbrx": "DbrxForCausalLM has no list of 2 decoder layers called layers or h, but {'transformer.blocks': 2}",
    "gemma3n": "(Gemma3nTextMLP) has between its projections is no act(gate) times",  # only the largest gates pass
    "gpt2": "mlp.c_fc is a Conv1D",
    "llama4": "(Llama4TextMoe) has experts outside the dispatch",
    "mamba": "MambaForCausalLM has neither experts nor MLPs in its layers",
    "mpt": "MptForCausalLM has no list of 2 decoder layers called layers or h, but {'transformer.blocks': 2}",
    "opt": "(OPTDecoderLayer) has no MLP of its own module, but fc1, fc2",
}


@dataclass(frozen=True)
class Case:
    """One architecture: its model, the package's scores of SAMPLES, and the oracle's layers, sample by sample."""

    name: str
    model: nn.Module
    scorer: Scorer
    chunk: ChunkScores
    truths: list[list[Truth]]


@functools.cache
def measure(name: str) -> Case:
    """Build an architecture of the zoo and measure it both ways."""
    return Case(name, *measure_by_package(name), truths(name))


@functools.cache
def measure_by_package(name: str) -> tuple[nn.Module, Scorer, ChunkScores]:
    """What the package makes of an architecture of the zoo."""
    model = zoo.build(name)
    scorer = Scorer(model, EVERYTHING)
    return model, scorer, scorer.score(SAMPLES)


@functools.cache
def truths(name: str) -> list[list[Truth]]:
    """The oracle's layers of every sample."""
    model = zoo.build(name)
    return [oracle.truths(model, sample.prompt, sample.response) for sample in SAMPLES]
