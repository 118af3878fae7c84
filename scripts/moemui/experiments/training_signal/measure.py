"""Measuring `moemui.experiments.training_signal`: five arms trained from the same weights, three with a loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from moemui.experiments.measurements import Measured
from moemui.experiments.probe import Probe
from moemui.experiments.setup import Setup
from moemui.experiments.training_signal import ACCURACY, ARMS, MUI, PROGRESS, QUANTITIES, SHUFFLED, Settings
from moemui.models import synthetic
from moemui.models.synthetic import Draws, Example
from moemui.models.training import (
    BUCKETS,
    Trainer,
    batches,
    build_model,
    encode,
    learning_rate,
    one_thread,
)

FINENESS = 1_000_000  # of the draws that decide which task an example is of
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Signal(NamedTuple):
    """What a loop sees: arrays of (tasks,), 0..1, of the validation problems. mui is NaN where nobody asked for it."""

    accuracy: np.ndarray
    token_accuracy: np.ndarray
    mui: np.ndarray


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """All quantities of one seed; cohorts are not looked at."""
    measured = Measured("training_signal", setup.seed, QUANTITIES)
    validation = {task: validation_examples(task, settings.validation, setup.seed) for task in settings.tasks}
    placebo: list[np.ndarray] = []
    with one_thread(), torch.random.fork_rng(devices=[]):
        for number, arm in enumerate(ARMS, start=1):
            run = Run(setup, settings, arm, validation, measured)
            shares = run.train(placebo)
            if arm == MUI:
                placebo = shuffled(shares, setup.seed)
            setup.progress(number, len(ARMS), f"arm {arm}")
    return measured.frame()


def validation_examples(task: str, n: int, seed: int) -> list[Example]:
    """n different problems of a task that are not held out; `Mixture` keeps them out of training.

    Raises ValueError where the task has too few different ones.
    """
    draws, found = Draws(f"validation {task} {seed}"), dict[str, Example]()
    for _ in range(n * synthetic.PATIENCE):
        example = synthetic.draw(task, draws, held_out=False)
        found.setdefault(example.prompt, example)
        if len(found) == n:
            return list(found.values())
    raise ValueError(f"task {task} has only {len(found)} problems for validation where {n} are wanted; ask for fewer")


class Mixture:
    """Training examples in shares that may change: each task has a stream of its own, the same for every arm."""

    def __init__(self, tasks: Sequence[str], kept_out: Mapping[str, Sequence[Example]], seed: int):
        self.tasks = tuple(tasks)
        self.streams = {
            task: _stream(task, {example.prompt for example in kept_out[task]}, seed) for task in self.tasks
        }
        self.draws = Draws(f"mixture {seed}")

    def draw(self, n: int, weights: np.ndarray) -> list[Example]:
        """The next n examples, each of a task drawn by its weight. weights: (tasks,), of sum 1."""
        ends = list(itertools.accumulate(weights))
        chosen = [self.draws.below(FINENESS) / FINENESS for _ in range(n)]
        places = [min(int(np.searchsorted(ends, x, side="right")), len(ends) - 1) for x in chosen]
        return [next(self.streams[self.tasks[place]]) for place in places]


def _stream(task: str, kept_out: set[str], seed: int) -> Iterator[Example]:
    draws = Draws(f"stream {task} {seed}")
    while True:
        example = synthetic.draw(task, draws, held_out=False)
        if example.prompt not in kept_out:
            yield example


def progressing(before: Signal, after: Signal, least_rise: float) -> np.ndarray:
    """Whether each task's performance rose by least_rise or more: bool, (tasks,).

    Performance is the share of likeliest tokens, which moves before whole answers are right.
    """
    rise = after.token_accuracy - before.token_accuracy
    return (rise > 0) & (rise >= least_rise)


def accumulating(before: Signal, after: Signal, least_rise: float) -> np.ndarray:
    """Whether each task's performance rose, as `progressing`, and MUI rose at all: bool, (tasks,)."""
    return progressing(before, after, least_rise) & (after.mui > before.mui)


def wanted(arm: str, before: Signal | None, after: Signal, least_rise: float) -> np.ndarray | None:
    """How much a loop wants of each task, 0 or more, (tasks,): the room that accuracy has left, or 1 for its phase.

    None for every loop where the untrained model came before, so that all begin to move in the same round.
    """
    if before is None:
        return None
    if arm == ACCURACY:
        return 1 - after.accuracy
    return (accumulating if arm == MUI else progressing)(before, after, least_rise).astype(float)


def moved(weights: np.ndarray, want: np.ndarray, *, pace: float, floor: float) -> np.ndarray:
    """The next mixture: a part `pace` of the way from weights to a target, (tasks,), of sum 1.

    want: how much each task is wanted, 0 or more; the target has these shares over a floor that every task keeps, in
    parts of an equal share. Where no task is wanted the target is equal shares.
    """
    n = len(weights)
    wanted = want / want.sum() if want.sum() > 0 else np.full(n, 1 / n)
    return (1 - pace) * weights + pace * (floor / n + (1 - floor) * wanted)


def shuffled(shares: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """The mixtures of another arm, in every round the same other task's share for each task; none keeps its own."""
    n = len(shares[0])
    ring = Draws(f"placebo {seed}").sample(range(n), n)
    source = np.empty(n, dtype=int)
    source[ring] = np.roll(ring, 1)
    return [weights[source] for weights in shares]


class Run:
    """One arm of one seed: its model, its mixture, and what is measured of it."""

    def __init__(
        self,
        setup: Setup,
        settings: Settings,
        arm: str,
        validation: Mapping[str, Sequence[Example]],
        measured: Measured,
    ):
        self.arm, self.settings, self.reading = arm, settings, setup.reading
        self.recipe = settings.recipe(setup.seed)
        self.validation, self.measured = validation, measured
        self.held_out = {task: synthetic.held_out(task, settings.examples, 0) for task in settings.tasks}
        self.tokenizer = synthetic.build_tokenizer()
        torch.manual_seed(setup.seed)
        self.model = build_model(self.recipe, self.tokenizer).to(self.recipe.device)
        self.trainer = Trainer(self.recipe, self.model)
        self.mixture = Mixture(settings.tasks, validation, setup.seed)
        self.step, self.tokens = 0, 0
        self.training_seconds, self.measuring_seconds = 0.0, 0.0

    def train(self, placebo: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Train to the end of the budget; returns the mixture of each round. placebo: those of the shuffled arm."""
        settings, n = self.settings, len(self.settings.tasks)
        weights, shares = np.full(n, 1 / n), list[np.ndarray]()
        before: Signal | None = None
        for number in range(settings.rounds):
            # The untrained model's MUI is one of its initial weights, so nothing is made of it: loops look from the
            # second round on, and move the mixture from the third.
            signal = self._look() if number and self.arm in (ACCURACY, PROGRESS, MUI) else None
            if self.arm == SHUFFLED:
                weights = placebo[number]
            elif signal is not None and (want := wanted(self.arm, before, signal, settings.least_rise)) is not None:
                weights = moved(weights, want, pace=settings.pace, floor=settings.floor)
                for task, value in zip(settings.tasks, want, strict=True):
                    self._add("wanted", value, task)
            before = signal
            self._outcome()
            for task, weight in zip(settings.tasks, weights, strict=True):
                self._add("weight", weight, task)
            shares.append(weights)
            self._round(weights, settings.tokens * (number + 1) // settings.rounds)
        self._outcome()
        self._add("training_seconds", self.training_seconds)
        self._add("measuring_seconds", self.measuring_seconds)
        return shares

    def _round(self, weights: np.ndarray, until: int) -> None:
        """Train until `until` tokens in all; the last batch is cut so that no more are used."""
        self.model.train()  # a probe leaves it in evaluation mode
        while True:
            examples = encode(self.mixture.draw(self.recipe.batch * BUCKETS, weights), self.tokenizer)
            for whole in batches(examples, self.recipe.batch, self.step):
                batch = cut(whole, until - self.tokens)
                if batch is not None:
                    started = time.perf_counter()
                    share = (self.tokens + int(batch[1].sum())) / self.settings.tokens
                    done = self.trainer.step(batch, learning_rate(self.recipe, self.recipe.steps * share))
                    self.training_seconds += time.perf_counter() - started
                    self.step, self.tokens = self.step + 1, self.tokens + done.tokens
                if batch is not whole:
                    return

    def _look(self) -> Signal:
        """What the arm's loop sees now; neurons only where it asks for them."""
        started = time.perf_counter()
        probe = Probe(self.model, self.tokenizer, self.reading)
        answers = [probe.answer(self.validation[task]) for task in self.settings.tasks]
        gap = float("nan")
        mui = [probe.needed(self.validation[task]).mui() if self.arm == MUI else gap for task in self.settings.tasks]
        self.measuring_seconds += time.perf_counter() - started
        tokens = [float(answer.token_accuracy.mean()) for answer in answers]
        signal = Signal(np.array([answer.accuracy for answer in answers]), np.array(tokens), np.array(mui))
        for place, task in enumerate(self.settings.tasks):
            self._add("signal_accuracy", signal.accuracy[place], task)
            self._add("signal_token_accuracy", signal.token_accuracy[place], task)
            if self.arm == MUI:
                self._add("signal_mui", signal.mui[place], task)
        return signal

    def _outcome(self) -> None:
        """Accuracy on held-out problems now, of each task and as mean over tasks."""
        probe = Probe(self.model, self.tokenizer, self.reading)
        found = {task: probe.answer(examples).accuracy for task, examples in self.held_out.items()}
        for task, accuracy in found.items():
            self._add("accuracy", accuracy, task)
        self._add("accuracy", float(np.mean(list(found.values()))))

    def _add(self, quantity: str, value: float, task: str = "") -> None:
        self.measured.add(quantity, value, arm=self.arm, step=self.step, tokens=self.tokens, task=task)


def cut(batch: Batch, tokens: int) -> Batch | None:
    """The first examples of a batch that have at most so many tokens together, padding not counted.

    The batch itself where all of them have; None where not even the first has.
    """
    ids, mask, targets = batch
    rows = int((mask.sum(dim=1).cumsum(dim=0) <= tokens).sum())
    if rows == len(ids):
        return batch
    return (ids[:rows], mask[:rows], targets[:rows]) if rows else None
