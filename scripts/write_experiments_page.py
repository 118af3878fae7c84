"""Draw the figures of the experiments and write their page."""

from pathlib import Path
from typing import Any

import pandas as pd

from _job import run
from _origins import made, provenance
from _provenance.records import read_record
from moemui.experiments.catalog import EXPERIMENTS
from moemui.report.experiments.figures import collect
from moemui.report.experiments.page import write_page
from moemui.report.experiments.plan import Plan
from moemui.report.figures.paper_style import save
from moemui.tables import table as files
from moemui.tables.experiments import EXPERIMENT_TABLES

DECISIONS = "experiment_decisions.parquet"


def main(
    *, tables: list[Path], records: list[Path], page: Path, figures: Path, study: str, plans: dict, code: str
) -> dict:
    """tables: of every experiment, in a folder of its name. page: the HTML file to write. figures: the folder for SVG,
    PDF and CSV files. plans: by experiment, see `_experiments`. code: the digest of this job's code.
    """
    experiments = [Plan.of(name, plan, EXPERIMENTS[name]) for name, plan in plans.items()]
    found = {
        name: pd.concat([files.read(path, table) for path in tables if path.stem == name], ignore_index=True)
        for name, table in EXPERIMENT_TABLES.items()
    }
    found_records = {path: read_record(path) for path in records}
    shown, left_out = collect(experiments, found)
    figures.mkdir()
    for name, figure in shown.items():
        save(figure.paper(), figures / f"{name}.svg")
        for part, rows in figure.data.items():
            rows.to_csv(figures / f"{name}-{part}.csv", index=False)
    folder = page.parent
    write_page(
        page,
        study=study,
        experiments=experiments,
        tables=found,
        figures=shown,
        drawings={name: (figures / f"{name}.svg").read_text() for name in shown},
        left_out=left_out,
        provenance={
            key: value
            for key, value in provenance(list(found_records.values())).items()
            if key not in ("conservation_error_max", "identity_error_max")  # these jobs don't record them
        },
        files={name: [path.relative_to(folder).as_posix() for path in tables if path.stem == name] for name in found}
        | {name: sorted(f"experiments/figures/{path.name}" for path in figures.glob(f"{name}[.-]*")) for name in shown},
        made={
            Path(output).parent.name: made(path, record, output, folder)
            for path, record in found_records.items()
            for output in record["outputs"]
            if Path(output).name == DECISIONS
        },
        drawn={name: _drawn(name, code, folder) for name in shown},
    )
    return {"figures": len(shown), "left_out": len(left_out), "bytes": page.stat().st_size}


def _drawn(name: str, code: str, folder: Path) -> dict[str, Any]:
    """How a figure was made by this job, whose record is written when it has ended."""
    return {
        "stage": "experiments",
        "record": "records/experiments/page.json",
        "code": code,
        "path": folder / "experiments/figures" / f"{name}.svg",
    }


if __name__ == "__main__":
    run(main)
