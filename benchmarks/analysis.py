"""What the analyses cost at scale: 10,000 samples × 24 layers × 130 ranked entries, from entries to tables.

    OMP_NUM_THREADS=1 python benchmarks/analysis.py

A made-up model of 64 routed experts and a shared one a layer, 1,000 neurons each, so that 0.2 % is k = 130. How often a
neuron is key falls as Zipf's law with exponent 1.2, the shared expert's preferred, so that unions saturate as real ones
do. Measured are the key sets, the file that holds them, and the tables of MUI (with rarefaction, its curve, its noise
and its asymptote; for all samples and the correct half) and of experts (with intervals), in processor seconds of one
process, the median over rounds. The numpy pass is the best of its rounds. Peak memory is that of a fresh process, all
of it, the entries included. The last lines are for machines to read.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import numpy as np

from moemui.experts import key_experts as experts
from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons.selection import select
from moemui.key_neurons.settings import Setting
from moemui.mui import utilization

ROUNDS = 3
SAMPLES, SETTING = 10_000, Setting("projection", "pairs", 0.002)
GEOMETRY = Geometry(tuple(Layer(i, 64, 1, 1000, 1000, 8) for i in range(24)))
RANKS = int(GEOMETRY.key_count(SETTING.threshold).max())
ZIPF = 1.2
BLOCK = 250  # samples made at a time, so that making them needs less memory than measuring


class Entries(NamedTuple):
    """Ranked entries as they are stored: neuron int32 and score float32, (samples, layers, ranks)."""

    neuron: np.ndarray
    score: np.ndarray

    def first(self, samples: int) -> Entries:
        """Those of the first samples."""
        return Entries(self.neuron[:samples], self.score[:samples])


def main() -> None:
    """Print every figure, the three for machines last."""
    entries = made_up(SAMPLES)
    print(
        f"{SAMPLES:,} samples × {len(GEOMETRY.layers)} layers × {RANKS} entries: {entries.neuron.size:,} entries, "
        f"{sum(part.nbytes for part in entries) / 1e6:.0f} MB; {GEOMETRY.experts:,} experts of {GEOMETRY.neurons:,} "
        "neurons"
    )
    analyse(entries.first(100))  # what is set up at a first call
    seconds = {}
    for samples in (SAMPLES // 4, SAMPLES // 2, SAMPLES):
        rounds = [analyse(entries.first(samples)) for _ in range(ROUNDS)]
        steps = {name: statistics.median(steps[name] for steps, _ in rounds) for name in rounds[0][0]}
        seconds[samples] = sum(steps.values())
        each = ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
        print(f"{samples:,} samples: {seconds[samples]:.2f} s, {1e3 * seconds[samples] / samples:.2f} ms each ({each})")
    print("of all samples: " + ", ".join(f"{name} {value:.4g}" for name, value in rounds[0][1].items()))
    numpy_pass = min(one_pass(entries) for _ in range(2 * ROUNDS))
    print(f"one numpy pass over the same entries: {numpy_pass:.3f} s")
    del entries
    peak = peak_mb()

    print(f"seconds {seconds[SAMPLES]:.2f}")
    print(f"peak_mb {peak:.0f}")
    print(f"over_numpy_pass {seconds[SAMPLES] / numpy_pass:.1f}")


def analyse(entries: Entries) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of each step from entries to the tables of a study, and some of what they hold."""
    clock, steps = time.process_time(), {}

    def step(name: str) -> None:
        nonlocal clock
        before, clock = clock, time.process_time()
        steps[name] = clock - before

    n = len(entries.neuron)
    sets = select(neuron=entries.neuron, score=entries.score, geometry=GEOMETRY, threshold=SETTING.threshold).sets
    step("key neurons")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "key_neurons.h5"
        key_neurons.write(
            file, model="m", checkpoint="c", task="t", geometry=GEOMETRY, samples=samples(n), sets={SETTING: sets},
            routed_tokens=np.full((len(GEOMETRY.layers), 64), 100 * n),
        )  # fmt: skip
        del sets  # each stage reads the file
        task: dict[str, Any] = {"key_neurons": key_neurons.read(file), "tokens": None, "order": 0}
        step("file")
        rows = utilization.rows(**task, common_m={"all": n // 2, "correct": n // 4})
        curve = utilization.saturation_rows(**task)
        step("MUI")
        frequency, key = experts.rows(**task, common_m=n // 2)
        step("experts")
    total = rows[(rows["scope"] == "total") & (rows["samples"] == "all")].iloc[0]
    return steps, {
        **{name: total[name] for name in ("mui", "mui_at_m", "mui_at_m_low", "mui_at_m_high", "chao2")},
        "mui of one sample": curve["mui"].iloc[0],
        "key experts": key["proportion"].iloc[0],
        "expert mui": frequency["expert_mui"].mean(),
    }


def made_up(samples: int) -> Entries:
    """Entries of random samples; one in a hundred has a response so short that a layer's ranks are not filled."""
    generator = np.random.default_rng(0)
    layers, neurons = len(GEOMETRY.layers), GEOMETRY.layers[0].neurons
    shared = np.arange(neurons) >= 64 * 1000
    by_popularity = np.array([np.argsort(generator.random(neurons) * np.where(shared, 0.1, 1)) for _ in range(layers)])
    by_popularity = by_popularity.astype(np.int32)
    neuron = np.empty((samples, layers, RANKS), dtype=np.int32)
    score = np.empty((samples, layers, RANKS), dtype=np.float32)
    tail = neurons ** (1 - ZIPF)
    for start in range(0, samples, BLOCK):
        part = neuron[start : start + BLOCK]
        drawn = generator.random(part.shape, dtype=np.float32)
        # The inverse of the cumulative Zipf distribution, cut off at the layer's neurons.
        place = (1 - drawn * (1 - np.float32(tail))) ** np.float32(1 / (1 - ZIPF))
        place = np.minimum(place.astype(np.int32), neurons) - 1
        part[:] = by_popularity[np.arange(layers)[:, None], place]
        short = np.flatnonzero(generator.random(len(part)) < 0.01)
        part[short, :, RANKS // 2 :] = -1
        highest = generator.gamma(2, size=(*part.shape[:2], 1))
        score[start : start + BLOCK] = highest / np.sqrt(np.arange(1, RANKS + 1))
    return Entries(neuron, score)


def samples(n: int) -> key_neurons.Samples:
    """Samples of one domain, every second one correct."""
    return key_neurons.Samples(
        id=np.array([f"t/{i}" for i in range(n)], dtype=object),
        domain=np.array(["d"] * n, dtype=object),
        correct=(np.arange(n) % 2).astype(np.int8),
        response_tokens=np.full(n, 100, dtype=np.int32),
    )


def one_pass(entries: Entries) -> float:
    """Processor seconds of what any answer about the entries needs at the least: neurons counted, scores summed."""
    start = time.process_time()
    np.bincount(entries.neuron.reshape(-1) + 1)  # −1 marks no entry
    entries.score.sum()
    return time.process_time() - start


def peak_mb() -> float:
    """Peak memory of a fresh process while it analyses all samples (Linux)."""
    command = [sys.executable, __file__, "--peak"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def analyse_alone() -> None:
    """What `peak_mb` runs."""
    entries = made_up(SAMPLES)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making them
    analyse(entries)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


if __name__ == "__main__":
    analyse_alone() if "--peak" in sys.argv else main()
