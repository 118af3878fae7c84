"""The heat map of settings: how alike MUI and the share of key experts are under every two of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from moemui.key_neurons.settings import RULES, Setting
from moemui.report.figure_style import SINGLE, FigureSpec, styled
from moemui.report.figures_experts import HEAT
from moemui.report.views import Choice, NothingToShow

Tables = Mapping[str, pd.DataFrame]
FORMULATIONS = ("projection", "glu", "activation")
# measure → (statistic that is shown, its title)
SHOWN = {
    "mui": ("spearman", "MUI: Spearman correlation"),
    "key_expert_proportion": ("cosine", "share of key experts: cosine similarity"),
}
CELL, LABELS = 0.24, 1.9  # inches: a cell that holds two decimals, and the settings' names with the colour bar
BESIDE = 10  # settings up to which both panels stand side by side

SETTINGS = FigureSpec(
    "settings",
    "Which settings agree?",
    "Agreement of every two settings over all model × checkpoint × task cells that both have: rank (Spearman) "
    "correlation of MUI, and cosine similarity of the share of key experts. Settings are "
    "formulation/selection/threshold, by formulation and then by threshold. White: there is none, for the reason in "
    "the table, which holds the intervals too.",
    "Two heat maps with a number in each cell, settings against settings: Spearman correlation of MUI and cosine "
    "similarity of the share of key experts.",
    ("sensitivity",),
)


def in_order(labels: set[str]) -> list[str]:
    """Settings by formulation (the paper's default first), selection, rule and variant, and then by threshold."""

    def place(label: str) -> tuple[object, ...]:
        setting = Setting.parse(label)
        named = setting.formulation in FORMULATIONS
        formulation = FORMULATIONS.index(setting.formulation) if named else len(FORMULATIONS)
        main = (formulation, setting.selection != "pairs", setting.selection, RULES.index(setting.rule))
        return (*main, setting.variant != "main", setting.variant, setting.threshold)

    return sorted(labels, key=place)


@styled
def settings(tables: Tables, choice: Choice) -> Figure:
    """Agreement between all pairs of settings, a heat map a measure. Table: sensitivity.

    Raises NothingToShow where no two settings have a value.
    """
    table = tables["sensitivity"]
    shown = {
        measure: table[table["measure"] == measure].dropna(subset=[statistic])
        for measure, (statistic, _) in SHOWN.items()
    }
    shown = {measure: rows for measure, rows in shown.items() if len(rows)}
    if not shown:
        raise NothingToShow(
            "No two settings can be compared: that takes two settings and three model × checkpoint × task cells."
        )
    names = in_order({label for rows in shown.values() for label in [*rows["setting_a"], *rows["setting_b"]]})
    lowest = min(0.9, float(min(np.floor(10 * rows[SHOWN[name][0]].min()) / 10 for name, rows in shown.items())))
    beside = len(names) <= BESIDE
    side = CELL * len(names) + 0.4
    width = LABELS + side * (len(shown) if beside else 1)
    height = (LABELS - 0.5) + side if beside else len(shown) * side + LABELS
    figure = Figure(figsize=(max(SINGLE, width), height))
    grid = figure.subplots(*((1, len(shown)) if beside else (len(shown), 1)), squeeze=False, sharex=True, sharey=True)
    for axes, (measure, rows) in zip(grid.ravel(), shown.items(), strict=True):
        statistic, title = SHOWN[measure]
        mesh = _heat_map(axes, _square(rows, statistic, names), names, lowest)
        axes.set_title(title)
    bar = figure.colorbar(mesh, ax=list(grid.ravel()), shrink=0.8)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
    return figure


def _square(rows: pd.DataFrame, statistic: str, names: list[str]) -> np.ndarray:
    """The statistic of every two settings, both ways round; NaN where there is none, and on the diagonal."""
    matrix = np.full((len(names), len(names)), np.nan)
    first, second = (rows[column].map(names.index).to_numpy() for column in ("setting_a", "setting_b"))
    matrix[first, second] = matrix[second, first] = rows[statistic].to_numpy(dtype=float)
    return matrix


def _heat_map(axes: Axes, matrix: np.ndarray, names: list[str], lowest: float) -> QuadMesh:
    mesh = axes.pcolormesh(matrix, cmap=HEAT, vmin=lowest, vmax=1)  # not imshow, which puts a bitmap into the SVG
    axes.set(aspect="equal", ylim=(len(names), 0))
    axes.grid(False)
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            dark = value > lowest + 0.6 * (1 - lowest)
            axes.text(
                column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=5,
                color="white" if dark else "black",
            )  # fmt: skip
    return mesh
