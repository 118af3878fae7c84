"""What is drawn of causal generalization."""

from __future__ import annotations

from moemui.experiments.causal_generalization import SHAM, UNTOUCHED
from moemui.experiments.picture import Picture

LABELS = {
    UNTOUCHED: "untouched", SHAM: "places only", "duplicate_key": "key neurons doubled",
    "duplicate_random": "random neurons doubled", "blend_key": "key neurons blended",
    "blend_random": "random neurons blended", "mui": "MUI", "gap": "Held-out − training accuracy",
    "training_accuracy": "Training accuracy", "held_out_accuracy": "Held-out accuracy", "breadth": "Breadth",
}  # fmt: skip

PICTURES = (
    Picture(
        name="accuracy",
        title="Accuracy after surgery, as fine-tuning goes on",
        caption=(
            "Training and held-out accuracy and their difference. The first point of each line is the model right "
            "after surgery: doubled neurons compute what they did, blended ones do not. A lower gap is worse "
            "generalization."
        ),
        kind="course",
        quantities=("training_accuracy", "held_out_accuracy", "gap"),
        series="arm",
        labels=LABELS,
    ),
    Picture(
        name="utilization",
        title="Utilization after surgery, as fine-tuning goes on",
        caption=(
            "MUI of the same held-out answers in every arm, and the smallest share of a layer's neurons that hold 90 % "
            "of its positive score, which fixes no number of key neurons."
        ),
        kind="course",
        quantities=("mui", "breadth"),
        series="arm",
        labels=LABELS,
    ),
)
