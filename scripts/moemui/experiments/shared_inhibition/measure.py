"""Measures the experiment `shared_inhibition`: routed experts of two families at equal performance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from moemui.experiments.matched_families import check_families, other_examples
from moemui.experiments.measurements import Measured
from moemui.experiments.probe import Needed, Probe
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.shared_inhibition import NAME, QUANTITIES, Settings, distinctness
from moemui.experts.key_experts import activity
from moemui.experts.specialization import expected_information, mutual_information, selectivity
from moemui.geometry import Geometry
from moemui.models.synthetic import Example
from moemui.models.training import IGNORED, collate, encode, one_thread
from moemui.tap.capture import Tap

ROUNDING = 1e-9  # by which equal accuracies may differ
Add = Callable[..., None]


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """All quantities of the two models compared, and the accuracies that they were chosen by.

    Models are chosen on `setup.samples` held-out examples of each task; the accuracies left are measured on others.
    Raises ValueError for a cohort that is not there or kept no trained model, for fewer than two tasks, and as
    `check_families` and `other_examples`.
    """
    measured = Measured(NAME, setup.seed, QUANTITIES)
    cohorts = [_cohort(setup, name) for name in (settings.with_shared, settings.without_shared)]
    tasks = list(cohorts[0].tasks)
    if len(tasks) < 2 or list(cohorts[1].tasks) != tasks:
        raise ValueError(f"tasks are {tasks} and {list(cohorts[1].tasks)}; the same two or more are needed")
    check_families([cohort.recipe for cohort in cohorts])
    examples = {task: cohorts[0].held_out(task, setup.samples) for task in tasks}
    others = {task: other_examples(task, those, settings.checking_samples) for task, those in examples.items()}
    trained = [(cohort, step) for cohort in cohorts for step in cohort.steps if step]
    total = len(trained) + 2
    accuracy: dict[str, dict[int, float]] = {cohort.name: {} for cohort in cohorts}
    with one_thread():
        for done, (cohort, step) in enumerate(trained, start=1):
            probe = cohort.probe(step, setup.reading)
            found = {task: probe.answer(those).accuracy for task, those in examples.items()}
            mean = accuracy[cohort.name][step] = float(np.mean(list(found.values())))
            for task, value in {**found, "": mean}.items():
                measured.add("accuracy", value, arm=cohort.name, step=step, tokens=cohort.tokens[step], task=task)
            setup.progress(done, total)
        for number, (name, step) in enumerate(nearest(accuracy, settings.window).items(), start=1):
            cohort = setup.cohorts[name]

            def add(quantity: str, value: float, *, arm: str = name, at: int = step, **where: Any) -> None:
                measured.add(quantity, value, arm=arm, step=at, tokens=setup.cohorts[arm].tokens[at], **where)

            add("compared", 1)
            probe = cohort.probe(step, setup.reading)
            checked = {task: probe.answer(those).accuracy for task, those in others.items()}
            for task, value in {**checked, "": float(np.mean(list(checked.values())))}.items():
                add("accuracy_other_samples", value, task=task)
            _compare(add, probe, examples, settings, setup.seed)
            setup.progress(len(trained) + number, total)
    return measured.frame()


def _cohort(setup: Setup, name: str) -> Cohort:
    if name not in setup.cohorts:
        raise ValueError(f"there is no cohort {name!r}; there are {', '.join(setup.cohorts)}")
    cohort = setup.cohorts[name]
    if not any(cohort.steps):
        raise ValueError(f"cohort {name} kept no trained model; name steps above 0 among its save_steps")
    return cohort


def nearest(accuracy: dict[str, dict[int, float]], window: float) -> dict[str, int]:
    """Of two families, the steps whose accuracies lie nearest together: family → step; of equal pairs the latest.

    accuracy: family → step → mean accuracy. Both lie at most `window` below the highest accuracy that both reach, the
    lower of the two families' best; a family's best does, so there is always a pair.
    """
    (one, first), (other, second) = accuracy.items()
    level = min(max(first.values()), max(second.values())) - window - ROUNDING
    pairs = [(a, b) for a in first for b in second if first[a] >= level and second[b] >= level]
    best = min(pairs, key=lambda pair: (round(abs(first[pair[0]] - second[pair[1]]), 9), -pair[0] - pair[1]))
    return {one: best[0], other: best[1]}


def _compare(add: Add, probe: Probe, examples: dict[str, list[Example]], settings: Settings, seed: int) -> None:
    """Everything that is measured on one of the two models."""
    needed = {task: probe.needed(those) for task, those in examples.items()}
    _routing(add, list(needed.values()), settings.draws, seed)
    _samples(add, list(needed.values()))
    _overlap(add, needed)
    _similarity(add, probe, list(examples.values()), settings.states, seed)
    fewer = {task: those[: settings.masking_samples] for task, those in examples.items()}
    effects = masking_effects(probe, fewer)
    for task, values in zip(fewer, effects.T, strict=True):
        add("masking_effect", values.mean(), task=task)
    add("masking_effect", effects.mean())
    selective = distinctness.masking_selectivity(effects)
    add("masking_selectivity", selective, note="no expert does harm" if np.isnan(selective) else "")


def _by_layer(add: Add, quantity: str, geometry: Geometry, values: Sequence[float], missing: str = "") -> None:
    """Every layer's value and their mean. missing: why one is NaN."""
    for layer, value in zip(geometry.layers, values, strict=True):
        add(quantity, value, part=f"L{layer.index}", note=missing if np.isnan(value) else "")
    mean = float(np.mean(values))
    add(quantity, mean, note=missing if np.isnan(mean) else "")


def _routing(add: Add, needed: list[Needed], draws: int, seed: int) -> None:
    geometry, sizes = needed[0].geometry, [each.sets.n_samples for each in needed]
    task = np.repeat(np.arange(len(needed)), sizes)
    tokens = np.concatenate([each.tokens for each in needed])
    information, chance, adjusted = [], [], []
    for number, layer in enumerate(geometry.layers):
        slots = tokens[:, (geometry.expert_layer == number) & ~geometry.expert_is_shared]
        highest = distinctness.highest_information(n_tasks=len(needed), experts=layer.routed, top_k=layer.top_k)
        information.append(distinctness.routing_information(use=distinctness.by_task(slots, task)))
        chance.append(distinctness.information_by_chance(slots=slots, task=task, draws=draws, seed=seed))
        adjusted.append(distinctness.adjusted(found=information[-1], chance=chance[-1], highest=highest))
    _by_layer(add, "routing_information", geometry, information)
    _by_layer(add, "routing_information_chance", geometry, chance)
    _by_layer(add, "routing_selectivity", geometry, adjusted, "chance leaves no room above it")


def _samples(add: Add, needed: list[Needed]) -> None:
    geometry, sizes = needed[0].geometry, np.array([each.sets.n_samples for each in needed])
    routed = ~geometry.expert_is_shared
    active = np.stack([activity(sets=each.sets, geometry=geometry)[:, routed].sum(axis=0) for each in needed], axis=1)
    n, totals = int(sizes.sum()), active.sum(axis=1)
    testable = (totals > 0) & (totals < n)
    add("testable_experts", testable.mean())
    active, totals = active[testable], totals[testable]
    information = mutual_information(active=active, sizes=sizes)
    by_chance = {total: expected_information(n_active=int(total), sizes=sizes) for total in set(totals)}
    expected = np.array([by_chance[total] for total in totals])
    selective = selectivity(information=information, expected=expected, n_active=totals, n=n)
    for quantity, values in (("sample_information", information), ("sample_selectivity", selective)):
        note = "" if len(values) else "no routed expert is active in some but not all samples"
        add(quantity, float(values.mean()) if len(values) else float("nan"), note=note)


def _overlap(add: Add, needed: dict[str, Needed]) -> None:
    tasks, geometry = list(needed), next(iter(needed.values())).geometry
    routed = np.flatnonzero(~geometry.neuron_is_shared)
    key = np.stack([np.isin(routed, each.sets.union()) for each in needed.values()])
    found = distinctness.key_overlap(key=key, expert=geometry.expert_of(routed))
    for quantity, values in (("key_overlap", found.jaccard), ("key_overlap_chance", found.chance)):
        for (one, other), value in zip(distinctness.pairs(len(tasks)), values, strict=True):
            note = "neither task has a key neuron in a routed expert" if np.isnan(value) else ""
            add(quantity, value, task=f"{tasks[one]}|{tasks[other]}", note=note)
        known = values[~np.isnan(values)]
        note = "" if len(known) else "no task has a key neuron in a routed expert"
        add(quantity, float(known.mean()) if len(known) else float("nan"), note=note)


def _similarity(add: Add, probe: Probe, examples: list[list[Example]], states: int, seed: int) -> None:
    """On as many states of every task, drawn at random."""
    generator = np.random.default_rng(seed)
    by_task = [answer_states(probe, those) for those in examples]
    chosen = [generator.permutation(len(task[0]))[:states] for task in by_task]
    similar = []
    for number in range(len(probe.scorer.sites)):
        inputs = torch.cat([task[number][rows] for task, rows in zip(by_task, chosen, strict=True)])
        outputs = expert_outputs(probe, number, inputs)
        similar.append(distinctness.mean_over_pairs(distinctness.linear_cka(outputs)))
    _by_layer(add, "output_similarity", probe.geometry, similar, "one routed expert, so no pair")


@torch.no_grad()
def answer_states(probe: Probe, examples: Sequence[Example]) -> list[torch.Tensor]:
    """What goes into each MoE layer at the states that predict the answers' tokens, their end left out: (states, H)."""
    ids, mask, targets = (part.to(probe.model.device) for part in collate(encode(examples, probe.tokenizer)))
    wanted = (targets != IGNORED) & (targets != probe.tokenizer.eos_token_id)
    found: list[torch.Tensor] = []
    handles = [
        site.roots[0].register_forward_pre_hook(lambda module, inputs: found.append(inputs[0][wanted]))
        for site in probe.scorer.sites
    ]
    try:
        probe.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def expert_outputs(probe: Probe, layer: int, states: torch.Tensor) -> np.ndarray:
    """E_i(x) of every routed expert of a layer on all states, whether or not it was chosen there: (E_r, states, H).

    layer: position among the MoE layers. states: (states, H), as `answer_states` gives them.
    """
    site = probe.scorer.sites[layer]
    assert site.experts is not None
    weight = states.new_ones(len(states), 1)
    outputs = [
        site.experts(states, torch.full_like(weight, expert, dtype=torch.long), weight).cpu().numpy()
        for expert in range(site.layer.routed)
    ]
    return np.stack(outputs)


def masking_effects(probe: Probe, examples: dict[str, list[Example]]) -> np.ndarray:
    """Rise of each task's mean negative log-likelihood when one routed expert is masked: nats, (experts, tasks)."""
    sites, together = probe.scorer.sites, [example for those in examples.values() for example in those]
    task = np.repeat(np.arange(len(examples)), [len(those) for those in examples.values()])

    def nll(masked: list[torch.Tensor]) -> np.ndarray:
        with Tap(sites, masked_neurons=masked):
            answers = probe.answer(together)
        return distinctness.by_task(answers.nll, task) / np.bincount(task)

    none = [torch.empty(0, dtype=torch.long) for _ in sites]
    before, effects = nll(none), []
    for number, site in enumerate(sites):
        for expert in range(site.layer.routed):
            own = torch.arange(expert * site.layer.width, (expert + 1) * site.layer.width)
            effects.append(nll([*none[:number], own, *none[number + 1 :]]) - before)
    return np.array(effects)
