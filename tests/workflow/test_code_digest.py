"""The code digest: meaning reruns, looks do not."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import _code


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    (tmp_path / "moemui").mkdir()
    (tmp_path / "moemui" / "__init__.py").write_text("")
    (tmp_path / "moemui" / "formula.py").write_text("def f(x):\n    '''Doubles.'''\n    return 2 * x\n")
    (tmp_path / "moemui" / "other.py").write_text("y = 1\n")
    (tmp_path / "moemui" / "deep").mkdir()
    (tmp_path / "moemui" / "deep" / "__init__.py").write_text("")
    (tmp_path / "moemui" / "deep" / "typed.py").write_text("Number = int\n")
    (tmp_path / "_job.py").write_text("def run(main): ...\n")
    (tmp_path / "work.py").write_text("from _job import run\nfrom moemui import formula\n\nrun(formula.f)\n")
    monkeypatch.setattr(_code, "SCRIPTS", tmp_path)

    def digest():
        _code._parsed.cache_clear()
        return _code.digest("work")

    return tmp_path, digest, digest()


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("moemui/formula.py", "def f(x):\n    # twice\n    return (2 * x)\n", True),
        ("moemui/formula.py", "def f(x):\n    return 3 * x\n", False),
        ("moemui/other.py", "y = 2\n", True),
        ("_job.py", "def run(main): main()\n", True),
        ("work.py", "from _job import run\nfrom moemui import formula, other\nrun(formula.f)\n", False),
    ],
)
def test_only_a_change_of_meaning_in_an_imported_module_counts(scripts, file, text, same):
    folder, digest, before = scripts
    (folder / file).write_text(text)
    assert (digest() == before) is same


def test_an_import_inside_a_function_is_followed(scripts):
    folder, digest, _ = scripts
    (folder / "work.py").write_text("def main():\n    from moemui.other import y\n    return y\n")
    before = digest()
    (folder / "moemui" / "other.py").write_text("y = 2\n")
    assert digest() != before


def test_the_packages_above_an_imported_module_run_with_it_and_count(scripts):
    folder, digest, _ = scripts
    (folder / "work.py").write_text("from moemui.deep.typed import Number\n")
    before = digest()
    (folder / "moemui" / "__init__.py").write_text("LIMIT = 1\n")
    assert digest() != before


def test_an_import_that_only_a_type_checker_reads_is_not_followed(scripts):
    folder, digest, _ = scripts
    lines = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from moemui.deep.typed import Number\n"
    (folder / "work.py").write_text(lines + "else:\n    from moemui import other\n")
    before = digest()
    (folder / "moemui" / "deep" / "typed.py").write_text("Number = float\n")
    assert digest() == before
    (folder / "moemui" / "other.py").write_text("y = 2\n")
    assert digest() != before


def test_what_was_found_in_a_source_is_kept_where_snakemake_runs(scripts, monkeypatch):
    """Verified: what is kept under the digest of each source is what the next digest is made of, that of a damaged file
    is found again, and a changed source has another digest although the old one is kept."""
    folder, digest, before = scripts
    monkeypatch.chdir(folder)
    (folder / ".snakemake").mkdir()
    assert digest() == before
    kept = {path: path.read_text() for path in (folder / ".snakemake/syntax").iterdir()}
    assert len(kept) == 3  # work.py, moemui/__init__.py, moemui/formula.py
    for path in kept:
        path.write_text('["of another source", []]')
    assert digest() != before
    for path, text in kept.items():
        path.write_text(text[:-5])
    assert digest() == before
    assert {path: path.read_text() for path in (folder / ".snakemake/syntax").iterdir()} == kept
    (folder / "moemui/formula.py").write_text("def f(x):\n    return 3 * x\n")
    assert digest() != before


def test_nothing_is_kept_where_snakemake_never_ran_or_nothing_can_be_written(scripts, monkeypatch):
    folder, digest, before = scripts
    monkeypatch.chdir(folder)
    assert digest() == before
    assert not (folder / ".snakemake").exists()
    (folder / ".snakemake").mkdir()
    (folder / ".snakemake/syntax").write_text("no folder")
    assert digest() == before


def test_another_python_finds_the_same_digests():
    """Results that move to a machine with another version are not made again."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import _code; print(*map(_code.digest, sys.argv[2:]))"
    words = ["-c", program, str(_code.SCRIPTS), *sorted(path.stem for path in _code.SCRIPTS.glob("[!_]*.py"))]
    others = [shutil.which(f"python3.{minor}") for minor in range(12, 16)]
    # A version manager's names may stand for a version that is not there.
    runs = [subprocess.run([other, *words], capture_output=True, text=True) for other in others if other]
    found = {run.stdout for run in runs if run.returncode == 0}
    if not found:
        pytest.skip("needs another Python on PATH, python3.12 or later; apt-get or pyenv installs one")
    own = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
    assert found == {own}
