"""A finished folder, read: complete by its manifest, every content compared with its digest, here or on S3.

`manifest.json` names all files with size and SHA-256. A folder whose files were handed over to S3 (see
`moemui.scores.upload`) keeps its manifest and metadata, and `where.json`, which says where the others lie; such a
pointer has the same manifest, hence the same digest, as the folder had. A URL is a finished folder, too.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path

from moemui.scores.remote import ENDPOINT, Object, RemoteFolder, StorageError, checked, endpoint, is_url

MANIFEST = "manifest.json"
WHERE = "where.json"
Files = dict[str, dict[str, int | str]]  # {path in the folder: {bytes, sha256}}


class IncompleteStoreError(RuntimeError):
    """A folder that lacks a file, or has one of another size or content than was written."""


def digest(content: bytes) -> dict[str, int | str]:
    """What a manifest says of a file's content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def digest_of(file: Path) -> dict[str, int | str]:
    """As `digest`, of a file that may be larger than memory."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def url_of(folder: Path) -> str | None:
    """Where the files of a pointer folder lie; None for a folder that has them itself, and where there is none.

    Raises IncompleteStoreError for a where.json that names no place.
    """
    where = _where(folder)
    return None if where is None else where["url"]


def _where(folder: Path) -> dict[str, str | None] | None:
    if not (folder / WHERE).is_file():
        return None
    try:
        found = json.loads((folder / WHERE).read_text())
        return {"url": checked(found["url"]), "endpoint": found["endpoint"]}
    except (ValueError, KeyError, TypeError):
        raise IncompleteStoreError(f"{folder / WHERE} names no place on S3; delete {folder} and run again") from None


def _far(place: Path | str) -> RemoteFolder | None:
    """What a URL, or the pointer at a path, leads to; None for a folder that has its files itself."""
    if is_url(place):
        return RemoteFolder(str(place))
    where = _where(Path(place))
    if where is None:
        return None
    if where["endpoint"] and not endpoint():
        # Credentials for it are none of Amazon's business.
        raise StorageError(f"{place} lies at {where['url']} on {where['endpoint']}; set {ENDPOINT} to that address")
    return RemoteFolder(str(where["url"]))


class SealedFolder:
    """Read access to a finished folder: a path, a pointer's path, or a URL.

    files: by name, as the manifest has them. manifest: its content. Raises IncompleteStoreError for one without a
    manifest, StorageError where S3 can't be reached.
    """

    def __init__(self, place: Path | str):
        self.name = str(place).rstrip("/")
        self._near = None if is_url(place) else Path(place)
        self._far = _far(place)
        manifest = self._content(MANIFEST, near=self._near is not None)
        if manifest is None:
            raise IncompleteStoreError(f"{self.name} has no {MANIFEST}, so it was never finished; {self._remedy}")
        self.manifest: bytes = manifest
        try:
            self.files: Files = json.loads(manifest)["files"]
        except (ValueError, KeyError, TypeError):
            raise IncompleteStoreError(f"{MANIFEST} of {self.name} can't be read; {self._remedy}") from None

    @property
    def size(self) -> int:
        """Of all its files, the manifest with them, wherever they lie."""
        return sum(int(found["bytes"]) for found in self.files.values()) + len(self.manifest)

    def check_sizes(self) -> None:
        """Raise IncompleteStoreError, naming the first file that is missing or has another size; reads no content."""
        if self._far is not None:
            listed = self._far.objects()
            there = listed.get(MANIFEST)
            if there is None or there.bytes != len(self.manifest):
                raise IncompleteStoreError(
                    f"{self._far.url} holds {'no finished' if there is None else 'another'} store; {self._remedy}"
                )
        else:
            listed = {}
        for name, recorded in self.files.items():
            size = self._size(name, listed)
            if size != recorded["bytes"]:
                raise IncompleteStoreError(f"{self._place(name)} is missing or truncated; {self._remedy}")

    def verify(self, *, remote_content: bool = True) -> None:
        """Compare every file with the manifest, content included; raises IncompleteStoreError naming the first fault.

        Files that the manifest doesn't name are faults, too. remote_content: whether what lies on S3 is read; without,
        its sizes are compared.
        """
        self.check_sizes()
        for name in sorted({*self.files, *self._surplus}):
            if self._is_near(name) or remote_content:
                if name not in self.files:
                    raise self._altered(name)
                self.read(name)
        if self._far is not None and remote_content and self._far.get(MANIFEST) != self.manifest:
            raise IncompleteStoreError(f"{self._far.url} holds another store; {self._remedy}")

    def read(self, name: str) -> bytes:
        """A file's content, compared with its digest; IncompleteStoreError where it is missing or another one.

        KeyError for a name that the manifest doesn't have.
        """
        recorded = self.files[name]
        content = self._content(name, near=self._is_near(name))
        if content is None:
            raise IncompleteStoreError(f"{self._place(name)} is missing or truncated; {self._remedy}")
        if digest(content) != recorded:
            raise self._altered(name)
        return content

    def _altered(self, name: str) -> IncompleteStoreError:
        return IncompleteStoreError(f"{self._place(name)} is not the file that was written; {self._remedy}")

    def _is_near(self, name: str) -> bool:
        return self._near is not None and (self._far is None or (self._near / name).is_file())

    def _content(self, name: str, *, near: bool) -> bytes | None:
        if not near:
            assert self._far is not None
            return self._far.get(name)
        assert self._near is not None
        try:
            return (self._near / name).read_bytes()
        except FileNotFoundError:
            return None

    def _size(self, name: str, listed: dict[str, Object]) -> int | None:
        if not self._is_near(name):
            return listed[name].bytes if name in listed else None
        assert self._near is not None
        return os.stat(self._near / name).st_size if (self._near / name).is_file() else None

    def _place(self, name: str) -> str:
        """A file's full path or URL."""
        if self._is_near(name):
            return str(self._near / name) if self._near else name
        return f"{self._far.url}/{name}" if self._far else name

    @property
    def _surplus(self) -> set[str]:
        """Files that the manifest doesn't name, but for hidden ones: Snakemake stamps folders with one."""
        found: set[str] = set() if self._far is None else {*self._far.objects()}
        if self._near is not None:
            found |= {file.relative_to(self._near).as_posix() for file in self._near.rglob("*") if file.is_file()}
        return {name for name in found if name not in {MANIFEST, WHERE, *self.files} and not name.startswith(".")}

    @cached_property
    def _remedy(self) -> str:
        return f"delete {self.name} and run again" if self._near else "make it again"


def verify(place: Path | str) -> None:
    """Compare every file of a finished folder, pointer or URL with its manifest, content included.

    Raises IncompleteStoreError naming the first fault.
    """
    SealedFolder(place).verify()


def is_sealed(folder: Path) -> bool:
    """Whether a folder has a manifest and all its files are those that were written.

    Content is compared of files that lie here. Those on S3, compared when they got there and again whenever they are
    read, are listed. Raises StorageError where S3 can't be reached.
    """
    try:
        SealedFolder(folder).verify(remote_content=False)
    except IncompleteStoreError:
        return False
    return True
