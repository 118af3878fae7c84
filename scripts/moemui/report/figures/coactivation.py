"""Which experts are active together, beyond what the tasks explain?"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from moemui.report import views
from moemui.report.figures import expert_axis, page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables
from moemui.report.figures.looks import COLOURS, GREY, Look
from moemui.report.figures.paper_style import DOUBLE, legend, model_columns, panels, styled
from moemui.report.views import Choice, NothingToShow

MOST = 20  # experts of a model that can be read beside each other
LIMIT = 0.5  # correlation from which colours are full; few are beyond it
APART, TOGETHER = "var(--colour-1)", "var(--colour-0)"
COLOURED = [COLOURS[1], "#f7f7f7", COLOURS[0]]  # apart, independent, together
VERDICTS = {"together": Look(COLOURS[0], "^"), "apart": Look(COLOURS[1], "v"), "undecided": Look(GREY)}
LABELS = {"together": "together (q < 0.05)", "apart": "apart (q < 0.05)", "undecided": "undecided (no mark)"}
UNTESTED = "#c8c8c8"
GROUPS = {"all": "all pairs", "same_layer": "same layer", "across_layers": "across layers"}
ENDS = ("", "_low", "_high")


def data(tables: Tables, choice: Choice) -> Data:
    """The pairs of each model's most frequent experts at its last checkpoint, those without a test, and the means.

    Of the experts that the table compares, the MOST most frequent are shown, a before b in the model's order; the means
    are over all that it compares. Raises NothingToShow where no pair can be tested within tasks.
    """
    every = views.last(views.at(tables["coactivation"], choice.experts, "coactivation"))
    found = [_pairs(own) for _, own in every.groupby("model", sort=False)]
    pairs = pd.concat(found, ignore_index=True)
    tested = pairs["phi_within"].notna()
    if not tested.any():
        raise NothingToShow("No two experts of a model both vary within a task, so co-activation can't be tested.")
    common = ["model", "checkpoint", "expert_a", "expert_b", "kind_a", "kind_b", "n_samples", "n_a", "n_b", "n_both"]
    measured = ["phi_within", *(f"odds_ratio_within{end}" for end in ENDS), "p_within", "q_within", "verdict_within"]
    shown = {
        "pairs": pairs.loc[tested, [*common, "expected_within", *measured, "n_tasks_within", "note"]],
        "untested": pairs.loc[~tested, [*common, "note"]],
    }
    means = tables["coactivation_summary"]
    if len(means):
        means = views.last(views.at(means, choice.experts, "coactivation_summary")).dropna(subset=["mean_phi_within"])
    means = means.rename(columns={"p_within": "p_mean"})  # beside p_within of a pair
    columns = ["model", "checkpoint", "pairs", "mean_phi_within", "chance_low", "chance_high", "p_mean", "n_samples"]
    counts = ["n_testable_within", "n_together_within", "n_apart_within", "n_compared"]
    shown["means"] = means[[*columns, *counts]]
    return {name: rows.reset_index(drop=True) for name, rows in shown.items()}


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """A model's pairs among its MOST most frequent experts, the first in the model as a, in the model's order."""
    often = pd.concat([rows.set_index("expert_a")["n_a"], rows.set_index("expert_b")["n_b"]])
    often = often[~often.index.duplicated()].sort_values(ascending=False, kind="stable").head(MOST)
    rows = rows[rows["expert_a"].isin(often.index) & rows["expert_b"].isin(often.index)]
    place = {expert: expert_axis.place(expert) for expert in often.index}
    turned = rows["expert_a"].map(place) > rows["expert_b"].map(place)
    sides = [f"{name}{side}" for name in ("expert", "kind", "n") for side in ("_a", "_b")]
    other = [f"{name}{side}" for name in ("expert", "kind", "n") for side in ("_b", "_a")]
    rows = rows.assign(**{a: rows[a].where(~turned, rows[b]) for a, b in zip(sides, other, strict=True)})
    return rows.sort_values(["expert_a", "expert_b"], key=lambda names: names.map(place), kind="stable")


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """The triangle of pairs of each model; triangles mark what is significant, grey what can't be tested.

    An expert's name stands on the diagonal, where its row and its column begin.
    """
    pairs, untested = data["pairs"], data["untested"]
    both = pd.concat([pairs, untested])
    models, titles = views.names(both, "model"), expert_axis.titles(both)
    columns = model_columns(len(models))
    figure = Drawing(figsize=(DOUBLE, 0.3 + DOUBLE / columns * -(-len(models) // columns)))
    shades, ends = LinearSegmentedColormap.from_list("signed", COLOURED, bad=UNTESTED), Normalize(-LIMIT, LIMIT)
    size = 10 / columns
    for axes, model in zip(panels(figure, len(models), columns), models, strict=True):
        own = both[both["model"] == model]
        names = sorted({*own["expert_a"], *own["expert_b"]}, key=expert_axis.place)
        at = {name: number for number, name in enumerate(names)}
        x, y = (own[f"expert_{side}"].map(at).to_numpy() for side in "ba")
        image = np.zeros((len(names), len(names), 4))
        image[y, x] = shades(ends(own["phi_within"].to_numpy(dtype=float)))
        axes.imshow(image, interpolation="nearest")
        for name in ("together", "apart"):
            marked = (own["verdict_within"] == name).to_numpy()
            axes.plot(
                x[marked], y[marked], VERDICTS[name].marker, color="black", markersize=size * 0.75, markeredgewidth=0,
                linestyle="none",
            )  # fmt: skip
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xticks=[], yticks=[])
        for place, name in enumerate(names):
            weight = "bold" if "-S" in name else "normal"
            axes.text(place + 0.4, place, name, ha="right", va="center", fontsize=5, fontweight=weight)
        axes.set_title(titles[model], fontsize=7 if columns < 4 else 5.5)
    entries = {
        LABELS[name]: Line2D([], [], color="black", marker=look.marker, linestyle="none")
        for name, look in VERDICTS.items()
        if name != "undecided"
    }
    patches = {
        f"correlation ≤ −{LIMIT:g}": COLOURED[0], "0": COLOURED[1], f"≥ {LIMIT:g}": COLOURED[2], "no test": UNTESTED,
    }  # fmt: skip
    swatches = {
        name: Line2D([], [], color=colour, marker="s", markersize=5, markeredgecolor=GREY, markeredgewidth=0.3,
                     linestyle="none")
        for name, colour in patches.items()
    }  # fmt: skip
    legend(figure, swatches | entries, columns=6)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The triangles, and below each the mean of all pairs against the range that chance gives."""
    pairs = data["pairs"]
    verdicts = {name: look for name, look in VERDICTS.items() if (pairs["verdict_within"] == name).any()}
    series = Series("verdict_within", verdicts, LABELS, line=False)
    specifications = [_triangle(data, series)]
    if len(data["means"]):
        specifications.append(_means(data["means"], series))
    return Chart(tuple(specifications), series, panel="model", titles=expert_axis.titles(pd.concat(data.values())))


def _triangle(data: Data, series: Series) -> dict:
    def placed(chart: alt.Chart) -> alt.Chart:
        return expert_axis.placed(expert_axis.placed(chart, "expert_a"), "expert_b")

    x, y = (
        channel(
            f"expert_{side}:N", sort=alt.EncodingSortField(f"expert_{side}_place", op="min"),
            axis=expert_axis.labels(title=None, labelFontSize=9, **options),
        )
        for channel, side, options in ((alt.X, "b", {"labelAngle": -90}), (alt.Y, "a", {"minExtent": 44}))
    )  # fmt: skip
    sign = alt.condition("datum.phi_within < 0", alt.value(APART), alt.value(TOGETHER))
    strength = alt.Scale(domain=[0, LIMIT], range=[0, 1], clamp=True)
    rows = placed(page_style.marks("pairs", series)).transform_calculate(
        q_said=expert_axis.probability("q_within"),
        phi_said="format(datum.phi_within, '.2f')", strength="abs(datum.phi_within)",
        n_said="datum.n_both + ', expected ' + format(datum.expected_within, '.1f')",
    )  # fmt: skip
    pair = {"expert_a": "Expert", "expert_b": "and expert"}
    counts = {"n_a": "Samples with the first", "n_b": "Samples with the second"}
    rest = {"n_samples": "Samples", "note": "Note"}
    tooltip = pair | {
        "phi_said": "Correlation within tasks", "odds_ratio_within_said": "Odds ratio within tasks [95 % interval]",
        "q_said": "q (Benjamini–Hochberg)", "n_said": "Samples with both",
    } | rest  # fmt: skip
    tiles = page_style.said(rows, ["odds_ratio_within"], share=False, decimals=2)
    layers = [
        page_style.named(
            tiles.mark_rect(stroke=page_style.LINE, strokeWidth=1).encode(
                x=x,
                y=y,
                fill=sign,
                fillOpacity=alt.FillOpacity("strength:Q", scale=strength, legend=None),
                tooltip=page_style.hover(**tooltip),
            )
        )
    ]
    if len(data["untested"]):
        empty = placed(page_style.marks("untested")).mark_rect(
            fill=page_style.SOFT, fillOpacity=0.35, stroke=page_style.LINE, strokeWidth=1
        )
        said = page_style.hover(**pair, n_both="Samples with both", **counts, **rest)
        layers.append(page_style.named(empty.encode(x=x, y=y, tooltip=said)))
    for name in ("together", "apart"):
        marked = tiles.transform_filter(f"datum.verdict_within === '{name}'")
        shape = page_style.SHAPES[VERDICTS[name].marker]
        signs = marked.mark_point(
            shape=shape, fill=page_style.TEXT, stroke=page_style.CARD, strokeWidth=0.5, size=50, opacity=1
        )
        layers.append(signs.encode(x=x, y=y, tooltip=page_style.hover(**tooltip)))
    return page_style.view(*layers, series=series, zoomed=False, height=300)


def _means(rows: pd.DataFrame, series: Series) -> dict:
    means = page_style.marks("means").transform_calculate(
        which=f"{GROUPS!r}[datum.pairs]", p_said=expert_axis.probability("p_mean"),
        mean_said="format(datum.mean_phi_within, '.3f')",
        chance_said="format(datum.chance_low, '.3f') + ' to ' + format(datum.chance_high, '.3f')",
    )  # fmt: skip
    y = alt.Y("which:N", sort=list(GROUPS.values()), axis=alt.Axis(title=None, ticks=False, minExtent=80))
    ends = page_style.spanned(rows["mean_phi_within"], rows["chance_low"], rows["chance_high"], at=[0], room=0.08)
    x = page_style.x("mean_phi_within", "Mean correlation within tasks", domain=ends)
    chance = means.mark_bar(color=page_style.SOFT, opacity=0.3, height=14, tooltip=None)
    points = means.mark_point(shape="diamond", fill=page_style.TEXT, stroke=page_style.TEXT, size=50, opacity=1)
    return page_style.view(
        chance.encode(x=alt.X("chance_low:Q"), x2="chance_high:Q", y=y),
        page_style.zero(),
        page_style.named(
            points.encode(
                x=x, y=y,
                tooltip=page_style.hover(
                    which="Pairs", mean_said="Mean correlation within tasks",
                    chance_said="95 % of it by chance", p_said="p", n_testable_within="Pairs tested",
                    n_together_within="Together (q < 0.05)", n_apart_within="Apart (q < 0.05)", n_samples="Samples",
                ),
            )
        ),
        series=series,
        zoomed=False,
        height=75,
    )  # fmt: skip


FIGURE = Figure(
    name="coactivation",
    title="Experts that are active together",
    caption=f"Pairs among the {MOST} experts that are most often active at each model's last checkpoint ({{experts}}) "
    "without being active in every sample, in the model's order. Colour: correlation of their being active within "
    "tasks, blue more often together than by chance, orange less often, the paler the closer to independent, full from "
    f"±{LIMIT:g} on. A triangle that points up (together) or down (apart) marks pairs with q < 0.05 after "
    "Benjamini–Hochberg over the model's pairs. Grey: in no task do both experts vary, so nothing can be tested. "
    "Below: mean over all pairs that the table compares (diamond) and where 95 % of such means lie if experts are "
    "independent (bar). Experts of one layer compete for its key neurons, so some of them are apart by construction.",
    definition="Over all tasks two experts of one task look co-active though neither knows of the other. Therefore "
    "both are compared within tasks: in task t, of n_t samples, expert a is active in a_t, expert b in b_t, both in "
    "c_t. The correlation sums what is beyond chance over the tasks in which both vary. p is that of the "
    "Cochran–Mantel–Haenszel test stratified by task, exact where few samples are expected; the odds ratio is the "
    "Mantel–Haenszel one.",
    formula=r"\varphi = \frac{\sum_t \left( c_t - a_t b_t / n_t \right)}"
    r"{\sqrt{\sum_t a_t (n_t - a_t) / n_t \cdot \sum_t b_t (n_t - b_t) / n_t}}",
    alt="Triangular heat maps, one panel a model, of correlations between experts, and their means with chance's "
    "range.",
    tables=("coactivation", "coactivation_summary"),
    table_titles={
        "pairs": "Correlation of every two experts",
        "untested": "Pairs of experts that cannot be tested",
        "means": "Mean correlation of pairs, beside chance",
    },
    data=data,
    paper=paper,
    page=page,
    meanings={"p_mean": ("chance of a mean_phi_within as far from 0 or farther", "probability")},
)
