"""The code digest: meaning reruns, looks do not."""

from __future__ import annotations

import pytest

import _code


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    (tmp_path / "moemui").mkdir()
    (tmp_path / "moemui" / "__init__.py").write_text("")
    (tmp_path / "moemui" / "formula.py").write_text("def f(x):\n    '''Doubles.'''\n    return 2 * x\n")
    (tmp_path / "moemui" / "other.py").write_text("y = 1\n")
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
