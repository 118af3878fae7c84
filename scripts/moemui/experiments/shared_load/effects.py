"""What shared-expert load makes of one seed's measurements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.shared_load import QUANTITIES, ROUTED, SHARED, TOTAL, Settings

GAP = float("nan")

_SLOPE = "least-squares slope over the arms of one seed, per 100 points of shared width, "
_MORE = "; above 0: more with wider shared experts"
_CHANGE = "enrichment trained - untrained"
EFFECTS = {
    "mui_slope_matched": Meaning(_SLOPE + "of MUI at matched accuracy, mean over tasks" + _MORE, "share"),
    "mui_slope_matched_shared": Meaning(
        "the same slope over the arms with shared experts alone, those of width 0 left out" + _MORE, "share"
    ),
    "routed_mui_slope_matched": Meaning(
        _SLOPE + "of MUI of routed neurons alone at matched accuracy" + _MORE, "share"
    ),
    "accuracy_slope_matched": Meaning(
        _SLOPE + "of accuracy_other_samples, what is left at matched steps" + _MORE, "share"
    ),
    "mui_slope": Meaning(_SLOPE + "of the trained models' MUI, mean over tasks" + _MORE, "share"),
    "mui_slope_untrained": Meaning(_SLOPE + "of the untrained models' MUI, mean over tasks" + _MORE, "share"),
    "mui_slope_learned": Meaning(
        "slope of MUI over shared width, trained - untrained; above 0: training turns it upward; untrained MUI is an "
        "artefact of initialization, so this says nothing of why MUI falls",
        "share",
    ),
    "routed_mui_slope": Meaning(_SLOPE + "of the trained models' MUI of routed neurons alone" + _MORE, "share"),
    "accuracy_slope": Meaning(_SLOPE + "of the trained models' accuracy, mean over tasks" + _MORE, "share"),
    "nll_slope": Meaning(_SLOPE + "of the trained models' negative log-likelihood" + _MORE, "nats"),
    "mui_200_less_50": Meaning("MUI of the trained model of width 200 % - that of 50 %", "share"),
    "mui_100_less_0": Meaning("MUI of the trained model of width 100 % - that without shared experts", "share"),
    "accuracy_200_less_50": Meaning("accuracy of the trained model of width 200 % - that of 50 %", "share"),
    "accuracy_100_less_0": Meaning(
        "accuracy of the trained model of width 100 % - that without shared experts", "share"
    ),
    "union_shared_change": Meaning(
        "share of the union that lies in shared experts, trained - untrained, mean over arms that have some", "share"
    ),
    "enrichment_change": Meaning(f"{_CHANGE}, mean over arms with shared experts", "log odds"),
    "enrichment_change_200": Meaning(f"{_CHANGE}, width 200 %", "log odds"),
    "enrichment_change_100": Meaning(f"{_CHANGE}, width 100 %", "log odds"),
    "enrichment_change_50": Meaning(f"{_CHANGE}, width 50 %", "log odds"),
    "enrichment_change_unweighted": Meaning(
        f"{_CHANGE}, scored without the router's weights, mean over arms with shared experts", "log odds"
    ),
    "enrichment_room": Meaning(
        "highest possible enrichment - the untrained model's, mean over arms with shared experts; 0: it can't rise",
        "log odds",
    ),
    "enrichment_room_unweighted": Meaning(
        "highest possible enrichment - that of the untrained model without the router's weights, mean over arms with "
        "shared experts; 0: it can't rise",
        "log odds",
    ),
}  # fmt: skip


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """The effects on one seed, whose arms were measured untrained, at matched accuracy and at their last step."""
    widths = series(measurements, "shared_width", ("arm",))
    last = int(measurements["step"].max())
    arms = {step: _values(measurements[measurements["step"] == step]) for step in (0, last)}
    steps = measurements.loc[measurements["quantity"] == "matched", ["arm", "step"]]
    matched = _values(measurements.merge(steps, on=["arm", "step"]))
    found: dict[str, tuple[float, str]] = {}
    for name, quantity, part, step in (
        ("mui_slope", "mui", TOTAL, last),
        ("mui_slope_untrained", "mui", TOTAL, 0),
        ("routed_mui_slope", "mui", ROUTED, last),
        ("accuracy_slope", "accuracy", TOTAL, last),
        ("nll_slope", "nll", TOTAL, last),
    ):
        found[name] = _slope(widths, arms[step][quantity, part])
    for name, quantity, part in (
        ("mui_slope_matched", "mui", TOTAL),
        ("routed_mui_slope_matched", "mui", ROUTED),
        ("accuracy_slope_matched", "accuracy_other_samples", TOTAL),
    ):
        found[name] = _slope(widths, matched[quantity, part])
    found["mui_slope_matched_shared"] = _slope(widths[widths > 0], matched["mui", TOTAL])
    found["mui_slope_learned"] = _less(found["mui_slope"], found["mui_slope_untrained"])
    for quantity in ("mui", "accuracy"):
        for one, other in ((200, 50), (100, 0)):
            found[f"{quantity}_{one}_less_{other}"] = _less(
                _of_width(widths, arms[last][quantity, TOTAL], one),
                _of_width(widths, arms[last][quantity, TOTAL], other),
            )
    sharing = widths.index[widths > 0]
    change = arms[last]["enrichment", TOTAL] - arms[0]["enrichment", TOTAL]
    for width in (200, 100, 50):
        found[f"enrichment_change_{width}"] = _of_width(widths, change, width)
    found["enrichment_change"] = _mean(change, sharing)
    for suffix in ("", "_unweighted"):
        untrained = arms[0][f"enrichment{suffix}", TOTAL]
        found[f"enrichment_room{suffix}"] = _mean(arms[0]["enrichment_highest", TOTAL] - untrained, sharing)
    found["enrichment_change_unweighted"] = _mean(
        arms[last]["enrichment_unweighted", TOTAL] - arms[0]["enrichment_unweighted", TOTAL], sharing
    )
    found["union_shared_change"] = _mean(arms[last]["union_shared", TOTAL] - arms[0]["union_shared", TOTAL], sharing)
    return {name: found[name] for name in EFFECTS}


def _values(measurements: pd.DataFrame) -> Mapping[tuple[str, str], pd.Series]:
    """(quantity, part) → value by arm, of all tasks together; the measurements are of one step an arm."""
    return {
        (quantity, part): series(measurements, quantity, ("arm",), task="", part=part)
        for quantity in QUANTITIES
        for part in (TOTAL, SHARED, ROUTED)
    }


def _slope(widths: pd.Series, values: pd.Series) -> tuple[float, str]:
    """Per 100 points of width, over the arms that `widths` has."""
    x, y = widths.to_numpy() / 100, values.reindex(widths.index).to_numpy()
    if (different := len(set(x))) < 2:
        return GAP, f"a slope needs arms of two or more shared widths; there are arms of {different}"
    return float(np.polyfit(x, y, 1)[0]), ""


def _of_width(widths: pd.Series, values: pd.Series, width: float) -> tuple[float, str]:
    arms = widths.index[widths == width]
    if len(arms) != 1:
        return GAP, f"{len(arms)} arms have a shared width of {width:g} %; exactly one is needed"
    return float(values[arms[0]]), ""


def _less(one: tuple[float, str], other: tuple[float, str]) -> tuple[float, str]:
    return one[0] - other[0], one[1] or other[1]


def _mean(values: pd.Series, arms: pd.Index) -> tuple[float, str]:
    if not len(arms):
        return GAP, "no arm has shared experts"
    return float(values[arms].mean()), ""
