"""The Hugging Face hub: what a revision means now, and its files in the local cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMIT = re.compile(r"[0-9a-f]{40}")


def pin(repo: str, checkpoint: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Revision, the commit that it means now, and the sha256 of every file (None where the hub tells none).

    checkpoint: {revision (default main), commit (optional)}. Without a network the local cache answers, without sha256.
    Raises ValueError for a commit that differs from the pinned one and for what the hub does not have, ConnectionError
    where neither hub nor cache knows the revision.
    """
    import huggingface_hub
    from huggingface_hub import errors

    revision = str(checkpoint.get("revision") or "main")
    expected = checkpoint.get("commit")
    if expected is not None and not COMMIT.fullmatch(str(expected)):
        raise ValueError(f"commit of {repo} is {expected!r}; a commit is written as 40 hexadecimal digits")
    # errors.HTTPError is the root of what the hub's HTTP library raises, whichever library that is.
    # A configured commit is checked against what the revision means today, so a moved branch is noticed.
    sha256: dict[str, Any] = {}
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        commit = str(info.sha)
        for sibling in info.siblings or []:
            stored = dict(sibling.lfs or {})
            sha256[sibling.rfilename] = stored.get("sha256")
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(
            f"the hub has no model {repo} at revision {revision} that this account may read; check both names on "
            f"https://huggingface.co/{repo}/tree/main, and log in with `hf auth login` if the model is gated"
        ) from error
    except (errors.HTTPError, OSError) as error:
        commit = _cached_commit(repo, str(expected or revision), error)
    if expected is not None and commit != expected:
        raise ValueError(
            f"revision {revision} of {repo} is commit {commit}, but the configuration pins {expected}; "
            "set commit to the one you mean, or revision to the pinned commit itself"
        )
    return revision, commit, sha256


def download(repo: str, commit: str, *, only: Sequence[str] | None = None, ignored: Sequence[str] = ()) -> Path:
    """The folder in the local hub cache with a commit's files, those that fit one of the patterns `only`.

    Raises ConnectionError where a file is neither cached nor to be had.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=list(only) if only else None, ignore_patterns=list(ignored)
        )
    except (errors.HTTPError, OSError) as error:
        raise ConnectionError(
            f"downloading {repo} at {commit} failed ({type(error).__name__}: {error}); run it again where the hub can "
            "be reached, finished files are kept"
        ) from error
    return Path(folder)


def _cached_commit(repo: str, revision: str, reason: Exception) -> str:
    """The commit of a revision in the local hub cache, for work without a network."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except Exception as error:
        raise ConnectionError(
            f"the hub cannot be reached ({type(reason).__name__}) and revision {revision} of {repo} is not in the "
            f"local cache; run once with a network, or `hf download {repo} --revision {revision}` elsewhere and point "
            "source path at the folder"
        ) from error
    return Path(folder).name
