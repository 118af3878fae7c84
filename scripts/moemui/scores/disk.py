"""Room on a disk: whether there is enough, and one sentence where there is not."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(OSError):
    """A file system, or a quota on it, has no room for what is to be written."""


def readable(count: float) -> str:
    """A number of bytes as people read it: 812 B, 3.4 MB, 120 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.0f} {units[0]}" if units[0] == "B" or count >= 100 else f"{count:.1f} {units[0]}"


def free(path: Path) -> int:
    """Bytes that may still be written to the file system that holds, or will hold, `path`."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def size(path: Path) -> int:
    """Bytes in the files of a folder, hidden ones included; 0 where there is no folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextmanager
def full_disk_named(path: Path, most: int) -> Iterator[None]:
    """Turns the system's word for a full disk inside into a FullDiskError that names `path` and what it needs at most.

    The folder `path` may be half written; what it holds counts as written already.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise FullDiskError(
            f"no room left for {path}, which has {readable(size(path))} and needs {readable(most)} at most; "
            "make room and run again, finished chunks are kept",
        ) from error
