"""Tiny models make transformers warn about missing kernels and odd rope settings; neither matters here."""

from __future__ import annotations

import pytest
import transformers

pytest.register_assert_rewrite("conformance.checks")


@pytest.fixture(autouse=True, scope="session")
def quiet_transformers():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)
