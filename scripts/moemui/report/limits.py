"""What small models that the workflow trained itself do and do not show, in words that stand beside every finding."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from moemui.geometry import Geometry, Layer
from moemui.report.views import Choice

Tables = Mapping[str, pd.DataFrame]

# Two seeds of the embedded models, tried before this study was set up: not measured in the study itself.
SEED_NOISE = "10–25 %"


def limits(tables: Tables, choice: Choice) -> list[str]:
    """What the study's models do and do not show, for models that the workflow trained itself; empty without any."""
    if not choice.trained_here:
        return []
    return [
        f"Each model that the workflow trained ({', '.join(choice.trained_here)}) has one seed. In earlier trials of "
        f"this same set-up, with two seeds, MUI differed between seeds by {SEED_NOISE} of its value. That was not "
        "measured in this study: differences between runs smaller than this mean nothing here.",
        "The untrained checkpoint's MUI, experts and enrichment are artefacts of how the weights were drawn. It is "
        "shown as a baseline and has no phase.",
        *_smallness(tables, choice),
        "Models of this size show that the measurement runs end to end and what its outputs look like. They don't "
        "settle the paper's claims about large models, whichever way they come out.",
    ]


def _smallness(tables: Tables, choice: Choice) -> list[str]:
    layers = tables["utilization"]
    layers = layers[(layers["scope"] == "layer") & layers["model"].isin(choice.trained_here)]
    if layers.empty:
        return []
    smallest = int(layers["n_neurons"].min())
    one_layer = Geometry((Layer(0, 1, 0, smallest, 0, 1),))
    k = [int(one_layer.key_count(setting.threshold)[0]) for setting in (choice.experts, choice.curves)]
    text = (
        f"A layer has as few as {smallest:,} neurons, so at {100 * choice.experts.threshold:g} % only k = {k[0]} of "
        "them are key in a sample. Expert frequencies use this threshold"
    )
    if choice.curves.threshold != choice.experts.threshold:
        text += f"; MUI is shown at {100 * choice.curves.threshold:g} % (k = {k[1]}), where it is less coarse"
    return [text + "."]
