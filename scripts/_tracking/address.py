"""The addresses at which MLflow may keep runs. Light: the configuration is checked with it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

SQLITE = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for a server on http(s). Raises ValueError for any other address.

    So does one with a password in it, which would be seen in records, logs and the list of processes.
    """
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        return Path(uri.removeprefix(SQLITE))
    if not re.match(r"https?://[^/]", uri):
        shown = re.sub(r"//[^/]*@", "//…@", uri)
        raise ValueError(f"tracking.uri is {shown!r}; allowed are sqlite:///PATH/mlflow.db and http(s)://HOST:PORT")
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError(
            f"tracking.uri for {parts.hostname} has a user or password in it; write {parts.scheme}://"
            f"{parts.netloc.rpartition('@')[2]} and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the "
            "environment"
        )
    return None
