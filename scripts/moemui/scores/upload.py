"""From a finished folder on this machine to S3: files in parallel, the manifest last, then a pointer in its place.

Whatever moment it is killed at, the next call goes on: an object that is there with the right content stays. The
pointer is written when all objects are there and compared, and only then the files here are removed, so that there is a
whole folder at any time. A folder that is being replaced has no manifest meanwhile, so that nobody reads it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moemui.scores import remote
from moemui.scores.disk import readable
from moemui.scores.journal import write_whole
from moemui.scores.remote import Object, RemoteFolder, StorageError
from moemui.scores.sealed import MANIFEST, WHERE, SealedFolder, url_of

log = logging.getLogger(__name__)

AT_ONCE = 8  # requests; each holds a file in memory
KEPT = "zarr.json"  # of the files, those that stay in a pointer
PROBE = ".write-check"


def check_access(url: str) -> None:
    """Raise StorageError where the bucket is missing, doesn't answer, or doesn't let us list, write and delete."""
    folder = RemoteFolder(url)
    folder.objects()
    folder.put(PROBE, b"")
    folder.delete([PROBE])


def hand_over(folder: Path, url: str) -> None:
    """Put a finished folder's files at `url` and leave a pointer; returns when all objects were found to be right.

    What else lies below the URL is removed: it is an older folder's. A pointer to `url` stays as it is.
    Raises StorageError where S3 can't be reached or holds something else than what was written, IncompleteStoreError
    for a folder that isn't finished or has changed, ValueError for a pointer to another URL.
    """
    present = url_of(folder)
    if present is None:
        _upload(SealedFolder(folder), RemoteFolder(url))
        write_whole(folder / WHERE, {"url": remote.checked(url), "endpoint": remote.endpoint()})
    elif present != remote.checked(url):
        raise ValueError(f"{folder} lies at {present}, not at {url}; delete it and run again")
    _strip(folder)


def _upload(folder: SealedFolder, there: RemoteFolder) -> None:
    found = there.objects()
    if MANIFEST in found and found[MANIFEST] != _object(folder.manifest):
        there.delete([MANIFEST])

    def put(name: str) -> bool:
        content = folder.read(name)
        if found.get(name) == _object(content):
            return False
        _put(there, name, content)
        return True

    log.info("%s in %d files go to %s", readable(folder.size), len(folder.files) + 1, there.url)
    sent = sum(_in_parallel(put, folder.files))
    there.delete(found.keys() - folder.files.keys() - {MANIFEST})
    listed = there.objects()
    for name, recorded in folder.files.items():
        if name not in listed or listed[name].bytes != recorded["bytes"]:
            raise StorageError(f"{there.url}/{name} was written, but is not listed with its size; run again")
    _put(there, MANIFEST, folder.manifest)
    log.info("%d files were sent, %d were there already", sent, len(folder.files) - sent)


def _put(there: RemoteFolder, name: str, content: bytes) -> None:
    """Write an object and compare it: by its ETag, or by reading it where the storage makes ETags of its own."""
    if there.put(name, content) != remote.tag(content) and there.get(name) != content:
        raise StorageError(f"{there.url}/{name} is not what was written there; run again")


def _object(content: bytes) -> Object:
    return Object(len(content), remote.tag(content))


def _in_parallel(work: Callable[[str], bool], names: Iterable[str]) -> list[bool]:
    """What `work` returns for each name. The first error ends it: what hasn't begun is left, and the error raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(work, name) for name in names]
        try:
            return [future.result() for future in waiting]
        finally:
            pool.shutdown(cancel_futures=True)


def _strip(folder: Path) -> None:
    """Remove from a pointer what lies at its URL, and the folders that this leaves empty."""
    for name in SealedFolder(folder).files:
        if Path(name).name != KEPT:
            (folder / name).unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        if not any(Path(place).iterdir()):
            Path(place).rmdir()
