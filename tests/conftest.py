"""What all tests share: no example is too slow for hypothesis, and files that take minutes begin first."""

from __future__ import annotations

import os

import hypothesis

# `make test` tells what it starts that it is a make within a make, and one that a test starts would say so.
for told in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(told, None)

hypothesis.settings.register_profile("unhurried", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("unhurried")

# Where several processes share the files, one that begins last with minutes of work keeps the others waiting. One file
# that needs the smoke study comes first, so that it is made while the others have work that does not need it.
LONG = (
    *("test_faults.py", "test_experiments.py", "test_own_models.py", "test_findings_missing.py"),
    *("test_report_in_browser.py", "test_reruns.py", "test_damaged_files.py", "test_remote_study.py"),
    *("test_resumption.py", "test_job.py", "test_bad_models.py"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
