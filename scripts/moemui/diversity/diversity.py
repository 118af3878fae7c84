"""Does a set of samples show from how many domains it comes, and at which level best (SPEC section 8)?

All tasks' samples of a checkpoint are pooled by domain; sets of n samples are drawn, spread evenly over d of the D
domains. The more sets are drawn, the more exactly they tell about these samples, and nothing more about others. So
what is tested does not rest on the number of draws: the samples are cut into disjoint parts, a part gives one number,
and a t interval over the parts is honest since parts are independent. Bootstrap resamples are no way out: they hold
samples twice, and the union of their key sets is too small. The domains are few and fixed, so nothing here says what
other domains would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui.diversity.domain_sets import FEWEST_PARTS, Plan, draw, draw_pairs, plan, split
from moemui.diversity.set_measures import Measure, measures
from moemui.experts.key_experts import EXPERT_THRESHOLD
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.statistics.intervals import CONFIDENCE, percentile
from moemui.tables.diversity import DIVERSITY, DIVERSITY_EFFECT

DRAWS = 200  # sets of each number of domains; half as many pairs of sets of each step in each part
FINER, COARSER, UNDECIDED = "neuron level resolves finer", "neuron level resolves coarser", "no difference shown"


def order_probability(*, fewer: np.ndarray, more: np.ndarray) -> float:
    """P(the second of a pair is larger) + P(equal)/2 over pairs: 0..1, 0.5 where it is chance.

    Mann–Whitney's probability of superiority, over the drawn pairs alone: other pairs of sets may share samples.
    """
    return float(np.mean(np.sign(more - fewer)) / 2 + 0.5)


def level_interval(*, values: np.ndarray, null: float) -> tuple[float, float, float]:
    """95 % t interval of the mean of independent values, float64 (parts,), and the two-sided p-value of `null`.

    Equal values have no spread to judge by: the interval has no width, p is 1 where they are `null`, else NaN.
    """
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), 1.0 if values[0] == null else float("nan")
    test = stats.ttest_1samp(values, null)
    low, high = test.confidence_interval(CONFIDENCE)
    return float(low), float(high), float(test.pvalue)


def rank_correlation(*, values: np.ndarray) -> float:
    """Spearman correlation of values (D, draws) with the number of domains 1..D; NaN where all values are equal."""
    if np.ptp(values) == 0:
        return float("nan")
    return float(stats.spearmanr(np.repeat(np.arange(len(values)), values.shape[1]), values.ravel()).statistic)


def correlation_interval(*, estimate: float, draws: int, parts: np.ndarray, part_draws: int) -> tuple[float, float]:
    """95 % interval of a Spearman correlation over `draws` sets of all samples, on Fisher's z scale.

    parts: float64, the same from `part_draws` sets of each of several disjoint parts of the samples. The variance is
    that of the parts' mean, with the noise of drawing sets, 1.06/(sets−3) (Fieller, Hartley and Pearson 1957), of all
    samples' sets in the place of the parts'; degrees of freedom by Satterthwaite, the drawing's variance being known.
    NaN where a part's correlation is not known or 1 in size, or where there are three sets or fewer.
    """
    if min(draws, part_draws) <= 3 or not (np.abs([estimate, *parts]) < 1).all():
        return float("nan"), float("nan")
    drawing = 1.06 / (draws - 3) - 1.06 / (part_draws - 3) / len(parts)
    between = np.arctanh(parts).var(ddof=1) / len(parts)
    variance = between + max(0.0, drawing)
    freedom = (len(parts) - 1) * (variance / between) ** 2 if between else np.inf
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * np.sqrt(variance))
    centre = np.arctanh(estimate)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


class Effect(NamedTuple):
    """What the parts say of one measure.

    direction: 1 rises, −1 falls, 0 neither. resolution: float64, (parts,), how often each part's pairs are in that
    order. correlation: float64, (parts,), Spearman with the number of domains; sets: the sets that each comes from.
    """

    direction: int
    resolution: np.ndarray
    correlation: np.ndarray
    sets: int


def part_effect(*, values: np.ndarray, expected: int = 0) -> Effect:
    """Resolution and correlation of a measure in each part.

    values: float64, (parts, D−1, pairs, 2), of pairs from `draw_pairs`. expected: 1 for a measure that rises with the
    number of domains by its nature, −1 for one that falls; 0: the direction that the parts together show. A direction
    taken from the values themselves lifts a resolution by chance, yet a t test of 0.5, or against one measure of
    expected direction, keeps its size: what it adds on one side it takes from the other.
    """
    # as many sets of each number of domains: the first ones of the pairs, and of the last step's the second ones too
    balanced = np.concatenate([values[..., 0], values[:, -1:, :, 1]], axis=1)
    orders = [[order_probability(fewer=step[:, 0], more=step[:, 1]) for step in part] for part in values]
    superiority = np.mean(orders, axis=1)
    # sums of exact fractions: what is 0.5 but for rounding has no direction
    direction = expected or int(np.sign(round(float(superiority.mean()) - 0.5, 12)))
    correlation = np.array([rank_correlation(values=part) for part in balanced])
    return Effect(direction, 0.5 + (direction or 1) * (superiority - 0.5), correlation, balanced[0].size)


def comparison(*, neuron: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """The neuron level's resolution minus a measure's, both float64 (parts,): difference to verdict of the table.

    The verdict is one of FINER, COARSER and UNDECIDED, the last where the 95 % interval contains 0, its ends included.
    """
    values = neuron - other
    low, high, p = level_interval(values=values, null=0.0)
    verdict = FINER if low > 0 else COARSER if high < 0 else UNDECIDED
    ends = {"difference_low": low, "difference_high": high, "difference_p": p}
    return {"difference": float(values.mean()), **ends, "verdict": verdict}


def rows(
    *,
    key_neurons: Sequence[KeyNeurons],
    texts: Mapping[str, Mapping[str, str]],
    tokens: float | None,
    order: int,
    curve_setting: Setting,
    expert_setting: Setting,
    expert_threshold: float = EXPERT_THRESHOLD,
    samples: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One checkpoint's rows of the tables `diversity` and `diversity_effect`.

    key_neurons: the files of all tasks of one checkpoint. texts: task → sample id → text. samples: n, None for as many
    as `plan` says. A domain of fewer than two samples is left out, with a note; with fewer than two domains left, or
    fewer samples in one than there are domains, there are no draws, and the rows of `diversity_effect` say why.
    Raises ValueError for files of several checkpoints, a sample without text, or `samples` that the domains can't give.
    """
    found = sorted({f"{file.model} {file.checkpoint}" for file in key_neurons})
    if len(found) != 1:
        raise ValueError(
            f"found key neurons of {', '.join(found) or 'no checkpoint'}; pass the tasks of one checkpoint"
        )
    first = key_neurons[0]
    pooled = [_text(texts, file, name) for file in key_neurons for name in file.samples.id]
    domain = np.concatenate([file.samples.domain for file in key_neurons])
    sizes = {str(name): int((domain == name).sum()) for name in sorted(set(domain))}
    kept = {name: size for name, size in sizes.items() if size > 1}
    notes = [f"without the domain {name}: {size} sample" for name, size in sizes.items() if name not in kept]
    smallest = min(kept.values(), default=0)
    chosen, reason = Plan(0, 0), ""
    if len(kept) < 2:
        reason = f"a single domain ({', '.join(kept)}), so nothing varies" if kept else "no domain has two samples"
    elif samples is None and smallest < len(kept):
        reason = f"the smallest domain has {smallest} samples, too few for one of each of the {len(kept)} domains"
    else:
        chosen = plan(sizes=list(kept.values()), samples=samples)
    identity = {"model": first.model, "checkpoint": first.checkpoint, "tokens": tokens, "order": order}
    identity["n_samples"] = chosen.n
    listed = measures(
        key_neurons=key_neurons,
        texts=pooled,
        n=max(1, chosen.n),
        curve_setting=curve_setting,
        expert_setting=expert_setting,
        expert_threshold=expert_threshold,
    )
    if reason:
        empty = _effect(len(kept), np.empty((0, 0)), None, None, []) | {"note": "; ".join([*notes, reason])}
        effects = [identity | _named(measure) | empty for measure in listed]
        return DIVERSITY.frame([]), DIVERSITY_EFFECT.frame(effects)
    pools = [np.flatnonzero(domain == name) for name in kept]
    rng = np.random.default_rng(seed)
    sets = draw(pools=pools, n=chosen.n, draws=draws, rng=rng)
    tested = [
        draw_pairs(pools=part, n=chosen.n, pairs=max(1, draws // 2), rng=rng)
        for part in split(pools=pools, parts=chosen.parts, rng=rng)
    ]
    if not tested:
        notes.append(
            f"the smallest domain has {smallest} samples: not {FEWEST_PARTS} disjoint parts with two sets each of "
            f"{chosen.n} samples, so no interval and no test"
        )
    described, effects, neuron = [], [], None
    for number, measure in enumerate(listed):
        values: np.ndarray = np.empty((0, 0))
        effect = None
        if measure.of is not None:
            values = measure.of(sets.reshape(-1, chosen.n)).reshape(len(kept), draws)
            if tested:
                stacked = np.array(tested)
                drawn = measure.of(stacked.reshape(-1, chosen.n)).reshape(stacked.shape[:-1])
                effect = part_effect(values=drawn, expected=measure.direction)
        neuron = effect if number == 0 else neuron
        own = [*notes, measure.note] if measure.note else list(notes)
        described += [identity | _named(measure) | line for line in _draws(values, len(kept), draws, "; ".join(own))]
        line = _effect(len(kept), values, effect, neuron, own)
        if measure.level == "neuron":
            own.append("the neuron level itself" if number == 0 else "the neuron level at the setting of the experts")
            line["verdict"] = ""
        effects.append(identity | _named(measure) | line | {"note": "; ".join(own)})
    return DIVERSITY.frame(described), DIVERSITY_EFFECT.frame(effects)


def _text(texts: Mapping[str, Mapping[str, str]], file: KeyNeurons, name: str) -> str:
    try:
        return texts[file.task][name]
    except KeyError:
        raise ValueError(
            f"{file.model} {file.checkpoint} {file.task}: no text of sample {name}; responses and key neurons must be "
            "of one run"
        ) from None


def _named(measure: Measure) -> dict[str, Any]:
    return {"level": measure.level, "measure": measure.name, "setting": measure.setting}


def _draws(values: np.ndarray, domains: int, draws: int, note: str) -> list[dict[str, Any]]:
    """The measured columns of `diversity` of one measure, for each number of domains; values: (D, draws) or empty."""
    records = []
    for d in range(1, domains + 1):
        gap: dict[str, Any] = dict.fromkeys(("mean", "sd", "low", "high"), np.nan)
        if len(values):
            drawn = values[d - 1]
            gap = {"mean": drawn.mean(), "sd": drawn.std(ddof=1) if draws > 1 else 0.0}
            gap["low"], gap["high"] = percentile(means=drawn)
        records.append({"n_domains": d, "draws": draws, **gap, "note": note})
    return records


def _effect(
    domains: int, values: np.ndarray, effect: Effect | None, neuron: Effect | None, notes: list[str]
) -> dict[str, Any]:
    """The measured columns of `diversity_effect` of one measure; values: (D, draws) or empty. Adds to the notes."""
    gap = np.nan
    record: dict[str, Any] = {"n_domains": domains, "parts": 0, "direction": "", "verdict": ""}
    for name in ("spearman", "resolution", "difference"):
        record |= {name: gap, f"{name}_low": gap, f"{name}_high": gap}
    record["difference_p"] = gap
    if len(values):
        record["spearman"] = rank_correlation(values=values)
        if np.isnan(record["spearman"]):
            notes.append("the same in all draws: no correlation")
    if effect is not None:
        record["parts"] = len(effect.resolution)
        record["direction"] = {1: "rises", -1: "falls", 0: ""}[effect.direction]
        record["spearman_low"], record["spearman_high"] = correlation_interval(
            estimate=record["spearman"], draws=values.size, parts=effect.correlation, part_draws=effect.sets
        )
        if np.isnan(record["spearman_low"]) and not np.isnan(record["spearman"]):
            notes.append("a part has no correlation below 1: no interval of it")
        record["resolution"] = float(effect.resolution.mean())
        low, high, _ = level_interval(values=effect.resolution, null=0.5)
        record |= {"resolution_low": max(0.0, low), "resolution_high": min(1.0, high)}
        if neuron is not None and neuron is not effect:
            record |= comparison(neuron=neuron.resolution, other=effect.resolution)
            if np.isnan(record["difference_p"]):
                notes.append("the difference is the same in all parts: no p")
    return record
