"""A digest of the code that a job runs, so that a change of meaning reruns it and a change of looks does not.

Snakemake watches a script's modification time alone: an edited module reruns nothing, a touch everything.
Every rule therefore has `params: code=digest(script)`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
# What was found in a source is kept here: to parse all takes a second, for which each call of Snakemake would wait.
KEPT = Path(".snakemake", "syntax")


def digest(script: str, *data: str, modules: Iterable[str] = ()) -> str:
    """12 hexadecimal digits over the syntax of scripts/`script`.py and of all project modules that it imports.

    Comments, docstrings, layout, paths and the version of Python that reads the code do not count, and neither does
    the book-keeping around a job, scripts/_*.py and scripts/_*/, on which no result depends. data: further files below
    scripts/ that the code reads, such as templates; they count byte by byte. modules: those that it imports by a name
    made up as it runs, which no reader of the code sees.
    """
    total = hashlib.sha256()
    roots = [SCRIPTS / f"{script}.py", *(file for name in modules for file in _files(name))]
    for path in sorted(set().union(*map(_closure, roots))):
        total.update(path.relative_to(SCRIPTS).as_posix().encode())
        total.update(_parsed(path)[0].encode())
    for name in data:
        total.update((SCRIPTS / name).read_bytes())
    return total.hexdigest()[:12]


def _closure(path: Path) -> set[Path]:
    found, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(_parsed(current)[1])
    return found


@cache
def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """The digest of a file's syntax, and the project files that it imports."""
    syntax, names = _kept(path.read_bytes())
    return syntax, tuple(sorted({file for name in names for file in _files(name)}))


def _kept(source: bytes) -> tuple[str, list[str]]:
    """As `_read`, from what is kept under the digest of the source and of this module, where it is."""
    place = KEPT / hashlib.sha256(_this_module() + source).hexdigest()
    try:
        syntax, names = json.loads(place.read_bytes())
    except (OSError, ValueError):
        syntax, names = _read(source)
        if KEPT.parent.is_dir():  # Snakemake runs here, or has: nothing appears where it never did
            _keep(place, json.dumps([syntax, names]))
    return syntax, names


def _keep(place: Path, text: str) -> None:
    """Whole or not at all; a folder that can't be written only costs the time to parse again."""
    part = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        KEPT.mkdir(exist_ok=True)
        part.write_text(text)
        part.replace(place)
    except OSError:
        with suppress(OSError):
            part.unlink()


@cache
def _this_module() -> bytes:
    return Path(__file__).read_bytes()


def _read(source: bytes) -> tuple[str, list[str]]:
    """The digest of a source's syntax without its docstrings, and the names of all modules that it may import."""
    tree = ast.parse(source)
    names: set[str] = set()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return hashlib.sha256(_written(tree).encode()).hexdigest(), sorted(names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """As `ast.walk`, without what only a type checker reads."""
    yield node
    below = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        below = iter(node.orelse)
    for child in below:
        yield from _executed(child)


def _files(name: str) -> Iterator[Path]:
    """The project files that run when a module of this name is imported: its own, and those of the packages above."""
    parts = name.split(".")
    if parts[0].startswith("_"):
        return
    for count in range(1, len(parts) + 1):
        place = SCRIPTS.joinpath(*parts[:count])
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                yield candidate
        if not place.is_dir():  # what follows is a name in the module, or nothing of ours
            return


def _written(node: Any) -> str:
    """Syntax as text. Unlike `ast.dump` it leaves out what is empty, for each version of Python adds such fields."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_written(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_written, node))}]"
    return repr(node)
