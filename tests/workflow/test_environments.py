"""The two ways to install agree, and each rule's environment holds what its script imports, with nothing besides."""

from __future__ import annotations

import re
import textwrap

import pytest
from packaging.requirements import Requirement

from conda import environments
from conda.environments import ROOT, normal

ENVS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))


def test_every_rule_that_runs_something_has_an_environment():
    for rule in environments.rules("config/smoke.yaml"):
        assert rule.script is not None, f"{rule.name} runs no script, so nothing says what it imports"
        assert rule.env in ENVS, f"{rule.name} has no environment of envs/"


def test_every_script_of_a_job_is_known():
    scripts = (ROOT / "scripts").glob("[a-z]*.py")
    jobs = {path for path in scripts if re.search(r"(?<!\.)\brun\(main\b", path.read_text())}
    assert len(jobs) > 15
    known = set().union(*environments.environments().values())
    by_name = {path for script in environments.COMPUTED for path in environments.by_name(script)}
    assert known - by_name == jobs
    assert known & by_name  # what a job imports by a computed name


@pytest.mark.parametrize("env", ENVS)
def test_environments_hold_what_their_scripts_import(env):
    pins = {normal(pin.name) for pin in environments.pip_pins(env)}
    lacking = {name: place for name, place in environments.imported(env).items() if name not in pins}
    assert not lacking, f"envs/{env}.yaml lacks {lacking}; run `make environments`"


@pytest.mark.parametrize("env", ENVS)
def test_environments_hold_what_is_needed_with_the_pins_of_the_lock(env):
    lock = environments.lock()
    for pin in environments.pip_pins(env):
        assert lock[normal(pin.name)] == f"{pin.name}{pin.specifier}"
    assert environments.yaml_path(env).read_text() == environments.content(env), "run `make environments`"


def test_the_lock_lies_within_the_ranges():
    lock = environments.lock()
    for requirement in environments.ranges("dev"):
        assert requirement.specifier.contains(lock[normal(requirement.name)].partition("==")[2]), requirement
    assert lock["torch"] == "torch==2.13.0"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A function that writes project files, and says what the first one imports of others."""
    monkeypatch.setattr(environments, "SCRIPTS", tmp_path)

    def write(**files):
        for name, code in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(code))
        return environments.third_party(tmp_path / f"{next(iter(files))}.py")

    return write


def test_imports_are_followed_through_project_modules_and_packages(scripts):
    found = scripts(
        work="import json\nfrom package import inner",
        package__inner="from . import sibling\nfrom .sibling import x",
        package__sibling="import yaml as y",
    )
    assert found == {"pyyaml": "package/sibling.py:1 imports yaml"}
    (environments.SCRIPTS / "package/__init__.py").write_text("import scipy.stats\n")
    environments._read.cache_clear()
    assert set(scripts(work="import package.inner\n")) == {"pyyaml", "scipy"}


def test_late_imports_count_where_the_function_is_named(scripts):
    module = """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import torch
        def used():
            import scipy
        def unused():
            import statsmodels
        class Table:
            def __len__(self):
                import pandas
        """
    assert set(scripts(work="import late\nlate.used()", late=module)) == {"scipy", "pandas"}


def test_imports_that_cannot_be_read_off_are_refused(scripts):
    assert set(scripts(work="import importlib\nimportlib.import_module('numpy')")) == {"numpy"}
    with pytest.raises(ValueError, match=r"other\.py:2 imports by a computed name; write the name out$"):
        scripts(other="import importlib\nimportlib.import_module('num' + 'py')")
    with pytest.raises(
        ModuleNotFoundError, match=r"^third\.py:1 imports nowhere, which no installed distribution brings"
    ):
        scripts(third="import nowhere")


def test_what_distributions_require_is_followed_with_extras():
    assert {"zarr", "numcodecs", "numpy"} <= environments.required([Requirement("zarr")])
    plain, extra = (environments.required([Requirement(name)]) for name in ("lm_eval", "lm_eval[math]"))
    assert "math-verify" in extra - plain
    assert extra > plain


def test_an_import_that_the_lock_does_not_pin_is_named(monkeypatch):
    lock = environments.lock()
    del lock["powerlaw"]
    monkeypatch.setattr(environments, "lock", lambda: lock)
    with pytest.raises(
        ValueError, match=r"imports powerlaw, and requirements\.lock has no powerlaw; add it to pyproject"
    ):
        environments.content("analysis")
