"""Snakemake's own report of the smoke study: made and opened without a network, a caption for all that is final."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape

import pytest
from browser import browser, keep  # noqa: F401  (a fixture)
from typer.testing import CliRunner
from workflow.conftest import ROOT, SMOKE, copy_study

import audit
from _captions import CATEGORIES
from _command import program
from moemui.report.figures import FIGURES
from moemui.tables.catalog import TABLES

pytestmark = pytest.mark.slow
STUDY = "results/smoke"
# Run by every Python that Snakemake starts: who asks for a connection gets an error, and is written down.
OFFLINE = """
import os, socket
connect = socket.socket.connect

def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        with open(os.environ["CONNECTIONS"], "a") as file:
            print(address, file=file)
        raise OSError("there is no network")
    return connect(self, address)

socket.socket.connect = refuse
"""


def held(page: str, name: str):
    """A variable of the page's script."""
    return json.loads(re.search(rf'<script id="{name}">\s*var \w+ = (.*?);\s*</script>', page, re.DOTALL)[1])


def words(caption: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", "", caption)).split())


@pytest.fixture(scope="module")
def made(smoke, tmp_path_factory):
    """A copy of the finished study with the report in it, made by make where no connection is possible."""
    base = tmp_path_factory.mktemp("reported")
    folder = copy_study(smoke, base / "study")
    (base / "offline").mkdir()
    (base / "offline/sitecustomize.py").write_text(OFFLINE)
    env = {"PYTHONPATH": str(base / "offline"), "CONNECTIONS": str(base / "connections.txt")}
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    # In the environment that tests run in, which is complete, instead of .venv.
    words = ["make", "snakemake-report", f"CONFIG={SMOKE[1]}", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | env)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.splitlines()[-1] == f"{STUDY}/snakemake.html"
    assert not (base / "connections.txt").exists(), (base / "connections.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def results(made):
    """What the report holds, by path: with category and subcategory, and the caption as people read it."""
    page = (made / STUDY / "snakemake.html").read_text()
    found = held(page, "results")
    for category, parts in held(page, "categories").items():
        for part, paths in parts.items():
            for path in paths:
                found[path] |= {"category": category, "subcategory": part, "caption": words(found[path]["caption"])}
    return found


def test_everything_final_is_there_with_category_labels_and_a_caption_of_its_own(made, results):
    folder = made / STUDY
    figures = {f"{STUDY}/figures/{path.name}" for path in folder.glob("figures/*.svg")}
    assert len(figures) > 5
    tables = {path.rpartition(".")[0]: path for path in results if "/tables/" in path}
    assert set(tables) == {f"{STUDY}/tables/{path.stem}" for path in folder.glob("tables/*.parquet")}
    assert set(results) == {*figures, *tables.values(), f"{STUDY}/report.html"}
    for path, result in results.items():
        assert result["category"] in (*CATEGORIES, "Report"), path
        assert [len(label) > 3 for label in result["labels"].values()] == [True], path
        assert len(result["caption"]) > 150, (path, result["caption"])
        assert "{" not in result["caption"], (path, result["caption"])
    captions = [result["caption"] for result in results.values()]
    assert len(set(captions)) == len(captions)


def test_captions_of_tables_say_what_a_row_is_and_explain_each_column(results):
    for name, table in TABLES.items():
        result = results[next(path for path in results if f"/tables/{name}." in path)]
        assert table.meaning.replace("`", "") in result["caption"]
        assert f"One row for each {' × '.join(table.key)}." in result["caption"]
        ends = {f"{column}_{end}" for column in table.names for end in ("low", "high")}
        assert [column for column in table.names if column not in ends and column not in result["caption"]] == []


def test_captions_of_figures_are_those_of_the_code_with_the_settings_shown(results):
    shown = {path: result for path, result in results.items() if "/figures/" in path}
    for path, result in shown.items():
        figure = FIGURES[path.rpartition("/")[2].removesuffix(".svg")]
        assert result["labels"]["figure"] == figure.title
        assert figure.alt.replace("`", "") in result["caption"]
    assert sum("projection/pairs/0.0" in result["caption"] for result in shown.values()) > 3


def test_no_table_makes_the_page_large(made, results):
    """Large ones are there as Parquet, whose CSV twins are much larger."""
    assert {path.rpartition(".")[2] for path in results if "/tables/" in path} == {"csv", "parquet"}
    for path in results:
        if path.endswith(".csv"):
            assert (made / path).stat().st_size < 2e5, f"{path} grows with the study: show its Parquet file"


def test_the_report_is_no_stranger_among_the_results(made, monkeypatch):
    monkeypatch.chdir(made)
    found = CliRunner().invoke(program(audit.main, no="", examples=[]), ["--all", "--results", STUDY])
    assert found.exit_code == 0, found.output


def test_people_find_every_result_and_see_a_figure_with_its_caption(made, results, browser, tmp_path):  # noqa: F811
    page = browser.new_page(viewport={"width": 1440, "height": 1000}, offline=True)
    page.set_default_timeout(20_000)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url[:80]))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((made / STUDY / "snakemake.html").as_uri())
    listed = sorted({(result["category"], result["subcategory"]) for result in results.values()})
    for category, part in listed:
        own = [r for r in results.values() if (r["category"], r["subcategory"]) == (category, part)]
        page.evaluate("app.setView({navbarMode: 'menu'})")
        page.evaluate(
            "place => app.setView({navbarMode: 'subcategory', ...place})", {"category": category, "subcategory": part}
        )
        for result in own:
            page.get_by_role("cell", name=next(iter(result["labels"].values())), exact=True).wait_for()
        assert page.get_by_role("row").count() == len(own) + 1, (category, part)
    figure = results[next(path for path in results if path.endswith("trajectories.svg"))]
    page.evaluate("app.setView({navbarMode: 'menu'})")
    page.get_by_role("link", name=figure["category"], exact=True).click()
    page.get_by_role("link", name="Figures", exact=True).click()
    row = page.get_by_role("row").filter(has_text=figure["labels"]["figure"])
    show, explain = row.get_by_role("link").all()
    show.click()
    explain.click()
    page.get_by_text(figure["caption"][:40]).wait_for()
    assert page.locator("img").last.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    keep(page, "snakemake-report", tmp_path)
    page.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
