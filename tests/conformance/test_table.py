"""The documented table is what the code finds today."""

from __future__ import annotations

from conformance import write_table, zoo


def test_the_committed_page_is_what_is_generated():
    committed = write_table.PAGE.read_text(encoding="utf-8")
    assert committed == write_table.page(), "run `make architectures` and look at what changed"


def test_the_page_has_a_row_for_every_architecture():
    committed = write_table.PAGE.read_text(encoding="utf-8").replace("\\_", "_")
    for name in (*zoo.dispatched_architectures(), *zoo.DENSE, *zoo.UNSUPPORTED):
        assert f"\n| {name} | " in committed
