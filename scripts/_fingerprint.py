"""Whether the rules of an experiment read as they did when a run was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(hypotheses: Mapping[str, Any]) -> str:
    """12 hexadecimal digits over hypotheses as the config holds them: whether rules read as they did before.

    The order of keys and the way numbers are written don't count; words do.
    """
    text = json.dumps(hypotheses, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
