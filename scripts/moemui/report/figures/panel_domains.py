"""Ends of an axis that differ from panel to panel, where all panels have one specification."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt


def panel_domain(data: str, panel: str, domains: Mapping[str, Sequence[float]]) -> Any:
    """A scale's domain: that of the panel in which the chart stands, as the first row of its data set says.

    data: a data set that has rows in every panel; panel: the column that tells panels apart; domains: by its values.
    Unlike a domain that is left to the data it stays the same when the legend hides rows, all of them too.
    """
    ends = json.dumps({name: [float(end) for end in domain] for name, domain in domains.items()})
    return alt.ExprRef(f"({ends})[data({data!r})[0][{panel!r}]]")
