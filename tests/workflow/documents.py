"""The documents of the project, taken apart: fenced blocks, the commands in them, code in the text, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from workflow.conftest import ROOT

PAGES = [
    *["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "config/README.md", "results/README.md"],
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
SHELLS = ("console", "bash")
# What a command in the text starts with; a block of a shell holds nothing else.
COMMAND = re.compile(r"(make|snakemake|git|python|pip) [a-z-]")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its number there from 1, the word behind the fence, its text."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


@dataclass(frozen=True)
class Command:
    """A command as a page has it, without its comment. quoted: in the text, where it may be a mere name."""

    page: str
    words: str
    quoted: bool


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(*languages: str, pages: list[str] = PAGES) -> list[Block]:
    """The fenced blocks of these languages; of all without one."""
    found = [
        Block(page, number, language.strip(), text)
        for page in pages
        for number, (language, text) in enumerate(FENCE.findall(read(page)), 1)
    ]
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", read(page))


def code(page: str) -> list[str]:
    """What stands in backticks in the text of a page; a line break in it is a space."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def commands() -> list[Command]:
    """Every command of every page, each once a page."""
    found = []
    for block in blocks(*SHELLS):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = re.sub(r"(^|\s)#.*", "", line).strip()
            found += [Command(block.page, words, False)] if words else []
    for page in PAGES:
        found += [Command(page, span, True) for span in code(page) if COMMAND.match(span)]
    return list(dict.fromkeys(found))


def anchors(path: Path) -> set[str]:
    """What links may name behind a page's #, as GitHub makes it of headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}
