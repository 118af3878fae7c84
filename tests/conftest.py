"""Which tests share a process when several run at a time."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one process has set up once is not set up again in another.

    A file of workflow tests shares its study, the conformance tests the architectures that they have built.
    """
    for item in items:
        if item.path.parent.name == "workflow":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        elif item.path.parent.name == "conformance":
            item.add_marker(pytest.mark.xdist_group("conformance"))
