"""What is drawn of shared inhibition."""

from __future__ import annotations

from moemui.experiments.picture import Picture

_LABELS = {"shared_200": "200 %", "shared_100": "100 %", "shared_50": "50 %", "shared_0": "no shared experts"}
PICTURES = (
    Picture(
        "routed_experts_with_and_without_shared",
        "Routed experts beside shared ones and alone",
        "At equal accuracy, routed experts only. Selectivity: 0 at chance, 1 where the task decides; similarity: 1 for "
        "outputs that are equal but for rotation and scale.",
        "arms",
        ("routing_selectivity", "sample_selectivity", "key_overlap", "output_similarity", "masking_selectivity"),
        x="arm",
        where={"task": ("",), "part": ("",)},
        labels=_LABELS,
    ),
    Picture(
        "accuracy_of_both_families",
        "How accuracy rises in both families",
        "Mean over tasks; of each seed, the two nearest together, near the highest level both reach, are compared.",
        "course",
        ("accuracy",),
        series="arm",
        where={"task": ("",)},
        labels=_LABELS,
    ),
)
