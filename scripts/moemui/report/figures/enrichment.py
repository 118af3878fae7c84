"""Are shared experts more often key than routed ones, and more so than before training?"""

from __future__ import annotations

import json
import math

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from moemui.report import views
from moemui.report.figures import expert_axis, page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables
from moemui.report.figures.looks import COLOURS, GREY, Look
from moemui.report.figures.paper_style import DOUBLE, SINGLE, legend, model_columns, panels, styled
from moemui.report.views import Choice, NothingToShow

STATES = {"trained": Look(COLOURS[0], "o"), "untrained": Look(GREY, "D")}
LABELS = {"trained": "last checkpoint", "untrained": "untrained (hollow)"}
ALL = "all tasks"
RATIO = ["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]
CELLS = ["shared_key", "shared_other", "routed_key", "routed_other"]
CHANGE = ["log_odds_change", "log_odds_change_low", "log_odds_change_high"]


def data(tables: Tables, choice: Choice) -> Data:
    """Tests over all tasks and on every task, at each model's last and untrained checkpoint; those without odds ratio.

    Models of which no test has an odds ratio are left out. Raises NothingToShow where this holds for all, for instance
    where none has shared experts.
    """
    rows = views.enrichment(tables["enrichment"], choice)
    rows = rows[(rows["n_tasks"] == 1) | (rows["task_set"] == "all")]  # pairs are many, and are in the table
    known = rows["odds_ratio_corrected"].notna()
    if not known.any():
        raise NothingToShow(
            "No model has shared and routed experts of which some are key and some are not, so there is no odds ratio."
        )
    rows = rows[rows["model"].isin(rows.loc[known, "model"])]
    rows = rows.assign(
        state=np.where(rows["is_baseline"], "untrained", "trained"),
        task_set=rows["task_set"].where(rows["task_set"] != "all", ALL),
        n_experts=rows[CELLS].sum(axis=1),
    )
    model = rows["model"].map({name: number for number, name in enumerate(views.names(rows, "model"))})
    rows = rows.assign(place=model).sort_values(["place", "is_baseline"], kind="stable")
    common = ["model", "checkpoint", "state", "task_set", "n_tasks"]
    tests = ["p_greater", "q_greater", "p_two_sided", *CELLS, "n_experts"]
    known = rows["odds_ratio_corrected"].notna()
    shown = {
        "tests": rows.loc[known, [*common, *RATIO, *tests, *CHANGE, "odds_ratio_note", "note"]],
        "without": rows.loc[~known, [*common, *tests, "odds_ratio_note", "note"]],
    }
    return {name: part.reset_index(drop=True) for name, part in shown.items()}


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A forest plot a model, all on one axis; a dash where there is no odds ratio."""
    rows, both = data["tests"], pd.concat([data["tests"], data["without"]])
    models, sets, titles = views.names(both, "model"), _sets(both), _titles(both)
    columns = 1 if len(models) == 1 else model_columns(len(models))
    width = SINGLE if len(models) == 1 else DOUBLE
    figure = Drawing(figsize=(width, 0.5 + (0.55 + 0.17 * len(sets)) * -(-len(models) // columns)))
    low, high = _ends(rows)
    for axes, model in zip(panels(figure, len(models), columns, sharex=True, sharey=True), models, strict=True):
        for row in both[both["model"] == model].to_dict("records"):
            look, hollow = STATES[row["state"]], row["state"] == "untrained"
            at = sets.index(row["task_set"]) + (0.18 if hollow else -0.18)
            value, *ends = (row[name] for name in RATIO)
            if np.isnan(value):
                axes.text(low, at, " no odds ratio", fontsize=5, color=look.colour, va="center")
                continue
            axes.errorbar(
                value, at, xerr=[[value - ends[0]], [ends[1] - value]], fmt=look.marker, elinewidth=0.8,
                color=look.colour, markerfacecolor="white" if hollow else look.colour, markersize=3,
            )  # fmt: skip
        axes.axvline(1, color="black", linewidth=0.7)
        axes.set_xlim(low, high)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        ticks = _ticks(low, high, most=6 if columns < 4 else 4)
        axes.set_xticks(list(ticks.values()), [_power(power) for power in ticks])
        axes.set_yticks(range(len(sets)), sets)
        axes.set_ylim(len(sets) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.set_title(titles[model], fontsize=7 if columns < 4 else 5.5)
    figure.supxlabel("odds ratio of being key, shared against routed experts", fontsize=7)
    entries = {
        LABELS[state].removesuffix(" (hollow)"): Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle="none",
            markerfacecolor="white" if state == "untrained" else look.colour,
        )
        for state, look in STATES.items()
        if (both["state"] == state).any()
    }  # fmt: skip
    legend(figure, entries, columns=2)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The same; every mark tells odds ratio and interval, p and q, the 2×2 table and the change from the untrained."""
    rows, both = data["tests"], pd.concat([data["tests"], data["without"]])
    states = {state: look for state, look in STATES.items() if (both["state"] == state).any()}
    series = Series("state", states, LABELS, line=False)
    sets = _sets(both)
    low, high = _ends(rows)
    ticks = _ticks(low, high)
    named = json.dumps({str(power): _power(power) for power in ticks})
    x = page_style.x(
        RATIO[0], "Odds ratio, shared against routed", scale="log", domain=(low, high), values=list(ticks.values()),
        labelExpr=f"{named}[round(log(datum.value) / LN10)]", labelOverlap=False,
    )  # fmt: skip
    y = alt.Y("task_set:N", sort=sets, axis=alt.Axis(title=None, ticks=False, minExtent=70))
    beside = alt.YOffset("state:N", sort=list(STATES), scale=alt.Scale(domain=list(STATES)))
    words = {
        "shared_said": "datum.shared_key + ' of ' + (datum.shared_key + datum.shared_other)",
        "routed_said": "datum.routed_key + ' of ' + (datum.routed_key + datum.routed_other)",
    } | {f"{name}_said": expert_axis.probability(name) for name in ("q_greater",)}
    tests = page_style.marks("tests", series).transform_calculate(
        **words,
        ratio_said=_ratio([f"datum.{name}" for name in RATIO]),
        change_said=f"isValid(datum.log_odds_change_low) ? {_ratio([f'exp(datum.{name})' for name in CHANGE])} "
        ": 'not known'",
    )
    tooltip = {
        "task_set": "Tasks", "checkpoint": "Checkpoint", "ratio_said": "Odds ratio [95 % interval]",
        "q_greater_said": "q, one-sided (Benjamini–Hochberg)", "shared_said": "Shared experts that are key",
        "routed_said": "Routed experts that are key", "change_said": "Odds ratio / the untrained one's",
        "note": "Note",
    }  # fmt: skip
    layers = [
        tests.mark_rule(strokeWidth=1.5).encode(
            x=alt.X(f"{RATIO[1]}:Q"), x2=RATIO[2], y=y, yOffset=beside, color=page_style.coloured(series),
            tooltip=page_style.hover(**tooltip),
        ),
        page_style.zero("x", at=1.0),
        page_style.named(
            tests.mark_point(opacity=1).encode(
                x=x, y=y, yOffset=beside, stroke=page_style.coloured(series, alt.Stroke),
                shape=page_style.shaped(series),
                fill=page_style.hollow(series, "datum.state === 'untrained'"), tooltip=page_style.hover(**tooltip),
            )
        ),
    ]  # fmt: skip
    if len(data["without"]):
        reduced = {name: title for name, title in tooltip.items() if name not in ("ratio_said", "change_said")}
        without = page_style.marks("without", series).transform_calculate(**words)
        layers.append(
            page_style.named(
                without.mark_text(text="no odds ratio", align="left", fontSize=9, dx=2).encode(
                    x=alt.value(0), y=y, yOffset=beside, color=page_style.coloured(series),
                    tooltip=page_style.hover(**reduced),
                )
            )
        )  # fmt: skip
    specification = page_style.view(*layers, series=series, zoomed=False, height=50 + 26 * len(sets))
    return Chart((specification,), series, panel="model", titles=_titles(both))


def _ratio(values: list[str]) -> str:
    """An odds ratio and the ends of its interval in words, in Vega's language."""
    value, low, high = (f"format({value}, {value} < 1000 ? '.3~g' : ',.0f')" for value in values)
    return f"{value} + ' [' + {low} + ', ' + {high} + ']'"


def _titles(rows: pd.DataFrame) -> dict[str, str]:
    """Each model with its last checkpoint."""
    return expert_axis.titles(rows.sort_values("state", key=lambda states: states == "untrained", kind="stable"))


def _sets(rows: pd.DataFrame) -> list[str]:
    """All tasks together first, then each task."""
    return sorted(views.names(rows, "task_set"), key=lambda name: name != ALL)


def _ends(rows: pd.DataFrame) -> tuple[float, float]:
    """Ends of an axis that holds all intervals and 1, with room for marks."""
    low, high = min(1.0, float(rows[RATIO[1]].min())), max(1.0, float(rows[RATIO[2]].max()))
    room = (high / low) ** 0.04
    return low / room, high * room


def _ticks(low: float, high: float, most: int = 6) -> dict[int, float]:
    """At most `most` powers of ten from low to high, evenly spaced, 1 among them: exponent → value."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, -(-(last - first) // (most - 1)))
    return {power: 10.0**power for power in range(first, last + 1) if power % step == 0}


def _power(exponent: int) -> str:
    """A power of ten: 0.01 to 1000 in digits, else like 10⁴."""
    if -3 < exponent < 4:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


FIGURE = Figure(
    name="enrichment",
    title="Are shared experts more often key?",
    caption="Odds ratio of being key, shared against routed experts ({experts}, η_expert = {expert_threshold}), with "
    "0.5 added to each cell of the 2×2 table (Haldane–Anscombe) and its 95 % interval, on a logarithmic axis; on all "
    "tasks (experts that are key on every one) and on each. Filled: each model's last checkpoint; hollow: the same "
    "model untrained. The line at 1: shared experts are key as often as routed ones. Where all shared and no routed "
    "experts are key the odds ratio itself is infinite, and the corrected one tells little more than how many experts "
    "there are. Shared experts see every token, so a ratio above 1 alone shows no specialisation: compare with the "
    "untrained model. Models without shared experts, or none of whose tests has an odds ratio, have no panel. Pairs "
    "of tasks and other sets are in the table enrichment.",
    definition="On a set of tasks an expert is key if its frequency is at least η_expert on every task of the set. a "
    "shared experts are key and b are not, c routed experts are key and d are not; each expert counts once. p is that "
    "of Fisher's exact test (one-sided: shared experts more often key), q after Benjamini–Hochberg over all models "
    "and task sets. The interval is Wald's of the logarithm. Without a shared, a routed, a key or another expert "
    "there is no odds ratio and p = 1.",
    formula=r"\mathrm{OR} = \frac{(a + \frac{1}{2})(d + \frac{1}{2})}{(b + \frac{1}{2})(c + \frac{1}{2})}, \quad "
    r"\ln \mathrm{OR} \pm 1.96 \sqrt{\sum_{z \in \{a, b, c, d\}} \frac{1}{z + \frac{1}{2}}}",
    alt="Forest plots, one panel a model, of odds ratios on a logarithmic axis by task set, last checkpoint beside the "
    "untrained one.",
    tables=("enrichment",),
    table_titles={
        "tests": "Odds ratio of shared against routed experts",
        "without": "Tests without an odds ratio",
    },
    data=data,
    paper=paper,
    page=page,
    meanings={
        "state": ("trained: the model's last checkpoint; untrained: before training", ""),
        "n_experts": ("experts of the 2×2 table", "experts"),
        "task_set": (f"the task, or {ALL}: experts that are key on every one", ""),
    },
)
