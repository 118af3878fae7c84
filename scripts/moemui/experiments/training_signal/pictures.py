"""What is drawn of the training signal."""

from __future__ import annotations

from moemui.experiments.picture import Picture
from moemui.experiments.training_signal import ACCURACY, MUI, PROGRESS

GUIDED = {ACCURACY: "accuracy-guided", PROGRESS: "progress-guided", MUI: "MUI-guided"}
PICTURES = (
    Picture(
        "training_signal_accuracy",
        "Accuracy while the mixture moves",
        "Share of held-out problems answered exactly, by arm, of each task and as mean over them.",
        "course",
        ("accuracy",),
        series="arm",
        panel="task",
        labels={"": "mean over tasks", **GUIDED},
    ),
    Picture(
        "training_signal_weights",
        "What each arm trained on",
        "Share of the examples of a task in the round that begins at a step, by arm.",
        "course",
        ("weight",),
        series="arm",
        panel="task",
        labels=GUIDED,
    ),
)
