"""Put the tables of one kind, of all models, into one for the study."""

from pathlib import Path

from _job import run
from moemui import tables


def main(*, parts: list[Path], gathered: Path, kind: str) -> dict:
    """parts: the tables to read. gathered: the one to write. kind: their name in moemui.tables."""
    together = tables.read(parts, kind)
    tables.write(together, gathered, kind)
    return {"rows": len(together)}


if __name__ == "__main__":
    run(main)
