"""A folder on S3-compatible storage: its objects by name, and one sentence wherever there is no way to them.

Credentials and the endpoint come from the environment alone: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and
AWS_SESSION_TOKEN), AWS_REGION, and AWS_ENDPOINT_URL for storage that is not Amazon's. A plain http endpoint is used
only where AWS_ENDPOINT_URL begins with http://. What the storage answers is never repeated as it is: it may hold an
access key.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
ENDPOINT = "AWS_ENDPOINT_URL"
# Any of these says who is asking. Without them obstore would ask the machine it runs on, for minutes where that is
# not one of Amazon's.
IDENTITIES = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
)  # fmt: skip
RETRIES = 8  # of a request that got no answer, or a server's "not now"; about 25 seconds where nothing answers at all
PART_BYTES = 32 * 2**20  # an object above this goes up in parts of it
URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.!*'() +=,-]+)*/?")


class StorageError(OSError):
    """The storage is not there, refuses access, or does not answer."""


class Object(NamedTuple):
    """What a listing says of an object; tag is its ETag without quotes, "" where the storage gives none."""

    bytes: int
    tag: str


def is_url(place: object) -> bool:
    """Whether a place is on S3, rather than a path of this machine."""
    return str(place).startswith(SCHEME)


def checked(url: str, what: str = "the address of a store") -> str:
    """A URL of the form s3://bucket/prefix, without a slash at its end.

    Raises ValueError for anything else, credentials and options in it above all, which the message doesn't repeat.
    """
    if URL.fullmatch(url) and not {".", ".."} & set(url.split("/")):
        return url.rstrip("/")
    secret = any(mark in url.removeprefix(SCHEME) for mark in "@?#:%")
    found = "one with credentials or options in it" if secret else repr(url)
    raise ValueError(
        f"{what} is {found}; allowed is s3://bucket/prefix, while credentials and endpoint come from "
        f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and {ENDPOINT}"
    )


def endpoint() -> str | None:
    """AWS_ENDPOINT_URL; None where it isn't set, so that the storage is Amazon's.

    Raises StorageError for one that is no http or https URL, or has credentials in it, without repeating them.
    """
    found = os.environ.get(ENDPOINT)
    if not found:
        return None
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in found or parts.query or parts.fragment:
        raise StorageError(f"{ENDPOINT} is not of the form https://host:port; set it to the storage's address alone")
    return found.rstrip("/")


def tag(content: bytes) -> str:
    """The ETag that S3 gives an object put by `RemoteFolder.put`, unless it encrypts with a key of its own."""
    if len(content) <= PART_BYTES:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
    parts = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


class RemoteFolder:
    """The objects below a URL, by their path from there. May be used by several threads at once.

    Every method raises StorageError, in one sentence, where the storage can't be reached or refuses.
    """

    def __init__(self, url: str):
        """Connects to nothing yet; raises ValueError for a URL that isn't s3://bucket/prefix."""
        self.url = checked(url)
        self._bucket, _, self._prefix = self.url.removeprefix(SCHEME).partition("/")

    @cached_property
    def _store(self) -> S3Store:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise StorageError(f"{self.url} needs the package obstore, which is not installed; install it") from None
        place = endpoint()
        if not any(os.environ.get(name) for name in IDENTITIES):
            raise StorageError(
                f"no credentials for {self.url} in the environment; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            client_options={
                "allow_http": bool(place and place.startswith("http://")),
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(minutes=5),  # for PART_BYTES, over a line of 1 Mbit/s
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(minutes=5)},
            config={"endpoint": place} if place else None,
        )

    def objects(self) -> dict[str, Object]:
        """Everything that lies there; empty where nothing does."""
        with self._access("listing") as store:
            return {
                found["path"]: Object(found["size"], (found["e_tag"] or "").strip('"'))
                for batch in store.list()
                for found in batch
            }

    def get(self, name: str) -> bytes | None:
        """An object's content; None where there is no such object."""
        with self._access("reading") as store:
            try:
                return bytes(store.get(name).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def put(self, name: str, content: bytes) -> str:
        """Write an object, in parts where it is large; returns its ETag, as `tag` gives it."""
        with self._access("writing") as store:
            large = len(content) > PART_BYTES
            found = store.put(name, content, use_multipart=large, chunk_size=PART_BYTES)
        return (found["e_tag"] or "").strip('"')

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that aren't there are no fault."""
        with self._access("deleting") as store:
            for name in names:
                # One by one: not all S3-compatible storages know how to delete many at once.
                store.delete(name)

    @contextmanager
    def _access(self, doing: str) -> Iterator[S3Store]:
        """The store of objects; what it raises inside becomes one sentence."""
        store = self._store
        from obstore.exceptions import BaseError

        try:
            yield store
        except (BaseError, FileNotFoundError) as error:
            # Without its cause, which repeats the storage's answer and so may hold an access key.
            raise StorageError(self._sentence(doing, str(error))) from None

    def _sentence(self, doing: str, answer: str) -> str:
        place = endpoint() or f"Amazon S3 ({ENDPOINT} is not set)"
        code = found[1] if (found := re.search(r"<Code>(\w+)</Code>", answer)) else ""
        status = found[1] if (found := re.search(r"status code: (\d{3})", answer)) else ""
        # A redirect to the right region comes without an address, and the client says what that means.
        if "incorrectly configured region" in answer or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            region = os.environ.get("AWS_REGION") or "us-east-1 (AWS_REGION is not set)"
            return f"{place} has {self.url} in another region than {region}; set AWS_REGION to its own"
        if code == "NoSuchBucket":
            return (
                f"{place} has no bucket {self._bucket} for {self.url}; create it, or set contributions.storage or "
                f"{ENDPOINT} to where it is"
            )
        if status in ("401", "403"):
            return (
                f"{place} refuses {doing} {self.url} ({code or status}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY to those of an account that may read, write, list and delete there"
            )
        if not status:
            return (
                f"no answer from {place} when {doing} {self.url}; see that it runs, set {ENDPOINT} if it is elsewhere, "
                "and run again, which goes on where this ended"
            )
        return f"{place} answered {' '.join(filter(None, (status, code)))} when {doing} {self.url}; run again later"
