"""Every experiment by its name, in the order of the report."""

from __future__ import annotations

from moemui.experiments import (
    causal_generalization,
    out_of_distribution,
    shared_inhibition,
    shared_load,
    task_phases,
    training_signal,
    turnover,
)
from moemui.experiments.judging import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (
        causal_generalization,
        task_phases,
        shared_load,
        out_of_distribution,
        shared_inhibition,
        training_signal,
        turnover,
    )
}
