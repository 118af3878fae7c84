"""Fit the utility law over models and the decay of utilization over neurons; set published figures beside own ones."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.key_neurons import files
from moemui.laws import decay as decays
from moemui.laws import laws
from moemui.laws import published as figures
from moemui.tables import laws as law_tables
from moemui.tables import published as published_tables
from moemui.tables import table as tables
from moemui.tables.experts import EXPERT_FREQUENCY, KEY_EXPERTS
from moemui.tables.utilization import PERFORMANCE, UTILIZATION


def main(
    *,
    utilization: Path,
    performance: Path,
    key_experts: Path,
    expert_frequency: Path,
    key_neurons: list[Path],
    utility_law: Path,
    utility_curve: Path,
    decay: Path,
    decay_curve: Path,
    published: Path,
    published_agreement: Path,
    chosen: Path | list[Path],
    curve_setting: list,
    expert_setting: list,
    expert_threshold: float,
    seed: int,
) -> dict:
    """utility_law to published_agreement: the tables to write. key_neurons: of each model's first and last checkpoint.

    curve_setting: of MUI and decay; expert_setting: of key experts, each formulation, selection, threshold, …
    """
    curves = shown(settings=[curve_setting], chosen=chosen)[0]
    experts = shown(settings=[expert_setting], chosen=chosen)[0]
    own = {
        "utilization": tables.read(utilization, UTILIZATION),
        "performance": tables.read(performance, PERFORMANCE),
    }
    law, law_curve = laws.rows(**own, published=figures.load(), setting=curves, seed=seed)
    cells = own["utilization"].drop_duplicates(["model", "checkpoint"])
    places = {
        (str(model), str(checkpoint)): (float(tokens), int(order))
        for model, checkpoint, tokens, order in zip(
            *(cells[name] for name in ("model", "checkpoint", "tokens", "order")), strict=True
        )
    }
    fitted, ranked = decays.rows(
        key_neurons=[files.read(path) for path in key_neurons], setting=curves, places=places, seed=seed
    )
    beside, agreement = figures.rows(
        **own,
        key_experts=tables.read(key_experts, KEY_EXPERTS),
        # one setting of many: the whole table has millions of rows in a large study
        expert_frequency=tables.read(expert_frequency, EXPERT_FREQUENCY, laws.parquet_filter(setting=experts)),
        curve_setting=curves,
        expert_setting=experts,
        expert_threshold=expert_threshold,
        seed=seed,
    )
    tables.write(law, utility_law, law_tables.UTILITY_LAW)
    tables.write(law_curve, utility_curve, law_tables.UTILITY_CURVE)
    tables.write(fitted, decay, law_tables.DECAY)
    tables.write(ranked, decay_curve, law_tables.DECAY_CURVE)
    tables.write(beside, published, published_tables.PUBLISHED)
    tables.write(agreement, published_agreement, published_tables.PUBLISHED_AGREEMENT)
    return {
        "utility_laws": int(law["slope"].notna().sum()),
        "decays": int(fitted["alpha"].notna().sum()),
        "published_values_with_an_own_one": len(beside),
    }


if __name__ == "__main__":
    run(main)
