"""How the experts of a model relate to tasks, to domains and to each other."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.experts import coactivation as pairs_of_experts
from moemui.experts import expert_overlap as pairs_of_tasks
from moemui.experts import specialization as domains
from moemui.key_neurons import files
from moemui.tables import experts as columns
from moemui.tables import table as tables


def main(
    *,
    key_neurons: list[Path],
    checkpoints: list[Path],
    expert_overlap: Path,
    experts_shared: Path,
    specialization: Path,
    specialization_summary: Path,
    coactivation: Path,
    coactivation_summary: Path,
    chosen: Path | list[Path],
    setting: list,
    order: list[str],
    expert_threshold: float,
    seed: int,
) -> dict:
    """expert_overlap, …, coactivation_summary: the tables to write, at one setting. order: checkpoint names in training
    order; specialization and co-activation are measured at the first and the last of them.
    """
    opened = [files.read(path) for path in key_neurons]
    between_tasks, by_domain, between_experts = [], [], []
    for number, (name, path) in enumerate(zip(order, checkpoints, strict=True)):
        place: dict[str, Any] = {
            "key_neurons": [file for file in opened if file.checkpoint == name],
            "tokens": json.loads(path.read_text())["tokens"],
            "order": number,
            "setting": shown(settings=[setting], chosen=chosen)[0],
            "seed": seed,
        }
        between_tasks.append(pairs_of_tasks.rows(expert_threshold=expert_threshold, **place))
        if name in (order[0], order[-1]):
            by_domain.append(domains.rows(**place))
            between_experts.append(pairs_of_experts.rows(**place))
    for parts, (path, table), (other_path, other_table) in (
        (between_tasks, (expert_overlap, columns.EXPERT_OVERLAP), (experts_shared, columns.EXPERTS_SHARED)),
        (
            by_domain,
            (specialization, columns.SPECIALIZATION),
            (specialization_summary, columns.SPECIALIZATION_SUMMARY),
        ),
        (between_experts, (coactivation, columns.COACTIVATION), (coactivation_summary, columns.COACTIVATION_SUMMARY)),
    ):
        tables.write(pd.concat([first for first, _ in parts], ignore_index=True), path, table)
        tables.write(pd.concat([second for _, second in parts], ignore_index=True), other_path, other_table)
    return {"checkpoints": len(between_tasks), "pairs_of_experts": sum(len(first) for first, _ in between_experts)}


if __name__ == "__main__":
    run(main)
