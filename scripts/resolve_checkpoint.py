"""Pin a checkpoint to exact files on this machine."""

import json
from pathlib import Path

from _job import run
from moemui.models.checkpoints import identity, resolve
from moemui.tables import table as tables
from moemui.tables.training import TRAINING


def main(*, checkpoint: Path, source: dict, entry: dict, training: Path | list, history: Path | list) -> dict:
    """checkpoint: the manifest to write. training, history: folder and table of the training run, or empty."""
    manifest = resolve(source, entry, training=training if isinstance(training, Path) else None)
    tokens = entry.get("tokens")
    if tokens is None and isinstance(history, Path):
        steps = tables.read(history, TRAINING).set_index("step")["tokens"]
        tokens = float(steps.get(entry["step"], 0))  # step 0 has read nothing
    manifest["tokens"] = tokens
    checkpoint.write_text(json.dumps(manifest, indent=1))
    return {
        "bytes": sum(file["bytes"] or 0 for file in manifest["files"].values()),
        "checkpoint_digest": identity(manifest),
    }


if __name__ == "__main__":
    run(main)
