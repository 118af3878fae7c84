"""The probe against greedy decoding and against the study's own extraction, on a model trained for a moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moemui.experiments.probe import Probe, Reading
from moemui.experiments.setup import Cohort
from moemui.key_neurons.selection import select
from moemui.models import synthetic, training
from moemui.models.recipe import Recipe
from moemui.mui.utilization import mui
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tables import table as tables
from moemui.tables.training import TRAINING

KNOBS = {
    "family": "deepseek_v2", "hidden": 32, "layers": 2, "heads": 4, "experts": 8, "neurons_per_expert": 16, "top_k": 2,
    "batch": 32, "steps": 90, "warm_up": 5, "learning_rate": 1e-2, "initializer_range": 0.12, "save_steps": [0, 90],
}  # fmt: skip
TASKS = {"sorting": 0, "boolean": 30}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    recipe = Recipe.from_mapping({**KNOBS, "seed": 3})
    history = training.train(recipe, TASKS, folder / "training")
    tables.write(history.assign(model="made-up"), folder / "training.parquet", TRAINING)
    about = {"training": KNOBS, "tasks": TASKS}
    return Cohort.read("made-up", folder / "training", folder / "training.parquet", about, 3)


@pytest.fixture(scope="module")
def probe(cohort):
    return cohort.probe(90, Reading(threshold=0.05))


def test_an_answer_is_exact_where_greedy_decoding_writes_it(cohort, probe):
    examples = [example for task in TASKS for example in cohort.held_out(task, 40)]
    answers = probe.answer(examples)
    encoded = training.encode(examples, probe.tokenizer)
    written = [probe._generated(prompt, len(answer)) == answer for prompt, answer in encoded]
    np.testing.assert_array_equal(answers.exact, written)
    assert 0 < answers.accuracy < 1  # a model that is always right or wrong would prove nothing
    assert ((answers.token_accuracy == 1) == answers.exact).all()


def test_nll_is_the_models_own_loss(cohort, probe):
    example = cohort.held_out("sorting", 1)
    ((prompt, answer),) = training.encode(example, probe.tokenizer)
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        loss = probe.model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
    assert probe.answer(example).nll[0] == pytest.approx(float(loss), rel=1e-5)


def test_needed_neurons_are_those_that_extraction_selects(cohort, probe):
    examples = cohort.held_out("boolean", 12)
    needed = probe.needed(examples)
    scorer = Scorer(probe.model, Options(("projection",), ("pairs",), 0.05), eos_ids=[probe.tokenizer.eos_token_id])
    samples = [Sample(str(n), *pair) for n, pair in enumerate(training.encode(examples, probe.tokenizer))]
    neuron, token, score = scorer.score(samples).ranked["projection", "pairs"]
    sets = select(neuron=neuron, token=token, score=score, geometry=scorer.geometry, threshold=0.05).sets
    np.testing.assert_array_equal(needed.sets.neurons, sets.neurons)
    whole = mui(n_key=len(sets.union()), n_neurons=scorer.geometry.neurons)
    assert needed.mui() == pytest.approx(whole)
    shared = scorer.geometry.neuron_is_shared
    parts = needed.mui(neurons=shared) * shared.sum() + needed.mui(neurons=~shared) * (~shared).sum()
    assert parts == pytest.approx(whole * scorer.geometry.neurons)
    assert np.isnan(needed.mui(neurons=np.zeros_like(shared)))


def test_every_response_token_reaches_the_shared_expert_and_top_k_routed_ones(cohort, probe):
    examples = cohort.held_out("sorting", 5)
    needed, geometry = probe.needed(examples), probe.geometry
    scored = [len(answer) - 1 for _, answer in training.encode(examples, probe.tokenizer)]  # without <eos>
    for layer in range(2):
        own = geometry.expert_layer == layer
        np.testing.assert_array_equal(needed.tokens[:, own & geometry.expert_is_shared][:, 0], scored)
        np.testing.assert_array_equal(needed.tokens[:, own & ~geometry.expert_is_shared].sum(1), np.multiply(scored, 2))


def test_generated_responses_are_the_models_own(cohort, probe):
    examples = cohort.held_out("sorting", 20)
    own = Probe(probe.model, probe.tokenizer, Reading(threshold=0.05, response="generated"))
    exact = probe.answer(examples).exact
    right, wrong = ([e for e, hit in zip(examples, exact, strict=True) if hit is np.bool_(want)] for want in (1, 0))
    assert right
    assert wrong
    np.testing.assert_array_equal(own.needed(right).sets.neurons, probe.needed(right).sets.neurons)
    assert len(own.needed(wrong).sets.neurons) != 0


def test_a_cohort_knows_what_it_was_trained_on_and_when_tasks_began(cohort):
    assert set(cohort.seen) == set(TASKS)
    assert not any(synthetic.is_held_out(example.prompt) for seen in cohort.seen.values() for example in seen)
    assert not {e.prompt for e in cohort.held_out("sorting", 40)} & {e.prompt for e in cohort.seen["sorting"]}
    first = training.examples_for(cohort.recipe, TASKS)[: 30 * cohort.recipe.batch]
    assert {example.task for example in first} == {"sorting"}
    assert cohort.tokens[0] == 0 < cohort.tokens[90]


def test_nothing_to_measure_and_unknown_responses_are_refused(probe):
    with pytest.raises(ValueError, match="no examples to measure neurons on"):
        probe.needed([])
    assert np.isnan(probe.answer([]).accuracy)
    with pytest.raises(ValueError, match="response is 'gold'; allowed are reference, generated"):
        Reading(response="gold")
