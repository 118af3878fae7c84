"""What extraction costs: its time over that of the plain forward pass, its memory, its bytes.

    OMP_NUM_THREADS=1 python benchmarks/extraction.py

An OLMoE-like model with random weights reads 16 responses of 128 tokens, but where a line says otherwise. Ratios are of
times taken in turns in one run on one thread, the median over rounds; the last lines are for machines to read. Peak
memory is that of fresh processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import torch
from torch import nn
from transformers import OlmoeConfig, OlmoeForCausalLM

from moemui.scores import extraction, ranking
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.scores.ranking import Slots
from moemui.tap.capture import Tap
from moemui.tap.layer_pass import LayerPass

ROUNDS = 5
DEFAULT = Options(formulations=("projection",), selections=("pairs",))
ALL = Options()
WORKS = ("plain", "headless", "default", "all")  # the forward pass with logits and without, extraction
SHORT_PROMPT = (16, 1, 128)  # responses, tokens of a prompt, of a response
LONG_PROMPT = (2, 1500, 20)


def main() -> None:
    """Print every figure, the four ratios last."""
    torch.set_num_threads(1)
    model, samples = build(vocabulary=8192, layers=8), responses(16, 1, 128, 8192)
    scorers = {"default": Scorer(model, DEFAULT), "all": Scorer(model, ALL)}
    tokens = sum(len(sample.response) for sample in samples)
    times = in_turns({
        "plain": lambda: plain(model, samples),
        "headless": lambda: plain(model.get_decoder(), samples),
        **{name: lambda scorer=scorer: scorer.score(samples) for name, scorer in scorers.items()},
    })  # fmt: skip
    print(
        f"plain forward pass with logits: {times['plain']:.2f} s for {tokens} tokens ({tokens / times['plain']:.0f}/s)"
    )
    for name in scorers:
        print(f"extraction, {name}: {times[name]:.2f} s, {tokens / times[name]:.0f} response tokens/s")
    print(
        f"over the plain pass without the head, {times['headless']:.2f} s: "
        f"default {times['default'] / times['headless']:.2f}, all {times['all'] / times['headless']:.2f}"
    )

    mixed = responses(16, 64, 64, 8192)
    mix = in_turns({
        "plain": lambda: plain(model, mixed),
        **{name: lambda scorer=scorer: scorer.score(mixed) for name, scorer in scorers.items()},
    })  # fmt: skip
    print(
        f"half of the tokens prompt: default {mix['default'] / mix['plain']:.2f}, all {mix['all'] / mix['plain']:.2f}"
    )
    for name, scorer in scorers.items():
        print(f"stored, {name}: {stored_bytes(scorer, samples) / tokens:.0f} bytes a response token")

    ratios = []
    for few in (responses(2, 1, 64, 50_000), responses(16, 1, 128, 50_000)):
        full, ours = full_vocabulary(few)
        ratios.append(full / ours)
        print(
            f"vocabulary of 50,000, 4 layers, {len(few)} responses of {len(few[0].response)} tokens: full product "
            f"{full:.1f} s, extraction {ours:.3f} s, {ratios[-1]:.0f} times, equal key neurons"
        )
    memory = {name: peak_mb(name, SHORT_PROMPT) for name in WORKS}
    print("peak memory in MB: " + in_words(memory))
    with_prompts = {name: peak_mb(name, LONG_PROMPT) for name in WORKS}
    print("peak memory in MB, 2 prompts of 1,500 tokens with responses of 20: " + in_words(with_prompts))

    print(f"over_forward_default {times['default'] / times['plain']:.3f}")
    print(f"over_forward_all {times['all'] / times['plain']:.3f}")
    print(f"over_full_vocabulary {ratios[0]:.0f}")
    print(f"extra_peak_mb {max(memory['default'], memory['all']) - memory['plain']:.0f}")


def in_words(memory: dict[str, float]) -> str:
    """One figure after the other."""
    return ", ".join(f"{name} {value:.0f}" for name, value in memory.items())


def build(*, vocabulary: int, layers: int) -> nn.Module:
    """An OLMoE-like model: hidden 512, 64 experts of 256 neurons, 8 a token."""
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=8, num_experts=64, num_experts_per_tok=8, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = OlmoeForCausalLM(config).eval().requires_grad_(False)
    model.set_experts_implementation("grouped_mm")  # what transformers chooses by itself
    return model


def responses(count: int, prompt: int, response: int, vocabulary: int) -> list[Sample]:
    """Samples of uniformly random tokens: text repeats itself more, so nothing here is cheaper than text."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, (count, prompt + response), generator=generator).tolist()
    return [Sample(str(i), row[:prompt], row[prompt:]) for i, row in enumerate(ids)]


@torch.no_grad()
def plain(model: nn.Module, samples: list[Sample]) -> None:
    """The forward pass that a user would make anyway, over the same tokens; with logits unless given a decoder."""
    ids = torch.tensor([[*sample.prompt, *sample.response[:-1]] for sample in samples])
    model(input_ids=ids, use_cache=False)


def in_turns(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def stored_bytes(scorer: Scorer, samples: list[Sample]) -> int:
    """Size on disk of the samples' store."""
    records = [
        {"id": s.id, "prompt_ids": list(s.prompt), "response_ids": list(s.response), "response": "x"} for s in samples
    ]
    with tempfile.TemporaryDirectory() as folder:
        return extraction.extract(scorer, records, Path(folder) / "contributions.zarr", attributes={}).bytes


def full_vocabulary(samples: list[Sample]) -> tuple[float, float]:
    """Seconds of W_down · W_head for the whole vocabulary and rows picked from it, and of extraction (a median).

    Prompts are of one token and responses of one length. Raises AssertionError where their key neurons differ.
    """
    model, length = build(vocabulary=50_000, layers=4), len(samples[0].response)
    scorer = Scorer(model, DEFAULT)
    ours = in_turns({"ours": lambda: scorer.score(samples)})["ours"]
    chunk = scorer.score(samples)
    targets = torch.tensor([sample.response for sample in samples]).reshape(-1)
    ranked = []

    def observe(position: int, passed: LayerPass) -> None:
        assert passed.routed is not None
        groups = []
        for span in passed.routed:
            experts = model.model.layers[position].mlp.experts
            pull = torch.empty_like(span.activation)
            for expert in span.expert.unique():
                every_token = scorer.head @ experts.down_proj[expert]  # (vocabulary, N)
                of_expert = span.expert == expert
                pull[of_expert] = every_token[targets[span.token[of_expert]]]
            scores = span.activation * span.weight[:, None] * pull
            sample, token = span.token // length, span.token % length
            groups.append(Slots(scores, scores.amax(1), sample, token, span.expert * 256))
        entries = ranking.rank_pairs(groups, len(samples), scorer.ranks)
        ranked.append(ranking.to_arrays(entries, len(samples), scorer.ranks)[0])

    start = time.perf_counter()
    ids = torch.tensor([[*sample.prompt, *sample.response[:-1]] for sample in samples])
    with torch.no_grad(), Tap(scorer.sites, observer=observe):
        model.get_decoder()(input_ids=ids, use_cache=False)
    full = time.perf_counter() - start
    for layer, neurons in enumerate(ranked):
        for sample in range(len(samples)):
            mine = set(chunk.ranked["projection", "pairs"][0][sample, layer].tolist())
            assert mine == set(neurons[sample].tolist()), f"key neurons differ in layer {layer}"
    return full, ours


def peak_mb(what: str, shape: tuple[int, int, int]) -> float:
    """Peak memory of a fresh process while it does the work twice, the loaded model included (Linux)."""
    command = [sys.executable, __file__, "--peak", what, *map(str, shape)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def work_alone(what: str, shape: tuple[int, int, int]) -> None:
    """What `peak_mb` runs."""
    torch.set_num_threads(1)
    model, samples = build(vocabulary=8192, layers=8), responses(*shape, 8192)
    scorers = {"default": Scorer(model, DEFAULT), "all": Scorer(model, ALL)}
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    for _ in range(2):
        if what in ("plain", "headless"):
            plain(model if what == "plain" else model.get_decoder(), samples)
        else:
            scorers[what].score(samples)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


if __name__ == "__main__":
    if "--peak" in sys.argv:
        what, count, prompt, response = sys.argv[-4:]
        work_alone(what, (int(count), int(prompt), int(response)))
    else:
        main()
