"""A study's report as a reader has it: opened from disk in a real browser, with what a test asks of every report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from browser import LONGEST
from matplotlib.figure import Figure

from moemui.report.figures.paper_style import STYLE

WIDTHS = {"laptop": 1440, "phone": 390}
HEIGHT = 1000
# A layer that has the name of a data set draws a mark for each of its rows; Vega names their group after it. A named
# layer that drew nothing counts as 0 marks.
MARKS = """() => Object.fromEntries([...document.querySelectorAll("figure")].map((figure) => {
  const { views, data } = JSON.parse(figure.querySelector(".payload").textContent);
  const layers = views.flatMap((view) => (view.layer ?? [view]).map((layer) => layer.name));
  const found = Object.fromEntries(layers.filter((name) => name in data).map((name) => [name, 0]));
  for (const group of figure.querySelectorAll(".view svg g[class*='_marks']")) {
    const name = [...group.classList].find((one) => one.endsWith("_marks")).slice(0, -6);
    if (name in found) found[name] += group.children.length;
  }
  return [figure.id.replace("figure-", ""), found];
}))"""


def drawing(figure: Figure) -> str:
    """A static figure as the page holds it, SVG; not the PDF beside it, which takes as long again."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


@dataclass
class Report:
    """A page with what it complained of and asked the network for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def draw_all(self) -> None:
        """Scroll to every panel, so that each chart is drawn, and wait until all are."""
        panels = self.page.locator("figure .panel")
        for number in range(panels.count()):
            panels.nth(number).scroll_into_view_if_needed()
        self.page.wait_for_function("() => [...document.querySelectorAll('.view')].every((view) => view.dataset.drawn)")

    def settled(self) -> None:
        """Wait until charts have taken what was last asked of them."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")

    def marks(self, figure: str = "") -> Mapping[str, Any]:
        """How many marks each data set of each figure (or of one) has, data sets of fitted lines aside."""
        found = self.page.evaluate(MARKS)
        return found[figure] if figure else found

    def shown(self, figure: str) -> Mapping[str, Any]:
        """The data of a figure as the page holds it: data set → columns and rows."""
        return json.loads(self.page.locator(f"#figure-{figure} .payload").text_content())["data"]

    def figures(self) -> list[str]:
        """The names of the figures in their order."""
        return self.page.evaluate("() => [...document.querySelectorAll('figure')].map((f) => f.id.slice(7))")

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        return self.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")

    def violations(self) -> list[str]:
        """What axe-core calls serious or critical, each with the first element that it is about."""
        self.page.evaluate(_axe() + ";0")
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
        ]


@contextmanager
def opened(browser, file: Path, *, width: str = "laptop", scheme: str = "light", **options: Any) -> Iterator[Report]:
    """The report in a new window of its own. width: laptop or phone; scheme: light or dark, as the system says."""
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": HEIGHT}, color_scheme=scheme, offline=True, **options
    )
    page = context.new_page()
    page.set_default_timeout(LONGEST)
    report = Report(page)
    page.on("console", lambda m: report.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: report.complaints.append(str(error)))
    page.on("request", lambda request: report.requests.append(request.url))
    page.goto(f"file://{file}", wait_until="load")
    try:
        yield report
    finally:
        context.close()


@cache
def _axe() -> str:
    (script,) = (path for path in files("axe_playwright_python").joinpath(".").rglob("axe.min.js"))
    return script.read_text(encoding="utf-8")
