"""Training: reproducible to the bit, answer-only, balanced, saved as loadable checkpoints."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from moemui.models import synthetic, training
from moemui.models.recipe import FAMILIES, Recipe
from moemui.models.training import IGNORED

TINY = {
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "experts": 4,
    "neurons_per_expert": 8,
    "batch": 8,
    "steps": 12,
    "warm_up": 2,
    "learning_rate": 1e-2,
    "save_steps": (0, 12),
}
TASKS = ["sorting", "boolean"]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    recipe = Recipe(request.param, **TINY)
    return recipe, folder, training.train(recipe, TASKS, folder)


def test_loss_falls_and_history_has_a_row_a_step(run):
    recipe, _, history = run
    assert list(history.columns) == training.HISTORY
    assert history["step"].tolist() == list(range(1, 13))
    assert history["loss"].iloc[-3:].mean() < history["loss"].iloc[:3].mean() - 0.5
    assert history["tokens"].is_monotonic_increasing
    # Even use of the experts gives top_k; a trained or an untrained router is never below it by much.
    assert (history["balance"] > 0.9 * recipe.top_k).all()


def test_same_recipe_gives_the_same_bits(run, tmp_path):
    recipe, folder, history = run
    state = torch.get_rng_state()
    again = training.train(recipe, TASKS, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again["loss"], history["loss"])
    first, second = (load_file(where / "step-00012" / "model.safetensors") for where in (folder, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(run, tmp_path):
    recipe, folder, _ = run
    other = Recipe(recipe.family, **{**TINY, "seed": 1, "steps": 1, "save_steps": (0,)})
    training.train(other, TASKS, tmp_path)
    first, second = (load_file(where / "step-00000" / "model.safetensors") for where in (folder, tmp_path))
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_snapshots_load_as_the_declared_family(run):
    recipe, folder, _ = run
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000", "step-00012"]
    model = AutoModelForCausalLM.from_pretrained(folder / "step-00012")
    tokenizer = AutoTokenizer.from_pretrained(folder / "step-00012")
    assert model.config.model_type == recipe.family
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    blocks = [layer.mlp for layer in model.model.layers]
    assert all(block.experts.num_experts == 4 for block in blocks)
    shared = [getattr(block, "shared_experts", None) for block in blocks]
    assert [s is not None for s in shared] == [recipe.family == "deepseek_v2"] * 2
    assert all(s.down_proj.in_features == 8 for s in shared if s is not None)


def test_untrained_weights_have_the_recipe_s_spread(run):
    _, folder, _ = run
    weights = load_file(folder / "step-00000" / "model.safetensors")
    assert weights["lm_head.weight"].std().item() == pytest.approx(0.08, rel=0.1)


def test_targets_are_the_answer_tokens_and_its_end_only():
    tokenizer = synthetic.build_tokenizer()
    example = synthetic.Example("sorting", "Question: sort b a\nAnswer:", "a b")
    prompt, answer = training.encode([example], tokenizer)[0]
    (ids, mask, targets), *rest = training.batches([(prompt, answer), (prompt[:3], answer)], 2, 0)
    assert not rest
    row = int(mask.sum(dim=1).argmax())
    learned = targets[row] != IGNORED
    assert tokenizer.decode(targets[row][learned].tolist()) == " a b<eos>"
    # The state at a target's position has read everything up to the token before it.
    assert torch.equal(ids[row, 1:][learned[:-1]], targets[row, :-1][learned[:-1]])
    assert (targets != IGNORED).sum(dim=1).tolist() == [3, 3]


def test_batches_use_every_example_once_with_a_short_last_one():
    examples = [([1, n], [2]) for n in range(20)]
    seen = [ids[:, 1].tolist() for ids, _, _ in training.batches(examples, 8, 0)]
    assert sorted(map(len, seen)) == [4, 8, 8]
    assert sorted(number for batch in seen for number in batch) == list(range(20))


def test_learning_rate_by_hand():
    recipe = Recipe("olmoe", steps=100, warm_up=10, learning_rate=2.0, final_rate=0.1, save_steps=(0,))
    assert training.learning_rate(recipe, 100) == pytest.approx(0.2)
    assert training.learning_rate(recipe, 50) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert training.learning_rate(recipe, 5) == pytest.approx(2 * 0.5 * (0.1 + 0.45 * (1 + math.cos(math.pi / 20))))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"family": "mixtral"}, "family is 'mixtral'; a model can be trained as one of olmoe, deepseek_v2"),
        ({"family": "olmoe", "step": 3}, "a training recipe has no step; it has family, hidden"),
        ({}, "a training recipe needs a family, one of olmoe"),
        ({"family": "olmoe", "hidden": 60}, "hidden is 60 with 4 heads; it must be a multiple of 4 x heads = 16"),
        ({"family": "olmoe", "top_k": 65}, "top_k is 65; it lies between 1 and the number of experts, 64"),
        ({"family": "olmoe", "steps": 10, "save_steps": [0, 20]}, "steps to keep lie between 0 and steps, 10"),
        ({"family": "olmoe", "save_steps": [50, 0]}, "name at least one step, ascending"),
        ({"family": "olmoe", "steps": 0, "save_steps": [0]}, "steps is 0; it is at least 1"),
        ({"family": "olmoe", "device": "tpu"}, "device is 'tpu'; a model can be trained on cpu or cuda"),
        ({"family": "deepseek_v2", "shared_experts": -1}, "shared_experts is -1 and distinct is 0; neither is below 0"),
    ],
)
def test_recipes_that_cannot_work_say_why(knobs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe.from_mapping(knobs)


def test_recipe_from_configuration_equals_the_class():
    assert Recipe.from_mapping({"family": "olmoe", "save_steps": [0, 5], "steps": 5}) == Recipe(
        "olmoe", steps=5, save_steps=(0, 5)
    )


def test_tasks_come_when_they_begin_and_only_then(tmp_path):
    recipe = Recipe("olmoe", **{**TINY, "steps": 40, "save_steps": (0,)})
    starts = {"sorting": 0, "boolean": 20}
    examples = training.examples_for(recipe, starts)
    assert len(examples) == 40 * recipe.batch
    first, later = examples[: 20 * recipe.batch], examples[20 * recipe.batch :]
    assert {example.task for example in first} == {"sorting"}
    assert 0.3 < sum(example.task == "boolean" for example in later) / len(later) < 0.7
    with pytest.raises(ValueError, match="at least one begins at step 0"):
        training.examples_for(recipe, {"sorting": 5, "boolean": 9})
    with pytest.raises(ValueError, match="distinct is 8 and tasks begin at"):
        training.examples_for(dataclasses.replace(recipe, distinct=8), starts)


def test_distinct_examples_come_again_each_as_often_in_another_order():
    recipe = Recipe("olmoe", **{**TINY, "steps": 15, "distinct": 40})  # 120 examples: three times 40
    examples = training.examples_for(recipe, TASKS)
    rounds = [examples[start : start + 40] for start in (0, 40, 80)]
    pool = sorted(examples[:40], key=repr)
    assert all(sorted(part, key=repr) == pool for part in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert training.examples_for(recipe, TASKS) == examples


def test_a_trainer_step_lowers_the_loss_of_its_batch_and_stops_at_nonsense():
    recipe = Recipe("olmoe", **TINY)
    tokenizer = synthetic.build_tokenizer()
    encoded = training.encode(synthetic.training_examples(TASKS, 8, 0), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = training.build_model(recipe, tokenizer).train()
    batch = training.collate(encoded)
    trainer = training.Trainer(recipe, model)
    losses = [trainer.step(batch, 1e-2) for _ in range(8)]
    assert losses[-1].loss < 0.8 * losses[0].loss
    assert losses[0].tokens == sum(len(prompt) + len(answer) for prompt, answer in encoded)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        trainer.step(batch, 1e-2)
