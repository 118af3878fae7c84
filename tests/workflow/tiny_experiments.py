"""The experiments at their smallest: the same questions and rules on models that are trained in a moment."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHANGES = Path(__file__).with_name("tiny_experiments.yaml")


def tiny(ready: Mapping[str, Any]) -> dict[str, Any]:
    """The ready experiments with the tiny cohorts, settings and seeds in the place of their own."""
    changes, changed = yaml.safe_load(CHANGES.read_text()), copy.deepcopy(dict(ready))
    if set(changes["experiments"]) != set(changed["experiments"]) or set(changes["cohorts"]) != set(changed["cohorts"]):
        raise ValueError(f"{CHANGES} changes other experiments or cohorts than config/experiments.yaml has")
    changed["cohorts"], changed["measure"] = changes["cohorts"], {**changed.get("measure", {}), **changes["measure"]}
    for name, entry in changes["experiments"].items():
        changed["experiments"][name] |= entry
    return changed
