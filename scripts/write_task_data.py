"""Write the held-out prompts of a synthetic task."""

from pathlib import Path

from _job import run
from moemui.models.synthetic import write_task


def main(*, data: Path, synthetic: str, n: int, seed: int) -> None:
    """data: the JSON lines file to write. synthetic: the task's name; n: prompts."""
    write_task(synthetic, n, seed, data)


if __name__ == "__main__":
    run(main)
