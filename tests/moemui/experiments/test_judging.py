"""From measurements on seeds to tables: one made-up experiment, worked by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from moemui.experiments.judging import judged
from moemui.experiments.measurements import Meaning, Measured, at_last, series
from moemui.tables.experiments import MEASUREMENTS
from moemui.tables.table import conform

QUANTITIES = {"accuracy": Meaning("share of exact answers", "share")}


@dataclass(frozen=True)
class Settings:
    weight: float = 1.0


def effects(measurements, settings):
    by_arm = series(measurements, "accuracy", ["arm"])
    difference = settings.weight * (by_arm["key"] - by_arm["random"])
    return {"difference": (difference, ""), "lost": (float("nan"), "nothing was lost")}


MADE_UP = SimpleNamespace(
    Settings=Settings, QUANTITIES=QUANTITIES, effects=effects,
    EFFECTS={"difference": Meaning("key − random", "share"), "lost": Meaning("never known")},
)  # fmt: skip
PLAN = {
    "settings": {"weight": 2.0},
    "paper": "It falls.",
    "seeds": [0, 1, 2],
    "hypotheses": {
        "falls": {
            "primary": True, "claim": "Key costs more.", "effect": "difference", "confirmed": {"below": -0.01},
            "refuted": {"above": -0.01}, "paper": "confirmed",
        },
        "lost": {"claim": "Something is lost.", "effect": "lost", "confirmed": {"above": 0}, "refuted": {"below": 0}},
    },
}  # fmt: skip


def measurements(values):
    parts = []
    for seed, (key, random) in values.items():
        measured = Measured("made_up", seed, QUANTITIES)
        measured.add("accuracy", key, arm="key")
        measured.add("accuracy", random, arm="random", task="")
        parts += measured.rows
    return MEASUREMENTS.frame(parts)


def test_effects_intervals_and_decisions_by_hand():
    # twice the differences −0.2, −0.3, −0.4: mean −0.6, standard deviation 0.2, t(2) = 4.3027
    rows = measurements({0: (0.5, 0.7), 1: (0.5, 0.8), 2: (0.4, 0.8)})
    found = judged("made_up", MADE_UP, rows, PLAN, runs_before_rule=2)
    half = 4.3026527 * 0.2 / 3**0.5
    effect = found.effects.set_index("effect").loc["difference"]
    assert [effect["mean"], effect["mean_low"], effect["mean_high"]] == pytest.approx([-0.6, -0.6 - half, -0.6 + half])
    decision = found.decisions.set_index("hypothesis").loc["falls"]
    assert (decision["decision"], decision["for_paper"]) == ("confirmed", "supports")
    assert (decision["runs_before_rule"], decision["n_seeds"], decision["paper"]) == (2, 3, "It falls.")
    assert "the whole interval of difference lies below -0.01" in decision["rule"]
    seeds = found.seeds[found.seeds["effect"] == "difference"].set_index("seed")["value"]
    assert seeds.to_dict() == pytest.approx({0: -0.4, 1: -0.6, 2: -0.8})


def test_an_effect_that_no_seed_has_is_undecided_and_says_why():
    found = judged("made_up", MADE_UP, measurements(dict.fromkeys(range(3), (0.5, 0.5))), PLAN, runs_before_rule=0)
    effect = found.effects.set_index("effect").loc["lost"]
    assert effect["n_seeds"] == 0
    assert "known on 0 seeds" in effect["note"]
    assert "nothing was lost" in effect["note"]
    assert found.decisions.set_index("hypothesis").loc["lost", "decision"] == "undecided"


def test_measurements_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match=r"measured on the seeds \[0, 1\], and is planned on \[0, 1, 2\]"):
        judged("made_up", MADE_UP, measurements({0: (1, 1), 1: (1, 1)}), PLAN, runs_before_rule=0)


def test_what_is_not_explained_is_not_measured():
    with pytest.raises(ValueError, match="made_up has no quantity 'speed'; it has accuracy"):
        Measured("made_up", 0, QUANTITIES).add("speed", 1.0)
    silent = Measured("made_up", 0, QUANTITIES)
    silent.add("accuracy", float("nan"))
    with pytest.raises(ValueError, match="no note says why"):
        silent.frame()


def test_a_series_that_says_too_little_is_refused():
    rows = conform(measurements({0: (0.5, 0.7)}), MEASUREMENTS)
    with pytest.raises(ValueError, match="several values at one of seed"):
        series(rows, "accuracy", ["seed"])


def test_a_decision_on_some_of_the_seeds_says_on_how_many():
    rows = measurements({0: (0.5, 0.7), 1: (0.5, 0.8), 2: (0.4, 0.8), 3: (0.0, 0.0)})

    def without_answers(measurements, settings):
        found = effects(measurements, settings)
        known = (series(measurements, "accuracy", ["arm"]) > 0).any()
        return found if known else {**found, "difference": (float("nan"), "nothing was answered")}

    made_up = SimpleNamespace(**{**vars(MADE_UP), "effects": without_answers})
    found = judged("made_up", made_up, rows, {**PLAN, "seeds": [0, 1, 2, 3]}, runs_before_rule=0)
    decision = found.decisions.set_index("hypothesis").loc["falls"]
    assert (decision["decision"], decision["note"]) == ("confirmed", "difference is known on 3 of 4 seeds")


def test_what_was_measured_last_is_the_whole_models_own_last_value_of_each_arm():
    quantities = {name: Meaning(name) for name in ("mui", "width", "lost", "by_task", "by_layer")}
    measured = Measured("made_up", 0, quantities)
    for step, value in ((50, 0.5), (100, 0.25), (0, 0.75)):
        measured.add("mui", value, step=step)
        measured.add("mui", value / 2, step=step, arm="shared_0")
        measured.add("mui", 9, step=step, task="sorting")
        measured.add("by_task", 9, step=step, task="sorting")
        measured.add("by_layer", 9, step=step, part="L0")
    measured.add("width", 2, arm="shared_0")  # once, at step 0
    measured.add("lost", 1, step=50)
    measured.add("lost", float("nan"), step=100, note="nothing was lost")
    assert at_last(measured.frame()) == {"mui": 0.25, "mui.shared_0": 0.125, "width.shared_0": 2}
    assert at_last(MEASUREMENTS.frame([])) == {}
