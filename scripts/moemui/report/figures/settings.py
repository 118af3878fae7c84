"""The heat map of settings: how alike MUI and the share of key experts come out under every two of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing

from moemui.key_neurons.settings import MAIN, RULES, Setting
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Tables, estimate_meanings
from moemui.report.figures.paper_style import DOUBLE, HEAT, SINGLE, styled
from moemui.report.views import Choice, NothingToShow

FORMULATIONS = {"projection": "proj", "glu": "glu", "activation": "act"}
RULE_NAMES = {"topk": "", "top_score": "top score", "global_topk": "global"}
# measure → (statistic that is shown, its title)
SHOWN = {
    "mui": ("spearman", "MUI: Spearman correlation"),
    "key_expert_proportion": ("cosine", "Share of key experts: cosine similarity"),
}
DARK = 0.72  # place on the scale of colours from which white reads better than black on paper
WIDEST = 8  # settings whose cells hold numbers in a panel that is not of full width
NARROW = "windowSize()[0] < 600"  # on a phone, where names leave room for the cells
CELL, NUMBERS, NAMES = 0.26, 0.19, 1.0  # inches: the widest cell, the narrowest that holds a number, settings' names


def in_order(labels: Iterable[str]) -> list[str]:
    """Settings by formulation (the paper's default first), selection, rule and variant, and then by threshold."""

    def place(label: str) -> tuple[object, ...]:
        setting = Setting.parse(label)
        known = list(FORMULATIONS)
        formulation = known.index(setting.formulation) if setting.formulation in known else len(known)
        main = (formulation, setting.selection != "pairs", setting.selection, RULES.index(setting.rule))
        return (*main, setting.variant != MAIN, setting.variant, setting.threshold)

    return sorted(set(labels), key=place)


def short(label: str) -> str:
    """A setting's name beside a cell: `proj 0.1 %`, and what is not as usual: `proj 0.1 % neurons no_gate`."""
    setting = Setting.parse(label)
    parts = [FORMULATIONS.get(setting.formulation, setting.formulation), f"{100 * setting.threshold:.6g} %"]
    parts += [setting.selection] * (setting.selection != "pairs") + [RULE_NAMES[setting.rule]]
    parts += [setting.variant] * (setting.variant != MAIN)
    return " ".join(filter(None, parts))


def data(tables: Tables, choice: Choice) -> Data:
    """A row for each two settings and measure, the setting that stands first in `in_order` first; those without a value
    in a data set of their own.

    Raises NothingToShow where no two settings have a value.
    """
    table = tables["sensitivity"]
    place = {name: i for i, name in enumerate(in_order([*table["setting_a"], *table["setting_b"]]))}
    parts = []
    for measure, (statistic, _) in SHOWN.items():
        rows = table[table["measure"] == measure]
        swapped = rows["setting_a"].map(place) > rows["setting_b"].map(place)
        ends = {f"agreement_{end}": rows[f"{statistic}_clustered_{end}"] for end in ("low", "high")}
        parts.append(
            rows.assign(
                setting_a=rows["setting_b"].where(swapped, rows["setting_a"]),
                setting_b=rows["setting_a"].where(swapped, rows["setting_b"]),
                statistic=statistic,
                agreement=rows[statistic],
                **ends,
            )
        )
    every = pd.concat(parts)
    every = every.assign(a=every["setting_a"].map(place), b=every["setting_b"].map(place))
    every = every.sort_values(["a", "b"], kind="stable").sort_values(
        "measure", key=lambda names: names.map(list(SHOWN).index), kind="stable"
    )
    pair = ["measure", "setting_a", "setting_b", "differs_in", "statistic"]
    columns = [*pair, "agreement", "agreement_low", "agreement_high", "n_cells", "n_clusters", "note"]
    known = every["agreement"].notna()
    if not known.any():
        raise NothingToShow(
            "No two settings can be compared: that takes two settings and three model × checkpoint × task cells."
        )
    shown = {"pairs": every.loc[known, columns]}
    if not known.all():
        shown["missing"] = every.loc[~known, [*pair, "n_cells", "n_clusters", "note"]]
    return {name: rows.reset_index(drop=True) for name, rows in shown.items()}


def _settings(data: Data) -> list[str]:
    return in_order(label for rows in data.values() for name in ("setting_a", "setting_b") for label in rows[name])


def _lowest(data: Data) -> float:
    """The lower end of the colours: a tenth at or below the lowest value, 0.9 at most."""
    return min(0.9, float(np.floor(10 * data["pairs"]["agreement"].min()) / 10))


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """One square: MUI below the diagonal, the share of key experts above it, each pair once."""
    names, lowest = _settings(data), _lowest(data)
    matrix = np.full((len(names), len(names)), np.nan)
    for row in data["pairs"].to_dict("records"):
        first, second = names.index(row["setting_a"]), names.index(row["setting_b"])
        matrix[(second, first) if row["measure"] == "mui" else (first, second)] = row["agreement"]
    width = SINGLE if NAMES + NUMBERS * len(names) <= SINGLE else DOUBLE
    side = min(CELL * len(names), width - NAMES - 0.6)
    drawing = Drawing(figsize=(width, side + NAMES + 0.65))
    axes = drawing.subplots()
    colours = LinearSegmentedColormap.from_list("heat", HEAT)
    mesh = axes.pcolormesh(matrix, cmap=colours, vmin=lowest, vmax=1)  # not imshow, which puts a bitmap into the SVG
    axes.set(aspect="equal", ylim=(len(names), 0))
    below, above = (SHOWN[name][1].replace(": ", " ({} the diagonal):\n") for name in ("mui", "key_expert_proportion"))
    drawing.suptitle(above.format("above"), fontsize=7.5)
    drawing.supxlabel(below.format("below"), fontsize=7.5)
    axes.grid(False)
    labels = [short(name) for name in names]
    axes.set_xticks(np.arange(len(names)) + 0.5, labels, rotation=90)
    axes.set_yticks(np.arange(len(names)) + 0.5, labels)
    if side / len(names) >= NUMBERS:
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                dark = value > lowest + DARK * (1 - lowest)
                axes.text(
                    column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=5,
                    color="white" if dark else "black",
                )  # fmt: skip
    bar = drawing.colorbar(mesh, ax=axes, shrink=0.6)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
        bar.solids.set_edgecolor("face")  # otherwise gaps show between its steps
    return drawing


def page(data: Data, choice: Choice) -> Chart:
    """A panel a measure, a cell a pair of settings; numbers stand in the cells where the screen has room for them."""
    names, lowest = _settings(data), _lowest(data)
    count = len(names) - 1
    labels = json.dumps({name: short(name) for name in names}, ensure_ascii=False)
    axis: dict[str, Any] = {
        "title": None, "labelExpr": f"{labels}[datum.value]", "labelOverlap": False, "ticks": False,
        "labelLimit": alt.expr(f"{NARROW} ? 120 : 220"), "labelFontSize": alt.expr(f"{NARROW} ? 8.5 : 11"),
    }  # fmt: skip
    x = alt.X("setting_a:N", sort=None, scale=alt.Scale(domain=names[:-1]), axis=alt.Axis(labelAngle=-90, **axis))
    y = alt.Y("setting_b:N", sort=None, scale=alt.Scale(domain=names[1:]), axis=alt.Axis(**axis))
    told = {"setting_a": "Setting", "setting_b": "beside", "differs_in": "Differ in"}
    value = {"statistic": "Statistic", "agreement_said": "Value [95 % interval]"}
    numbers = {"n_cells": "Cells", "n_clusters": "Checkpoints", "note": "Note"}
    cells = page_style.said(page_style.marks("pairs"), ["agreement"], share=False, decimals=3)
    layers = [
        page_style.named(
            cells.mark_rect(fill=page_style.CELL, stroke=page_style.LINE).encode(
                x=x, y=y, fillOpacity=page_style.heat("agreement", low=lowest),
                tooltip=page_style.hover(**told, **value, **numbers),
            )
        ),
        page_style.marks("pairs").mark_text(
            fontSize=alt.expr(f"min(11, 0.42 * width / {count})"),
            opacity=alt.expr(f"width / {count} < 20 ? 0 : 1"),
            tooltip=None,
        ).encode(
            x=x, y=y, text=alt.Text("agreement:Q", format=".2f"),
        ),
    ]  # fmt: skip
    if "missing" in data:
        crossed = page_style.marks("missing").mark_rect(fill="transparent", stroke=page_style.LINE)
        layers.append(page_style.named(crossed.encode(x=x, y=y, tooltip=page_style.hover(**told, **numbers))))
    height = round(count * float(np.clip(320 / count, 20, 60)))
    titles = {measure: title for measure, (_, title) in SHOWN.items()}
    specification = page_style.view(*layers, zoomed=False, height=height)
    return Chart((specification,), panel="measure", titles=titles, wide=len(names) > WIDEST)


FIGURE = Figure(
    name="settings",
    title="Which settings agree?",
    caption="Agreement of every two settings over all model × checkpoint × task cells that both have: rank (Spearman) "
    "correlation of MUI, and cosine similarity of the share of key experts. The fuller a cell, the more alike. "
    "Settings stand by formulation (proj: projection, act: activation) and then by threshold (top score: share of the "
    "layer's highest score, else of the neurons that can be key); named besides are a selection that isn't pairs, a "
    "rule that isn't topk (global: over all layers), and other scoring options. An empty cell has no value, for the "
    "reason in the table. Intervals are a bootstrap over whole checkpoints, since the tasks of one checkpoint are not "
    "independent.",
    definition="Each setting gives one value for every model × checkpoint × task: MUI at the common number of samples, "
    "or the share of experts that are key. Two settings agree in MUI where they put the cells in the same order; R "
    "is the rank of a cell's MUI. They agree in key experts where their vectors p point the same way. Shares are "
    "positive, so their cosine is high even where they have little in common.",
    formula=r"\rho = \operatorname{corr}\left(R(\mathrm{MUI}_a), R(\mathrm{MUI}_b)\right), \qquad "
    r"\cos(a, b) = \frac{\sum_c p_{a,c}\, p_{b,c}}{\sqrt{\sum_c p_{a,c}^2}\, \sqrt{\sum_c p_{b,c}^2}}",
    alt="Heat maps of settings against settings, a cell for each two: Spearman correlation of MUI, and cosine "
    "similarity of the share of key experts.",
    tables=("sensitivity",),
    table_titles={
        "pairs": "Agreement of every two settings",
        "missing": "Pairs of settings without a value",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("agreement", "Spearman correlation or cosine similarity over the cells", "")
    | {
        "agreement_low": ("lower end of its 95 % interval (percentile bootstrap over whole checkpoints)", ""),
        "agreement_high": ("upper end of its 95 % interval (percentile bootstrap over whole checkpoints)", ""),
        "statistic": ("which it is: spearman of MUI, cosine of the share of key experts", ""),
    },
)
