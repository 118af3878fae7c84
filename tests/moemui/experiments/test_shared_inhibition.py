"""Routed experts with and without shared ones: pairs at equal accuracy; states, outputs, masks the long way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moemui.experiments.matched_families import other_examples
from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.shared_inhibition import QUANTITIES, Settings, distinctness
from moemui.experiments.shared_inhibition.effects import EFFECTS, effects
from moemui.experiments.shared_inhibition.measure import (
    answer_states,
    expert_outputs,
    masking_effects,
    measure,
    nearest,
)
from moemui.models import training
from moemui.models.recipe import Recipe

TASKS = {"sorting": 0, "boolean": 0}
SIZES = {"shared_100": (14, 2, 4), "shared_0": (16, 0, 6)}
QUICK = Settings(checking_samples=50, draws=5, states=10, masking_samples=2)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    cohorts = {}
    for name, (experts, shared, top_k) in SIZES.items():
        recipe = Recipe(
            "deepseek_v2", hidden=16, layers=2, heads=2, experts=experts, shared_experts=shared, top_k=top_k,
            balance=0.04 / top_k, neurons_per_expert=8, batch=8, steps=4, warm_up=2, save_steps=(0, 2, 4),
        )  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        training.train(recipe, TASKS, folder)
        cohorts[name] = Cohort(name, folder, recipe, TASKS, {0: 0, 2: 100, 4: 200})
    return Setup(cohorts, 0, 6, Reading(threshold=0.05))


@pytest.fixture(scope="module")
def measured(setup):
    return measure(setup, QUICK)


@pytest.fixture(scope="module")
def probe(setup):
    return setup.cohorts["shared_100"].probe(4, setup.reading)


@pytest.mark.parametrize(
    ("one", "other", "window", "steps"),
    [
        # Both reach 0.8; 0.79 and 0.8 are nearest among those above 0.75, though 0.3 and 0.3 are equal.
        ({1: 0.3, 2: 0.79, 3: 0.95}, {1: 0.3, 2: 0.76, 3: 0.8}, 0.05, (2, 3)),
        ({1: 0.3, 2: 0.79, 3: 0.95}, {1: 0.3, 2: 0.76, 3: 0.8}, 0.5, (1, 1)),
        ({1: 0.5, 2: 0.9}, {1: 0.9, 2: 0.9}, 0.0, (2, 2)),  # of equal pairs the latest
        ({5: 0.1}, {7: 0.9}, 0.0, (5, 7)),  # no better pair: what is left is in accuracy_gap
    ],
)
def test_the_nearest_pair_near_the_level_that_both_reach(one, other, window, steps):
    assert tuple(nearest({"a": one, "b": other}, window).values()) == steps


def made_up(**missing):
    measured = Measured("shared_inhibition", 0, QUANTITIES)
    values = {
        "routing_information": (0.5, 0.3), "routing_information_chance": (0.1, 0.2), "routing_selectivity": (0.4, 0.1),
        "sample_information": (0.2, 0.2), "sample_selectivity": (0.3, 0.35), "testable_experts": (1, 1),
        "key_overlap": (0.2, 0.6), "key_overlap_chance": (0.1, 0.2), "output_similarity": (0.5, 0.25),
        "masking_effect": (0.01, 0.03), "masking_selectivity": (0.8, 0.9), "compared": (1, 1),
    }  # fmt: skip
    for place, (arm, step) in enumerate((("shared_100", 20), ("shared_0", 30))):
        for quantity, pair in values.items():
            value = np.nan if missing.get(quantity) == arm else pair[place]
            measured.add(quantity, value, arm=arm, step=step, note="none" if np.isnan(value) else "")
        for at in (20, 30):
            by_task = {"sorting": 0.5 + 0.01 * place, "boolean": 0.9 - 0.03 * place}
            for task, value in {**by_task, "": np.mean(list(by_task.values()))}.items():
                measured.add("accuracy", 0.7 if at == step else 0.0, arm=arm, step=at, task=task)
                if at == step:
                    measured.add("accuracy_other_samples", value, arm=arm, step=at, task=task)
        measured.add("output_similarity", 0.99, arm=arm, step=step, part="L0")  # of a layer: no effect speaks of it
    return measured.frame()


def test_effects_by_hand():
    found = effects(made_up(), Settings())
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {
            "routing_selectivity": 0.3,
            "routing_information": (0.5 - 0.1) - (0.3 - 0.2),
            "sample_selectivity": -0.05,
            "overlap_excess": (0.2 - 0.1) - (0.6 - 0.2),
            "overlap_ratio": np.log(2 / 3),  # twice chance with, three times without
            "overlap": -0.4,
            "output_similarity": 0.25,
            "masking_selectivity": -0.1,
            "masking_effect": -0.02,
            "accuracy_gap": 0.7 - 0.69,
            "task_gap": 0.02,
            "step_gap": -10,
            "level": 0.695,
        }
    )
    assert list(found) == list(EFFECTS)
    assert not any(note for _, note in found.values())


def test_an_effect_without_a_number_says_whose_is_missing():
    found = effects(made_up(masking_selectivity="shared_0", key_overlap="shared_100"), Settings())
    assert np.isnan(found["masking_selectivity"][0])
    assert found["masking_selectivity"][1] == "shared_0 has no masking_selectivity"
    assert np.isnan(found["overlap_excess"][0])
    assert found["overlap_excess"][1] == "shared_100 has no overlap_excess"
    assert found["output_similarity"] == (0.25, "")


@pytest.mark.parametrize("quantity", ["key_overlap", "key_overlap_chance"])
def test_a_ratio_to_or_of_nothing_is_none(quantity):
    measured = made_up()
    measured.loc[(measured["quantity"] == quantity) & (measured["arm"] == "shared_0"), "value"] = 0.0
    found = effects(measured, Settings())
    assert np.isnan(found["overlap_ratio"][0])
    assert found["overlap_ratio"][1].startswith("shared_0 has no overlap_ratio, as tasks have no key neuron in common")
    assert found["overlap_excess"][1] == ""


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"with_shared": "shared_0"}, "both 'shared_0'; name two"),
        ({"window": 2}, "window is 2; it is a difference"),
        ({"checking_samples": 49}, "checking_samples is 49; it is at least 50"),
        ({"draws": 0}, "draws is 0; it is at least 1"),
        ({"states": 1}, "states is 1; it is at least 2"),
    ],
)
def test_settings_that_cannot_work_say_why(knobs, message):
    with pytest.raises(ValueError, match=message):
        Settings(**knobs)


def test_everything_is_measured_on_one_model_of_each_family(setup, measured):
    assert set(measured["quantity"]) == set(QUANTITIES)
    assert (measured.loc[measured["value"].isna(), "note"] != "").all()
    compared = measured[measured["quantity"] == "compared"]
    accuracy = {arm: series(measured, "accuracy", ("step",), arm=arm, task="").to_dict() for arm in SIZES}
    assert compared.set_index("arm")["step"].to_dict() == nearest(accuracy, 0.05)
    for arm, step in compared[["arm", "step"]].itertuples(index=False):
        cohort = setup.cohorts[arm]
        other = other_examples("sorting", cohort.held_out("sorting", 6), 50)
        expected = cohort.probe(step, setup.reading).answer(other).accuracy
        where = {"arm": arm, "step": step, "task": "sorting"}
        assert series(measured, "accuracy_other_samples", ("arm",), **where)[arm] == expected
    others = measured[measured["quantity"] != "accuracy"]
    assert set(zip(others["arm"], others["step"], strict=True)) == set(
        zip(compared["arm"], compared["step"], strict=True)
    )
    assert not any(np.isnan(value) and not note for value, note in effects(measured, QUICK).values())


def test_routing_is_measured_on_routed_experts_and_layers_of_their_own(setup, measured):
    arm, (experts, _, top_k) = "shared_100", SIZES["shared_100"]
    step = int(series(measured, "compared", ("step",), arm=arm).index[0])
    probe = setup.cohorts[arm].probe(step, setup.reading)
    per_layer = experts + 2
    for layer in (0, 1):
        own = slice(layer * per_layer, layer * per_layer + experts)
        use = [probe.needed(setup.cohorts[arm].held_out(task, 6)).tokens[:, own].sum(axis=0) for task in TASKS]
        expected = distinctness.routing_information(use=np.array(use))
        where = {"arm": arm, "part": f"L{layer}"}
        found = {
            name: series(measured, name, ("arm",), **where)[arm]
            for name in ("routing_information", "routing_information_chance", "routing_selectivity")
        }
        assert found["routing_information"] == pytest.approx(expected)
        assert sum(use[0]) % top_k == 0
        chance = found["routing_information_chance"]
        highest = min(np.log2(2), np.log2(experts / top_k))
        assert found["routing_selectivity"] == pytest.approx((expected - chance) / (highest - chance))


def test_the_same_seed_gives_the_same_numbers(setup, measured):
    again = measure(setup, QUICK)
    np.testing.assert_array_equal(again["value"], measured["value"])


def test_states_are_those_of_single_passes_at_answer_tokens(setup, probe):
    examples = setup.cohorts["shared_100"].held_out("sorting", 2) + setup.cohorts["shared_100"].held_out("boolean", 2)
    found = answer_states(probe, examples)
    expected = []
    for prompt, answer in training.encode(examples, probe.tokenizer):
        seen = []
        block = probe.model.model.layers[1].mlp
        handle = block.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            probe.model(input_ids=torch.tensor([prompt + answer]))
        handle.remove()
        # The state at the prompt's last token predicts the first answer token; the end is no part of the answer.
        expected.append(seen[0][0, len(prompt) - 1 : len(prompt) + len(answer) - 2])
    torch.testing.assert_close(found[1], torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert not any(module._forward_pre_hooks for module in probe.model.modules())


def test_outputs_are_each_experts_own_on_all_states(probe):
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    found = expert_outputs(probe, 1, states)
    experts = probe.model.model.layers[1].mlp.experts
    assert found.shape == (14, 5, 16)
    with torch.no_grad():
        for expert in range(14):
            gate, up = (states @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
            expected = (F.silu(gate) * up) @ experts.down_proj[expert].T
            np.testing.assert_allclose(found[expert], expected.numpy(), atol=1e-6)


def test_masking_an_expert_is_taking_its_output_weights_away(setup, probe):
    examples = {task: setup.cohorts["shared_100"].held_out(task, 3) for task in TASKS}
    found = masking_effects(probe, examples)
    assert found.shape == (2 * 14, 2)
    assert found.any()
    for row, (layer, expert) in {0: (0, 0), 17: (1, 3)}.items():
        down = probe.model.model.layers[layer].mlp.experts.down_proj
        before = {task: probe.answer(those).nll.mean() for task, those in examples.items()}
        kept = down.data[expert].clone()
        down.data[expert] = 0
        after = {task: probe.answer(those).nll.mean() for task, those in examples.items()}
        down.data[expert] = kept
        np.testing.assert_allclose(found[row], [after[task] - before[task] for task in TASKS], atol=1e-5)


def test_cohorts_that_cannot_be_compared_are_refused(setup):
    with pytest.raises(ValueError, match="no cohort 'shared_50'; there are shared_100, shared_0"):
        measure(setup, Settings(with_shared="shared_50"))
    old = setup.cohorts["shared_0"]
    alone = Cohort("shared_0", old.folder, old.recipe, {"sorting": 0}, old.tokens)
    with pytest.raises(ValueError, match="the same two or more are needed"):
        measure(Setup({**setup.cohorts, "shared_0": alone}, 0, 6, Reading()), QUICK)
