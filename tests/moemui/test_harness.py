"""Generation and grading through the real lm_eval on tiny models: ids, text and verdicts belong together."""

import json
import logging
import re

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from moemui.answers import harness, responses
from moemui.answers.harness import TaskSpec
from moemui.answers.recording_model import wrap
from moemui.models import synthetic

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def tokenizer():
    return synthetic.build_tokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(synthetic.vocabulary()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def folder(tmp_path):
    """A generation and a multiple-choice task with their data, and a group of both."""
    prompts = [f"Question: sort {' '.join(letters)}\nAnswer:" for letters in ("b a", "d c b", "p", "a b c d")]
    write_rows(tmp_path / "say.jsonl", [{"prompt": prompt, "answer": "a b"} for prompt in prompts])
    choices = ["red", "blue gold", "A"]
    write_rows(
        tmp_path / "pick.jsonl", [{"prompt": p, "choices": choices, "gold": n % 3} for n, p in enumerate(prompts)]
    )
    write_yaml(
        tmp_path / "say.yaml",
        task="say",
        output_type="generate_until",
        doc_to_target="answer",
        generation_kwargs={"until": [], "max_gen_toks": 6, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    write_yaml(
        tmp_path / "pick.yaml",
        task="pick",
        output_type="multiple_choice",
        doc_to_target="gold",
        doc_to_choice="choices",
        metric_list=[
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    )
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["say", "pick"]}))
    return tmp_path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_yaml(path, **entries):
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path.with_suffix(".jsonl"))}}}
    path.write_text(
        yaml.safe_dump({**data, "test_split": "test", "doc_to_text": "prompt", "num_fewshot": 0, **entries})
    )


def spec(folder, name, **entries):
    return TaskSpec(name, include=str(folder), data=str(folder / f"{name}.jsonl"), **entries)


def greedy(model, ids, n):
    """What the model says next, one token and one full forward pass at a time."""
    produced = []
    while len(produced) < n and produced[-1:] != [2]:
        logits = model(torch.tensor([ids + produced])).logits[0, -1]
        produced.append(int(logits.argmax()))
    return produced


def test_generated_ids_are_the_model_s_own_greedy_tokens(model, tokenizer, folder):
    tasks = harness.load_tasks({"saying": spec(folder, "say", domain="d")})
    records = harness.respond(wrap(model, tokenizer, batch_size=3), tasks)["saying"]
    assert [record["sample"] for record in records] == [0, 1, 2, 3]
    assert [record["id"] for record in records] == ["say/0", "say/1", "say/2", "say/3"]
    for record in records:
        assert set(record) == {
            *("sample", "id", "task", "domain", "prompt", "response", "gold", "correct", "prompt_ids", "response_ids"),
            "truncated",
        }
        assert record["truncated"] is (len(record["response_ids"]) == 6 and record["response_ids"][-1] != 2)
        assert (record["task"], record["domain"], record["gold"]) == ("saying", "d", " a b")
        assert record["prompt_ids"] == tokenizer(record["prompt"])["input_ids"]
        assert record["prompt_ids"].count(1) == 1
        assert record["response_ids"] == greedy(model, record["prompt_ids"], 6)
        assert tokenizer.decode(record["response_ids"], skip_special_tokens=True) == record["response"]
        assert record["correct"] is False
        assert json.loads(json.dumps(record)) == record


def test_the_end_token_is_kept_and_nothing_after_it(model, tokenizer, folder):
    tasks = harness.load_tasks({"say": spec(folder, "say")})
    plain = harness.respond(wrap(model, tokenizer, batch_size=4), tasks)["say"]
    # Make the second token of the first response an end token.
    end = plain[0]["response_ids"][1]
    model.generation_config.eos_token_id = [2, end]
    try:
        records = harness.respond(wrap(model, tokenizer, batch_size=4), tasks)["say"]
    finally:
        model.generation_config.eos_token_id = 2
    for record, before in zip(records, plain, strict=True):
        ids = before["response_ids"]
        assert record["response_ids"] == (ids[: ids.index(end) + 1] if end in ids else ids)
    assert records[0]["response_ids"][-1] == end


def test_right_and_wrong_are_lm_eval_s_verdict(model, tokenizer, folder):
    tasks = harness.load_tasks({"say": spec(folder, "say")})
    said = harness.respond(wrap(model, tokenizer), tasks)["say"]
    rows = [{"prompt": record["prompt"], "answer": record["response"]} for record in said]
    write_rows(folder / "say.jsonl", [*rows[:2], {"prompt": rows[2]["prompt"], "answer": "x"}])
    again = harness.respond(wrap(model, tokenizer), harness.load_tasks({"say": spec(folder, "say")}))["say"]
    assert [record["correct"] for record in again] == [True, True, False]


def test_text_equals_the_harness_s_own_class(model, tokenizer, folder):
    from lm_eval.models.huggingface import HFLM

    stop = "\n"
    write_yaml(
        folder / "say.yaml",
        task="say",
        doc_to_target="answer",
        generation_kwargs={"until": [stop, " is"], "max_gen_toks": 9, "do_sample": False},
    )
    tasks = harness.load_tasks({"say": spec(folder, "say")})
    ours = harness.respond(wrap(model, tokenizer, batch_size=2), tasks)["say"]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2).generate_until(
        tasks.leaves["say"]["say"].instances, disable_tqdm=True
    )
    assert [record["response"] for record in ours] == theirs


def test_reasoning_is_taken_off_as_in_the_harness_s_own_class(model, tokenizer, folder):
    from lm_eval.models.huggingface import HFLM

    tasks = harness.load_tasks({"say": spec(folder, "say", max_new_tokens=9)})
    plain = harness.respond(wrap(model, tokenizer), tasks)["say"]
    end = tokenizer.decode(plain[0]["response_ids"][3:4])
    ours = harness.respond(wrap(model, tokenizer, think_end=end), tasks)["say"]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, think_end_token=end).generate_until(
        tasks.leaves["say"]["say"].instances, disable_tqdm=True
    )
    assert [record["response"] for record in ours] == theirs
    assert [record["response_ids"] for record in ours] == [record["response_ids"] for record in plain]
    assert len(ours[0]["response"]) < len(plain[0]["response"])


def test_a_stop_sequence_ends_text_and_ids(model, tokenizer):
    lm = wrap(model, tokenizer)
    ids = tokenizer.encode(" a b ; c", add_special_tokens=False)
    assert lm._cut(ids, [" ;"], 9) == (ids[:2], " a b", False)
    # A stop inside a token: the token holds response text too, so it stays.
    assert lm._cut(ids, [";"], 9) == (ids[:3], " a b ", False)
    # What comes first ends the response, however long the rest of the batch went on.
    assert lm._cut(ids, [" b ; c", " ;"], 9) == (ids[:2], " a b", False)
    assert lm._cut([*ids, 2, 5, 5], ["x"], 9) == ([*ids, 2], " a b ; c", False)
    assert lm._cut(ids, [" a"], 9) == ([], "", False)


def test_only_the_budget_truncates(model, tokenizer):
    lm = wrap(model, tokenizer)
    ids = tokenizer.encode(" a b ; c", add_special_tokens=False)
    assert lm._cut(ids, ["x"], 4) == (ids, " a b ; c", True)
    assert lm._cut(ids, ["x"], 5) == (ids, " a b ; c", False)
    assert lm._cut(ids, [" c"], 4) == (ids[:3], " a b ;", False)
    assert lm._cut([*ids, 2], ["x"], 5) == ([*ids, 2], " a b ; c", False)


def test_padding_is_no_response(model, tokenizer):
    lm = wrap(model, tokenizer)
    ids = tokenizer.encode(" a b ; c", add_special_tokens=False)
    assert tokenizer.pad_token_id == 0
    assert lm._cut([*ids, 0, 0, 0], [], 7) == (ids, " a b ; c", False)
    assert lm._cut([*ids, 0, 0, 0], [" ;"], 7) == (ids[:2], " a b", False)
    # A stop sequence at the very end, and padding inside the response, which the model must have said itself.
    assert lm._cut([*ids, 0, 0, 0], [" c"], 7) == (ids[:3], " a b ;", False)
    assert lm._cut([0, *ids, 0], [], 7)[0] == [0, *ids]
    assert lm._cut([0, 0, 0], [], 3) == ([], "", False)
    # Where padding is the end token, the first is the model's own.
    lm.ends = frozenset({0})
    assert lm._cut([*ids, 0, 0, 0], [], 7) == ([*ids, 0], " a b ; c", False)


def test_reasoning_stays_in_the_ids_and_out_of_the_text(model, tokenizer):
    lm = wrap(model, tokenizer, think_end=" so")
    ids = tokenizer.encode(" a ; so b ; c", add_special_tokens=False)
    assert lm._cut([*ids, 2], [], 9, True) == ([*ids, 2], "b ; c", False)
    # A stop sequence counts behind the reasoning only.
    assert lm._cut(ids, [" ;"], 6, True) == (ids[:4], "b", False)
    assert lm._cut(ids, [" x"], 6, True) == (ids, "b ; c", True)
    assert lm._cut(ids, ["b"], 6, True) == (ids[:3], "", False)
    # As in HFLM, space right behind the reasoning ends nothing.
    assert lm._cut(ids, [" b"], 6, True) == (ids, "b ; c", True)
    # Reasoning that never ended is all there is; without reasoning an answer is as ever.
    assert lm._cut(ids[:2], [" ;"], 2, True) == (ids[:2], "a ;", True)
    assert lm._cut([*ids[:2], 2], [" ;"], 9, True) == (ids[:1], "a", False)
    assert lm._cut(ids[:2], [" ;"], 2, False) == (ids[:1], "a", False)
    # As in HFLM, the last one counts.
    assert lm._cut([*ids, *ids[2:4], 2], [], 9, True) == ([*ids, *ids[2:4], 2], "b", False)
    # Special tokens are not in the text, but they are found.
    special = wrap(model, tokenizer, think_end="<bos> so")
    twice = [ids[0], ids[2], ids[3], 1, ids[2], ids[5], 2]
    assert special._cut(twice, [], 9, True) == (twice, "c", False)


def test_reasoning_is_expected_where_the_model_s_turn_begins(model, tokenizer):
    turn = "{% if add_generation_prompt %} is{{ '' if enable_thinking | default(true) else ' so' }}{% endif %}"
    tokenizer.chat_template = TEMPLATE + turn
    lm = wrap(model, tokenizer, think_end=" so")
    assert lm.turn == " is"
    assert lm.reasons("<bos> add is")
    # The task began the answer itself.
    assert not lm.reasons("<bos> add is count")
    without = wrap(model, tokenizer, think_end=" so", chat_template_args={"enable_thinking": False})
    assert without.turn == " is so"
    assert not without.reasons("<bos> add is so")
    assert not wrap(model, tokenizer).reasons("<bos> add is")


def test_stop_sequences_do_not_end_reasoning(model, tokenizer, folder):
    def answers(**chat):
        return harness.respond(
            wrap(model, tokenizer, **chat), harness.load_tasks({"say": spec(folder, "say", max_new_tokens=9)})
        )["say"]

    free = answers()
    row = next(n for n, record in enumerate(free) if len(set(record["response_ids"][:6])) == 6)
    words = [tokenizer.decode([token]) for token in free[row]["response_ids"]]
    write_yaml(
        folder / "say.yaml", task="say", doc_to_target="answer", generation_kwargs={"until": [words[1], words[4]]}
    )
    assert answers()[row]["response_ids"] == free[row]["response_ids"][:1]
    reasoned = answers(think_end=words[2])[row]
    assert reasoned["response_ids"] == free[row]["response_ids"][:4]
    assert reasoned["response"] == words[3].lstrip()
    assert not reasoned["truncated"]


def test_chat_template_arguments_reach_the_prompt(model, tokenizer, folder):
    tokenizer.chat_template = TEMPLATE + "{{ ending | default('') }}"
    tasks = harness.load_tasks({"say": spec(folder, "say", limit=1)})
    (plain,) = harness.respond(wrap(model, tokenizer), tasks)["say"]
    (ended,) = harness.respond(wrap(model, tokenizer, chat_template_args={"ending": " is"}), tasks)["say"]
    assert ended["prompt"] == plain["prompt"] + " is"


def test_the_longest_response_can_be_set(model, tokenizer, folder):
    own = harness.respond(wrap(model, tokenizer), harness.load_tasks({"say": spec(folder, "say")}))["say"]
    for budget in (2, 11):
        tasks = harness.load_tasks({"say": spec(folder, "say", max_new_tokens=budget)})
        for record, before in zip(harness.respond(wrap(model, tokenizer), tasks)["say"], own, strict=True):
            ids = record["response_ids"]
            assert ids == greedy(model, record["prompt_ids"], budget)
            assert ids[:6] == before["response_ids"][:budget]
            assert record["truncated"] is (len(ids) == budget and ids[-1] != 2)


def test_another_name_of_the_budget_gives_way(folder):
    write_yaml(
        folder / "say.yaml",
        task="say",
        doc_to_target="answer",
        generation_kwargs={"until": ["x"], "max_new_tokens": 50, "max_length": 60, "do_sample": False},
    )
    task = harness.load_tasks({"t": spec(folder, "say", max_new_tokens=7)}).leaves["t"]["say"]
    assert task.get_config("generation_kwargs") == {"until": ["x"], "do_sample": False, "max_gen_toks": 7}


def test_the_chosen_continuation_is_the_most_likely_one(model, tokenizer, folder):
    tasks = harness.load_tasks({"pick": spec(folder, "pick")})
    records = harness.respond(wrap(model, tokenizer, batch_size=5), tasks)["pick"]
    choices = ["red", "blue gold", "A"]
    for number, record in enumerate(records):
        totals = [-total_nll(model, tokenizer, record, " " + choice) for choice in choices]
        best = totals.index(max(totals))
        assert record["response"] == " " + choices[best]
        assert record["response_ids"] == tokenizer.encode(record["response"], add_special_tokens=False)
        assert record["gold"] == " " + choices[number % 3]
        assert record["correct"] == (best == number % 3)
    assert {record["correct"] for record in records} <= {True, False}


def total_nll(model, tokenizer, record, text):
    answer = tokenizer.encode(text, add_special_tokens=False)
    logits = model(torch.tensor([record["prompt_ids"] + answer])).logits[0].log_softmax(-1)
    start = len(record["prompt_ids"]) - 1
    return -sum(logits[start + n, token].item() for n, token in enumerate(answer))


def test_a_length_normalised_metric_chooses_by_length(model, tokenizer, folder):
    tasks = harness.load_tasks({"pick": spec(folder, "pick", metric="acc_norm")})
    choices = ["red", "blue gold", "A"]
    for record in harness.respond(wrap(model, tokenizer), tasks)["pick"]:
        means = [-total_nll(model, tokenizer, record, " " + choice) / len(choice) for choice in choices]
        assert record["response"] == " " + choices[means.index(max(means))]
        assert record["correct"] == (record["response"] == record["gold"])


def test_groups_give_every_leaf_s_samples_up_to_the_limit(model, tokenizer, folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    tasks = harness.load_tasks({"all": TaskSpec("both", include=str(folder), limit=2)})
    records = harness.respond(wrap(model, tokenizer), tasks)["all"]
    assert [record["id"] for record in records] == ["say/0", "say/1", "pick/0", "pick/1"]
    assert [record["sample"] for record in records] == [0, 1, 2, 3]


def test_answering_again_gives_the_same_and_leaves_no_trace(model, tokenizer, folder, capsys):
    tasks = harness.load_tasks({"say": spec(folder, "say", limit=3), "pick": spec(folder, "pick")})
    lm = wrap(model, tokenizer)
    first = harness.respond(lm, tasks)
    assert harness.respond(lm, tasks) == first
    assert harness.respond(wrap(model, tokenizer, batch_size=1), tasks) == first
    assert len(first["say"]) == 3
    output = capsys.readouterr()
    assert "it/s" not in output.err + output.out
    assert not list(folder.glob("**/*.arrow"))


def test_a_chat_template_is_applied_with_one_bos(model, tokenizer, folder):
    tasks = harness.load_tasks({"say": spec(folder, "say"), "pick": spec(folder, "pick")})
    bare = harness.respond(wrap(model, tokenizer), tasks)
    tokenizer.chat_template = TEMPLATE
    chat = harness.respond(wrap(model, tokenizer), tasks)
    for name in ("say", "pick"):
        for record, before in zip(chat[name], bare[name], strict=True):
            assert record["prompt"] == "<bos>" + before["prompt"]
            assert record["prompt_ids"] == before["prompt_ids"]
            assert record["prompt_ids"].count(1) == 1
    # With a template the answer begins without the delimiter.
    assert [record["gold"] for record in chat["say"]] == ["a b"] * 4


def test_long_prompts_lose_their_left_end_in_ids_too(model, tokenizer, folder):
    write_rows(folder / "say.jsonl", [{"prompt": "Question:" + " a" * 100, "answer": "b"}])
    tasks = harness.load_tasks({"say": spec(folder, "say")})
    (record,) = harness.respond(wrap(model, tokenizer), tasks)["say"]
    assert len(record["prompt_ids"]) == 64 - 6
    assert set(record["prompt_ids"]) == set(tokenizer.encode(" a", add_special_tokens=False))


def test_a_metric_of_degrees_grades_nothing_and_says_so(model, tokenizer, folder, caplog):
    write_yaml(
        folder / "say.yaml",
        task="say",
        doc_to_target="answer",
        process_results=None,
        generation_kwargs={"until": [], "max_gen_toks": 6},
        metric_list=[{"metric": "chrf", "aggregation": "mean", "higher_is_better": True}],
    )
    tasks = harness.load_tasks({"say": spec(folder, "say")})
    with caplog.at_level(logging.WARNING):
        records = harness.respond(wrap(model, tokenizer), tasks)["say"]
    assert {record["correct"] for record in records} == {None}
    assert "metric chrf of say has degrees" in caplog.text


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"lm_eval": "sayy"}, "task t names sayy, which lm_eval does not know (also not in"),
        ({"include": "nowhere"}, "task t has include: nowhere, which is no folder"),
        ({"data": "nowhere.jsonl"}, "task t has data: nowhere.jsonl, which does not exist"),
        ({"lm_eval": "both"}, "task t has data, but both is a group"),
        ({"max_new_tokens": 0}, "task t has max_new_tokens: 0; it is a number of tokens, at least 1"),
        ({"num_fewshot": 3}, "task t asks for 3 few-shot examples, but say is defined with none"),
    ],
)
def test_entries_that_cannot_work_say_why(folder, entries, message):
    values = {"lm_eval": "say", "include": str(folder), "data": str(folder / "say.jsonl"), **entries}
    with pytest.raises(ValueError, match=re.escape(message)):
        harness.load_tasks({"t": TaskSpec(**values)})


def test_a_task_that_generates_nothing_has_no_longest_response(folder):
    with pytest.raises(ValueError, match="task t has max_new_tokens: 8, but pick generates nothing; take it out"):
        harness.load_tasks({"t": spec(folder, "pick", max_new_tokens=8)})


def test_tasks_without_one_response_a_prompt_are_refused(folder):
    write_yaml(folder / "say.yaml", task="say", doc_to_target="answer", repeats=4)
    with pytest.raises(ValueError, match="task say asks for 4 responses a prompt"):
        harness.load_tasks({"t": spec(folder, "say")})
    write_yaml(folder / "say.yaml", task="say", doc_to_target="answer", output_type="loglikelihood_rolling")
    with pytest.raises(ValueError, match="task say is of type loglikelihood_rolling, which has no response"):
        harness.load_tasks({"t": spec(folder, "say")})
    write_yaml(folder / "say.yaml", task="say", doc_to_target="answer", unsafe_code=True)
    with pytest.raises(ValueError, match="task say runs code that the model wrote; set allow_code: true for t"):
        harness.load_tasks({"t": spec(folder, "say")})


def test_unknown_metric_and_filter_list_the_known_ones(model, tokenizer, folder):
    lm = wrap(model, tokenizer)
    with pytest.raises(ValueError, match="task t names the metric f9; pick reports acc, acc_norm"):
        harness.respond(lm, harness.load_tasks({"t": spec(folder, "pick", metric="f9")}))
    with pytest.raises(ValueError, match="task t names the filter f9; pick has none"):
        harness.respond(lm, harness.load_tasks({"t": spec(folder, "pick", filter="f9")}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"think_end": ""}, "think_end is empty"),
        ({"chat_template_args": {"enable_thinking": False}}, "but the tokenizer has no chat template"),
    ],
)
def test_a_model_that_cannot_be_asked_says_why(model, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        wrap(model, tokenizer, **options)


def test_reasoning_without_its_end_is_refused(model, tokenizer):
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(ValueError, match="enable_thinking is set without think_end"):
        wrap(model, tokenizer, chat_template_args={"enable_thinking": True})


def test_a_budget_beyond_the_context_is_refused(model, tokenizer, folder):
    write_yaml(
        folder / "say.yaml", task="say", doc_to_target="answer", generation_kwargs={"until": [], "max_gen_toks": 64}
    )
    with pytest.raises(ValueError, match="wants up to 64 new tokens but the model's context holds 64"):
        harness.respond(wrap(model, tokenizer), harness.load_tasks({"say": spec(folder, "say")}))


def test_the_embedded_tasks_run_from_their_own_files(model, tokenizer, tmp_path, request):
    include = str(request.config.rootpath / "config" / "tasks")
    specs = {}
    for name, task in synthetic.TASKS.items():
        synthetic.write_task(name, 6, 7, tmp_path / f"{name}.jsonl")
        specs[name] = TaskSpec(name, task.domain, include=include, data=str(tmp_path / f"{name}.jsonl"))
    records = harness.respond(wrap(model, tokenizer, batch_size=6), harness.load_tasks(specs))
    for name in synthetic.TASKS:
        assert [r["prompt"] for r in records[name]] == [e.prompt for e in synthetic.held_out(name, 6, 7)]
        assert [r["gold"] for r in records[name]] == [" " + e.answer for e in synthetic.held_out(name, 6, 7)]
        assert {r["correct"] for r in records[name]} == {False}
    responses.write_responses(records["facts"], tmp_path / "responses.jsonl")
    assert responses.read_responses(tmp_path / "responses.jsonl") == records["facts"]
