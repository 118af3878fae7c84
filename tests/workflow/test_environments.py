"""The two ways to install agree: envs/*.yaml pin what requirements.lock pins, within pyproject's ranges."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from workflow.conftest import ROOT


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOCK = {
    normal(line.split("==")[0]): line.strip().split("==")[1]
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if "==" in line
}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_environments_have_the_pins_of_the_lock(path):
    pip = next(entry["pip"] for entry in yaml.safe_load(path.read_text())["dependencies"] if isinstance(entry, dict))
    assert pip
    for pin in pip:
        name, version = pin.split("==")
        assert LOCK[normal(name)] == version, pin


def test_the_lock_lies_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(LOCK[normal(requirement.name)]), text
    assert LOCK["torch"] == "2.13.0"
