"""Whether a file or folder on the disk still is what a record says of it, and if not, what has happened to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from _provenance.records import digest
from moemui.scores import sealed
from moemui.scores.remote import StorageError
from moemui.scores.sealed import MANIFEST, WHERE

TAMPERED, TRUNCATED, MISSING, UNRECORDED = "tampered", "truncated", "missing", "unrecorded"
UNREACHABLE = "unreachable"
# What a whole file ends in, white space aside. A CSV file ends in a line break.
ENDINGS = {".parquet": b"PAR1", ".json": b"}", ".html": b"</html>", ".svg": b"</svg>", ".pdf": b"%%EOF"}
LINES = {".csv", ".jsonl", ".tsv"}
TAIL = 1024  # bytes


class Fault(NamedTuple):
    """What is wrong with a path: one of the kinds above, the file that it is about, and how that shows."""

    kind: str
    path: Path
    how: str


class Disk:
    """Digests and faults of what lies on the disk. Each path is read once; `reading` hears of it before."""

    def __init__(self, reading: Callable[[Path], None] = lambda path: None):
        self._reading = reading
        self._digests: dict[Path, str | None] = {}

    def digest(self, path: Path) -> str | None:
        """As `records.digest`; None where there is nothing to read, such as behind a link to nothing."""
        if path not in self._digests:
            self._reading(path)
            try:
                self._digests[path] = digest(path)
            except OSError:
                self._digests[path] = None
        return self._digests[path]

    def faults(self, path: Path, recorded: str) -> list[Fault]:
        """Every difference between `path` and its recorded digest; a folder with a manifest file by file."""
        now = self.digest(path)
        if now is None:
            return [_gone(path)]
        if not (path / MANIFEST).is_file():
            return [] if now == recorded else [Fault(*_changed(path))]
        if now != recorded:
            return [Fault(*_changed(path / MANIFEST))]
        if (path / WHERE).is_file():
            return _faults_of_pointer(path)
        files = json.loads((path / MANIFEST).read_text())["files"]
        return self.differences(path, files) + _added(path, files)

    def differences(self, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[Fault]:
        """Every difference of the files in a folder from {name: {bytes, sha256}}; a sha256 of None is not compared."""
        found = []
        for name, recorded in files.items():
            file = folder / name
            if not file.is_file():
                found.append(_gone(file))
            elif (size := file.stat().st_size) < recorded["bytes"]:
                found.append(Fault(TRUNCATED, file, f"has {size} of its {recorded['bytes']} bytes"))
            elif size > recorded["bytes"] or recorded["sha256"] not in (None, self.digest(file)):
                found.append(Fault(TAMPERED, file, "has other content"))
        return found


def _gone(path: Path) -> Fault:
    return Fault(MISSING, path, "is a symbolic link to nothing" if path.is_symlink() else "is gone")


def _added(folder: Path, files: Mapping[str, Any]) -> list[Fault]:
    """Files of a folder that its manifest doesn't name. Snakemake stamps folders with a hidden one, which is none."""
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    extra = sorted(name for name in present - {*files, MANIFEST} if not Path(name).name.startswith("."))
    return [Fault(UNRECORDED, folder / name, "is not in the manifest") for name in extra]


def _faults_of_pointer(path: Path) -> list[Fault]:
    """Faults of a folder whose files lie on S3: of those, sizes are compared, and of what lies here the content."""
    try:
        sealed.SealedFolder(path).verify(remote_content=False)
    except sealed.IncompleteStoreError as error:
        return [Fault(TAMPERED, path, f"is not what was written ({str(error).partition('; ')[0]})")]
    except StorageError as error:
        return [Fault(UNREACHABLE, path, f"can't be compared: {error}")]
    return []


def _changed(path: Path) -> tuple[str, Path, str]:
    """How a path differs whose digest is another one. A record has no sizes, so formats tell whether an end lacks."""
    if path.is_dir():
        return TAMPERED, path, "has files with other content, or others than were written"
    link = ", behind a symbolic link," if path.is_symlink() else ""
    if _is_cut(path):
        return TRUNCATED, path, f"ends{link} before its end"
    return TAMPERED, path, f"has{link} other content"


def _is_cut(path: Path) -> bool:
    size = path.stat().st_size
    if not size:
        return True
    if path.suffix == ".h5":
        import h5py

        try:
            h5py.File(path).close()
        except OSError as error:
            return "truncated" in str(error)
        return False
    with path.open("rb") as file:
        file.seek(-min(size, TAIL), os.SEEK_END)
        tail = file.read()
    if path.suffix in LINES:
        return not tail.endswith(b"\n")
    return not tail.rstrip().endswith(ENDINGS.get(path.suffix, b""))
