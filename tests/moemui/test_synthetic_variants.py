"""Problems that training never shows: right answers, really of another size or wording, writable by the tokenizer."""

import re

import pytest

from moemui.models import synthetic
from moemui.models import synthetic_variants as variants

CASES = [(task, kind) for task in synthetic.TASKS for kind in variants.kinds(task)]
ANIMALS, TOOLS = {"cat", "dog", "cow", "pig", "hen"}, {"pen", "cup", "key", "hat", "box"}


def body(prompt):
    return re.fullmatch(r"Question: (.*)\nAnswer:", prompt).group(1)


def solve_addition(text):
    first, second = map(int, re.findall(r"\d+", text))
    steps = []
    for place in range(max(len(str(first)), len(str(second)))):
        carry = int(first % 10**place + second % 10**place >= 10**place) if place else 0
        a, b = first // 10**place % 10, second // 10**place % 10
        steps.append(f"{a}+{b}+{carry}={a + b + carry:02d}")
    return f"{' ; '.join(steps)} so {first + second}"


def solve_modular(text):
    numbers = [int(number) for number in re.search(r"\d+(\+\d+)+", text).group().split("+")]
    steps = []
    for place in range(1, len(numbers)):
        left = numbers[0] if place == 1 else sum(numbers[:place]) % 7
        steps.append(f"{left}+{numbers[place]}={sum(numbers[: place + 1]) % 7}")
    return f"{' ; '.join(steps)} so {sum(numbers) % 7}"


def solve_brackets(text):
    rest = re.sub(r"[^()\[\]{}]", "", text)
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", rest)) != rest:
        rest = shorter
    return " ".join(rest[::-1].translate(str.maketrans("([{", ")]}")))


def solve_boolean(text):
    plain = text.removeprefix("is ").removesuffix(" ?").replace("true", "True").replace("false", "False")
    sides = re.findall(r"\(.*?\)", plain)
    operator = re.search(r"\) (and|or) \(", plain).group(1)
    left, right, result = (str(bool(eval(part))).lower() for part in (*sides, plain))
    return f"{left} {operator} {right} is {result}"


def solve_counting(text):
    members = ANIMALS if "count animals" in text else TOOLS
    found = [word for word in text.split() if word in members]
    return " ".join([*found, ";", str(len(found))])


def solve_facts(text):
    listed, question = text.split(" ? ")
    column, name = question.split(" of ")
    pairs = dict(zip(listed.split()[::2], listed.split()[1::2], strict=True))
    value = synthetic.FACTS[name][column]
    return f"{value} {pairs[value]}"


def letters(text):
    return re.findall(r"\b[a-p]\b", text)


SOLVERS = {
    "addition": solve_addition,
    "modular": solve_modular,
    "reversal": lambda text: " ".join(letters(text)[::-1]),
    "sorting": lambda text: " ".join(sorted(letters(text))),
    "brackets": solve_brackets,
    "boolean": solve_boolean,
    "counting": solve_counting,
    "facts": solve_facts,
}

# How large a problem is, read off its text, and what sizes the two kinds have.
SIZES = {
    "addition": lambda text: {len(number) for number in re.findall(r"\d+", text)},
    "modular": lambda text: {len(re.findall(r"\d+", text.removeprefix("mod 7")))},
    "reversal": lambda text: {len(letters(text))},
    "sorting": lambda text: {len(letters(text))},
    "brackets": lambda text: {len(re.findall(r"[()\[\]{}]", text))},
    "boolean": lambda text: {len(re.findall("true|false", side)) for side in re.findall(r"\(.*?\)", text)},
    "counting": lambda text: {sum(word in ANIMALS | TOOLS for word in text.split())},
}
EXPECTED = {
    ("addition", "larger"): {3},
    ("modular", "longer"): {5, 6},
    ("reversal", "longer"): {7, 8},
    ("sorting", "longer"): {6, 7},
    ("brackets", "longer"): {10, 11, 12},
    ("boolean", "longer"): {3},
    ("counting", "longer"): {8, 9},
}


@pytest.fixture(scope="module")
def tokenizer():
    return synthetic.build_tokenizer()


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_answers_are_what_another_computation_gives(task, kind):
    found = variants.examples(task, kind, 150, 1)
    assert len({example.prompt for example in found}) == 150
    assert [example.answer for example in found] == [SOLVERS[task](body(example.prompt)) for example in found]


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_the_tokenizer_of_trained_models_can_write_them(task, kind, tokenizer):
    for example in variants.examples(task, kind, 100, 2):
        text = example.prompt + synthetic.DELIMITER + example.answer
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(("task", "kind"), EXPECTED)
def test_longer_and_larger_problems_have_sizes_that_training_never_has(task, kind):
    sizes = [SIZES[task](body(example.prompt)) for example in variants.examples(task, kind, 150, 1)]
    trained = [SIZES[task](body(example.prompt)) for example in synthetic.training_examples([task], 1500, 0)]
    assert set().union(*sizes) == EXPECTED[task, kind]
    assert not set().union(*sizes) & set().union(*trained)


def test_larger_modular_problems_have_two_digits_where_trained_ones_have_one():
    found = [body(example.prompt) for example in variants.examples("modular", "larger", 150, 1)]
    numbers = [re.findall(r"\d+", text.removeprefix("mod 7 of ")) for text in found]
    assert {len(number) for row in numbers for number in row} == {2}
    assert {len(row) for row in numbers} == {3, 4}


def test_every_stretched_kind_was_looked_at():
    assert {*EXPECTED, ("modular", "larger")} == set(variants.STRETCHED)


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_rewording_asks_the_held_out_problems_with_the_same_words_in_another_order(task):
    # words that a wording needs beyond the task's own
    added = {"addition": ["and"], "modular": [], "boolean": ["is", "?"]}.get(task, [])
    dropped = ["of"] if task == "modular" else []
    reworded = variants.examples(task, "reworded", 60, 3)
    for new, old in zip(reworded, synthetic.held_out(task, 60, 3), strict=True):
        assert new.answer == old.answer
        assert new.prompt != old.prompt
        words = body(new.prompt).split()
        assert sorted(words + dropped) == sorted(body(old.prompt).split() + added)
    trained = {example.prompt for example in synthetic.training_examples([task], 2000, 0)}
    assert not trained & {example.prompt for example in reworded}


def test_problems_as_trained_are_the_held_out_ones():
    assert variants.examples("sorting", variants.IN_DISTRIBUTION, 20, 0) == synthetic.held_out("sorting", 20, 0)


def test_more_of_them_begin_with_the_same_and_seeds_differ():
    few, many = (variants.examples("reversal", "longer", n, 0) for n in (10, 30))
    assert many[:10] == few
    assert variants.examples("reversal", "longer", 10, 1) != few


def test_a_kind_that_a_task_lacks_and_too_many_problems_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="task facts has no 'longer' problems; it has reworded"):
        variants.examples("facts", "longer", 5, 0)
    with pytest.raises(ValueError, match="no synthetic task is called 'chess'"):
        variants.kinds("chess")
    two = variants.Stretched(lambda draws: (f"sort {draws.below(2)}", "a"), "")
    monkeypatch.setitem(variants.STRETCHED, ("sorting", "longer"), two)
    with pytest.raises(ValueError, match="task sorting has only 2 different longer prompts where 3 are wanted"):
        variants.examples("sorting", "longer", 3, 0)
