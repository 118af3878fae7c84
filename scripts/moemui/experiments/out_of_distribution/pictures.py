"""What is drawn of generalization out of distribution."""

from __future__ import annotations

from moemui.experiments.picture import Picture
from moemui.models.synthetic_variants import IN_DISTRIBUTION

PICTURES = (
    Picture(
        "out_of_distribution_accuracy",
        "Accuracy on problems as trained and on others",
        "Share of the reference answer's tokens that are the likeliest, by kind of problem, over training.",
        "course",
        ("token_accuracy",),
        series="part",
        panel="task",
        labels={IN_DISTRIBUTION: "as trained", "reworded": "re-worded"},
    ),
    Picture(
        "out_of_distribution_mui",
        "MUI of problems as trained",
        "MUI of the held-out problems as trained, by task, over training; steps up to `after` of the settings enter no "
        "effect.",
        "course",
        ("mui",),
        series="task",
    ),
)
