"""Key neuron files in memory, whose sets a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import KeyNeurons, Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

SETTING = Setting("projection", "pairs", 0.01)
TEN = Geometry((Layer(0, 2, 0, 5, 0, 1),))  # two routed experts of five neurons


@dataclass(frozen=True)
class Held(KeyNeurons):
    """A key neuron file that holds its sets in memory."""

    held: dict[Setting, KeySets] = field(default_factory=dict)

    def sets(self, *setting: Any) -> KeySets:
        """The sets of a setting."""
        return self.held[Setting(*setting)]


def cell(
    model: str,
    checkpoint: str,
    task: str,
    lists: Sequence[Sequence[int]],
    *,
    ids: Sequence[str] | None = None,
    geometry: Geometry = TEN,
    incomplete: int = 0,
    settings: Sequence[Setting] = (SETTING,),
) -> Held:
    """A file of one task whose samples have these key neurons, the same in every setting."""
    n = len(lists)
    sets = KeySets(np.cumsum([0, *map(len, lists)]), np.array([u for own in lists for u in own], dtype=np.int32))
    samples = Samples(
        id=np.array([f"{task}/{i}" for i in range(n)] if ids is None else ids, dtype=object),
        domain=np.array(["math"] * n, dtype=object),
        correct=np.zeros(n, dtype=np.int8),
        response_tokens=np.ones(n, dtype=np.int32),
    )
    return Held(
        path=Path(model, checkpoint, task),
        model=model,
        checkpoint=checkpoint,
        task=task,
        geometry=geometry,
        samples=samples,
        variant="main",
        settings=tuple(settings),
        incomplete=dict.fromkeys(settings, incomplete),
        routed_tokens=np.zeros((len(geometry.layers), 2), dtype=np.int64),
        options={},
        held=dict.fromkeys(settings, sets),
    )
