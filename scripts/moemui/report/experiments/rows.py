"""The rows of a picture: measurements of each seed, and their means over seeds with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from moemui.experiments.hypotheses import over_seeds
from moemui.experiments.measurements import Meaning
from moemui.experiments.picture import Picture
from moemui.report.experiments.wording import SHARE
from moemui.report.figures.figure import Data
from moemui.report.views import NothingToShow
from moemui.report.wording import count, listed
from moemui.tables.experiments import MEASUREMENTS

MEAN = ["mean", "mean_low", "mean_high"]
PARTS = ("arm", "task", "part", "step")  # what a measurement can differ in within a seed and quantity
MOST_REASONS = 3


def across(picture: Picture) -> str:
    """The column along which a picture goes."""
    return "step" if picture.kind == "course" else picture.x


def panel(picture: Picture) -> str:
    """The column whose values have a panel each; "" for one panel."""
    return "quantity" if len(picture.quantities) > 1 else picture.panel


def columns(picture: Picture) -> list[str]:
    """What names a point of a picture: quantity, panel, series and what it goes along."""
    return list(dict.fromkeys(filter(None, ["quantity", panel(picture), picture.series, across(picture)])))


def rows(picture: Picture, measurements: pd.DataFrame, quantities: Mapping[str, Meaning]) -> tuple[Data, str]:
    """`means` over seeds and `seeds`, rows of one quantity together, in the order of the measurements; and a sentence
    about steps that differ and values that are missing, "" for none.

    Raises NothingToShow where no value is known. Raises ValueError for an unknown quantity, several units on one scale,
    or where a seed has several values at a point, since then the picture says too little about which is meant.
    """
    for quantity in picture.quantities:
        if quantity not in quantities:
            raise ValueError(
                f"picture {picture.name}: there is no quantity {quantity!r}; there are {', '.join(quantities)}"
            )
    units = {quantities[quantity].unit for quantity in picture.quantities}
    if picture.one_scale and len(units) > 1:
        raise ValueError(
            f"picture {picture.name}: one_scale with quantities in {', '.join(sorted(units))}; their units are the same"
        )
    own = measurements[measurements["quantity"].isin(picture.quantities)]
    for column, values in picture.where.items():
        if column not in MEASUREMENTS.names:
            raise ValueError(f"picture {picture.name}: where names {column!r}; allowed are {', '.join(PARTS)}")
        own = own[own[column].astype(str).isin([str(value) for value in values])]
    point = columns(picture)
    _single(picture, own, point)
    known = own.dropna(subset=["value"])
    if known.empty:
        raise NothingToShow("No value of what it would show was measured.")
    known, apart = _met(known, picture)
    known = known.assign(**{name: known[name].astype(object) for name in point})
    found = []
    for key, group in known.groupby(point, sort=False):
        mean = over_seeds(list(group["value"]))
        found.append(
            dict(zip(point, key, strict=True))
            | dict(zip([*MEAN, "n_seeds"], mean, strict=True))
            | {"unit": group["unit"].iloc[0]}
        )
    means = pd.DataFrame(found, columns=[*point, *MEAN, "n_seeds", "unit"])
    if picture.kind == "course":
        means = means.sort_values("step", kind="stable")
    data = {"means": _grouped(means, picture), "seeds": _grouped(known[[*point, "seed", "value", "unit"]], picture)}
    said = f"Steps of one round differ between seeds by up to {apart} and are drawn at their mean." if apart else ""
    return data, " ".join(filter(None, [said, _missing(own)]))


def _met(known: pd.DataFrame, picture: Picture) -> tuple[pd.DataFrame, int]:
    """The rows with each line's steps where its seeds meet, and how far apart they were at most.

    Seeds that stop at a number of tokens have steps of their own. Where every seed of a line has equally many, the
    first of each are one point, at their mean step, and so on; other lines stay as they are.
    """
    if picture.kind != "course":
        return known, 0
    line = [name for name in columns(picture) if name != "step"]
    met, apart = known.copy(), 0
    for _, own in known.groupby(line, sort=False):
        place = own.groupby("seed")["step"].rank(method="first").astype(int)
        if own.groupby("seed").size().nunique() == 1 and own["step"].nunique() > place.max():
            steps = own["step"].groupby(place)
            met.loc[own.index, "step"] = steps.transform("mean").round().astype(int)
            apart = max(apart, int((steps.max() - steps.min()).max()))
    return met, apart


def _grouped(frame: pd.DataFrame, picture: Picture) -> pd.DataFrame:
    """Rows of one quantity together, in the picture's order; text and steps as plain columns."""
    order = {quantity: place for place, quantity in enumerate(picture.quantities)}
    frame = frame.sort_values("quantity", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)
    kinds = {name: "int64" if name == "step" else "str" for name in columns(picture)}
    return frame.astype(kinds)


def _single(picture: Picture, own: pd.DataFrame, point: list[str]) -> None:
    repeated = own[own.duplicated(["seed", *point], keep=False)]
    if len(repeated):
        first = next(iter(repeated.groupby(["seed", *point], sort=False)))[1]
        differ = [name for name in PARTS if first[name].nunique() > 1]
        raise ValueError(
            f"picture {picture.name}: {first['quantity'].iloc[0]} has {len(first)} values at one point, which "
            f"differ in {listed(differ)}; name it in where, series, panel or x"
        )


def _missing(own: pd.DataFrame) -> str:
    gaps = own[own["value"].isna()]
    if gaps.empty:
        return ""
    reasons = list(dict.fromkeys(gaps["note"]))
    more = len(reasons) - MOST_REASONS
    said = "; ".join([*reasons[:MOST_REASONS], *([f"and {count(more, 'other reason')}"] if more > 0 else [])])
    verb = "is" if len(gaps) == 1 else "are"
    return f"{count(len(gaps), 'value')} of {len(own)} {verb} not known and not shown: {said.rstrip('.')}."


def kind(data: Data, quantity: str) -> str:
    """How a quantity is printed: `percent` (a share from 0 to 1), `points` (one with values beyond), else its unit."""
    own = data["seeds"][data["seeds"]["quantity"] == quantity]
    unit = str(own["unit"].iloc[0])
    if unit != SHARE:
        return unit
    return "percent" if own["value"].between(0, 1).all() else "points"
