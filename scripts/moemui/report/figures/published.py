"""Own results beside the paper's published figures: does the study find what the paper printed?"""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from moemui.mui.dynamics import MEAN
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, Look
from moemui.report.figures.paper_style import DOUBLE, legend, mark, percent, styled
from moemui.report.views import Choice, NothingToShow

OWN, PRINTED = "this study", "published"
LOOKS = {OWN: Look(COLOURS[0]), PRINTED: Look(COLOURS[1], "D")}
METRICS = {
    "performance": "Accuracy",
    "mui": "MUI",
    "key_expert": "Share of key experts",
    "frequency": "Frequency of experts",
    "expert_mui": "Expert MUI",
}
VALUE = ["value", "value_low", "value_high"]
STEP = 24  # pixels that a pair takes
EXTENT = alt.expr("windowSize()[0] < 700 ? 150 : 210")  # and that its name does


def data(tables: Tables, choice: Choice) -> Data:
    """Two rows a pair, the study's own value and the published one; how well they agree, by group that is ranked.

    Raises NothingToShow where no model and task of the study has a published name.
    """
    pairs = tables["published"]
    if pairs.empty:
        raise NothingToShow("No model and task of this study have the names of ones that the paper printed.")
    own = {name: pairs[name.replace("value", "own")] for name in VALUE}
    sides = (
        pairs.assign(source=OWN, rank=pairs["own_rank"], **own),
        pairs.assign(source=PRINTED, rank=pairs["published_rank"], value=pairs["published"], value_low=np.nan,
                     value_high=np.nan, note=""),
    )  # fmt: skip
    rows = pd.concat(sides).sort_index(kind="stable")
    rows = rows.sort_values("metric", key=lambda names: names.map(list(METRICS).index), kind="stable")
    columns = ["figure", "metric", "published_model", "model", "checkpoint", "task", "expert", "source", *VALUE]
    return {
        "pairs": rows[[*columns, "difference", "rank", "note"]].reset_index(drop=True),
        "agreement": tables["published_agreement"].reset_index(drop=True),
    }


def _labels(rows: pd.DataFrame) -> pd.Series:
    """What stands beside a pair: the published model, the expert, the task where it isn't the mean."""
    task = (", " + rows["task"]).where(rows["task"] != MEAN, "")
    return (rows["published_model"] + " " + rows["expert"]).str.strip() + task


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a metric, a line a pair: the published value and the study's own with its interval."""
    rows = data["pairs"].assign(label=_labels(data["pairs"]))
    metrics = views.names(rows, "metric")
    counts = [rows.loc[rows["metric"] == metric, "label"].nunique() for metric in metrics]
    blocks = [max(counts[start : start + 2]) for start in range(0, len(metrics), 2)]
    ratios = [0.5 + 0.13 * count for count in blocks]
    drawing = Drawing(figsize=(DOUBLE, 0.4 + sum(ratios)))
    grid = drawing.subplots(len(blocks), 2, squeeze=False, gridspec_kw={"height_ratios": ratios}).ravel()
    for axes in grid[len(metrics) :]:
        axes.set_visible(False)
    for axes, metric in zip(grid, metrics, strict=False):
        own = rows[rows["metric"] == metric]
        labels = views.names(own, "label")
        for _, pair in own.groupby("label", sort=False):
            axes.plot(
                pair["value"],
                [labels.index(str(pair["label"].iloc[0]))] * len(pair),
                color="#c4c4c4",
                linewidth=0.8,
                zorder=1,
            )
        for source, look in LOOKS.items():
            side = own[own["source"] == source]
            ends = [
                (side["value"] - side["value_low"]).clip(lower=0),
                (side["value_high"] - side["value"]).clip(lower=0),
            ]
            axes.errorbar(
                side["value"], [labels.index(str(label)) for label in side["label"]], fmt=look.marker, markersize=3,
                xerr=[part.astype(float) for part in ends], color=look.colour, elinewidth=0.8,
            )  # fmt: skip
        axes.set_yticks(range(len(labels)), labels, fontsize=5.5)
        axes.set(title=METRICS[metric], ylim=(len(labels) - 0.5, -0.5))
        percent(axes, "x")
    legend(drawing, {source: mark(look, label=source) for source, look in LOOKS.items()}, columns=2)
    return drawing


def page(data: Data, choice: Choice) -> Chart:
    """A view a metric with its pairs, and last how far own values lie from published ones on average."""
    rows = data["pairs"].assign(label=_labels(data["pairs"]))
    series = Series("source", LOOKS, line=False)
    specifications = [_pairs(rows[rows["metric"] == metric], series, metric) for metric in views.names(rows, "metric")]
    if len(data["agreement"]):
        specifications.append(_agreement(data["agreement"], series))
    return Chart(tuple(specifications), series, wide=True)


def _pairs(rows: pd.DataFrame, series: Series, metric: str) -> dict:
    base = page_style.said(page_style.marks("pairs", series), ["value"]).transform_filter(
        f"datum.metric === '{metric}'"
    )
    base = base.transform_calculate(
        label="datum.published_model + (datum.expert ? ' ' + datum.expert : '') + "
        f"(datum.task === '{MEAN}' ? '' : ', ' + datum.task)",
        difference_said="format(100 * datum.difference, '+.1f') + ' points'",
    )
    x = page_style.x(
        "value",
        METRICS[metric],
        share=True,
        domain=page_style.spanned(*(rows[name] for name in VALUE), at=[0], room=0.06),
        labelSeparation=6,
    )
    axis = alt.Axis(title=None, ticks=False, grid=True, minExtent=EXTENT, labelLimit=EXTENT)
    labels = views.names(rows, "label")
    y = alt.Y("label:N", sort=labels, scale=alt.Scale(domain=labels), axis=axis)
    hue = page_style.coloured(series)
    return page_style.view(
        base.mark_line(color=page_style.SOFT, opacity=0.6, strokeWidth=1).encode(x=x, y=y, detail=["label:N"]),
        base.mark_rule(strokeWidth=2.4).encode(x=alt.X("value_low:Q"), x2="value_high:Q", y=y, color=hue),
        page_style.named(
            base.mark_point(opacity=1).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), fill=page_style.coloured(series, alt.Fill),
                shape=page_style.shaped(series),
                tooltip=page_style.hover(
                    source="Value of", value_said="Value [95 % interval]", difference_said="Own − published",
                    rank="Rank", label="Published as", model="Model", checkpoint="Checkpoint", note="Note",
                ),
            )
        ),
        series=series,
        zoomed=False,
        height=STEP * max(2, len(labels)),
    )  # fmt: skip


def _agreement(rows: pd.DataFrame, series: Series) -> dict:
    base = page_style.marks("agreement").transform_calculate(
        group=f"{json.dumps(METRICS)}[datum.metric] + ', ' + (datum.model || 'models') + "
        f"(datum.task === '{MEAN}' ? '' : ', ' + datum.task)",
        ranks="isValid(datum.spearman) ? format(datum.spearman, '.2f') : 'none (' + (datum.note || 'not known') + ')'",
        p_said="isValid(datum.spearman_p) ? format(datum.spearman_p, '.2~g') : ''",
        difference_said="format(100 * datum.mean_difference, '+.1f') + ' points'",
    )
    base = base.transform_calculate(words="datum.group + ': n ' + datum.n_common + ', ρ ' + datum.ranks")
    ends = page_style.spanned(rows["mean_difference"], at=[0])
    x = page_style.x("mean_difference", "Own − published, mean", points=True, domain=ends, labelSeparation=6)
    y = alt.Y("group:N", sort=None, axis=None)
    return page_style.view(
        page_style.zero(),
        page_style.named(
            base.mark_bar(height=8, yOffset=9, color=page_style.colour(LOOKS[OWN])).encode(
                x=x, x2=alt.datum(0), y=y,
                tooltip=page_style.hover(
                    group="Of", n_common="Values in common", difference_said="Own − published, mean",
                    ranks="Rank correlation (Spearman)", p_said="p", note="Note",
                ),
            )
        ),
        base.mark_text(align="left", yOffset=-6, tooltip=None).encode(x=alt.value(2), y=y, text="words:N"),
        series=series,  # its rows are of no source, but the legend tells every view what is shown
        zoomed=False,
        height=38 * max(2, len(rows)),
    )  # fmt: skip


FIGURE = Figure(
    name="published",
    title="Own results beside the published ones",
    caption="The study's values, with their 95 % intervals, beside those that the paper's project page prints for a "
    "model (checkpoint, task, expert) of the same name. MUI: {curves}, at the study's common number of samples; "
    "experts: {experts}, key from a frequency of {expert_threshold}. Published values have no intervals, and MUI "
    "grows with the number of samples, so values over other samples or tasks are not comparable; ranks are more so. "
    "Bars: own less published value on average, with the number of values in common and the correlation of their "
    "ranks, which takes three.",
    definition="Names must agree but for upper and lower case of tasks. A published model is the study's model of that "
    "name at its last checkpoint, or its MODEL-CHECKPOINT; a published mean stands beside the mean over the study's "
    "tasks. The rank correlation is Spearman's, over models, over checkpoints or over the experts of one model.",
    formula=r"\overline{\Delta} = \frac{1}{k} \sum_{i=1}^{k} "
    r"\left( v_i^{\mathrm{own}} - v_i^{\mathrm{published}} \right)",
    alt="Paired marks, by metric: the study's own value with its interval and the published one, a line a "
    "model, checkpoint or expert.",
    tables=("published", "published_agreement"),
    table_titles={
        "pairs": "Own and published values",
        "agreement": "How well own and published values agree",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("value", "the value; published ones have no interval")
    | {
        "source": ("whose value it is: this study's or the published one", ""),
        "rank": ("place among the values that have both, 1 = highest; equal values share the best place", ""),
    },
)
