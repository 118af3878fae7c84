"""Utilization decay (SPEC section 8): how fast incidence q_u falls from the most used neurons to the others.

q_u is the number of samples in which neuron u is key. Laws of q_u among the neurons with q_u ≥ xmin, all of them on
xmin..n, since no neuron is key in more than the n samples:

    power law            P(k) ∝ k^−α
    log-normal           P(k) ∝ k^−1 · exp(−(ln k − μ)² / 2σ²)
    exponential          P(k) ∝ exp(−λk)
    truncated power law  P(k) ∝ k^−α · exp(−λk)

Method of Clauset, Shalizi & Newman 2009 with the package `powerlaw`: maximum likelihood, the xmin with the least
Kolmogorov–Smirnov distance, Vuong's likelihood-ratio test. The bound decides: an unbounded power law spends much of
its mass on q_u that can't be, and loses for that alone. `powerlaw` takes a bound xmax too, but its laws disagree on
whether it belongs to the support, so all are normalised by their sum over the support (`Bounded`).

What it can't say: neurons of one model are not independent, so intervals are too narrow and p-values too small; a
straight line in a log-log plot over a decade or two fits many laws.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from powerlaw import distributions as laws
from powerlaw.statistics import loglikelihood_ratio

from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.statistics.intervals import Z
from moemui.tables.laws import DECAY, DECAY_CURVE

ALL_TASKS = "all"
FEWEST = 50  # neurons in a tail (Clauset et al. 2009 find estimates unreliable below about 50)
DISTINCT = 3  # values of q_u in a tail: two points fit every law
DRAWS = 100
SIGNIFICANT = 0.05
POINTS = 60
STEEPEST = 20.0  # bound of the search for α; the shallowest is 0, which does not decay
TINY = 1e-300  # a probability whose logarithm is finite
CAVEAT = "neurons are not independent, so the interval is too narrow and p-values are too small"


class Bounded:
    """Makes a law of `powerlaw` a discrete one on xmin..xmax, normalised by its sum over these numbers."""

    xmin: float
    xmax: float
    data: np.ndarray

    def support(self) -> np.ndarray:
        """xmin..xmax: float64."""
        return np.arange(int(self.xmin), int(self.xmax) + 1, dtype=float)

    def log_density(self, k: np.ndarray) -> np.ndarray:
        """ln P(k) up to a constant: float64, the shape of k."""
        raise NotImplementedError

    def pdf(self, data: np.ndarray | None = None) -> np.ndarray:
        """P(k) for each k of `data`, tiny where the parameters are out of range: float64, its shape."""
        places = self._places(data)
        if not self.in_range():  # type: ignore[attr-defined]
            return np.full(len(places), TINY)
        logarithms = self.log_density(self.support())
        chance = np.exp(logarithms - logarithms.max())  # so that not all of it can underflow
        return np.maximum(chance / chance.sum(), TINY)[places]

    def cdf(self, data: np.ndarray | None = None) -> np.ndarray:
        """P(q < k) for each k of `data`, as powerlaw's distances take it of the data too: float64, its shape."""
        return np.concatenate([[0.0], np.cumsum(self.pdf(self.support()))])[self._places(data)]

    def _places(self, data: np.ndarray | None) -> np.ndarray:
        return np.asarray(self.data if data is None else data).astype(int) - int(self.xmin)


class PowerLaw(Bounded, laws.Power_Law):
    """k^−α."""

    def log_density(self, k: np.ndarray) -> np.ndarray:
        """As `Bounded.log_density`."""
        return -self.alpha * np.log(k)


class Lognormal(Bounded, laws.Lognormal):
    """k^−1 · exp(−(ln k − μ)² / 2σ²)."""

    def log_density(self, k: np.ndarray) -> np.ndarray:
        """As `Bounded.log_density`."""
        return -np.log(k) - (np.log(k) - self.mu) ** 2 / (2 * self.sigma**2)


class Exponential(Bounded, laws.Exponential):
    """exp(−λk)."""

    def log_density(self, k: np.ndarray) -> np.ndarray:
        """As `Bounded.log_density`."""
        return -self.Lambda * k


class TruncatedPowerLaw(Bounded, laws.Truncated_Power_Law):
    """k^−α · exp(−λk)."""

    def log_density(self, k: np.ndarray) -> np.ndarray:
        """As `Bounded.log_density`."""
        return -self.alpha * np.log(k) - self.Lambda * k


ALTERNATIVES: Mapping[str, Any] = {
    "lognormal": Lognormal,
    "exponential": Exponential,
    "truncated_power_law": TruncatedPowerLaw,
}
CONTAINING = ("lognormal", "truncated_power_law")  # alternatives that have the power law as a case or a limit
NAMES = {
    "lognormal": "log-normal",
    "exponential": "exponential",
    "truncated_power_law": "truncated power law",
}


def _fitted(law: Any, tail: np.ndarray, xmin: int, n: int) -> Any:
    """A law of powerlaw fitted to a tail of q_u, ascending: float64, (n_tail,)."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # it warns of parameters near their bounds, which `noise_flag` says too, and overflows on the way to a fit
        warnings.simplefilter("ignore")
        return law(
            data=tail, xmin=float(xmin), xmax=float(n), discrete=True, parameter_ranges={"alpha": [0, STEEPEST]},
            verbose=0,
        )  # fmt: skip


class Tail(NamedTuple):
    """A power law fitted to q_u ≥ xmin: α with standard error and 95 % interval, KS distance, neurons in the tail."""

    xmin: int
    n_tail: int
    alpha: float
    alpha_low: float
    alpha_high: float
    alpha_se: float
    ks: float


def power_law(*, incidence: np.ndarray, n: int, xmin: int) -> Tail | None:
    """The bounded power law that fits the q_u ≥ xmin best; None where its α lies outside 0..20.

    incidence: q_u of any neurons: int64, (neurons,); those below xmin are left out. n: samples.
    Standard error: 1 / √(n_tail · Var(ln q)) under the fitted law, the inverse information of an exponential family
    (powerlaw's (α−1)/√n_tail is that of an unbounded continuous law). xmin counts as known. Raises ValueError for a q_u
    above n, or fewer than two values in the tail.
    """
    tail = _tail(incidence, n, xmin)
    if len(np.unique(tail)) < 2:
        raise ValueError(f"the tail from xmin = {xmin} has {len(np.unique(tail))} values; a law takes two or more")
    law = _fitted(PowerLaw, tail, xmin, n)
    if law.noise_flag:
        return None
    logarithms, chance = np.log(law.support()), law.pdf(law.support())
    spread = float(chance @ logarithms**2 - (chance @ logarithms) ** 2)
    alpha, error = float(law.alpha), 1 / float(np.sqrt(len(tail) * spread))
    return Tail(xmin, len(tail), alpha, alpha - Z * error, alpha + Z * error, error, float(law.D))


def _tail(incidence: np.ndarray, n: int, xmin: int) -> np.ndarray:
    if len(incidence) and int(incidence.max()) > n:
        raise ValueError(f"a neuron is key in {int(incidence.max())} samples, but there are only {n}")
    if xmin < 1:
        raise ValueError(f"xmin is {xmin}; a neuron of the tail is key in at least one sample")
    return np.sort(incidence[incidence >= xmin]).astype(float)


def best_tail(*, incidence: np.ndarray, n: int) -> Tail | None:
    """The tail with the least KS distance from its power law; None where no xmin gives a fit.

    Candidates: every q_u that occurs and leaves a tail of 50 neurons and 3 values or more. That xmin is chosen from the
    same data is not in α's interval: on draws that follow a power law from q = 10 on it held α in 91 % of 300 cases.
    """
    values, counts = np.unique(incidence[incidence > 0], return_counts=True)
    sizes = counts[::-1].cumsum()[::-1]
    enough = (sizes >= FEWEST) & (np.arange(len(values))[::-1] + 1 >= DISTINCT)
    tails = (power_law(incidence=incidence, n=n, xmin=int(value)) for value in values[enough])
    return min((tail for tail in tails if tail is not None), key=lambda tail: tail.ks, default=None)


def fit_probability(*, tail: Tail, n: int, seed: int | Sequence[int], draws: int = DRAWS) -> float:
    """Share of draws of n_tail values from the fitted power law that lie as far from their own fit or farther.

    Clauset's bootstrap with xmin held, (1 + farther) / (1 + draws). The data's xmin was chosen for its small distance
    and the draws' is not, so p is too high: a small one rejects the power law, a large one does not support it.
    """
    generator = np.random.default_rng(seed)
    support = np.arange(tail.xmin, n + 1)
    chance = support**-tail.alpha
    distances = []
    for values in generator.choice(support, size=(draws, tail.n_tail), p=chance / chance.sum()):
        found = power_law(incidence=values, n=n, xmin=tail.xmin) if np.ptp(values) else None
        distances.append(0.0 if found is None else found.ks)
    return (1 + int(np.sum(np.array(distances) >= tail.ks))) / (1 + draws)


class Comparison(NamedTuple):
    """Log-likelihood of the power law less the alternative's, in nats, and p of that being chance."""

    ratio: float
    p: float


def compare(*, incidence: np.ndarray, n: int, xmin: int) -> dict[str, Comparison]:
    """The bounded power law against the alternatives on the same tail; arguments as `power_law`.

    Log-normal and exponential: Vuong's test of the normalised ratio. Truncated power law: it contains the power law,
    so 2·ratio is χ² with one degree (λ = 0 is at its range's edge, so p is up to twice too high). The log-normal too
    becomes the power law in the limit μ → −∞, so no ratio to these two is above 0; 0 where they have become it.
    """
    tail = _tail(incidence, n, xmin)
    own = _fitted(PowerLaw, tail, xmin, n).loglikelihoods(tail)
    found = {}
    for name, law in ALTERNATIVES.items():
        other = _fitted(law, tail, xmin, n).loglikelihoods(tail)
        if name in CONTAINING and own.sum() >= other.sum():
            # above 0 is the error of a search that stopped before the limit; the test would take it for a difference
            found[name] = Comparison(0.0, 1.0)
            continue
        ratio, p = loglikelihood_ratio(own.copy(), other, nested=name == "truncated_power_law")
        found[name] = Comparison(float(ratio), float(p))
    return found


def verdict(*, comparisons: Mapping[str, Comparison]) -> str:
    """The laws that none beats at p < 0.05, in words.

    Where alternatives beat the power law these are named; they are not tested among each other. Otherwise the power
    law, and the alternatives that it doesn't beat either; the truncated one is left out then, since it needs no cutoff.
    """
    decided = {name: found.p < SIGNIFICANT for name, found in comparisons.items()}
    better = [name for name, found in comparisons.items() if decided[name] and found.ratio < 0]
    if better:
        return " or ".join(NAMES[name] for name in better)
    undecided = [name for name in comparisons if not decided[name] and name != "truncated_power_law"]
    return " or ".join(["power law", *(NAMES[name] for name in undecided)])


def ranks(*, incidence: np.ndarray, n: int, tail: Tail | None, points: int = POINTS) -> pd.DataFrame:
    """The rank–frequency curve of the neurons with q_u ≥ 1 at up to `points` ranks: rank, incidence, fitted.

    incidence: q_u / n of the neuron of that rank, 1 the highest. fitted: within the tail, the share k/n that
    n_tail·P(q ≥ k) = rank makes of the fitted law, interpolated in logarithms; NaN elsewhere.
    """
    ordered = np.sort(incidence[incidence > 0])[::-1]
    if not len(ordered):
        return pd.DataFrame({"rank": np.empty(0, dtype=int), "incidence": np.empty(0), "fitted": np.empty(0)})
    chosen = np.unique(np.round(np.geomspace(1, len(ordered), points)).astype(int))
    fitted = np.full(len(chosen), np.nan)
    if tail is not None:
        support = np.arange(tail.xmin, n + 1, dtype=float)
        chance = support**-tail.alpha
        above = tail.n_tail * chance[::-1].cumsum() / chance.sum()  # expected neurons with q ≥ n, n − 1, … xmin
        inside = chosen <= tail.n_tail
        fitted[inside] = np.exp(np.interp(np.log(chosen[inside]), np.log(above), np.log(support[::-1]))) / n
    return pd.DataFrame({"rank": chosen, "incidence": ordered[chosen - 1] / n, "fitted": fitted})


def rows(
    *,
    key_neurons: Iterable[KeyNeurons],
    setting: Setting,
    places: Mapping[tuple[str, str], tuple[float | None, int]],
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `decay` and `decay_curve` at one setting: every task of the files, and `all` tasks of a checkpoint.

    places: (model, checkpoint) → tokens and order. `all` counts over the samples of all tasks in which a neuron is key.
    What can't be fitted (one sample, fewer than 50 key neurons, q_u all equal) has a row without a fit, with a note.
    """
    cells: list[tuple[tuple[str, str], str, np.ndarray, int]] = []
    pooled: dict[tuple[str, str], tuple[np.ndarray, int]] = {}
    for file in key_neurons:
        if file.task == ALL_TASKS:
            raise ValueError(f"a task is named {ALL_TASKS!r}, which stands for all tasks together; rename it")
        place, n = (file.model, file.checkpoint), file.samples.n
        incidence = file.sets(*setting).incidence(file.geometry.neurons)
        cells.append((place, file.task, incidence, n))
        before = pooled.get(place, (np.zeros_like(incidence), 0))
        pooled[place] = (before[0] + incidence, before[1] + n)
    cells += [(place, ALL_TASKS, incidence, n) for place, (incidence, n) in pooled.items()]
    records: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for number, (place, task, incidence, n) in enumerate(cells):
        tokens, order = places[place]
        identity = {"model": place[0], "checkpoint": place[1], "tokens": tokens, "order": order, "task": task}
        identity |= {**setting._asdict(), "n_samples": n}
        tail = None if (reason := obstacle(incidence=incidence, n=n)) else best_tail(incidence=incidence, n=n)
        records.append(identity | _record(incidence, n, tail, reason, [seed, number]))
        outside = "" if tail is None else f"the power law is fitted to ranks up to {tail.n_tail}"
        curves += [
            {**identity, **point, "note": outside or "no power law is fitted"}
            for point in _listed(ranks(incidence=incidence, n=n, tail=tail))
        ]
    return DECAY.frame(records), DECAY_CURVE.frame(curves)


def _listed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def obstacle(*, incidence: np.ndarray, n: int) -> str:
    """Why no law is fitted to these q_u, as words; empty where one can be tried."""
    used = incidence[incidence > 0]
    if n < 2:
        return f"{n} sample{'s' * (n != 1)}: incidence has no distribution"
    if len(used) < FEWEST:
        return f"needs {FEWEST} key neurons, found {len(used)}"
    if len(np.unique(used)) < DISTINCT:
        return f"needs {DISTINCT} values of incidence, found {len(np.unique(used))}"
    return ""


def _record(incidence: np.ndarray, n: int, tail: Tail | None, reason: str, seed: Sequence[int]) -> dict[str, Any]:
    """The measured columns of `decay`."""
    used = incidence[incidence > 0]
    record: dict[str, Any] = {"n_key": len(used), "q_max": int(used.max()) if len(used) else None}
    comparisons = {name: Comparison(np.nan, np.nan) for name in ALTERNATIVES}
    if tail is None:
        record |= dict.fromkeys(Tail._fields, None)
        record |= {"p_fit": None, "best": "", "note": reason or "no tail of 50 neurons decays as a power law"}
    else:
        comparisons = compare(incidence=incidence, n=n, xmin=tail.xmin)
        record |= tail._asdict() | {"p_fit": fit_probability(tail=tail, n=n, seed=seed)}
        record |= {"best": verdict(comparisons=comparisons), "note": CAVEAT}
    for name, found in comparisons.items():
        record |= {f"loglikelihood_ratio_{name}": found.ratio, f"p_{name}": found.p}
    return record
