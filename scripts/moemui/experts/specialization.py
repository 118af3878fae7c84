"""Which experts belong to a domain (SPEC section 5)? Mutual information of "active in the sample" and its domain.

The samples of all tasks of a checkpoint are pooled. Domains are sets of tasks, so an expert that follows one task
follows its domain as well: the test can't tell them apart where a domain has one task. Mutual information is never
below 0, and above it by chance; what chance gives stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint

from moemui.experts.key_experts import activities
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.statistics import intervals
from moemui.tables.experts import SPECIALIZATION, SPECIALIZATION_SUMMARY
from moemui.tables.table import conform

ALPHA = 0.05
FEWEST_EXPECTED = 5  # below it in a cell of the table, the G statistic is no chi-square: Cochran's rule
RANDOM_TABLES = 9999
ROUNDING = 1e-9  # bits by which equal statistics may differ


class Independence(NamedTuple):
    """Tests of experts against domains: the p-values, and whether random tables gave them; (experts,) each."""

    p: np.ndarray
    monte_carlo: np.ndarray


def mutual_information(*, active: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """I = H(active) − Σ_d (n_d/n) H(active | domain d), in bits: float64, (experts,), 0..1.

    active: samples of each domain in which the expert is active: int, (experts, domains) or (domains,). sizes: samples
    of each domain, n_d ≥ 1. 0 for an expert that is active in no or every sample. G = 2 n ln 2 · I is the statistic of
    the G test.
    """
    n = sizes.sum()
    within = (_entropy(active / sizes) * sizes).sum(axis=-1) / n
    return np.maximum(_entropy(active.sum(axis=-1) / n) - within, 0.0)


def _entropy(share: np.ndarray) -> np.ndarray:
    return (special.entr(share) + special.entr(1 - share)) / np.log(2)


def expected_information(*, n_active: int, sizes: np.ndarray) -> float:
    """Mean mutual information, in bits, if the domains were dealt out to the samples at random.

    Exact: the active samples of a domain are hypergeometric then (Vinh et al. 2010, for two classes). scipy has no
    function for it. sizes: int64, (domains,), n_d ≥ 1.
    """
    n, within = int(sizes.sum()), 0.0
    for size in map(int, sizes):
        mean = n_active * size / n
        reach = 10 * np.sqrt(mean) + 30  # beyond it the chance is below 1e-20
        fewest = max(0, n_active - (n - size), int(mean - reach))
        active = np.arange(fewest, min(n_active, size, int(mean + reach)) + 1)
        chances = np.exp(stats.hypergeom.logpmf(active, n, n_active, size))  # a hundred times faster than pmf
        within += size / n * float(chances @ _entropy(active / size))
    return max(0.0, float(_entropy(np.array(n_active / n))) - within)


def selectivity(*, information: np.ndarray, expected: np.ndarray, n_active: np.ndarray, n: int) -> np.ndarray:
    """max(0, (I − E[I]) / (H(active) − E[I])), the adjusted uncertainty coefficient: float64, (experts,), 0..1.

    0 at chance or below, 1 where the domain decides whether the expert is active; 0 where nothing is left to explain.
    """
    room = _entropy(n_active / n) - expected
    share = np.divide(information - expected, room, out=np.zeros_like(information), where=room > ROUNDING)
    return np.clip(share, 0.0, 1.0)


def independence(*, active: np.ndarray, sizes: np.ndarray, seed: int) -> Independence:
    """Tests that being active does not depend on the domain; p = 1 for an expert active in no or every sample.

    The G test (scipy's chi2_contingency) where every expected count is at least 5; elsewhere the share of random
    tables with the same margins whose G is as large or larger, the table itself included (so p ≥ 1/10,000).
    active: int64, (experts, domains). sizes: int64, (domains,).
    """
    n, totals = int(sizes.sum()), active.sum(axis=1)
    p, sampled = np.ones(len(active)), np.zeros(len(active), dtype=bool)
    information = mutual_information(active=active, sizes=sizes)
    for expert in np.flatnonzero((totals > 0) & (totals < n)) if len(sizes) > 1 else ():
        few = min(int(totals[expert]), n - int(totals[expert]))
        if few * sizes.min() / n >= FEWEST_EXPECTED:
            table = np.stack([active[expert], sizes - active[expert]])
            found = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
            p[expert] = found.pvalue
        else:
            # I is the same for the samples in which an expert is active and for those in which it is not.
            by_chance = _random_information(few, tuple(map(int, sizes)), seed)
            as_large = np.count_nonzero(by_chance >= information[expert] - ROUNDING)
            p[expert], sampled[expert] = (1 + as_large) / (1 + RANDOM_TABLES), True
    return Independence(p, sampled)


@lru_cache(maxsize=256)  # many experts are active in equally few samples
def _random_information(n_active: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Mutual information of random tables with these margins: float64, (RANDOM_TABLES,)."""
    generator = np.random.default_rng((seed, n_active))
    tables = stats.multivariate_hypergeom(list(sizes), n_active).rvs(RANDOM_TABLES, random_state=generator)
    return mutual_information(active=tables, sizes=np.array(sizes))


def over_represented(*, active: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Domains in which an expert is more often active than in the others: bool, (experts, domains).

    Fisher's exact test, one-sided, a domain against the rest, which is the tail of the hypergeometric distribution;
    Benjamini–Hochberg over the domains of an expert, at 5 %.
    """
    n, totals = int(sizes.sum()), active.sum(axis=1, keepdims=True)
    p = np.clip(stats.hypergeom.sf(active - 1, n, totals, sizes), 0.0, 1.0)
    return stats.false_discovery_control(p, axis=1, method="bh") < ALPHA


def rows(
    *,
    key_neurons: Sequence[KeyNeurons],
    tokens: float | None,
    order: int,
    setting: Setting,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one checkpoint in the tables `specialization` and `specialization_summary`, at one setting.

    key_neurons: the files of the checkpoint, one a task. With samples of a single domain nothing is tested, as the
    note says. Raises ValueError as `experts.activities`.
    """
    pooled = np.concatenate(activities(key_neurons=key_neurons, setting=setting))
    names, domain = np.unique(
        np.concatenate([file.samples.domain for file in key_neurons]).astype(str), return_inverse=True
    )
    geometry, n, sizes = key_neurons[0].geometry, len(pooled), np.bincount(domain)
    active = np.stack([pooled[domain == number].sum(axis=0) for number in range(len(names))], axis=1)
    totals = active.sum(axis=1)
    testable = (totals > 0) & (totals < n) & (len(names) > 1)
    information = np.where(testable, mutual_information(active=active, sizes=sizes), 0.0)
    by_chance = {total: expected_information(n_active=int(total), sizes=sizes) for total in set(totals[testable])}
    expected = np.array([by_chance.get(total, 0.0) for total in totals])
    tests, q = independence(active=active, sizes=sizes, seed=seed), np.ones(len(totals))
    if testable.any():
        q[testable] = np.clip(stats.false_discovery_control(tests.p[testable], method="bh"), 0.0, 1.0)
    more = over_represented(active=active, sizes=sizes) & (q < ALPHA)[:, None]
    identity = {
        "model": key_neurons[0].model,
        "checkpoint": key_neurons[0].checkpoint,
        "tokens": tokens,
        "order": order,
        **setting._asdict(),
        "n_domains": len(names),
        "n_samples": n,
    }
    frame = pd.DataFrame(
        {
            **identity,
            "expert": geometry.expert_names,
            "layer": np.array([layer.index for layer in geometry.layers])[geometry.expert_layer],
            "kind": np.where(geometry.expert_is_shared, "shared", "routed"),
            "n_active": totals,
            "mutual_information": information,
            "mutual_information_expected": expected,
            "selectivity": selectivity(information=information, expected=expected, n_active=totals, n=n),
            "p": np.where(testable, tests.p, 1.0),
            "q": q,
            "domains": [", ".join(names[mask]) for mask in more],
            **_top(active, sizes, names, testable),
            "note": [
                _note(total, n, len(names), sampled) for total, sampled in zip(totals, tests.monte_carlo, strict=True)
            ],
        }
    )
    none = "one domain: no test" if len(names) == 1 else "no testable expert"
    summaries = [
        identity | {"kind": kind} | _summary(frame[frame["kind"] == kind], testable[frame["kind"] == kind], none, seed)
        for kind in ("routed", "shared")
        if (frame["kind"] == kind).any()
    ]
    return conform(frame, SPECIALIZATION), SPECIALIZATION_SUMMARY.frame(summaries)


def _note(total: int, n: int, n_domains: int, sampled: bool) -> str:
    if total in (0, n):
        return f"active in {'no' if total == 0 else 'every'} sample"
    if n_domains == 1:
        return "one domain: no test"
    return f"p from {RANDOM_TABLES:,} random tables: few samples expected" if sampled else ""


def _top(active: np.ndarray, sizes: np.ndarray, names: np.ndarray, testable: np.ndarray) -> dict[str, Any]:
    """The columns of the domain where each expert is most often active (of equal ones the first by name)."""
    best = (active / sizes).argmax(axis=1)
    there, out_of = active[np.arange(len(best)), best], sizes[best]
    columns: dict[str, Any] = {"top_domain": np.where(testable, names[best], "")}
    for name, successes, trials in (
        ("frequency_top", there, out_of),
        ("frequency_elsewhere", active.sum(axis=1) - there, sizes.sum() - out_of),
    ):
        shown, allowed = np.where(testable, successes, 0), np.where(testable, trials, 1)
        low, high = proportion_confint(shown, allowed, alpha=1 - intervals.CONFIDENCE, method="wilson")
        for suffix, values in (("", shown / allowed), ("_low", np.clip(low, 0, 1)), ("_high", np.clip(high, 0, 1))):
            columns[name + suffix] = np.where(testable, values, np.nan)
    return columns


def _summary(frame: pd.DataFrame, testable: np.ndarray, none: str, seed: int) -> dict[str, Any]:
    """The measured columns of a `specialization_summary` row, from the rows of a kind; none: the note without any."""
    information = frame["mutual_information"].to_numpy()[testable]
    gap, note = float("nan"), ""
    mean, low, high, expected = gap, gap, gap, gap
    if len(information):
        mean, expected = float(information.mean()), float(frame["mutual_information_expected"][testable].mean())
    if len(information) > 1:
        low, high = intervals.mean_interval(values=information, seed=seed)
    if len(information) < 2:
        note = none if not len(information) else "one testable expert: no interval"
    return {
        "n_experts": len(frame),
        "n_active": int((frame["n_active"] > 0).sum()),
        "n_testable": len(information),
        "n_specialised": int((frame["q"] < ALPHA).sum()),
        "mean_mutual_information": mean,
        "mean_mutual_information_low": low,
        "mean_mutual_information_high": high,
        "mean_mutual_information_expected": expected,
        "note": note,
    }
