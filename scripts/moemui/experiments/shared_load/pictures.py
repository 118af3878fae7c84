"""What is drawn of shared-expert load."""

from __future__ import annotations

from moemui.experiments.picture import Picture

_LABELS = {
    "shared_200": "200 %", "shared_100": "100 %", "shared_50": "50 %", "shared_0": "0 %", "": "all neurons",
    "shared": "shared experts", "routed": "routed experts",
}  # fmt: skip
PICTURES = (
    Picture(
        "utilization_by_shared_width",
        "Utilization and accuracy by the width of shared experts",
        "A layer has the same number of neurons in every family, and a token uses the same number; over training.",
        "course",
        ("accuracy", "mui"),
        series="arm",
        where={"task": ("",), "part": ("",)},
        labels=_LABELS,
    ),
    Picture(
        "enrichment_over_training",
        "Are shared experts key more often than routed ones?",
        "Log odds ratio against the experts that are key on every task, untrained and trained; 0: as often.",
        "course",
        ("enrichment", "enrichment_unweighted"),
        series="arm",
        where={"part": ("",)},
        labels=_LABELS,
    ),
)
