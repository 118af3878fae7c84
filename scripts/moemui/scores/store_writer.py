"""Filling a contributions store chunk by chunk, so that work killed at any moment goes on where it was.

Names and dtypes are `moemui.scores.store`'s; here is how bytes get to the disk.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from moemui.scores import disk
from moemui.scores.journal import Journal
from moemui.scores.sealed import IncompleteStoreError, is_sealed, url_of
from moemui.scores.store import MEASURED, SCHEMA_VERSION, Layout, estimate, open_array

if TYPE_CHECKING:
    from moemui.scores.contributions import ChunkScores

log = logging.getLogger(__name__)

# The same bit of neighbouring numbers is more alike than the bits of one number: with bits sorted that way the scores
# of an OLMoE-shaped random model took 0.45 of their size, with Zarr's default 0.57.
CODEC = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
LAYOUT = "layout"  # the journal's piece that holds all metadata


class Writer:
    """Fills a store chunk by chunk, in any order; use `create`, which seals it at the end."""

    def __init__(self, path: Path, layout: Layout, journal: Journal, finished: set[int]):
        self._path, self._layout, self._journal, self._finished = path, layout, journal, finished
        self._group = zarr.open_group(path, mode="r+")

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks that are still to be written, ascending."""
        return [chunk for chunk in range(self._layout.chunks) if chunk not in self._finished]

    def write(self, chunk: int, scores: ChunkScores) -> None:
        """Put a missing chunk's scores on the disk; once this returns they are never asked for again.

        Raises ValueError for scores that are not of the chunk's shape.
        """
        files: list[Path] = []
        for name, start, values in self._layout.values(chunk, scores):
            files += self._put(name, start, values)
        self._journal.record(str(chunk), files)
        self._finished.add(chunk)

    def _put(self, name: str, start: int, values: np.ndarray) -> list[Path]:
        """Write values from `start`, where a file of the array begins; returns the files that hold them."""
        array = open_array(self._group, name)
        array[start : start + len(values)] = values
        step = array.chunks[0]
        numbers = range(start // step, -(-(start + len(values)) // step))
        keys = [array.metadata.encode_chunk_key((number, *[0] * (array.ndim - 1))) for number in numbers]
        # Zarr writes no file for numbers that all equal the fill value.
        return [file for key in keys if (file := self._path / name / key).is_file()]


@contextmanager
def create(
    path: Path,
    layout: Layout,
    *,
    sample_ids: Sequence[str],
    attributes: Mapping[str, Any],
    shard: tuple[int, int] = (1, 1),
    url: str | None = None,
) -> Iterator[Writer]:
    """A store at `path`, complete with its manifest when the block ends without an exception.

    What an earlier, killed call left at `path` is taken up again if it would become the same store, and the writer
    says which chunks are missing; else the log tells what differs, and the store begins anew.

    attributes: plain JSON types. shard: number, from 1, and count of the parts that the task's samples come in.
    url: where the store will be handed over to; a pointer to there is taken up, one to another place is not.
    Raises FileExistsError for a path that exists and doesn't end in .zarr, FullDiskError where the disk is full.
    """
    if path.exists() and path.suffix != ".zarr":
        raise FileExistsError(f"{path} exists and is not named like a store, *.zarr; name another place")
    wanted = {
        "schema_version": SCHEMA_VERSION,
        "geometry": layout.geometry.to_dict(),
        "settings": [list(setting) for setting in layout.settings],
        "ranks": layout.ranks,
        "chunk_samples": layout.chunk_samples,
        "shard": list(shard),
        "sample_ids": list(sample_ids),
        **json.loads(json.dumps(attributes)),
    }
    journal = Journal(path)
    with disk.full_disk_named(path, estimate(layout).most):
        finished = _taken_up(path, journal, wanted, layout, url) if path.exists() else None
        if finished is None:
            if path.exists():
                shutil.rmtree(path)
            journal.record(LAYOUT, _allocate(path, layout, wanted))
            finished = set()
        writer = Writer(path, layout, journal, finished)
        yield writer
        if writer.missing:
            raise RuntimeError(f"{path} lacks the chunks {writer.missing} of {layout.chunks}; write each of them")
        journal.seal()


def _taken_up(
    path: Path, journal: Journal, wanted: Mapping[str, Any], layout: Layout, url: str | None
) -> set[int] | None:
    """The finished chunks of what lies at `path`, rid of everything else; None where it can't become what is wanted."""
    try:
        elsewhere = url_of(path) not in (None, url)
    except IncompleteStoreError:
        elsewhere = True
    if elsewhere:
        log.info("%s points to another place than %s; it begins anew", path, url or "this disk")
        return None
    sealed = is_sealed(path)
    pieces = {} if sealed else journal.pieces()
    if not sealed and LAYOUT not in pieces:
        log.info("%s was left before its first chunk; it begins anew", path)
        return None
    found = dict(zarr.open_group(path, mode="r").attrs)
    differing = sorted(key for key in {*found, *wanted} - MEASURED if found.get(key) != wanted.get(key))
    if differing:
        log.info("%s was left by other work (it differs in %s); it begins anew", path, ", ".join(differing))
        return None
    finished = {int(piece) for piece in pieces if piece != LAYOUT} if not sealed else set(range(layout.chunks))
    if not sealed:
        journal.keep_only(pieces)
    log.info("%s: %d of %d chunks are finished; going on with the others", path, len(finished), layout.chunks)
    return finished


def _allocate(path: Path, layout: Layout, attributes: Mapping[str, Any]) -> list[Path]:
    """A new group with all its arrays, empty; returns the files that say so."""
    group = zarr.open_group(path, mode="w-", attributes=dict(attributes))
    for name, dtype, shape, chunk, fill in layout.arrays:
        chunks = (chunk, *shape[1:])
        group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, compressors=CODEC)
    return sorted(path.rglob("zarr.json"))
