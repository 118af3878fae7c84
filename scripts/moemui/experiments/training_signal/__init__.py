"""Is MUI, measured while a model trains, of use for choosing what it trains on next?

Models that start from the same weights train on several tasks until a budget of tokens is used up. The budget is cut
into rounds; after each, a loop looks at validation problems and moves the mixture, gradually and with a floor for every
task. Five arms:

`static`: the same share for every task, always. `accuracy`: toward tasks with low validation accuracy. `mui`: toward
tasks that are Accumulating, that is, whose performance and MUI both rose in the last round; where none is, back toward
equal shares. `progress`: the same rule without MUI, toward tasks whose performance rose, so that `mui` against it is
what MUI adds. `shuffled`: a placebo, the shares that the `mui` arm had in the same round, each given to another task,
never its own, so that the mixture moves as much and as fast but knows nothing of the tasks.

Outcome: accuracy on held-out problems at the end, as mean over tasks and of the worst task, and the area under the
course of the mean over tokens. Controls: every arm gets the same initial weights, tokens (padding not counted), rates
of learning and the same stream of examples of each task, so that arms differ in the mixture alone. Validation problems
are in no training stream and not held out, so no loop sees the outcome. Accuracy against static says whether any loop
helps here at all.

Not shown: what a loop does with other rules, larger steps of the mixture or longer training, and whether the phase of a
task says more where training goes on after tasks are learned. Equal tokens are not equal steps: texts of some tasks are
longer than those of others, so the arms' numbers of optimizer steps differ by some percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moemui.experiments.measurements import Meaning
from moemui.models.recipe import Recipe
from moemui.models.synthetic import task_named

STATIC, ACCURACY, PROGRESS, MUI, SHUFFLED = ARMS = ("static", "accuracy", "progress", "mui", "shuffled")
TASKS = ("sorting", "reversal", "boolean", "brackets", "counting", "modular")
TRAINING = {
    "family": "olmoe", "hidden": 64, "layers": 2, "heads": 4, "experts": 32, "neurons_per_expert": 32, "top_k": 4,
    "batch": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Knobs of the experiment.

    training: knobs of `moemui.models.recipe.Recipe` without seed, save_steps and distinct; steps there only stretches
    the schedule of the rate: warm_up / steps is the share of the budget that warms up.
    tasks: what is trained on, at least two. tokens: budget of an arm, padding not counted. rounds: parts of the budget,
    the mixture stays the same within one. validation: problems of a task that the loops look at. examples: held-out
    problems of a task that the outcome rests on.
    pace: 0..1, share of the way to its target that the mixture goes in a round. floor: 0..1, least share of a task in
    parts of an equal share.
    least_rise: by how much the share of likeliest tokens (`token_accuracy`) must rise in a round for a task to count as
    Accumulating; MUI must rise at all.
    """

    training: Mapping[str, Any] = field(default_factory=lambda: dict(TRAINING))
    tasks: tuple[str, ...] = TASKS
    tokens: int = 360_000
    rounds: int = 10
    validation: int = 64
    examples: int = 200
    pace: float = 0.5
    floor: float = 0.25
    least_rise: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        for task in self.tasks:
            task_named(task)
        if len(set(self.tasks)) < max(2, len(self.tasks)):
            raise ValueError(f"tasks are {list(self.tasks)}; a mixture takes at least two, each named once")
        for knob, least in (("tokens", 1), ("rounds", 2), ("validation", 2), ("examples", 2)):
            if getattr(self, knob) < least:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it is at least {least}")
        if not (0 < self.pace <= 1 and 0 < self.floor <= 1):
            raise ValueError(f"pace is {self.pace} and floor is {self.floor}; both lie above 0 and are at most 1")
        if self.least_rise < 0:
            raise ValueError(f"least_rise is {self.least_rise}; it is 0 or more")
        if idle := sorted(set(self.training) & {"seed", "save_steps", "distinct"}):
            raise ValueError(f"training names {', '.join(idle)}, which this experiment sets itself; leave them out")
        self.recipe(0)

    def recipe(self, seed: int) -> Recipe:
        """The recipe of all arms of a seed. Raises ValueError for knobs that it does not have."""
        return Recipe.from_mapping({**self.training, "seed": seed, "save_steps": [0]})


_LOOP = "on the validation problems at this step; from the second round on"
QUANTITIES = {
    "accuracy": Meaning("share of held-out problems answered exactly as the reference", "share"),
    "weight": Meaning("share of the examples that a task gets in the round that begins at this step", "share"),
    "signal_accuracy": Meaning(f"share of problems answered exactly, {_LOOP}", "share"),
    "signal_token_accuracy": Meaning(
        f"mean share of the reference answer's tokens that are the likeliest after those before, {_LOOP}", "share"
    ),
    "signal_mui": Meaning(f"MUI of all validation problems of the task, {_LOOP}", "share"),
    "wanted": Meaning(
        "how much the loop wants of a task at this step: in the accuracy arm 1 minus signal_accuracy, in the mui and "
        "progress arms 1 where the task is Accumulating, or progressing, over the round that ends here, else 0"
    ),
    "training_seconds": Meaning(
        "time spent in optimizer steps by the end; differs from run to run as times do", "s"
    ),
    "measuring_seconds": Meaning(
        "time that the arm's loop spent looking at validation problems by the end; differs from run to run", "s"
    ),
}  # fmt: skip
