"""Masking: what key neurons cost beside random ones."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, shortened, verdict
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, key_in_words, points, sign, tally

# The paper's numbers, as fractions where they are shares.
PAPER_LOSS_KEY, PAPER_LOSS_RANDOM = 0.10, 0.02
BALANCED = 0.1  # standardised mean difference below which two groups count as balanced


def masking(tables: Tables, choice: Choice) -> Finding:
    """What masking key neurons costs beside random ones of the same experts, and of the same activation frequency.

    A model supports the paper where its mean losses lie beyond the paper's limits with their whole intervals, and
    contradicts it where one of them lies on the other side.
    """
    every = _graded(tables, choice)
    rows, matched = every[every["control"] == "expert"], every[every["control"] == "frequency"]
    if rows.empty:
        raise NothingToShow("Masking was measured on no task that is graded.")
    said, high_key, low_random = {}, [], []
    for (model, checkpoint), own in rows.groupby(["model", "checkpoint"], sort=False):
        key, random, difference = (views.mean_column(own, f"loss_{name}") for name in ("key", "random", "difference"))
        high_key.append(int(key.low > PAPER_LOSS_KEY) - int(key.high < PAPER_LOSS_KEY))
        low_random.append(int(random.high < PAPER_LOSS_RANDOM) - int(random.low > PAPER_LOSS_RANDOM))
        signs = [sign(estimate(row, "loss_difference")) for _, row in own.iterrows()]
        by_task = tally(
            f"key neurons cost more on {signs.count(1)}",
            (signs.count(0), f"undecided on {signs.count(0)}"),
            (signs.count(-1), f"less on {signs.count(-1)}"),
        )
        where = f"{model} at {checkpoint}"
        said[where] = [
            f"{where}: masking key neurons costs {points(key)} of accuracy, as many random ones of the same experts "
            f"{points(random)}, mean over {count(len(own), 'task')}; difference {points(difference)}: "
            f"{_outcome(sign(difference))}. By task, {by_task}."
            f"{_log_likelihood(own)}"
        ]
        beside = matched[(matched["model"] == model) & (matched["checkpoint"] == checkpoint)]
        said[where] += [f"{where}, {_matched(beside)}"] if len(beside) else []
    sentences = [
        *shortened(said, "masking_effect"),
        "The paper expects a loss, here read as points, above 10 % for key neurons "
        f"({_met(high_key)}) and below 2 % for random ones ({_met(low_random)}).",
    ]
    caveat = (
        f"With {key_in_words(choice.masking)}. Losses are in percentage points, negative where accuracy rises; a small "
        "loss may also mean that there was little accuracy to lose."
    )
    return Finding(
        "Masking", tuple(sentences), caveat, verdict([min(both) for both in zip(high_key, low_random, strict=True)])
    )


def mean_difference(tables: Tables, choice: Choice, model: str) -> views.Estimate | None:
    """How much more accuracy key neurons cost than random ones of the same experts, mean over a model's tasks.

    None where that was not measured. Of several masked checkpoints the last in the table.
    """
    try:
        rows = _graded(tables, choice)
    except NothingToShow:
        return None
    rows = rows[(rows["control"] == "expert") & (rows["model"] == model)]
    rows = rows[rows["checkpoint"] == rows["checkpoint"].iloc[-1]] if len(rows) else rows
    return views.mean_column(rows, "loss_difference") if len(rows) else None


def _graded(tables: Tables, choice: Choice) -> pd.DataFrame:
    losses = ["loss_key", "loss_random", "loss_difference"]
    return views.at(tables["masking_effect"], choice.masking, "masking_effect").dropna(subset=losses)


def _met(outcomes: list[int]) -> str:
    return tally(
        f"so on {outcomes.count(1)} of {count(len(outcomes), 'model')}",
        (outcomes.count(-1), f"not so on {outcomes.count(-1)}"),
        (outcomes.count(0), f"undecided on {outcomes.count(0)}"),
    )


def _outcome(of: int) -> str:
    return {1: "key neurons cost more", 0: "undecided", -1: "key neurons cost less"}[of]


def _log_likelihood(own: pd.DataFrame) -> str:
    """The same in nats where every task has it, since accuracy can have little to lose."""
    if own["nll_difference"].isna().any():
        return ""
    more = views.mean_column(own, "nll_difference")
    return (
        f" The reference answers' negative log-likelihood rises by {decimal(more)} nats a token more than with random "
        f"ones: {_outcome(sign(more))}."
    )


def _matched(own: pd.DataFrame) -> str:
    """The difference to controls of the same activation frequency, and how well they are matched."""
    still = views.mean_column(own, "loss_difference")
    text = (
        f"beside controls chosen to be switched on as often as the key neurons: difference {points(still)}, "
        f"{_outcome(sign(still))}."
    )
    apart = own["activation_frequency_smd"].dropna().abs()
    if apart.empty:
        return f"{text} How well these are matched was not measured."
    loose = int((apart > BALANCED).sum())
    worst = f"standardised difference of activation frequency up to {decimal(float(apart.max()))}, no interval"
    if not loose:
        return f"{text} They are balanced on every task ({worst})."
    return (
        f"{text} These controls are not balanced on {loose} of {count(len(apart), 'task')} ({worst}; balanced: "
        f"{BALANCED:g} or less), so being switched on more often may explain a part."
    )
