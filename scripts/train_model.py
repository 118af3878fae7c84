"""Train a small MoE model from scratch and keep its weights at the steps that the recipe names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from _job import run


def main(*, snapshots: Path, training: Path, recipe: dict, tasks: list[str], model: str, progress: Callable) -> dict:
    """snapshots: folder for step-NNNNN/; training: the history table."""
    from moemui.models.training import Recipe, train
    from moemui.tables import table as tables
    from moemui.tables.training import TRAINING

    history = train(Recipe.from_mapping(recipe), tasks, snapshots, progress=progress)
    tables.write(history.assign(model=model), training, TRAINING)
    parts = np.array_split(history["loss"].to_numpy(), min(100, len(history)))
    return {
        "final_loss": float(history["loss"].tail(50).mean()),
        "tokens": int(history["tokens"].iloc[-1]),
        "loss": [float(part.mean()) for part in parts],  # over each hundredth of the steps
    }


if __name__ == "__main__":
    run(main)
