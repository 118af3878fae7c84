"""A finished folder as Zarr sees it: read-only, and every content that is read is the one that was written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from moemui.scores.sealed import SealedFolder


class VerifiedFiles(Store):
    """The files that a folder's manifest names; others are not there, whatever lies on the disk or on S3.

    Reading one that is missing or has changed raises IncompleteStoreError: to Zarr a missing chunk would be one of
    fill values.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, folder: SealedFolder):
        super().__init__(read_only=True)
        self._folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifiedFiles) and other._folder is self._folder

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self._folder.name

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A file's content, or a part of it; None for what the manifest doesn't name."""
        if key not in self._folder.files:
            return None
        content = await asyncio.to_thread(self._folder.read, key)
        return prototype.buffer.from_bytes(content[_part(byte_range)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As `get`, of several."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the manifest names a file."""
        return key in self._folder.files

    async def list(self) -> AsyncIterator[str]:
        """All files."""
        for name in self._folder.files:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The files whose path begins so."""
        for name in self._folder.files:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of files and folders in a folder."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in dict.fromkeys(
            name.removeprefix(start).split("/")[0] for name in self._folder.files if name.startswith(start)
        ):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Never: what is finished doesn't change."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Never: what is finished doesn't change."""
        self._check_writable()


def _part(wanted: ByteRequest | None) -> slice:
    if isinstance(wanted, RangeByteRequest):
        return slice(wanted.start, wanted.end)
    if isinstance(wanted, OffsetByteRequest):
        return slice(wanted.offset, None)
    if isinstance(wanted, SuffixByteRequest):
        return slice(-wanted.suffix, None) if wanted.suffix else slice(0)
    return slice(None)
