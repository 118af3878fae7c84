"""The tasks of the embedded study: text that small models can learn in minutes, with exact answers.

A task draws a prompt body and its answer; a prompt belongs to the held-out part when CRC32 of its text is a
multiple of `HELD_OUT_EVERY`, so that the split needs no list and never changes. Training texts read
`Question: <body>\\nAnswer: <answer>`. Where a skill needs intermediate results (carrying, remainders) the answer
writes them out: without them such models stayed at chance.

Everything random comes from `Draws`, which only uses `random.Random.random`, the one method whose sequence Python
promises to keep between versions.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Item = TypeVar("Item")

HELD_OUT_EVERY = 8
# Draws in a row that bring no new prompt after which a task counts as exhausted.
PATIENCE = 5000
DELIMITER = " "
QUESTION, ANSWER = "Question: ", "\nAnswer:"

LETTERS = tuple("abcdefghijklmnop")
ANIMALS = ("cat", "dog", "cow", "pig", "hen")
TOOLS = ("pen", "cup", "key", "hat", "box")
CLOSING = {"(": ")", "[": "]", "{": "}"}
CHOICES = ("A", "B", "C", "D")
CAPITALS = ("arlen", "borca", "cindel", "drume", "estia", "fenwick")
COLORS = ("red", "blue", "green", "gold", "black", "white")
FACTS = {
    "belda": {"capital": "drume", "color": "gold"},
    "corin": {"capital": "arlen", "color": "white"},
    "dovan": {"capital": "fenwick", "color": "red"},
    "elmar": {"capital": "cindel", "color": "gold"},
    "faro": {"capital": "borca", "color": "black"},
    "gavel": {"capital": "estia", "color": "blue"},
    "helio": {"capital": "arlen", "color": "green"},
    "ivora": {"capital": "cindel", "color": "white"},
    "jasko": {"capital": "fenwick", "color": "blue"},
    "kelda": {"capital": "drume", "color": "red"},
    "lomar": {"capital": "borca", "color": "green"},
    "mirel": {"capital": "estia", "color": "black"},
}
COLUMNS = {"capital": CAPITALS, "color": COLORS}


class Draws:
    """Random choices that are the same in every Python version. `seed` is any text or number."""

    def __init__(self, seed: str | int) -> None:
        self._random = random.Random(zlib.crc32(str(seed).encode()))

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound − 1."""
        return int(self._random.random() * bound)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], n: int) -> list[Item]:
        """n different items in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(n)]


Generator = Callable[[Draws], tuple[str, str]]
Span = tuple[int, int]  # least and most, both possible; a task has the defaults, `synthetic_variants` goes beyond


def addition(draws: Draws, *, digits: int = 2) -> tuple[str, str]:
    """Two numbers of two digits; the answer works from the last digit on: digit+digit+carry=sum."""
    first, second = (draws.between(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
    carry, steps = 0, []
    for a, b in zip(reversed(str(first)), reversed(str(second)), strict=True):
        total = int(a) + int(b) + carry
        steps.append(f"{a}+{b}+{carry}={total:02d}")
        carry = total // 10
    return f"add {first} {second}", f"{' ; '.join(steps)} so {first + second}"


def modular(draws: Draws, *, terms: Span = (3, 4), size: Span = (0, 9)) -> tuple[str, str]:
    """The sum of three or four digits modulo 7; the answer writes every step with its operands."""
    numbers = [draws.between(*size) for _ in range(draws.between(*terms))]
    running, steps = numbers[0], []
    for number in numbers[1:]:
        result = (running + number) % 7
        steps.append(f"{running}+{number}={result}")
        running = result
    return f"mod 7 of {'+'.join(map(str, numbers))}", f"{' ; '.join(steps)} so {running}"


def reversal(draws: Draws, *, length: Span = (4, 6)) -> tuple[str, str]:
    """Four to six letters, repetition allowed, in reverse order."""
    letters = [draws.choice(LETTERS) for _ in range(draws.between(*length))]
    return f"reverse {' '.join(letters)}", " ".join(reversed(letters))


def sorting(draws: Draws, *, length: int = 5) -> tuple[str, str]:
    """Five different letters in alphabetical order."""
    letters = draws.sample(LETTERS, length)
    return f"sort {' '.join(letters)}", " ".join(sorted(letters))


def brackets(draws: Draws, *, length: Span = (5, 9)) -> tuple[str, str]:
    """The brackets that complete a sequence of five to nine; at least one is always open."""
    while True:
        opened: list[str] = []
        written = []
        for _ in range(draws.between(*length)):
            if opened and draws.chance(0.35):
                written.append(CLOSING[opened.pop()])
            else:
                opened.append(draws.choice(tuple(CLOSING)))
                written.append(opened[-1])
        if opened:
            return f"close {' '.join(written)}", " ".join(CLOSING[bracket] for bracket in reversed(opened))


def boolean(draws: Draws, *, literals: int = 2) -> tuple[str, str]:
    """( a op b ) op ( c op d ) with negated literals; the answer gives both sides first.

    A side of more literals has the same operator between all of them, so that there is one way to read it.
    """

    def side() -> tuple[str, bool]:
        values, words = [], []
        for _ in range(literals):
            value, negated = draws.chance(0.5), draws.chance(0.4)
            values.append(value != negated)
            words.append(("not " if negated else "") + _word(value))
        operator = draws.choice(("and", "or"))
        return f"( {f' {operator} '.join(words)} )", _apply(operator, *values)

    left_text, left = side()
    operator = draws.choice(("and", "or"))
    right_text, right = side()
    result = _word(_apply(operator, left, right))
    return f"{left_text} {operator} {right_text}", f"{_word(left)} {operator} {_word(right)} is {result}"


def counting(draws: Draws, *, length: Span = (4, 7)) -> tuple[str, str]:
    """How many of four to seven words are animals, or tools; the answer lists them first."""
    kind, members = draws.choice((("animals", ANIMALS), ("tools", TOOLS)))
    words = [draws.choice(ANIMALS + TOOLS) for _ in range(draws.between(*length))]
    found = [word for word in words if word in members]
    return f"count {kind} in {' '.join(words)}", " ".join([*found, ";", str(len(found))])


def facts(draws: Draws) -> tuple[str, str]:
    """One cell of a table of twelve names and two columns, asked with four options in random order."""
    name, column = draws.choice(tuple(FACTS)), draws.choice(tuple(COLUMNS))
    value = FACTS[name][column]
    wrong = draws.sample([other for other in COLUMNS[column] if other != value], 3)
    options = draws.sample([value, *wrong], 4)
    listed = " ".join(f"{option} {letter}" for letter, option in zip(CHOICES, options, strict=True))
    return f"{column} of {name} ? {listed}", f"{value} {CHOICES[options.index(value)]}"


def _word(value: bool) -> str:
    return "true" if value else "false"


def _apply(operator: str, *values: bool) -> bool:
    return all(values) if operator == "and" else any(values)


@dataclass(frozen=True)
class Task:
    """A generator and the domain that it belongs to."""

    generate: Generator
    domain: str


TASKS = {
    "addition": Task(addition, "arithmetic"),
    "modular": Task(modular, "arithmetic"),
    "reversal": Task(reversal, "sequences"),
    "sorting": Task(sorting, "sequences"),
    "brackets": Task(brackets, "logic"),
    "boolean": Task(boolean, "logic"),
    "counting": Task(counting, "knowledge"),
    "facts": Task(facts, "knowledge"),
}


@dataclass(frozen=True)
class Example:
    """One prompt with its answer; a model reads prompt + DELIMITER + answer."""

    task: str
    prompt: str
    answer: str


def task_named(name: str) -> Task:
    """The task of that name. Raises ValueError with the names that exist."""
    if name not in TASKS:
        raise ValueError(f"no synthetic task is called {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def prompt_of(body: str) -> str:
    """The whole text that asks a problem."""
    return QUESTION + body + ANSWER


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the part that no model is trained on: about one in eight."""
    return zlib.crc32(prompt.encode()) % HELD_OUT_EVERY == 0


def draw(name: str, draws: Draws, *, held_out: bool) -> Example:
    """The next example of a task that lies in the wanted part of the split."""
    generate = task_named(name).generate
    while True:
        body, answer = generate(draws)
        text = prompt_of(body)
        if is_held_out(text) == held_out:
            return Example(name, text, answer)


def held_out(name: str, n: int, seed: int) -> list[Example]:
    """n different held-out examples of a task, in the order in which they were drawn.

    Raises ValueError where the task has too few different prompts for n.
    """
    draws, found = Draws(f"held-out {name} {seed}"), dict[str, Example]()
    repeated = 0
    while len(found) < n and repeated < PATIENCE:
        example = draw(name, draws, held_out=True)
        repeated = repeated + 1 if example.prompt in found else 0
        found.setdefault(example.prompt, example)
    if len(found) < n:
        raise ValueError(
            f"task {name} has only {len(found)} different held-out prompts where {n} are wanted; "
            f"ask for at most {len(found)}"
        )
    return list(found.values())


def training_examples(names: Iterable[str], n: int, seed: int) -> list[Example]:
    """n examples, each of a random task out of `names`; a prompt may return, a held-out one never does."""
    tasks = tuple(names)
    if not tasks:
        raise ValueError(f"there is no task to train on; name at least one of {', '.join(TASKS)}")
    draws = Draws(f"training {seed}")
    return [draw(draws.choice(tasks), draws, held_out=False) for _ in range(n)]


def staggered_examples(starts: Mapping[str, int], batch: int, steps: int, seed: int) -> list[Example]:
    """batch × steps examples; those of step s (from 0) are of random tasks among those that have begun by s.

    starts: task → the first step that may hold it. Raises ValueError where none begins at step 0.
    """
    if min(starts.values(), default=-1) != 0:
        raise ValueError(f"tasks begin at {dict(starts)}; at least one begins at step 0, and none before")
    draws = Draws(f"training {seed}")
    examples = []
    for step in range(steps):
        begun = tuple(name for name, start in starts.items() if start <= step)
        examples += [draw(draws.choice(begun), draws, held_out=False) for _ in range(batch)]
    return examples


def again_and_again(pool: Sequence[Example], n: int, seed: int) -> list[Example]:
    """n examples out of a pool: all of it in random order, then all of it in another one, and so on."""
    draws, examples = Draws(f"order {seed}"), list[Example]()
    while len(examples) < n:
        examples += draws.sample(pool, len(pool))
    return examples[:n]


def write_task(name: str, n: int, seed: int, path: str | Path) -> None:
    """Write n held-out examples as JSON lines {id, prompt, answer, domain}, the data of config/tasks/<name>.yaml."""
    domain = task_named(name).domain
    with open(path, "w", encoding="utf-8") as file:
        for number, example in enumerate(held_out(name, n, seed)):
            record: dict[str, Any] = {"id": number, "prompt": example.prompt, "answer": example.answer}
            file.write(json.dumps({**record, "domain": domain}) + "\n")


def vocabulary() -> list[str]:
    """Every token of every task, special ones first. Words carry the space before them, digits stand alone."""
    words = {"add", "mod", "of", "so", "reverse", "sort", "close", "count", "in", "is"}
    words |= {"true", "false", "not", "and", "or", "animals", "tools"}
    words |= {*LETTERS, *ANIMALS, *TOOLS, *CHOICES, *FACTS, *COLUMNS, *CAPITALS, *COLORS}
    symbols = {*CLOSING, *CLOSING.values(), ";", "?"}
    pieces = {f" {piece}" for piece in words | symbols}
    pieces |= {*"0123456789", "+", "=", ":", " ", "\n", "Question", "Answer"}
    return ["<pad>", "<bos>", "<eos>", "<unk>", *sorted(pieces)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of all embedded models: about 100 tokens, <bos> before every text, padded left."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[^\sA-Za-z0-9]|[0-9]|\s"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
