"""Every experiment by its name, in the order of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from moemui.experiments import (
    causal_generalization,
    out_of_distribution,
    shared_inhibition,
    shared_load,
    task_phases,
    training_signal,
    turnover,
)
from moemui.experiments.causal_generalization import effects as causal_generalization_effects
from moemui.experiments.causal_generalization import pictures as causal_generalization_pictures
from moemui.experiments.judging import Judgeable
from moemui.experiments.measurements import Meaning
from moemui.experiments.out_of_distribution import effects as out_of_distribution_effects
from moemui.experiments.out_of_distribution import pictures as out_of_distribution_pictures
from moemui.experiments.picture import Picture
from moemui.experiments.shared_inhibition import effects as shared_inhibition_effects
from moemui.experiments.shared_inhibition import pictures as shared_inhibition_pictures
from moemui.experiments.shared_load import effects as shared_load_effects
from moemui.experiments.shared_load import pictures as shared_load_pictures
from moemui.experiments.task_phases import effects as task_phases_effects
from moemui.experiments.task_phases import pictures as task_phases_pictures
from moemui.experiments.training_signal import effects as training_signal_effects
from moemui.experiments.training_signal import pictures as training_signal_pictures
from moemui.experiments.turnover import effects as turnover_effects
from moemui.experiments.turnover import pictures as turnover_pictures


@dataclass(frozen=True)
class Experiment(Judgeable):
    """What an experiment declares in its folder: all but how it is measured, which needs torch.

    QUANTITIES: what it measures, by name. PICTURES: what is drawn.
    """

    QUANTITIES: Mapping[str, Meaning]
    PICTURES: tuple[Picture, ...]


def _of(module: ModuleType, effects: ModuleType, pictures: ModuleType) -> Experiment:
    return Experiment(
        Settings=module.Settings,
        QUANTITIES=module.QUANTITIES,
        EFFECTS=effects.EFFECTS,
        effects=effects.effects,
        PICTURES=pictures.PICTURES,
    )


# Each imported by name above, so that readers of the code, the digest of a job's code among them, see what is used.
EXPERIMENTS = {
    "causal_generalization": _of(causal_generalization, causal_generalization_effects, causal_generalization_pictures),
    "task_phases": _of(task_phases, task_phases_effects, task_phases_pictures),
    "shared_load": _of(shared_load, shared_load_effects, shared_load_pictures),
    "out_of_distribution": _of(out_of_distribution, out_of_distribution_effects, out_of_distribution_pictures),
    "shared_inhibition": _of(shared_inhibition, shared_inhibition_effects, shared_inhibition_pictures),
    "training_signal": _of(training_signal, training_signal_effects, training_signal_pictures),
    "turnover": _of(turnover, turnover_effects, turnover_pictures),
}
