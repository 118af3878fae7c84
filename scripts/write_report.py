"""Draw the figures and write the one page of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _job import run
from _origins import made_tables, provenance
from _provenance.records import read_record
from moemui.checks.threshold_selection import shown
from moemui.report import page
from moemui.report.figures import FIGURES, collect
from moemui.report.figures.paper_style import save
from moemui.report.views import Choice
from moemui.tables import table as files
from moemui.tables.catalog import TABLES


def main(
    *,
    tables: list[Path],
    records: list[Path],
    chosen: Path | list[Path],
    report: Path,
    figures: Path,
    study: dict,
    code: str,
) -> dict:
    """report: the HTML file to write. figures: the folder for SVG, PDF and CSV files. code: the digest of this job's
    code.

    chosen: the table threshold_selection where a threshold is `auto`, else none.
    """
    found_records = {path: read_record(path) for path in records}
    found = {path.stem: files.read(path, TABLES[path.stem]) for path in tables}
    # A table that this study does not make (no masking, no models trained here) is an empty one to whoever reads it.
    everything = {name: found.get(name, TABLES[name].frame([])) for name in {*found, *page.NEEDED}}
    choice = choice_of(study, chosen)
    made = made_tables(found_records, report.parent)
    data, left_out = collect(everything, choice)
    figures.mkdir()
    for name, parts in data.items():
        save(FIGURES[name].paper(parts, choice), figures / f"{name}.svg")
        for part, rows in parts.items():
            rows.to_csv(figures / (f"{name}.csv" if len(parts) == 1 else f"{name}-{part}.csv"), index=False)
    page.write_report(
        report,
        study={
            "name": study["name"],
            "description": " ".join([study["description"], *_on_hold(study["held"])]).strip(),
            "settings": {key: study[key] for key in ("analysis", "contributions", "key_neurons", "masking")},
        },
        tables=everything,
        figures=data,
        drawings={name: (figures / f"{name}.svg").read_text() for name in data},
        left_out=left_out,
        choice=choice,
        provenance=provenance(list(found_records.values())),
        files={name: [f"tables/{name}.parquet", f"tables/{name}.csv"] for name in found}
        | {name: sorted(f"figures/{path.name}" for path in figures.glob(f"{name}[.-]*")) for name in data},
        made=made,
        drawn={name: _drawn(name, made, code, report.parent) for name in data},
    )
    return {"figures": len(data), "bytes": report.stat().st_size}


def choice_of(about: dict, chosen: Path | list[Path]) -> Choice:
    """The settings that figures and findings show.

    about: the study as rule report gives it. chosen: the table threshold_selection where a threshold is `auto`, which
    then stands for the one that masking chose; else none.
    """
    curves, experts, masking = (
        shown(settings=[about[name] or about["expert_setting"]], chosen=chosen)[0]
        for name in ("curve_setting", "expert_setting", "masking_setting")
    )
    return Choice(
        curves=curves,
        experts=experts,
        masking=masking,
        expert_threshold=about["analysis"]["expert_threshold"],
        families=about["families"],
        trained_here=tuple(about["trained_here"]),
    )


def _on_hold(held: dict[str, str]) -> list[str]:
    return [f"{model} is on hold: {reason}." for model, reason in held.items()]


def _drawn(name: str, made: Mapping[str, Mapping[str, Any]], code: str, folder: Path) -> dict[str, Any]:
    """How a figure was made by this job, whose record is written when it has ended."""
    inputs = [f"{table} ({made[table]['digest'][:12]})" for table in FIGURES[name].tables if table in made]
    return {
        "stage": "report",
        "record": "records/report.json",
        "inputs": f"the tables {', '.join(inputs)}",
        "code": code,
        "path": folder / "figures" / f"{name}.svg",
    }


if __name__ == "__main__":
    run(main)
