"""A folder that is written piece by piece: a journal while work goes on, a manifest once it is complete.

The journal (`.journal/` in the folder) names each finished piece with the size and SHA-256 of its files. An entry is
written only when the piece's files are on the disk, and appears whole or not at all, so that work killed at any moment
knows afterwards which pieces it need not do again. Sealing replaces the journal by `manifest.json`, the same for all
files; it depends on their content alone. How a sealed folder is read stands in `moemui.scores.sealed`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from moemui.scores.sealed import MANIFEST, Files, IncompleteStoreError, digest_of, is_sealed, verify

__all__ = ["JOURNAL", "MANIFEST", "Files", "IncompleteStoreError", "Journal", "is_sealed", "verify", "write_whole"]

JOURNAL = ".journal"


class Journal:
    """The journal of a folder, which may not be there yet."""

    def __init__(self, folder: Path):
        self._folder, self._place = folder, folder / JOURNAL

    def record(self, piece: str, files: Iterable[Path]) -> None:
        """Note that a piece is finished and consists of these files."""
        found = {}
        for file in files:
            _to_disk(file)
            found[file.relative_to(self._folder).as_posix()] = digest_of(file)
        self._place.mkdir(parents=True, exist_ok=True)
        write_whole(self._place / f"{piece}.json", found)

    def pieces(self) -> dict[str, Files]:
        """The finished pieces, those left out of which a file, or the entry, is not what was written."""
        found = {}
        for entry in self._entries():
            try:
                files = _content(entry)
            except ValueError:  # damaged, so nothing says that its piece is finished
                continue
            if _as_recorded(self._folder, files):
                found[entry.stem] = files
        return found

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
            files = {name: found for entry in self._entries() for name, found in _content(entry).items()}
            write_whole(self._folder / MANIFEST, {"files": dict(sorted(files.items()))})
        shutil.rmtree(self._place, ignore_errors=True)

    def _entries(self) -> list[Path]:
        return list(self._place.glob("*.json"))


def _content(entry: Path) -> Files:
    files: Files = json.loads(entry.read_text())
    return files


def _as_recorded(folder: Path, files: Files) -> bool:
    return all((folder / name).is_file() and digest_of(folder / name) == found for name, found in files.items())


def write_whole(path: Path, content: object) -> None:
    """Write JSON that appears under its name whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=0))
    _to_disk(part)
    part.rename(path)


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
