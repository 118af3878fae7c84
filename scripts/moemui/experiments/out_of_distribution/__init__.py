"""Do MUI and accuracy on problems as trained predict accuracy on problems that training never showed?

One run of training is stopped at a dozen steps. At each, every task is asked held-out problems as trained, and longer,
larger and re-worded ones (`moemui.models.synthetic_variants`): out of distribution, OOD for short. MUI is that of the
problems as trained. What the paper would expect: a lower MUI goes with better generalization. Accuracy as trained is
known anyway, so the question is what MUI adds to it: the partial correlation of MUI and OOD accuracy given accuracy as
trained, over the cells (task, step) of one run.

Controls. Tasks differ in how hard they are, so each task's own mean is taken out everywhere. Steps of one run are no
independent draws, so a run gives one number an effect and the interval is over runs (seeds). MUI, accuracy and OOD
accuracy all move with the time of training, so the same is asked of changes from one kept step to the next, and of
tasks compared at the same step, which alone takes a common course out. In-sample fits always gain from a further
predictor, so the gain of MUI is told by predictions for steps that were left out of the fit, beside that of a clock.

Not shown: that MUI causes anything, and what holds between models trained in other ways. Where accuracy as trained is
measured with noise or at its ceiling, controlling for it leaves some of the time of training in; the version with
log-likelihood, which has no ceiling, suffers least from this.
"""

from __future__ import annotations

from dataclasses import dataclass

from moemui.experiments.measurements import Meaning

OUTCOMES = ("accuracy", "token_accuracy", "log_likelihood")


@dataclass(frozen=True)
class Settings:
    """Knobs of the experiment.

    examples: problems of each task and kind that accuracy rests on (MUI rests on the study's number of samples).
    outcome: the graded quantity, of problems as trained and OOD alike: `accuracy` (whole answers), `token_accuracy` or
    `log_likelihood`.
    after: steps up to and with this one enter no effect: while the rate warms up, MUI is still much that of the initial
    weights, and such a step would weigh more than all others.
    """

    examples: int = 200
    outcome: str = "token_accuracy"
    after: int = 100

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"after is {self.after}; it is a step, 0 or more")
        if self.examples < 2:
            raise ValueError(f"examples is {self.examples}; accuracy rests on at least 2 problems")
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome is {self.outcome!r}; allowed are {', '.join(OUTCOMES)}")


QUANTITIES = {
    "mui": Meaning("MUI of the held-out problems as trained, at the study's number of samples", "share"),
    "accuracy": Meaning("share of problems answered exactly as the reference", "share"),
    "token_accuracy": Meaning(
        "mean over problems of the share of the reference answer's tokens, its end included, that are the likeliest "
        "after those before them",
        "share",
    ),
    "log_likelihood": Meaning("mean over problems of the mean log-likelihood of the reference's tokens", "nats/token"),
}
