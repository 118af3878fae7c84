"""Draw the figures and write the one page of a study."""

from pathlib import Path

from _job import run


def main(*, tables: list[Path], records: list[Path], report: Path, figures: Path, study: dict) -> dict:
    """report: the HTML file to write. figures: the folder for SVG and PDF files."""
    return {}


if __name__ == "__main__":
    run(main)
