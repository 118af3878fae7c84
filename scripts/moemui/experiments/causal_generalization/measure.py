"""Measuring `moemui.experiments.causal_generalization`: surgery on one trained model, then the same fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch

from moemui.checks.masking import matched_random
from moemui.experiments.causal_generalization import (
    ARMS,
    BLEND,
    DUPLICATE,
    KEY,
    QUANTITIES,
    RANDOM,
    SHAM,
    UNTOUCHED,
    Settings,
    surgery,
)
from moemui.experiments.causal_generalization.surgery import Operated
from moemui.experiments.measurements import Measured
from moemui.experiments.probe import Probe
from moemui.experiments.setup import Cohort, Setup
from moemui.geometry import Geometry
from moemui.key_neurons.selection import select
from moemui.models import synthetic
from moemui.models.synthetic import Example
from moemui.models.training import IGNORED, Trainer, batches, collate, encode, learning_rate, one_thread
from moemui.scores.contributions import Options, Sample, Scorer

HELD = 0.9  # of a layer's positive score, for breadth
ORDER = 1000  # added to seeds, so that fine-tuning has another order of examples than training had
ROUNDING = 1e-4  # of the largest logit: more than float32 loses in a few layers
COMPARED = 64  # about how many held-out examples whose logits are compared before and after surgery


@dataclass(frozen=True)
class Asked:
    """The examples of all measurements: for accuracy those trained on and held-out ones, and those whose neurons count.

    needed, needed_training: the first few of each task of the held-out ones and of those trained on.
    """

    training: list[Example]
    held_out: list[Example]
    needed: list[Example]
    needed_training: list[Example]

    @classmethod
    def of(cls, cohort: Cohort, examples: int, samples: int) -> Asked:
        """As many of each kind and task. Raises ValueError where a task has too few held-out ones."""
        each = min(examples, *(len(seen) for seen in cohort.seen.values()))
        seen = [examples[:each] for examples in cohort.seen.values()]
        held_out = [cohort.held_out(task, each) for task in cohort.tasks]
        few = min(samples, each)
        joined = [[e for part in parts for e in part] for parts in (seen, held_out)]
        fewer = [[e for part in parts for e in part[:few]] for parts in (held_out, seen)]
        return cls(*joined, *fewer)


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """Every quantity in every arm.

    Raises ValueError unless there is one cohort, and where no neuron can be operated on, RuntimeError where doubling
    or widening changed what the model computes.
    """
    if len(setup.cohorts) != 1:
        raise ValueError(f"cohorts are {', '.join(setup.cohorts)}; causal_generalization operates on models of one")
    (cohort,) = setup.cohorts.values()
    with one_thread():
        probe = cohort.probe(cohort.steps[-1], setup.reading)
        asked = Asked.of(cohort, settings.examples, setup.samples)
        measured = Measured("causal_generalization", setup.seed, QUANTITIES)
        made = _Arms.plan(probe, asked.needed_training, settings, setup.seed)
        before = _logits(probe, asked.held_out)
        for done, arm in enumerate(ARMS):
            operated, count = made.operate(arm)
            asking = Probe(operated.model, probe.tokenizer, setup.reading)
            step = cohort.steps[-1]
            where: dict[str, Any] = {"arm": arm, "step": step, "tokens": cohort.tokens[step]}
            measured.add("neurons_operated", count, **where)
            change = float((_logits(asking, asked.held_out) - before).abs().max())
            measured.add("largest_logit_change", change, **where)
            if not arm.startswith(BLEND) and change > ROUNDING * float(before.abs().max()):
                raise RuntimeError(
                    f"surgery of arm {arm} changed a logit by {change:g}, where it keeps what the model computes; its "
                    "measurements would mean nothing"
                )
            trained = _fine_tuned(operated.model, cohort, probe.tokenizer, settings, setup.seed)
            for at, tokens in chain([(0, 0)], trained if arm != UNTOUCHED else ()):
                if at in settings.measured_at:
                    where |= {"step": step + at, "tokens": cohort.tokens[step] + tokens}
                    _measure(measured, asking, operated, asked, settings, where)
            setup.progress(done + 1, len(ARMS), arm)
        return measured.frame()


def _measure(
    measured: Measured, probe: Probe, operated: Operated, asked: Asked, settings: Settings, where: dict[str, Any]
) -> None:
    """All quantities of a model as it is."""
    probe.model.eval()
    training, held_out = probe.answer(asked.training), probe.answer(asked.held_out)
    measured.add("training_accuracy", training.accuracy, **where)
    measured.add("held_out_accuracy", held_out.accuracy, **where)
    measured.add("gap", held_out.accuracy - training.accuracy, **where)
    measured.add("training_nll", training.nll.mean(), **where)
    measured.add("held_out_nll", held_out.nll.mean(), **where)
    needed = probe.needed(asked.needed)
    measured.add("mui", needed.mui(), **where)
    measured.add("mui_training", probe.needed(asked.needed_training).mui(), **where)
    neuron, score = _every_score(probe, asked.needed)
    broad = breadth(score, probe.geometry)
    measured.add("breadth", broad, **where, note="" if np.isfinite(broad) else "no neuron has a positive score")
    chosen = select(
        neuron=neuron, score=score, geometry=probe.geometry, threshold=settings.top_score, rule="top_score",
        selection="neurons",
    )  # fmt: skip
    measured.add("top_score_mui", len(chosen.sets.union()) / probe.geometry.neurons, **where)
    _, cosine = surgery.nearest(probe.model)
    unlike = distinctness(cosine, needed.sets.incidence(probe.geometry.neurons))
    why = "" if np.isfinite(unlike) else "no key neuron has a counterpart in another expert"
    measured.add("distinctness", unlike, **where, note=why)
    if operated.copies.shape[1]:
        measured.add("copies_cosine", surgery.alike(probe.model, operated.copies[:, :2]).mean(), **where)


@dataclass(frozen=True)
class _Arms:
    """What each arm does to the model. targets: neurons of `KEY` and `RANDOM`; partner: of each neuron, −1 for none."""

    model: Any
    targets: dict[str, np.ndarray]
    partner: np.ndarray
    places: int
    settings: Settings
    seed: int

    @classmethod
    def plan(cls, probe: Probe, examples: Sequence[Example], settings: Settings, seed: int) -> _Arms:
        """Key neurons are those of the examples. Raises ValueError where none can be operated on."""
        partner, _ = surgery.nearest(probe.model)
        incidence = np.where(partner >= 0, probe.needed(examples).sets.incidence(probe.geometry.neurons), 0)
        key, control = key_and_control(incidence=incidence, geometry=probe.geometry, share=settings.share, seed=seed)
        if not len(key):
            raise ValueError(
                f"none of the {np.count_nonzero(incidence)} key neurons can be operated on with a control; raise share "
                "or lower the threshold"
            )
        most = int(np.bincount(probe.geometry.expert_of(key)).max())
        places = (settings.copies - 1) * most
        return cls(probe.model, {KEY: key, RANDOM: control}, partner, places, settings, seed)

    def operate(self, arm: str) -> tuple[Operated, int]:
        """The arm's model, of the geometry that all have, and how many neurons were touched."""
        if arm in (UNTOUCHED, SHAM):
            return surgery.widen(self.model, self.places), 0
        what, _, target = arm.rpartition("_")
        neurons = self.targets[target]
        if what == DUPLICATE:
            copies = self.settings.copies
            operated = surgery.duplicate(self.model, neurons, copies=copies, seed=self.seed, places=self.places)
        else:
            blended = surgery.blend(self.model, neurons, self.partner[neurons], share=self.settings.blend)
            operated = surgery.widen(blended.model, self.places)
        return operated, len(neurons)


def _fine_tuned(model: Any, cohort: Cohort, tokenizer: Any, settings: Settings, seed: int) -> Iterator[tuple[int, int]]:
    """Train a model on its cohort's examples, in an order that is the same for every model.

    Yields after each step its number, from 1, and the tokens seen.
    """
    recipe = replace(
        cohort.recipe,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warm_up=settings.warm_up,
        save_steps=(0,),
    )
    pool = [example for examples in cohort.seen.values() for example in examples]
    order = synthetic.again_and_again(pool, recipe.batch * settings.steps, seed + ORDER)
    trainer, tokens = Trainer(recipe, model), 0
    for step, batch in enumerate(batches(encode(order, tokenizer), recipe.batch, seed + ORDER), start=1):
        model.train()
        tokens += trainer.step(batch, learning_rate(recipe, step)).tokens
        yield step, tokens


def _every_score(probe: Probe, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Every neuron's highest score over a response's tokens, in falling order: (samples, layers, ranks) twice.

    The neuron inside the layer, −1 past the last, and the score.
    """
    formulation = probe.reading.formulation
    options = Options((formulation,), ("neurons",), largest_threshold=1.0)
    scorer = Scorer(probe.model, options, eos_ids=[probe.tokenizer.eos_token_id])
    samples = [Sample(str(number), *pair) for number, pair in enumerate(encode(examples, probe.tokenizer))]
    neuron, _, score = scorer.score(samples).ranked[formulation, "neurons"]
    return neuron, score


@torch.no_grad()
def _logits(probe: Probe, examples: Sequence[Example]) -> torch.Tensor:
    """The logits that predict the tokens of some examples' reference answers: (tokens, vocabulary)."""
    batch = collate(encode(examples[:: max(1, len(examples) // COMPARED)], probe.tokenizer))
    ids, mask, targets = (part.to(probe.model.device) for part in batch)
    return probe.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[targets != IGNORED]


def breadth(score: np.ndarray, geometry: Geometry) -> float:
    """The smallest share of a layer's neurons that hold `HELD` of its positive score; mean over samples and layers.

    score: float, (samples, layers, ranks), one a neuron, falling along the ranks, 0 past the last. A sample's layer
    without a positive score is left out; NaN where all are.
    """
    positive = np.where(score > 0, score, 0.0).astype(np.float64)
    total = positive.sum(axis=2, keepdims=True)
    # The neuron that reaches the share counts, so those are counted whose sum before them falls short.
    short = positive.cumsum(axis=2) - positive < HELD * total - 1e-12 * total
    shares = short.sum(axis=2) / np.array([layer.neurons for layer in geometry.layers])
    known = total[..., 0] > 0
    return float(shares[known].mean()) if known.any() else float("nan")


def distinctness(cosine: np.ndarray, incidence: np.ndarray) -> float:
    """1 − cosine of neurons, mean weighted by incidence; neurons without a cosine are left out, NaN where all are.

    cosine: float64, (neurons,), with the most similar neuron of another expert; incidence: int64, (neurons,).
    """
    weight = np.where(np.isfinite(cosine), incidence, 0)
    return float("nan") if not weight.any() else float((weight * (1 - np.nan_to_num(cosine))).sum() / weight.sum())


def key_and_control(
    *, incidence: np.ndarray, geometry: Geometry, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Key neurons to operate on, and as many random neurons of the same experts that are not key.

    incidence: int64, (neurons,), samples in which each is key; share: 0..1, of all neurons. Returns flat numbers,
    ascending, int64. Taken are the key neurons of highest incidence, ties lower number first, and of an expert at most
    as many as it has others: so both are of equal number in every expert, also where most of an expert is key.
    """
    experts = geometry.expert_of(np.arange(geometry.neurons))
    is_key = incidence > 0
    keys = np.bincount(experts[is_key], minlength=geometry.experts)
    room = np.minimum(keys, np.diff(geometry.expert_offsets) - keys)
    order = np.lexsort((np.arange(geometry.neurons), -incidence))
    order = order[is_key[order]]
    within = pd.Series(experts[order]).groupby(experts[order]).cumcount().to_numpy()
    key = np.sort(order[within < room[experts[order]]][: int(share * geometry.neurons + 1e-9)])
    wanted = np.bincount(experts[key], minlength=geometry.experts)
    generator = np.random.default_rng([seed, len(key)])
    others = matched_random(key=np.flatnonzero(is_key), geometry=geometry, seed=seed)
    drawn = [
        generator.choice(others[experts[others] == e], size=wanted[e], replace=False) for e in np.flatnonzero(wanted)
    ]
    return key, np.sort(np.concatenate([np.empty(0, dtype=np.int64), *drawn]))
