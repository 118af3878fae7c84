"""A folder that is written piece by piece: a journal while work goes on, a manifest once it is complete.

The journal (`.journal/` in the folder) names each finished piece with the size and SHA-256 of its files. An entry is
written only when the piece's files are on the disk, and appears whole or not at all, so that work killed at any moment
knows afterwards which pieces it need not do again. Sealing replaces the journal by `manifest.json`, the same for all
files; it depends on their content alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

MANIFEST = "manifest.json"
JOURNAL = ".journal"
Files = dict[str, dict[str, int | str]]  # {path in the folder: {bytes, sha256}}


class IncompleteStoreError(RuntimeError):
    """A folder that lacks a file, or has one of another size or content than was written."""


class Journal:
    """The journal of a folder, which may not be there yet."""

    def __init__(self, folder: Path):
        self._folder, self._place = folder, folder / JOURNAL

    def record(self, piece: str, files: Iterable[Path]) -> None:
        """Note that a piece is finished and consists of these files."""
        found = {}
        for file in files:
            _to_disk(file)
            found[file.relative_to(self._folder).as_posix()] = _digest(file)
        self._place.mkdir(parents=True, exist_ok=True)
        _write_whole(self._place / f"{piece}.json", found)

    def pieces(self) -> dict[str, Files]:
        """The finished pieces, those left out of which a file is not what was written."""
        return {piece: files for piece, files in self._recorded().items() if _as_recorded(self._folder, files)}

    def keep_only(self, pieces: Mapping[str, Files]) -> None:
        """Remove every file and entry but those of `pieces`: what a killed job left of others is not to be trusted."""
        kept = {self._folder / name for files in pieces.values() for name in files}
        kept |= {self._place / f"{piece}.json" for piece in pieces}
        for file in self._folder.rglob("*"):
            if file.is_file() and file not in kept:
                file.unlink()

    def seal(self) -> None:
        """Write the manifest and remove the journal: the folder is complete. Nothing more where it is already."""
        if not (self._folder / MANIFEST).is_file():
            files = {name: found for piece in self._recorded().values() for name, found in piece.items()}
            _write_whole(self._folder / MANIFEST, {"files": dict(sorted(files.items()))})
        shutil.rmtree(self._place, ignore_errors=True)

    def _recorded(self) -> dict[str, Files]:
        return {file.stem: json.loads(file.read_text()) for file in self._place.glob("*.json")}


def is_sealed(folder: Path) -> bool:
    """Whether the folder has a manifest and all its files are those that were written, content included."""
    try:
        verify(folder)
    except IncompleteStoreError:
        return False
    return True


def verify(folder: Path) -> None:
    """Compare every file with the manifest, content included; raises IncompleteStoreError naming the first fault."""
    recorded = check_sizes(folder)
    # Snakemake stamps folders with a hidden file of its own, which is no part of them.
    present = (file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    for file in sorted(present):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(".") and (name not in recorded or recorded[name] != _digest(file)):
            raise IncompleteStoreError(f"{file} is not the file that was written; delete {folder} and run again")


def check_sizes(folder: Path) -> Files:
    """The manifest's files, after a look that each is there with its size; raises IncompleteStoreError."""
    if not (folder / MANIFEST).is_file():
        raise IncompleteStoreError(f"{folder} has no {MANIFEST}, so it was never finished; delete it and run again")
    recorded: Files = json.loads((folder / MANIFEST).read_text())["files"]
    for name, found in recorded.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != found["bytes"]:
            raise IncompleteStoreError(f"{file} is missing or truncated; delete {folder} and run again")
    return recorded


def _as_recorded(folder: Path, files: Files) -> bool:
    return all((folder / name).is_file() and _digest(folder / name) == found for name, found in files.items())


def _digest(file: Path) -> dict[str, int | str]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_whole(path: Path, content: object) -> None:
    """JSON that appears under its name whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=0))
    _to_disk(part)
    part.rename(path)


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
