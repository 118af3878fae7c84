"""The JavaScript of other people that a page carries with it, so that it needs no network: Vega and DataTables."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import vl_convert

SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def charts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one module that leaves `vegaEmbed` on the window."""
    return _inline(vl_convert.javascript_bundle(SNIPPET))


@cache
def tables() -> tuple[str, str]:
    """DataTables as a module that leaves `DataTable` on the window, and its style sheet.

    Raises ValueError where the installed itables keeps it in another form.
    """
    folder = files("itables") / "html"
    script = (folder / "dt_bundle.js").read_text(encoding="utf-8")
    # The bundle is an ES module; inside a page nobody can import it, so its default export is left on the window.
    found, number = re.subn(r"export\{[^{}]*?\b(\w+) as default\b[^{}]*\}", r"window.DataTable=\1", script)
    if number != 1:
        raise ValueError(
            f"found {number} default exports in the DataTables bundle of itables, expected 1; install the version of "
            "itables that requirements.lock names"
        )
    return _inline(found), (folder / "dt_bundle.css").read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """The script so that nothing in it ends the script element that holds it."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")
