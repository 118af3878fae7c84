"""What must never reach a record, a log or an artifact: the values of tokens and passwords that a job can see."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_KEY|_KEY_ID)$", re.IGNORECASE)
LEAST = 8  # characters; a shorter value is no secret worth the name, and would be found in ordinary text


def secrets() -> dict[str, str]:
    """Values to hide, by what stands in their place: environment variables, and the token that a hub login stored."""
    found = {name: value for name, value in os.environ.items() if NAMES.search(name) and len(value) >= LEAST}
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    stored = Path(os.environ.get("HF_TOKEN_PATH", home / "token")).expanduser()
    try:
        token = stored.read_text().strip()
    except OSError:  # nobody logged in on this machine
        token = ""
    if len(token) >= LEAST:
        found.setdefault("HF_TOKEN", token)
    # The longest first: one secret may be a part of another.
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def redact(value: Any) -> Any:
    """Plain data, or one text, with "[NAME]" where the value of a secret stood."""
    return _redacted(value, secrets())


def _redacted(value: Any, hidden: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, secret in hidden.items():
            value = value.replace(secret, f"[{name}]")
        return value
    if isinstance(value, Mapping):
        return {_redacted(key, hidden): _redacted(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, hidden) for item in value]
    return value


def redact_command(words: Sequence[str]) -> list[str]:
    """A command line without secrets, also those given as `--some-secret-key VALUE` or `--some-token=VALUE`."""
    shown: list[str] = []
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = option.startswith("--") and NAMES.search(option.replace("-", "_")) is not None
        name = option.lstrip("-")
        if hide and not word.startswith("--"):
            shown.append(f"[{shown[-1].lstrip('-')}]")
        else:
            shown.append(f"{option}=[{name}]" if secret and equals else word)
        hide = secret and not equals
    return redact(shown)


def scrub(file: Path) -> bool:
    """Redact a text file in place, so that processes which append to it go on; returns whether there was anything."""
    hidden = {name.encode(): secret.encode() for name, secret in secrets().items()}
    if not hidden or not file.is_file():
        return False
    before = after = file.read_bytes()
    for name, secret in hidden.items():
        after = after.replace(secret, b"[" + name + b"]")
    if after == before:
        return False
    with file.open("r+b") as stream:
        stream.write(after)
        stream.truncate()
    return True


class Redacting:
    """A text stream that redacts each text before it writes it; otherwise the stream that it stands for."""

    def __init__(self, stream: TextIO):
        self._stream, self._hidden = stream, secrets()

    def write(self, text: str) -> int:
        """Write `text` without secrets; returns its own length, as callers expect."""
        self._stream.write(_redacted(text, self._hidden))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
