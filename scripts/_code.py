"""A digest of the code that a job runs, so that a change of meaning reruns it and a change of looks does not.

Snakemake watches a script's modification time alone: an edited module reruns nothing, a touch everything.
Every rule therefore has `params: code=digest(script)`.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
# Book-keeping around a job; no result depends on it.
NOT_FOLLOWED = {"_job", "_code", "_study"}


def digest(script: str, *data: str) -> str:
    """12 hexadecimal digits over the syntax of scripts/`script`.py and of all project modules that it imports.

    Comments, docstrings, layout and paths do not count. data: further files below scripts/ that the code reads, such
    as templates; they count byte by byte.
    """
    total = hashlib.sha256()
    for path in sorted(_closure(SCRIPTS / f"{script}.py")):
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
    """The syntax of a file without its docstrings, and the project files that it imports."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
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
    imported = []
    for name in names - NOT_FOLLOWED:
        for candidate in (SCRIPTS / f"{name.replace('.', '/')}.py", SCRIPTS / name.replace(".", "/") / "__init__.py"):
            if candidate.is_file():
                imported.append(candidate)
    return ast.dump(tree), tuple(imported)
