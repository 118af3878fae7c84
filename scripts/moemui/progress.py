"""How long work reports itself: a callback, so that the package needs no terminal, log or progress bar of its own."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the number of things done, how many there are, and a word about the state.

    Work that goes on where an earlier run was reports once before it begins: pace and time left count from there.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Reports nothing."""
