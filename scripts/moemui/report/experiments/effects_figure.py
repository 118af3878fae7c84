"""Effects and rules: a panel a hypothesis, with every seed, the mean with its interval, and what decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from moemui.experiments.hypotheses import CONFIRMED, REFUTED, Hypothesis, Region
from moemui.report.experiments import wording
from moemui.report.experiments.picture_figure import axis_format
from moemui.report.experiments.plan import Plan, Shown, titled
from moemui.report.experiments.wording import SHARE, SYMBOLS
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Tables, Words, estimate_meanings
from moemui.report.figures.looks import COLOURS, Look
from moemui.report.figures.paper_style import SINGLE, points, styled
from moemui.report.views import Estimate

MEAN = ["mean", "mean_low", "mean_high"]
LOOKS = {CONFIRMED: Look(COLOURS[0]), REFUTED: Look(COLOURS[1], dash=(0, (4, 1.5)))}
FLOATS = (*MEAN, "value", "above", "below", "drawn_from", "drawn_to", "panel_from", "panel_to")
ROWS = ["words", "mean", "seeds"]  # of a panel, from above
OPACITY = 0.14
BESIDE = 0.3  # of a panel's width: how far apart the middles of two regions are whose words stand beside each other
LEAST = 0.15  # of a panel's width: how far the middle of a region is from both ends, so that its word has room


def figure(plan: Plan, tables: Tables) -> Shown:
    """The figure of an experiment's hypotheses, from its rows of the tables."""
    data = _data(plan, tables)
    decisions = tables["experiment_decisions"]
    titles = {
        str(row.hypothesis): f"{SYMBOLS[str(row.decision)]} {titled(str(row.hypothesis))}: {row.decision}"
        + ("" if row.n_seeds else ", not known on any seed")
        for row in decisions.itertuples()
    }
    units: dict[str, str] = dict(zip(decisions["hypothesis"], decisions["unit"], strict=True))
    views = {hypothesis.name: (_view(hypothesis, data, units[hypothesis.name]),) for hypothesis in plan.hypotheses}
    measured = [name for name in views if name in set(data["seeds"]["hypothesis"])]
    usual = views[measured[0] if measured else plan.hypotheses[0].name]
    chart = Chart(usual, panel="hypothesis", titles=titles, own_views=views)
    return Shown(_words(plan), data, chart, lambda: _paper(plan, data, titles, units))


def _data(plan: Plan, tables: Tables) -> Data:
    means, seeds, regions = [], [], []
    decisions = {row["hypothesis"]: row for row in tables["experiment_decisions"].to_dict("records")}
    every = tables["experiment_seeds"]
    for hypothesis in plan.hypotheses:
        row = decisions[hypothesis.name]
        common = {"hypothesis": hypothesis.name, "effect": hypothesis.effect}
        own = every[(every["effect"] == hypothesis.effect) & every["value"].notna()]
        if pd.notna(row["mean"]):
            means.append(common | {name: row[name] for name in [*MEAN, "unit", "n_seeds", "decision"]})
        seeds += [common | {"seed": one.seed, "value": one.value, "unit": row["unit"]} for one in own.itertuples()]
        low, high = _ends(hypothesis, [*own["value"], *(row[name] for name in MEAN)])
        for name, region in _named(hypothesis):
            ends = {"above": region.above, "below": region.below}
            drawn = {
                "drawn_from": low if region.above is None else region.above,
                "drawn_to": high if region.below is None else region.below,
                "panel_from": low,
                "panel_to": high,
            }
            said = {"region": name, "lies": wording.region(region, row["unit"])}
            regions.append({"hypothesis": hypothesis.name, **said, **ends, **drawn})
    frames = {
        "means": pd.DataFrame(means, columns=["hypothesis", "effect", *MEAN, "unit", "n_seeds", "decision"]),
        "seeds": pd.DataFrame(seeds, columns=["hypothesis", "effect", "seed", "value", "unit"]),
        "regions": pd.DataFrame(regions),
    }
    return {name: frame.astype({c: float for c in frame if c in FLOATS}) for name, frame in frames.items()}


def _named(hypothesis: Hypothesis) -> list[tuple[str, Region]]:
    """The regions of a rule, each with what an interval inside it decides."""
    named = ((CONFIRMED, hypothesis.confirmed), (REFUTED, hypothesis.refuted))
    return [(name, region) for name, regions in named for region in regions]


def _ends(hypothesis: Hypothesis, values: list[float]) -> tuple[float, float]:
    """The ends of a panel: all values and bounds lie inside, and each region has room for its word."""
    regions = [region for _, region in _named(hypothesis)]
    bounds = [end for region in regions for end in (region.above, region.below) if end is not None]
    low, high = page_style.spanned(pd.Series(values, dtype=float), at=[0.0, *bounds])
    for _ in range(200):  # each round moves an end by little, and regions without a bound grow with it
        wide = high - low
        middles = [
            ((low if region.above is None else region.above) + (high if region.below is None else region.below)) / 2
            for region in regions
        ]
        if min(middles) - low < LEAST * wide:
            low -= 0.03 * wide
        elif high - max(middles) < LEAST * wide:
            high += 0.03 * wide
        else:
            break
    return low, high


def _apart(regions: pd.DataFrame) -> bool:
    """Whether the words of a panel's regions have room beside each other."""
    middles = (regions["drawn_from"] + regions["drawn_to"]) / 2
    wide = regions["panel_to"].iloc[0] - regions["panel_from"].iloc[0]
    return bool(middles.max() - middles.min() > BESIDE * wide)


def _axis_title(hypothesis: Hypothesis, unit: str) -> str:
    name = titled(hypothesis.effect)
    return f"{name} ({unit})" if unit not in ("", SHARE) else name


def _view(hypothesis: Hypothesis, data: Data, unit: str) -> dict[str, Any]:
    own = data["regions"][data["regions"]["hypothesis"] == hypothesis.name]
    domain = (own["panel_from"].iloc[0], own["panel_to"].iloc[0])
    title = _axis_title(hypothesis, unit)
    share = unit == SHARE

    def x(field: str) -> alt.X:
        form = {"points": True} if share else axis_format(domain)
        return page_style.x(field, title, domain=domain, grid=False, titleLimit=280, **form)

    names = alt.Axis(title=None, ticks=False, domain=False, labelExpr="datum.value === 'words' ? '' : datum.value")
    y = {row: alt.Y(datum=row, type="nominal", scale=alt.Scale(domain=ROWS), axis=names) for row in ROWS}
    shades = alt.Scale(domain=list(LOOKS), range=[page_style.colour(look) for look in LOOKS.values()])
    colour, fill = (part("region", type="nominal", scale=shades, legend=None) for part in (alt.Color, alt.Fill))
    regions = page_style.marks("regions").transform_calculate(
        middle="(datum.drawn_from + datum.drawn_to) / 2", said=f"{SYMBOLS!r}[datum.region] + ' ' + datum.region"
    )
    told = page_style.hover(region="The rule", lies="if the whole interval lies")
    bands = regions.mark_rect(opacity=OPACITY).encode(x=x("drawn_from"), x2="drawn_to", fill=fill, tooltip=told)
    bounds = [
        regions.transform_filter(f"isValid(datum.{end})").mark_rule(strokeDash=[5, 3]).encode(x=x(end), color=colour)
        for end in ("above", "below")
    ]
    words = [
        regions.transform_filter(f"datum.region === '{name}'")
        .mark_text(fontSize=11, dy=dy)
        .encode(x=x("middle"), y=y["words"], text="said:N")
        for name, dy in zip(LOOKS, (0, 0) if _apart(own) else (-5, 9), strict=True)
    ]
    known = data["means"][data["means"]["hypothesis"] == hypothesis.name]
    return page_style.view(
        page_style.named(bands),
        page_style.zero(),
        *bounds,
        *words,
        *(_measured(Estimate(*known[MEAN].iloc[0]), share, x, y) if len(known) else ()),
        zoomed=False,
        height=126,
    )


def _measured(
    number: Estimate, share: bool, x: Callable[[str], alt.X], y: Mapping[str, alt.Y]
) -> tuple[alt.Chart, ...]:
    """The layers of the mean, its interval, and the seeds. x: the axis of a column; y: the place of a row."""
    form = "" if share else wording.form([number])
    means = page_style.said(page_style.marks("means"), ["mean"], share=False, points=share, form=form)
    value = "format(100 * datum.value, '+.2f') + ' points'" if share else "format(datum.value, ',.4~r')"
    seeds = page_style.marks("seeds").transform_calculate(value_said=value)
    told = page_style.hover(effect="Effect", mean_said="Mean over seeds [95 % interval]", unit="Unit", n_seeds="Seeds")
    told += page_style.hover(decision="Decision")
    told_seed = page_style.hover(effect="Effect", seed="Seed", value_said="Value", unit="Unit")
    ink = alt.value(page_style.TEXT)
    diamond = means.mark_point(size=95, shape="diamond", filled=True, opacity=1)
    circle = seeds.mark_point(size=34, opacity=0.85)
    return (
        means.mark_rule(strokeWidth=2.4).encode(x=x("mean_low"), x2="mean_high", y=y["mean"], color=ink),
        page_style.named(circle.encode(x=x("value"), y=y["seeds"], color=ink, tooltip=told_seed)),
        page_style.named(diamond.encode(x=x("mean"), y=y["mean"], color=ink, tooltip=told)),
    )


@styled
def _paper(plan: Plan, data: Data, titles: dict[str, str], units: dict[str, str]) -> Drawing:
    """The same, panels below each other."""
    count = len(plan.hypotheses)
    drawing = Drawing(figsize=(SINGLE, 0.15 + 1.15 * count))
    for axes, hypothesis in zip(drawing.subplots(count, 1, squeeze=False)[:, 0], plan.hypotheses, strict=True):
        own = {name: rows[rows["hypothesis"] == hypothesis.name] for name, rows in data.items()}
        _panel(axes, own)
        axes.set_title(titles[hypothesis.name], loc="left")
        share = units[hypothesis.name] == SHARE
        axes.set_xlabel(_axis_title(hypothesis, units[hypothesis.name]) + (" (points)" if share else ""))
        if share:
            points(axes, "x")
    return drawing


def _panel(axes: Axes, own: Data) -> None:
    for row in own["regions"].to_dict("records"):
        look = LOOKS[row["region"]]
        axes.axvspan(row["drawn_from"], row["drawn_to"], color=look.colour, alpha=OPACITY, linewidth=0)
        for end in ("above", "below"):
            if np.isfinite(row[end]):
                axes.axvline(row[end], color=look.colour, linestyle=(0, (4, 2)), linewidth=0.8)
        words = f"{SYMBOLS[row['region']]} {row['region']}"
        height = 2.05 if _apart(own["regions"]) else 2.35 if row["region"] == CONFIRMED else 1.8
        middle = (row["drawn_from"] + row["drawn_to"]) / 2
        # On a ground of its own, for the line of no effect may go through it.
        ground = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
        axes.text(middle, height, words, ha="center", va="center", fontsize=6, bbox=ground)
        axes.set_xlim(row["panel_from"], row["panel_to"])
    axes.axvline(0, color="black", linewidth=0.6)
    axes.plot(own["seeds"]["value"], [0] * len(own["seeds"]), "o", color="black", markerfacecolor="none", markersize=3)
    for row in own["means"].to_dict("records"):
        axes.plot([row["mean_low"], row["mean_high"]], [1, 1], color="black", linewidth=1.4)
        axes.plot(row["mean"], 1, "D", color="black", markersize=4)
    axes.set(ylim=(-0.6, 2.7), yticks=[0, 1])
    axes.set_yticklabels(["seeds", "mean"])
    axes.grid(False)


def _words(plan: Plan) -> Words:
    return Words(
        name=f"{plan.name}-effects",
        title=f"{plan.title}: effects and what the rules make of them",
        caption="A panel a hypothesis. Circles: the effect on each seed; diamond and bar: mean over seeds with its "
        "95 % t interval, no bar where fewer than three seeds have a value. Shaded: where the whole interval must lie "
        "for the rule to confirm or refute the hypothesis; anywhere else it is undecided. Line: no effect.",
        definition="An effect is one number a seed, most often a difference between arms of the same seed, so the "
        "interval is paired. x_s is the effect on seed s, n the number of seeds, t the quantile of Student's "
        "distribution. What each effect is stands in the table of effects.",
        formula=r"\bar{x} \pm t_{0.975,\,n-1} \sqrt{\frac{1}{n(n-1)} \sum_{s} \left( x_s - \bar{x} \right)^2}",
        alt="Dot plots, a panel a hypothesis: the effect on each seed, the mean with its interval, and shaded regions "
        "where the rule confirms or refutes.",
        tables=("experiment_decisions", "experiment_seeds"),
        table_titles={
            "means": "Mean effect of each hypothesis",
            "seeds": "Effect of each hypothesis on each seed",
            "regions": "What confirms and what refutes",
        },
        meanings={
            "value": ("the effect on this seed, in the row's unit", ""),
            "region": ("what the rule decides where the whole interval lies in the region", ""),
            "lies": ("the region in words", ""),
            "above": ("lower bound of the region, in the effect's unit; a gap: none", ""),
            "below": ("upper bound of the region, in the effect's unit; a gap: none", ""),
            "drawn_from": ("left end of the region as drawn", ""),
            "drawn_to": ("right end of the region as drawn", ""),
            "panel_from": ("left end of the panel", ""),
            "panel_to": ("right end of the panel", ""),
        } | estimate_meanings("mean", "the effect's mean over seeds, in the row's unit", ""),
    )  # fmt: skip
