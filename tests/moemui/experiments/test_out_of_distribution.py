"""MUI, accuracy and other problems: partial correlations against textbook and statsmodels, and a real run."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from moemui.experiments.measurements import Measured
from moemui.experiments.out_of_distribution import QUANTITIES, Settings
from moemui.experiments.out_of_distribution import measure as measuring
from moemui.experiments.out_of_distribution.effects import EFFECTS, effects, partial
from moemui.experiments.probe import Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.models import synthetic_variants as variants
from moemui.models.recipe import Recipe
from moemui.models.training import train

STEPS = (10, 20, 30, 40, 50, 60)


def made_up(mui, accuracy, ood, steps=STEPS, outcome="token_accuracy"):
    """Measurements of tasks (rows of the arrays) at steps (columns); every task has re-worded problems alone."""
    measured = Measured("out_of_distribution", 0, QUANTITIES)
    for row in range(len(mui)):
        for column, step in enumerate(steps):
            at = {"step": step, "task": f"t{row}"}
            measured.add("mui", mui[row, column], **at)
            for name in ("accuracy", "token_accuracy", "log_likelihood"):
                scale = 1 if name == outcome else -1  # the others say the opposite
                measured.add(name, scale * accuracy[row, column], **at, part="same")
                measured.add(name, ood[row, column], **at, part="reworded")
    return measured.frame()


def noise(seed, tasks=3, steps=6):
    return np.random.default_rng(seed).normal(size=(3, tasks, steps))


def cells(mui, accuracy, ood):
    tasks, steps = np.indices(mui.shape)
    columns = {"mui": mui, "accuracy": accuracy, "ood": ood, "task": tasks, "step": steps}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def values(frame, **settings):
    return {name: value for name, (value, _) in effects(frame, Settings(**{"after": 0, **settings})).items()}


def test_partial_correlation_is_the_textbook_formula_of_three_pairwise_ones():
    one = cells(*noise(0, tasks=1))
    r = one[["mui", "accuracy", "ood"]].corr()
    a, b, c = r.loc["mui", "ood"], r.loc["mui", "accuracy"], r.loc["accuracy", "ood"]
    expected = (a - b * c) / np.sqrt((1 - b**2) * (1 - c**2))
    assert partial(one, "mui", "ood", ("accuracy",)) == (pytest.approx(expected), "")


def test_partial_correlations_follow_from_the_t_values_of_a_regression():
    mui, accuracy, ood = noise(1)
    found = values(made_up(mui, accuracy, ood))

    def expected(table, formula, name="mui"):
        fit = smf.ols(formula, table).fit()
        return fit.tvalues[name] / np.sqrt(fit.tvalues[name] ** 2 + fit.df_resid)

    levels = cells(mui, accuracy, ood)
    changes = cells(*(np.diff(part, axis=1) for part in (mui, accuracy, ood)))
    assert found["mui_given_accuracy"] == pytest.approx(expected(levels, "ood ~ mui + accuracy + C(task)"))
    both = expected(levels, "ood ~ mui + accuracy + C(task) + C(step)")
    assert found["mui_given_accuracy_same_step"] == pytest.approx(both)
    assert found["mui_given_accuracy_changes"] == pytest.approx(expected(changes, "ood ~ mui + accuracy + C(task)"))
    assert found["mui_alone"] == pytest.approx(expected(levels, "ood ~ mui + C(task)"))
    assert found["accuracy_alone"] == pytest.approx(expected(levels, "ood ~ accuracy + C(task)", "accuracy"))
    given_mui = expected(levels, "ood ~ mui + accuracy + C(task)", "accuracy")
    assert found["accuracy_given_mui"] == pytest.approx(given_mui)
    within = [expected(part, "ood ~ mui + accuracy") for _, part in levels.groupby("task")]
    assert found["mui_given_accuracy_within"] == pytest.approx(np.tanh(np.mean(np.arctanh(within))))


def test_gain_is_that_of_predictions_for_steps_left_out():
    levels = cells(*noise(2))

    def error(formula):
        total = 0.0
        for step in levels["step"].unique():
            rest, own = levels[levels["step"] != step], levels[levels["step"] == step]
            total += ((own["ood"] - smf.ols(formula, rest).fit().predict(own)) ** 2).sum()
        return total

    alone, accuracy, both = (error(f"ood ~ C(task){more}") for more in ("", " + accuracy", " + accuracy + mui"))
    found = values(made_up(*noise(2)))
    assert found["predicted_by_accuracy"] == pytest.approx(1 - accuracy / alone)
    assert found["gain_of_mui"] == pytest.approx((accuracy - both) / alone)


def test_a_pure_effect_of_mui_beside_accuracy_is_found_with_its_sign():
    mui, accuracy, _ = noise(3)
    found = values(made_up(mui, accuracy, 2 * accuracy - mui))
    names = [
        name for name in found if name.startswith("mui_given_accuracy") and not name.endswith(("longer", "larger"))
    ]
    assert len(names) == 5
    assert [found[name] for name in names] == pytest.approx([-1.0] * 5)
    assert found["predicted_by_accuracy"] + found["gain_of_mui"] == pytest.approx(1)


def test_what_moves_with_time_alone_is_gone_from_changes_and_from_tasks_at_one_step():
    own_mui, accuracy, own_ood = noise(4, tasks=4)
    trend = 100 * np.arange(len(STEPS))
    with_trend, without = (values(made_up(own_mui + t, accuracy, own_ood - t)) for t in (trend, 0 * trend))
    assert with_trend["mui_given_accuracy"] < -0.99
    for name in ("mui_given_accuracy_changes", "mui_given_accuracy_same_step"):
        assert with_trend[name] == pytest.approx(without[name], abs=1e-6)
        assert abs(without[name]) < 0.9


def test_tasks_own_levels_and_the_untrained_model_make_no_difference():
    mui, accuracy, ood = noise(5)
    plain, shift = made_up(mui, accuracy, ood), np.array([[0], [7], [-3]])
    shifted = made_up(mui + shift, accuracy - shift, ood + 2 * shift)
    untrained = made_up(*(9 * part for part in noise(6, steps=1)), steps=(0,))
    for other in (shifted, pd.concat([plain, untrained])):
        assert values(other) == pytest.approx(values(plain), nan_ok=True)


def test_the_outcome_named_in_the_settings_is_graded():
    mui, accuracy, ood = noise(7)
    frame = made_up(mui, accuracy, ood, outcome="log_likelihood")
    likelihood = values(frame, outcome="log_likelihood")
    assert likelihood["mui_given_accuracy"] == likelihood["mui_given_likelihood"]
    assert likelihood["accuracy_alone"] == pytest.approx(-values(frame)["accuracy_alone"])


def test_other_problems_are_averaged_by_task_and_graded_by_kind():
    mui, accuracy, ood = noise(8)
    frame = made_up(mui, accuracy, ood)
    longer = frame[(frame["part"] == "reworded") & (frame["task"] == "t1")]
    more = pd.concat([frame, longer.assign(part="longer", value=longer["value"] * 3)])
    mean = ood.copy()
    mean[1] *= 2
    assert values(more)["mui_given_accuracy"] == pytest.approx(
        values(made_up(mui, accuracy, mean))["mui_given_accuracy"]
    )
    assert values(more)["mui_given_accuracy_reworded"] == pytest.approx(values(frame)["mui_given_accuracy"])
    alone = partial(cells(mui[1:2], accuracy[1:2], ood[1:2]), "mui", "ood", ("accuracy",))[0]
    assert values(more)["mui_given_accuracy_longer"] == pytest.approx(alone)


def test_what_is_not_defined_has_a_note():
    mui, accuracy, _ = noise(9)
    found = effects(made_up(mui, accuracy, 0 * mui + 0.25), Settings(after=0))
    assert set(found) == set(EFFECTS)
    assert all(np.isnan(value) == bool(note) for value, note in found.values())
    assert found["mui_given_accuracy"][1] == "nothing varies in ood beyond accuracy, task"
    assert found["gain_of_mui"][1] == "OOD accuracy does not vary, so there is nothing to predict"
    assert found["mui_given_accuracy_longer"][1].startswith("0 cells leave 0 degrees of freedom")
    assert found["spread"] == (0, "")
    few = effects(made_up(mui[:, :2], accuracy[:, :2], mui[:, 2:4], steps=(1, 2)), Settings(after=0))
    assert few["gain_of_mui"][1] == "2 steps; predictions of steps left out need 5"
    assert few["mui_given_accuracy_within"][1] == "not defined for t0, t1, t2"
    assert few["mui_given_accuracy_changes"][1] == "3 cells leave 0 degrees of freedom; a correlation needs 2"


def test_spread_is_within_tasks():
    _, accuracy, _ = noise(10, tasks=2)
    ood = np.array([[0.0, 1, 0, 1, 0, 1], [5.0, 5, 5, 5, 5, 5]])  # variances 0.3 and 0
    assert values(made_up(accuracy + 1, accuracy, ood))["spread"] == pytest.approx(np.sqrt(0.15))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"examples": 1}, "examples is 1; accuracy rests on at least 2 problems"),
        ({"outcome": "luck"}, "outcome is 'luck'; allowed are accuracy, token_accuracy, log_likelihood"),
    ],
)
def test_settings_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Settings(**knobs)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steady")
    recipe = Recipe(
        "olmoe", hidden=16, layers=1, heads=2, experts=4, neurons_per_expert=8, batch=8, steps=12, warm_up=2,
        learning_rate=1e-2, save_steps=(0, 4, 8, 12),
    )  # fmt: skip
    tasks = {"sorting": 0, "modular": 0}
    tokens = train(recipe, tasks, folder).set_index("step")["tokens"]
    seen = {step: int(tokens[step]) if step else 0 for step in recipe.save_steps}
    return Setup({"steady": Cohort("steady", folder, recipe, tasks, seen)}, 0, 10, Reading(threshold=0.1))


def test_a_real_run_measures_every_task_kind_and_step_and_repeats(setup):
    frame = measuring.measure(setup, Settings(examples=12, after=0))
    pd.testing.assert_frame_equal(frame, measuring.measure(setup, Settings(examples=12, after=0)))
    # 4 steps × (2 MUIs + 3 quantities × (sorting: same, longer, reworded; modular: larger too))
    assert frame.groupby("quantity").size().to_dict() == {
        "mui": 8, "accuracy": 28, "token_accuracy": 28, "log_likelihood": 28,
    }  # fmt: skip
    assert (frame.loc[frame["quantity"] == "mui", "value"].between(0, 1)).all()
    assert (frame.loc[frame["quantity"] == "log_likelihood", "value"] < 0).all()
    found = frame.set_index(["quantity", "step", "task", "part"])["value"]
    likelihood = found["log_likelihood"]
    assert likelihood[12, "sorting", "same"] > likelihood[0, "sorting", "same"] + 0.5
    cohort = setup.cohorts["steady"]
    probe = cohort.probe(8, setup.reading)
    longer = probe.answer(variants.examples("modular", "longer", 12, 0))
    assert found["token_accuracy", 8, "modular", "longer"] == pytest.approx(longer.token_accuracy.mean())
    needed = probe.needed(cohort.held_out("modular", 10))
    assert found["mui", 8, "modular", ""] == pytest.approx(needed.mui())
    assert set(effects(frame, Settings(examples=12, after=0))) == set(EFFECTS)


def test_more_than_one_cohort_is_refused(setup):
    two = dataclasses.replace(setup, cohorts={**setup.cohorts, "more": setup.cohorts["steady"]})
    with pytest.raises(ValueError, match="there are 2 cohorts; out_of_distribution takes exactly one"):
        measuring.measure(two, Settings(after=0))
