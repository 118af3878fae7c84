"""The embedded tasks: right answers, a clean split, a tokenizer that loses nothing."""

import json
import re

import pytest
import yaml

from moemui.models import synthetic

CONFIG = "config/tasks"


def body(prompt):
    return re.fullmatch(r"Question: (.*)\nAnswer:", prompt).group(1)


def solve_addition(text):
    first, second = map(int, text.removeprefix("add ").split())
    units = first % 10 + second % 10
    tens = first // 10 + second // 10 + units // 10
    return (
        f"{first % 10}+{second % 10}+0={units:02d} ; {first // 10}+{second // 10}+{units // 10}={tens:02d} "
        f"so {first + second}"
    )


def solve_modular(text):
    digits = [int(digit) for digit in text.removeprefix("mod 7 of ").split("+")]
    sums = [sum(digits[: n + 1]) % 7 for n in range(len(digits))]
    before = [digits[0], *sums[1:]]
    return (
        " ; ".join(f"{b}+{d}={s}" for b, d, s in zip(before, digits[1:], sums[1:], strict=False))
        + f" so {sum(digits) % 7}"
    )


def solve_brackets(text):
    rest = text.removeprefix("close ").replace(" ", "")
    while (shorter := rest.replace("()", "").replace("[]", "").replace("{}", "")) != rest:
        rest = shorter
    return " ".join(rest[::-1].translate(str.maketrans("([{", ")]}")))


def truth(tokens):
    """Value of: ['not'] literal, or ( a op b )."""
    position = tokens.index("and") if "and" in tokens else tokens.index("or") if "or" in tokens else None
    if position is None:
        return (tokens[-1] == "true") != (tokens[0] == "not")
    sides = truth(tokens[:position]), truth(tokens[position + 1 :])
    return all(sides) if tokens[position] == "and" else any(sides)


def solve_boolean(text):
    left, operator, right = re.fullmatch(r"\( (.*) \) (and|or) \( (.*) \)", text).groups()
    values = [truth(side.split()) for side in (left, right)]
    result = all(values) if operator == "and" else any(values)
    left, right, result = ("true" if value else "false" for value in (*values, result))
    return f"{left} {operator} {right} is {result}"


def solve_counting(text):
    kind, words = re.fullmatch(r"count (animals|tools) in (.*)", text).groups()
    members = {"animals": "cat dog cow pig hen", "tools": "pen cup key hat box"}[kind].split()
    found = [word for word in words.split() if word in members]
    return f"{' '.join(found)} ; {len(found)}" if found else "; 0"


def solve_facts(text):
    column, name, options = re.fullmatch(r"(\w+) of (\w+) \? (.*)", text).groups()
    value = synthetic.FACTS[name][column]
    return f"{value} {options.split()[options.split().index(value) + 1]}"


SOLVERS = {
    "addition": solve_addition,
    "modular": solve_modular,
    "reversal": lambda text: " ".join(text.split()[:0:-1]),
    "sorting": lambda text: " ".join(sorted(text.split()[1:])),
    "brackets": solve_brackets,
    "boolean": solve_boolean,
    "counting": solve_counting,
    "facts": solve_facts,
}


def test_every_task_has_a_solver():
    assert set(SOLVERS) == set(synthetic.TASKS)


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_what_another_computation_gives(name):
    examples = synthetic.held_out(name, 150, 1) + synthetic.training_examples([name], 150, 1)
    assert [example.answer for example in examples] == [SOLVERS[name](body(example.prompt)) for example in examples]


@pytest.mark.parametrize("name", SOLVERS)
def test_200_held_out_prompts_that_training_never_sees(name):
    held_out = {example.prompt for example in synthetic.held_out(name, 200, 7)}
    trained = {example.prompt for example in synthetic.training_examples([name], 3000, 0)}
    assert len(held_out) == 200
    assert not held_out & trained
    assert all(synthetic.is_held_out(prompt) for prompt in held_out)


def test_draws_repeat_and_seeds_differ():
    first = synthetic.training_examples(list(synthetic.TASKS), 40, 3)
    assert first == synthetic.training_examples(list(synthetic.TASKS), 40, 3)
    assert first != synthetic.training_examples(list(synthetic.TASKS), 40, 4)
    assert synthetic.held_out("sorting", 20, 1) == synthetic.held_out("sorting", 40, 1)[:20]


def test_draws_are_pinned_across_python_versions():
    # Worked out from random.Random(crc32(b"x")).random(), whose sequence Python keeps.
    draws = synthetic.Draws("x")
    assert [draws.below(100) for _ in range(6)] == [8, 65, 11, 83, 37, 45]
    assert sorted(synthetic.Draws("x").sample("abcde", 5)) == list("abcde")


def test_too_few_prompts_are_an_error_with_the_numbers():
    with pytest.raises(
        ValueError, match=r"task boolean has only 2\d\d different held-out prompts where 300 are wanted"
    ):
        synthetic.held_out("boolean", 300, 7)


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="no synthetic task is called 'chess'; choose from addition, modular"):
        synthetic.held_out("chess", 1, 0)
    with pytest.raises(ValueError, match="no task to train on"):
        synthetic.training_examples([], 1, 0)


def test_written_task_is_one_document_a_line(tmp_path):
    synthetic.write_task("facts", 5, 7, tmp_path / "facts.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["domain"] for row in rows} == {"knowledge"}
    assert [row["answer"] for row in rows] == [example.answer for example in synthetic.held_out("facts", 5, 7)]


@pytest.fixture(scope="module")
def tokenizer():
    return synthetic.build_tokenizer()


def test_tokenizer_knows_every_text_and_gives_it_back(tokenizer):
    for example in synthetic.training_examples(list(synthetic.TASKS), 300, 5):
        text = example.prompt + synthetic.DELIMITER + example.answer
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_token_of_the_vocabulary_is_used(tokenizer):
    used = set()
    examples = synthetic.training_examples(list(synthetic.TASKS), 3000, 6)
    for ids in tokenizer([example.prompt + synthetic.DELIMITER + example.answer for example in examples])["input_ids"]:
        used.update(ids)
    assert sorted(set(tokenizer.get_vocab().values()) - used) == [0, 2, 3]


def test_tokenizer_pads_on_the_left_and_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["Question: add 12 34\nAnswer:", "Question:"]
    assert again(texts, padding=True)["input_ids"] == tokenizer(texts, padding=True)["input_ids"]
    assert again(texts, padding=True)["input_ids"][1][0] == tokenizer.pad_token_id
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", synthetic.TASKS)
def test_task_file_leaves_room_for_the_longest_answer_and_no_more(name, tokenizer, request):
    file = request.config.rootpath / CONFIG / f"{name}.yaml"
    room = yaml.safe_load(file.read_text())["generation_kwargs"]["max_gen_toks"]
    answers = [synthetic.DELIMITER + example.answer for example in synthetic.training_examples([name], 1500, 2)]
    longest = max(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
    assert room == longest + 1
