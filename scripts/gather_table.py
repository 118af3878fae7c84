"""Put the tables of one kind, of all models, into one for the study."""

from pathlib import Path

from _job import run
from moemui.tables import table as tables
from moemui.tables.catalog import named


def main(*, parts: list[Path], gathered: Path, kind: str) -> dict:
    """parts: the tables to read. gathered: the one to write. kind: their name in the catalog of tables."""
    together = tables.read(parts, named(kind))
    tables.write(together, gathered, named(kind))
    return {"rows": len(together)}


if __name__ == "__main__":
    run(main)
