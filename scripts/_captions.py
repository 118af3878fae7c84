"""What Snakemake's own report says of a study's tables and figures: where they stand in it, and their captions.

Captions are written when that report is made, by no job: a better word reruns nothing, and a dry-run imports neither
tables nor figures. Snakemake reads a caption from a file that is a Jinja template; each table has one of its own, since
a template is not told which of a job's outputs it is for. A result has one label: where results of a subcategory differ
in a second one, and there are two of them, the page of Snakemake 9.27 takes it for a switch and stays white.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

# What a reader asks, and the tables that answer. A figure stands with the last of the tables that it shows.
CATEGORIES = {
    "Utilization": ("performance", "utilization", "saturation", "comparisons"),
    "Experts": (
        *("expert_frequency", "key_experts", "expert_overlap", "experts_shared", "specialization"),
        *("specialization_summary", "coactivation", "coactivation_summary"),
        *("enrichment", "exposure", "top_composition"),
    ),
    "Training": ("training", "phases", "phase_divergence", "change_points"),
    "Diversity": ("diversity", "diversity_effect"),
    "Laws": ("utility_law", "utility_curve", "decay", "decay_curve", "published", "published_agreement"),
    "Checks": (
        *("diagnostics", "masking", "masking_effect", "threshold_selection"),
        *("sensitivity", "expert_threshold_sensitivity"),
    ),
}
# In Snakemake's report as Parquet, with those that are gathered from the models' ones: with a row for every expert and
# set of samples under every setting, a CSV file is ten to thirty times as large, too much for one HTML file.
LARGE = ("enrichment", "exposure")
KINDS = {".csv": "CSV", ".parquet": "Parquet"}


def category(table: str) -> str:
    """Where a table stands. Raises ValueError for one without a place."""
    for name, tables in CATEGORIES.items():
        if table in tables:
            return name
    raise ValueError(f"the table {table!r} has no category in Snakemake's report; give it one in scripts/_captions.py")


def human(table: str) -> str:
    """A table's name as people write it."""
    return table.replace("_", " ").capitalize().replace("mui", "MUI")


class Captions:
    """The captions of a study, as files that Snakemake's report reads.

    about: the study's settings, as `Study.about` gives them. folder: where captions are written, from the templates
    table.rst and figure.rst in `templates`. That is None where no folder can be read, since the workflow comes from a
    URL: captions are then the templates themselves, which say less.
    """

    GATHERED, FIGURES = "gathered", "figures"  # captions that all gathered tables share, and all figures

    def __init__(self, about: Mapping[str, Any], templates: Path | None, folder: Path):
        self._about, self._templates, self._folder = about, templates, folder
        self._figures: dict[str, dict[str, Any]] = {}

    def file(self, name: str) -> str:
        """The path of a caption, as `report(caption=...)` takes it: that of a table, GATHERED or FIGURES."""
        if self._templates is None:
            return f"captions/{'figure' if name == self.FIGURES else 'table'}.rst"
        return str(self._folder / f"{name}.rst")

    def table(self, name: str, path: str) -> dict[str, str]:
        """A table's label. Its caption is there when this returns."""
        return {"table": f"{self._tables[name]['title']} ({KINDS[Path(path).suffix]})"}

    def page(self, path: str) -> dict[str, str]:
        """The label of the study's own page, which Snakemake's report is made to offer as a file.

        It would show a page in a frame, from an address that holds all of it; of more than 2 MB browsers show nothing.
        """
        mimetypes.add_type("application/octet-stream", Path(path).suffix)
        return {"page": "Findings, figures and their tables"}

    def figure(self, name: str, chosen: str | list[str]) -> dict[str, str]:
        """A figure's label. Its caption is there when this returns. chosen: the table of the chosen threshold, or [].

        Raises ValueError for a figure that the code does not draw.
        """
        if name not in self._drawn(chosen):
            raise ValueError(f"the code draws no figure {name!r}; delete the folder of figures and run again")
        return {"figure": self._figures[name]["title"]}

    def figure_category(self, name: str, chosen: str | list[str]) -> str:
        """Where a figure stands: with the last of its tables."""
        self.figure(name, chosen)
        return category(self._figures[name]["tables"][-1])

    @cached_property
    def _tables(self) -> dict[str, dict[str, Any]]:
        from moemui.tables import columns
        from moemui.tables.catalog import TABLES
        from moemui.tables.table import Column

        mimetypes.add_type("application/vnd.apache.parquet", ".parquet")  # Snakemake wonders about each file otherwise
        known = [value for value in vars(columns).values() if isinstance(value, Column)]
        shared = [column.name for column in (*known, *columns.SETTING)]
        found = {}
        for name, table in TABLES.items():
            found[name] = {
                "title": human(name),
                "meaning": _plain(table.meaning),
                "key": [_plain(column) for column in table.key],
                "columns": [
                    {"name": column.name, "unit": _plain(column.unit), "meaning": _plain(column.meaning)}
                    for column in table.columns
                    if column.name not in shared and not _is_end(column.name, table.names)
                ],
                "intervals": any(_is_end(column, table.names) for column in table.names),
                "shared": [column for column in table.names if column in shared],
                "shares": any(column.unit == "share" for column in table.columns),
                "parquet": name in LARGE,
            }
            self._write(name, "table", found[name])
        gathered = {name: {**about, "parquet": True} for name, about in found.items()}
        self._write(self.GATHERED, "table", gathered, "[snakemake.wildcards.kind]")
        return found

    def _drawn(self, chosen: str | list[str]) -> dict[str, dict[str, Any]]:
        if not self._figures:
            from moemui.report.figures import FIGURES as DRAWN
            from write_report import choice_of

            choice = choice_of(dict(self._about), Path(chosen) if isinstance(chosen, str) else [])
            for name, figure in DRAWN.items():
                self._figures[name] = {
                    "title": figure.title,
                    "caption": _plain(figure.caption_for(choice)),
                    "definition": _plain(figure.definition),
                    "alt": _plain(figure.alt),
                    "tables": list(figure.tables),
                    "name": name,
                }
            self._write(self.FIGURES, "figure", self._figures, "[snakemake.wildcards.name]")
        return self._figures

    def _write(self, name: str, template: str, content: Any, which: str = "") -> None:
        if self._templates is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            text = (self._templates / f"{template}.rst").read_text(encoding="utf-8")
            head = f"{{% set about = ({json.dumps(content)}){which} %}}\n"
            (self._folder / f"{name}.rst").write_text(head + text, encoding="utf-8")


def _is_end(column: str, columns: Sequence[str]) -> bool:
    """Whether a column is an end of another one's interval."""
    stem, _, end = column.rpartition("_")
    return end in ("low", "high") and stem in columns


def _plain(text: str) -> str:
    """A text that reStructuredText shows as it is; what stands between backticks in another type."""
    return re.sub(r"`([^`]+)`|([*|_\\<>`])", lambda found: f"``{found[1]}``" if found[1] else f"\\{found[2]}", text)
