"""The documents keep up with the code: links lead somewhere, every key and every room is named."""

from __future__ import annotations

import re

import pytest
import yaml
from workflow.conftest import ROOT

PAGES = [
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "config/README.md", "results/README.md",
    "docs/clusters.md",
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_nothing_is_left_open(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    missing = [t for t in targets if not t.startswith("https://") and not ((ROOT / page).parent / t).exists()]
    assert missing == []
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", text)


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
    schema = yaml.safe_load((ROOT / "config/schemas/study.schema.yaml").read_text())
    page = (ROOT / "config/README.md").read_text()
    found = keys(schema, schema)
    assert {"study", "thresholds", "save_steps", "num_fewshot"} <= found
    assert [key for key in sorted(found) if not re.search(rf"[`.\[ {{]{key}[`.\] :}}]", page)] == []


def test_the_tree_of_the_readme_names_every_file():
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("\n## The house\n") : readme.index("\n## As a library\n")]
    files = [
        *ROOT.glob("rules/*.smk"),
        *(path for path in ROOT.glob("scripts/moemui/**/*.py") if path.parent.name != "tables"),
        *ROOT.glob("scripts/_*.py"),
        *ROOT.glob("scripts/_*/*.py"),
        *ROOT.glob("config/*.yaml"),
    ]
    absent = [
        path.name
        for path in files
        if path.name not in tree and path.name != "__init__.py" and not path.name.startswith("figure")
    ]
    assert absent == []


def test_every_make_target_in_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE):
            assert f"\n{target}:" in makefile, (page, target)
