"""The documents keep up with the code: links lead somewhere; every key, file, table and number is the code's."""

from __future__ import annotations

import fnmatch
import importlib
import re

import pytest
import yaml
from workflow.conftest import ROOT
from workflow.documents import PAGES, anchors, blocks, code, prose, read

from moemui.tables.catalog import TABLES

SCHEMA = yaml.safe_load((ROOT / "config/schemas/study.schema.yaml").read_text())
METHOD = "docs/method.md"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_nothing_is_left_open(page):
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", prose(page)):
        if target.startswith("https://"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(f"{target}#{anchor}")
    assert missing == []
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", read(page))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    languages = {block.language for block in blocks(pages=[page])}
    known = {"bash", "console", "json", "math", "python", "r", "snakemake", "text", "yaml"}
    assert languages <= known, f"{page}: a fenced block is of {sorted(languages - known)}; allowed are {sorted(known)}"
    assert read(page).count("\n```") == 2 * len(blocks(pages=[page])), f"{page}: a fenced block has no end"


def keys(rules: dict, schema: dict) -> set[str]:
    """Every key that a study may hold, at any depth."""
    if "$ref" in rules:
        rules = schema["$defs"][rules["$ref"].rsplit("/", 1)[-1]]
    found = set()
    for key, rule in rules.get("properties", {}).items():
        found |= {key} | keys(rule, schema)
    for part in ("additionalProperties", "items"):
        if isinstance(rules.get(part), dict):
            found |= keys(rules[part], schema)
    return found


def test_the_configuration_page_names_every_key():
    page = read("config/README.md")
    found = keys(SCHEMA, SCHEMA)
    assert {"study", "thresholds", "save_steps", "num_fewshot"} <= found
    assert [key for key in sorted(found) if not re.search(rf"[`.\[ {{]{key}[`.\] :}}]", page)] == []


# Folders whose modules are named after what each is about.
ONE_FOR_EACH = ("tables", "figures", "findings", "experiments")


def test_the_tree_of_the_readme_names_every_file():
    """By its name or by a pattern such as figures_*.py, which must be that of a file."""
    readme = read("README.md")
    tree = readme[readme.index("\n## The house\n") : readme.index("\n## As a library\n")]
    files = {
        path.name
        for path in [
            *ROOT.glob("rules/*.smk"),
            *(path for path in ROOT.glob("scripts/moemui/**/*.py") if path.parent.name not in ONE_FOR_EACH),
            *ROOT.glob("scripts/_*.py"),
            *ROOT.glob("scripts/_*/*.py"),
            *ROOT.glob("config/*.yaml"),
        ]
        if path.name != "__init__.py"
    }
    patterns = re.findall(r"[\w]*\*[\w*.]*", tree)
    assert [name for name in patterns if not any(fnmatch.fnmatch(file, name) for file in files)] == []
    unnamed = [name for name in files if name not in tree and not any(fnmatch.fnmatch(name, p) for p in patterns)]
    assert sorted(unnamed) == []


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_the_text_are_there(page):
    """Paths of what git keeps; what a study makes lies in results/, and hub names have no ending."""
    roots = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and re.match(r"(?!results)\w", path.name))
    spans = [span for span in code(page) if re.fullmatch(rf"({roots})/[\w./-]+", span) and "mine" not in span]
    assert [span for span in spans if not (ROOT / span).exists()] == []


def test_the_method_page_names_every_table_and_every_analysis():
    page = read(METHOD)
    assert [name for name in TABLES if f"[{name}](tables.md#{name})" not in page] == []
    packages = ("mui", "experts", "checks", "diversity", "laws", "statistics", "key_neurons")
    modules = [
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / "scripts/moemui" / package).glob("*.py")
        if path.name not in ("__init__.py", "key_sets.py")  # sets and their algebra hold no quantity
    ]
    assert [module for module in modules if f"`{module}`" not in page] == []


def default(key: str) -> object:
    """The schema's default of a key such as masking.seeds."""
    section, name = key.split(".")
    return SCHEMA["properties"][section]["properties"][name]["default"]


def numbers() -> list[tuple[str, str]]:
    """(value, where) of the method page's table of numbers, one a row or as many as a row has."""
    page = read(METHOD)
    rows = re.findall(r"^\| [^|]+ \| ([\d., ]+) \| ((?:config )?`.+) \|$", page[page.index("\n## Numbers\n") :], re.M)
    found = []
    for values, places in rows:
        names = re.findall(r"`([^`]+)`", places)
        found += list(zip(values.replace(" ", "").split(","), names, strict=True))
    return found


@pytest.mark.parametrize(("value", "where"), numbers(), ids=lambda part: part)
def test_a_number_of_the_method_page_is_the_codes(value, where):
    if where.startswith("moemui."):
        module, name = where.rsplit(".", 1)
        found = getattr(importlib.import_module(module), name)
    else:
        found = default(where)
    assert float(value) == found


def test_the_method_page_has_its_numbers():
    assert len(numbers()) > 25


def options() -> list[tuple[str, list[str]]]:
    """(key, values, the default first) of the method page's table of scoring options."""
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)+) \|", read(METHOD), re.MULTILINE)
    return [(key, re.findall(r"`(\w+)`", values)) for key, values in rows if not key.endswith(("top_score", "topk"))]


def test_the_method_pages_options_are_the_schemas():
    rules = SCHEMA["properties"]["contributions"]["properties"]
    found = dict(options())
    assert set(found) == {"alignment", "gate_weighting", "head", "eos"}
    for key, values in found.items():
        assert yaml.safe_load(values[0]) == rules[key]["default"], key
        assert {yaml.safe_load(value) for value in values} == set(rules[key].get("enum", [True, False])), key


@pytest.mark.parametrize("page", PAGES)
def test_formulas_survive_markdown(page):
    """Within $…$ Markdown takes a backslash before punctuation for its own, and a bar for the end of a table's cell."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    inline = [formula for line in text.splitlines() for formula in re.findall(r"\$([^$]+)\$", line)]
    assert all(line.count("$") % 2 == 0 for line in text.splitlines())
    assert [formula for formula in inline if re.search(r"\\[^A-Za-z]", formula)] == []
    in_tables = [f for line in text.splitlines() if line.startswith("|") for f in re.findall(r"\$([^$]+)\$", line)]
    assert [formula for formula in in_tables if "|" in formula] == []
    for formula in [*inline, *(block.text for block in blocks("math", pages=[page]))]:
        assert formula.count("{") == formula.count("}"), formula
