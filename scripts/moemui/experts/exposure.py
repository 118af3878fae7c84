"""Are shared experts key more often than the tokens they see explain (SPEC section 6)?

Logistic regression of key on shared and log(1 + tokens routed), each physical expert once. Where shared or the tokens
give key away (separation), the likelihood has no maximum: no estimate and no Wald p, but a limit that the
likelihood-ratio test can use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import optimize, special, stats

from moemui.experts.enrichment import GAP, false_discovery, on_task_sets
from moemui.experts.key_experts import EXPERT_THRESHOLD
from moemui.statistics.intervals import CONFIDENCE
from moemui.tables.columns import SETTING_KEY
from moemui.tables.enrichment import EXPOSURE

NONE, QUASI, COMPLETE = "none", "quasi-complete", "complete"
SHARED, TOKENS = 1, 2  # columns of the design, after the intercept
ITERATIONS = 1000  # far from the maximum a trust region can take hundreds
STEEPEST = 1e-6  # mean slope of the log-likelihood that counts as its maximum
SEPARATED = "no estimate and no Wald p; the likelihood-ratio p is taken at the likelihood's limit"


@dataclass(frozen=True)
class Exposure:
    """The regression of one task set; NaN where there is no such number (separation or note says why).

    expected_key_shared: key shared experts that tokens alone predict, for the direction of the likelihood-ratio p where
    there is no estimate. log_odds_shared, log_odds_tokens: coefficients with their 95 % profile likelihood intervals.
    """

    expected_key_shared: float = GAP
    log_odds_shared: float = GAP
    log_odds_shared_low: float = GAP
    log_odds_shared_high: float = GAP
    wald_p: float = GAP
    likelihood_ratio_p: float = GAP
    log_odds_tokens: float = GAP
    log_odds_tokens_low: float = GAP
    log_odds_tokens_high: float = GAP
    separation: str = ""
    separation_by_tokens: str = ""
    note: str = ""


class Separation(NamedTuple):
    """How far the predictors give the outcome away, and which experts still overlap: bool, (experts,)."""

    kind: str
    overlapping: np.ndarray


def separation(*, key: np.ndarray, tokens: np.ndarray, group: np.ndarray) -> Separation:
    """Separation of a logistic regression of key with an intercept for each group and one slope on tokens.

    key: bool, (experts,). tokens: integers, or any increasing function of them. group: integers, (experts,).

    A direction in which the likelihood never falls (Albert and Anderson 1984) is, in this model, either an intercept
    whose group is all key or all not, or a sign of the slope by which in every other group no expert that is not key
    comes after one that is. That is decided by comparing integers, exactly; linear programming (Konis 2007), which
    finds the same for any design, leaves it to a tolerance. complete: no expert overlaps, every one is predicted.
    quasi-complete: some are. The experts that overlap are those on which the likelihood's limit still depends.
    """
    groups = [group == name for name in np.unique(group)]
    mixed = [members for members in groups if key[members].any() and not key[members].all()]
    overlapping = np.zeros(len(key), dtype=bool)
    for values in (tokens, -tokens):
        edges = [values[members & key].min() for members in mixed]
        if all(values[members & ~key].max() <= edge for members, edge in zip(mixed, edges, strict=True)):
            for members, edge in zip(mixed, edges, strict=True):
                at_edge = members & (values == edge)
                overlapping |= at_edge & (not key[at_edge].all())
            break
    else:
        overlapping = np.logical_or.reduce(mixed)
    kind = NONE if overlapping.all() else QUASI if overlapping.any() else COMPLETE
    return Separation(kind, overlapping)


class _Logit(sm.Logit):
    """statsmodels' logistic regression, whose own likelihood is log 0 where experts barely overlap."""

    def cdf(self, X: np.ndarray) -> np.ndarray:
        return special.expit(X)

    def loglike(self, params: np.ndarray) -> float:
        linear = self.predict(params, which="linear")
        return float(special.log_expit((2 * self.endog - 1) * linear).sum())


def _fit(key: np.ndarray, design: np.ndarray, offset: np.ndarray | None = None, start: np.ndarray | None = None) -> Any:
    """The maximum likelihood fit; only for data without separation and a design of full rank, where there is one.

    By trust region: where experts barely overlap, plain Newton steps leave the maximum, those of a GLM without a word.
    Raises RuntimeError where it ends on a slope.
    """
    model = _Logit(key.astype(float), design, offset=offset, check_rank=False)
    result = model.fit(
        start_params=np.zeros(design.shape[1]) if start is None else start,
        method="minimize", min_method="trust-exact", gtol=1e-8, disp=False, maxiter=ITERATIONS, warn_convergence=False,
        skip_hessian=offset is not None,  # a held fit is read for its likelihood alone
    )  # fmt: skip
    slope = float(np.abs(model.score(result.params)).max()) / len(key)
    if not slope < STEEPEST:
        raise RuntimeError(
            f"the logistic regression of {len(key)} experts that overlap ended on a slope of {slope:g}, above "
            f"{STEEPEST:g}; report it as a fault, with the rows of expert_frequency"
        )
    return result


class Limit(NamedTuple):
    """The log-likelihood's maximum, or its limit under separation, at most 0; and what is predicted: (experts,)."""

    log_likelihood: float
    predicted: np.ndarray


def limit(*, key: np.ndarray, tokens: np.ndarray, group: np.ndarray) -> Limit:
    """The likelihood's maximum or limit in the model of `separation`, on log(1 + tokens).

    In the limit every expert that does not overlap is predicted with certainty and adds 0; the others keep their own
    maximum (Geyer 2009), among experts of one number of tokens that of their groups' shares.
    """
    left = separation(key=key, tokens=tokens, group=group).overlapping
    predicted = key.astype(float)
    if not left.any():
        return Limit(0.0, predicted)
    key, tokens, group = key[left], tokens[left], group[left]
    design = np.equal.outer(group, np.unique(group)).astype(float)
    if any(np.ptp(tokens[group == name]) for name in np.unique(group)):
        design = np.column_stack([design, np.log1p(tokens)])
    result = _fit(key, design)
    predicted[left] = result.predict()
    return Limit(float(result.llf), predicted)


def profile_interval(
    *, key: np.ndarray, design: np.ndarray, column: int, result: Any | None = None
) -> tuple[float, float]:
    """95 % profile likelihood interval of one coefficient of a logistic regression.

    design: float64, (experts, columns), of full rank. result: its fit, if there is one. The ends are where twice the
    log-likelihood's fall from its maximum, all other coefficients fitted anew, is the 95 % point of χ² with 1 degree of
    freedom; statsmodels has no such interval. Needs data without separation, where both ends are finite.
    """
    result = _fit(key, design) if result is None else result
    others = np.delete(design, column, axis=1)
    allowed = stats.chi2.ppf(CONFIDENCE, 1)
    estimate, step = float(result.params[column]), float(result.bse[column])
    last = estimate, np.delete(result.params, column)

    def fall(value: float) -> float:
        nonlocal last
        # Far out, all probabilities may be 0 or 1 to the last digit, and nothing shows the way to the maximum: so start
        # where it moves to from the last fit, to first order, or at even odds where that is worse.
        odds = others @ last[1] + last[0] * design[:, column]
        weight = np.exp((special.log_expit(odds) + special.log_expit(-odds)) / 2)
        offset = value * design[:, column]
        shift = np.linalg.lstsq(weight[:, None] * others, weight * (offset - last[0] * design[:, column]))[0]
        starts = [last[1] - shift, np.linalg.lstsq(others, -offset)[0]]
        likely = [special.log_expit(np.where(key, 1, -1) * (others @ start + offset)).sum() for start in starts]
        held = _fit(key, others, offset=offset, start=starts[int(np.argmax(likely))])
        last = value, held.params
        return 2 * float(result.llf - held.llf) - allowed

    return _crossing(fall, estimate, -step), _crossing(fall, estimate, step)


def _crossing(fall: Callable[[float], float], start: float, step: float) -> float:
    """Where the function, negative at `start`, turns positive in the direction of `step`."""
    inside, outside = start, start + 2 * step
    while fall(outside) < 0:
        inside, outside = outside, outside + 2 * (outside - inside)
    return float(optimize.brentq(fall, inside, outside, xtol=1e-6, rtol=1e-8))


def regression(*, key: np.ndarray, shared: np.ndarray, tokens: np.ndarray) -> Exposure:
    """Logistic regression of key on shared and log(1 + tokens).

    key, shared: bool, (experts,). tokens: int64, (experts,), response tokens routed to each. No shared or no routed
    expert, no key expert or only key ones, and experts whose tokens tell no more than their kind leave nothing to
    regress: no number, and the note says which. Raises ValueError for negative tokens.
    """
    if (tokens < 0).any():
        raise ValueError(f"an expert was routed {int(tokens.min())} tokens; counts of tokens are 0 or more")
    nothing = {
        "no shared experts": not shared.any(),
        "no routed experts": shared.all(),
        "no key expert": not key.any(),
        "every expert is key": key.all(),
    }
    if said := [name for name, found in nothing.items() if found]:
        return Exposure(note=", ".join(said))
    if not any(np.ptp(tokens[kind]) for kind in (shared, ~shared)):
        return Exposure(note="all experts of a kind saw equally many tokens: shared and tokens can't be told apart")
    return _regression(key.tobytes(), shared.tobytes(), tokens.astype(np.int64).tobytes())


@lru_cache(maxsize=4096)  # many settings have the same key experts
def _regression(key_bytes: bytes, shared_bytes: bytes, tokens_bytes: bytes) -> Exposure:
    key, shared = np.frombuffer(key_bytes, dtype=bool), np.frombuffer(shared_bytes, dtype=bool)
    tokens = np.frombuffer(tokens_bytes, dtype=np.int64)
    together = np.zeros(len(key), dtype=np.int64)
    kind = separation(key=key, tokens=tokens, group=shared.astype(np.int64)).kind
    by_tokens = separation(key=key, tokens=tokens, group=together).kind
    with_shared = limit(key=key, tokens=tokens, group=shared.astype(np.int64))
    by_tokens_alone = limit(key=key, tokens=tokens, group=together)
    p = float(stats.chi2.sf(max(0.0, 2 * (with_shared.log_likelihood - by_tokens_alone.log_likelihood)), 1))
    expected = float(by_tokens_alone.predicted[shared].sum())
    if kind != NONE:
        alone = "" if by_tokens == NONE else f"; tokens alone separate as well ({by_tokens})"
        return Exposure(
            expected_key_shared=expected,
            likelihood_ratio_p=p,
            separation=kind,
            separation_by_tokens=by_tokens,
            note=f"{kind} separation: {SEPARATED}{alone}",
        )
    design = np.column_stack([np.ones(len(key)), shared, np.log1p(tokens)])
    result = _fit(key, design)
    ends = {
        column: profile_interval(key=key, design=design, column=column, result=result) for column in (SHARED, TOKENS)
    }
    return Exposure(
        expected_key_shared=expected,
        log_odds_shared=float(result.params[SHARED]),
        log_odds_shared_low=ends[SHARED][0],
        log_odds_shared_high=ends[SHARED][1],
        wald_p=float(result.pvalues[SHARED]),
        likelihood_ratio_p=p,
        log_odds_tokens=float(result.params[TOKENS]),
        log_odds_tokens_low=ends[TOKENS][0],
        log_odds_tokens_high=ends[TOKENS][1],
        separation=kind,
        separation_by_tokens=by_tokens,
    )


def rows(
    *,
    frequencies: pd.DataFrame,
    expert_threshold: float = EXPERT_THRESHOLD,
    task_sets: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The table `exposure` from a table `expert_frequency` of any number of models, checkpoints and settings.

    task_sets: as `enrichment.on_task_sets` takes them; the tokens of a set are the sum over its tasks.
    likelihood_ratio_q corrects over all rows of one setting that have a p.
    """
    records: list[dict[str, Any]] = []
    for found in on_task_sets(frequencies=frequencies, expert_threshold=expert_threshold, task_sets=task_sets):
        fitted = asdict(regression(key=found.key, shared=found.shared, tokens=found.tokens))
        counts = {
            "n_experts": len(found.key),
            "n_shared": int(found.shared.sum()),
            "n_key": int(found.key.sum()),
            "n_key_shared": int((found.key & found.shared).sum()),
        }
        note = "; ".join(filter(None, [fitted["note"], found.note]))
        records.append(found.identity | counts | fitted | {"note": note})
    p = [record["likelihood_ratio_p"] for record in records]
    family = [tuple(record[name] for name in SETTING_KEY) for record in records]
    corrected = false_discovery(p=p, family=family, tested=list(~np.isnan(np.array(p, dtype=float))))
    for record, q in zip(records, corrected, strict=True):
        record["likelihood_ratio_q"] = q
    return EXPOSURE.frame(records)
