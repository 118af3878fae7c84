"""The four diagnostic flags of each model's last checkpoint."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.laws.diagnostics import rows
from moemui.tables import table as tables
from moemui.tables.dynamics import PHASES
from moemui.tables.experts import KEY_EXPERTS
from moemui.tables.laws import DIAGNOSTICS
from moemui.tables.masking import MASKING_EFFECT
from moemui.tables.utilization import UTILIZATION


def main(
    *,
    utilization: Path,
    key_experts: Path,
    phases: Path,
    masking_effect: Path | list[Path],
    diagnostics: Path,
    chosen: Path | list[Path],
    curve_setting: list,
    expert_setting: list,
    masking_setting: list | None,
    expert_threshold: float,
) -> dict:
    """diagnostics: the table to write. masking_effect, masking_setting: none where the study masks nothing. chosen: the
    table threshold_selection where a threshold is `auto`, else none."""
    found = rows(
        utilization=tables.read(utilization, UTILIZATION),
        key_experts=tables.read(key_experts, KEY_EXPERTS),
        phases=tables.read(phases, PHASES),
        masking_effect=tables.read(masking_effect, MASKING_EFFECT) if masking_effect else MASKING_EFFECT.frame([]),
        curve_setting=shown(settings=[curve_setting], chosen=chosen)[0],
        expert_setting=shown(settings=[expert_setting], chosen=chosen)[0],
        masking_setting=shown(settings=[masking_setting or expert_setting], chosen=chosen)[0],
        expert_threshold=expert_threshold,
    )
    tables.write(found, diagnostics, DIAGNOSTICS)
    return {f"flags.{outcome}": int(count) for outcome, count in found["outcome"].value_counts().items()}


if __name__ == "__main__":
    run(main)
