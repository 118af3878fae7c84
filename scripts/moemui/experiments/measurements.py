"""What an experiment measures on one seed, as rows, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from moemui.tables.experiments import MEASUREMENTS


class Meaning(NamedTuple):
    """What a quantity or an effect is, in words, and its unit ("" for none; "share" for 0..1 and differences of it)."""

    words: str
    unit: str = ""


@dataclass
class Measured:
    """Collects the measurements of one experiment on one seed.

    quantities: what may be measured, by name; a name that is not there is refused, so that every number is explained.
    """

    experiment: str
    seed: int
    quantities: Mapping[str, Meaning]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        quantity: str,
        value: float,
        *,
        arm: str = "",
        step: int = 0,
        tokens: float = 0.0,
        task: str = "",
        part: str = "",
        note: str = "",
    ) -> None:
        """One number. arm: of the experiment; step, tokens: of training; task: "" for all; part: of the model, or "".

        A NaN needs a note that says why. Raises ValueError for an unknown quantity.
        """
        if quantity not in self.quantities:
            raise ValueError(f"{self.experiment} has no quantity {quantity!r}; it has {', '.join(self.quantities)}")
        self.rows.append(
            {
                "experiment": self.experiment, "seed": self.seed, "arm": arm, "step": step, "tokens": float(tokens),
                "task": task, "part": part, "quantity": quantity, "value": float(value),
                "unit": self.quantities[quantity].unit, "note": note,
            }
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """All of them, as the table of measurements has them. Raises ValueError where a row occurs twice."""
        return MEASUREMENTS.frame(self.rows)


def at_last(measurements: pd.DataFrame) -> dict[str, float]:
    """What each quantity of the whole model was when it was last measured on one seed, for a short look at a run.

    By `quantity`, of a named arm by `quantity.arm`; of all tasks and parts together, so a quantity of single tasks or
    parts alone is not in it, and neither is one whose last value is NaN. Empty for no such rows.
    """
    whole = measurements[(measurements["task"] == "") & (measurements["part"] == "")].sort_values("step", kind="stable")
    last = whole.drop_duplicates(["quantity", "arm"], keep="last").dropna(subset="value")
    last = last.sort_values(["quantity", "arm"])
    names = last["quantity"] + ("." + last["arm"]).where(last["arm"] != "", "")
    return dict(zip(names, last["value"].tolist(), strict=True))


def series(measurements: pd.DataFrame, quantity: str, by: Sequence[str], **where: Any) -> pd.Series:
    """The values of a quantity where columns have certain values, indexed and ordered by other columns.

    Raises ValueError where several rows share an index: then `by` or `where` says too little.
    """
    rows = measurements[measurements["quantity"] == quantity]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    found = rows.set_index(list(by))["value"].sort_index()
    if found.index.has_duplicates:
        raise ValueError(f"{quantity} has several values at one of {', '.join(by)} where {where}; name more columns")
    return found
