"""The embedded tasks' problems as training never shows them: longer, with larger numbers, or worded otherwise.

Answers have the form that training taught, so only the problem is new. The tokenizer of the embedded models can write
all of them. Longer and larger problems are in no training text, whatever their words; a re-worded one asks a held-out
problem, the same ones as `synthetic.held_out`, with the words of its task in another order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from moemui.models import synthetic
from moemui.models.synthetic import DELIMITER, PATIENCE, Draws, Example, Generator

LONGER, LARGER, REWORDED = "longer", "larger", "reworded"
KINDS = (LONGER, LARGER, REWORDED)
IN_DISTRIBUTION = "same"  # the held-out problems of the kind that was trained


class Stretched(NamedTuple):
    """A generator of problems of another size, and what differs from training, in words."""

    generate: Generator
    words: str


class Rewording(NamedTuple):
    """A problem's text in other words, and an example of it."""

    text: Callable[[str], str]
    words: str


def _longer_sorting(draws: Draws) -> tuple[str, str]:
    return synthetic.sorting(draws, length=draws.between(6, 7))


STRETCHED = {
    ("modular", LONGER): Stretched(partial(synthetic.modular, terms=(5, 6)), "5 or 6 digits instead of 3 or 4"),
    ("reversal", LONGER): Stretched(partial(synthetic.reversal, length=(7, 8)), "7 or 8 letters instead of 4 to 6"),
    ("sorting", LONGER): Stretched(_longer_sorting, "6 or 7 letters instead of 5"),
    ("brackets", LONGER): Stretched(partial(synthetic.brackets, length=(10, 12)), "10 to 12 brackets instead of 5–9"),
    ("boolean", LONGER): Stretched(partial(synthetic.boolean, literals=3), "3 values a side instead of 2"),
    ("counting", LONGER): Stretched(partial(synthetic.counting, length=(8, 9)), "8 or 9 words instead of 4 to 7"),
    ("addition", LARGER): Stretched(partial(synthetic.addition, digits=3), "numbers of 3 digits instead of 2"),
    ("modular", LARGER): Stretched(partial(synthetic.modular, size=(10, 99)), "numbers of 2 digits instead of 1"),
}


def _verb_last(body: str) -> str:
    verb, _, rest = body.partition(DELIMITER)
    return f"{rest} {verb}"


def _options_first(body: str) -> str:
    question, _, listed = body.partition(" ? ")
    return f"{listed} ? {question}"


REWORDINGS = {
    "addition": Rewording(lambda body: re.sub(r"(\d) (\d)", r"\1 and \2", body), "add 12 and 34"),
    "modular": Rewording(lambda body: f"{body.removeprefix('mod 7 of ')} mod 7", "3+4+5 mod 7"),
    "reversal": Rewording(_verb_last, "a b c d reverse"),
    "sorting": Rewording(_verb_last, "e c a b d sort"),
    "brackets": Rewording(_verb_last, "( [ { } ( close"),
    "boolean": Rewording(lambda body: f"is {body} ?", "is ( true and false ) or ( true or true ) ?"),
    "counting": Rewording(
        lambda body: re.sub(r"(count \w+) (in .*)", r"\2 \1", body), "in cat pen dog cow count animals"
    ),
    "facts": Rewording(_options_first, "drume A arlen B borca C estia D ? capital of belda"),
}


def kinds(task: str) -> tuple[str, ...]:
    """Which of `KINDS` a task has. Raises ValueError for a task that does not exist."""
    synthetic.task_named(task)
    return tuple(kind for kind in KINDS if (task, kind) in STRETCHED or kind == REWORDED)


def examples(task: str, kind: str, n: int, seed: int) -> list[Example]:
    """n different problems of a kind of a task, in the order in which they were drawn.

    kind: of `kinds(task)`, or `IN_DISTRIBUTION` for held-out problems as trained; of re-worded ones, example i asks
    what example i of those does. Raises ValueError for a kind that the task does not have, and where it has too few
    different prompts for n.
    """
    if kind == IN_DISTRIBUTION:
        return synthetic.held_out(task, n, seed)
    if kind not in kinds(task):
        raise ValueError(f"task {task} has no {kind!r} problems; it has {', '.join(kinds(task))}")
    if kind == REWORDED:
        return [_reworded(example) for example in synthetic.held_out(task, n, seed)]
    draws, found = Draws(f"{kind} {task} {seed}"), dict[str, Example]()
    repeated = 0
    while len(found) < n and repeated < PATIENCE:
        body, answer = STRETCHED[task, kind].generate(draws)
        prompt = synthetic.prompt_of(body)
        repeated = repeated + 1 if prompt in found else 0
        found.setdefault(prompt, Example(task, prompt, answer))
    if len(found) < n:
        raise ValueError(
            f"task {task} has only {len(found)} different {kind} prompts where {n} are wanted; "
            f"ask for at most {len(found)}"
        )
    return list(found.values())


def _reworded(example: Example) -> Example:
    body = example.prompt.removeprefix(synthetic.QUESTION).removesuffix(synthetic.ANSWER)
    return Example(example.task, synthetic.prompt_of(REWORDINGS[example.task].text(body)), example.answer)
