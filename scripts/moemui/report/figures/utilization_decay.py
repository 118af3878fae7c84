"""Utilization decay: how fast does the use of neurons fall from the most used ones to the others?"""

from __future__ import annotations

import json
import textwrap

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from moemui.laws.decay import ALL_TASKS
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables
from moemui.report.figures.looks import COLOURS, GREY, Look, task_looks
from moemui.report.figures.paper_style import DOUBLE, legend, logarithmic, panels, styled
from moemui.report.views import Choice

TOGETHER, UNTRAINED = "all tasks", "all tasks, untrained"
HEIGHT = 280  # pixels
SHORT = 26  # characters of a line that fits below the curves
TASKS_NAMED = 10  # tasks up to which each line on paper has a look of its own
FIT = ["model", "checkpoint", "n_samples", "n_key", "xmin", "n_tail", "alpha", "alpha_low", "alpha_high", "p_fit",
       "best", "note"]  # fmt: skip


def data(tables: Tables, choice: Choice) -> Data:
    """The curve of each task and of all together at each model's last checkpoint, of all together untrained; the fits.

    Raises NothingToShow where no incidence was measured at the setting.
    """
    rows = views.at(tables["decay_curve"], choice.curves, "decay_curve")
    ends = views.last(rows)
    ends = ends.assign(line=ends["task"].replace(ALL_TASKS, TOGETHER))
    start = rows[(rows["task"] == ALL_TASKS) & views.untrained(rows) & ~rows.index.isin(ends.index)]
    shown = pd.concat([ends, start.assign(line=UNTRAINED)])
    columns = ["model", "checkpoint", "tokens", "line", "n_samples", "rank", "incidence"]
    together = ends[ends["line"] == TOGETHER]
    fitted = together.dropna(subset=["fitted"])[["model", "checkpoint", "line", "rank", "fitted"]]
    found = views.at(tables["decay"], choice.curves, "decay")
    found = found[found["task"] == ALL_TASKS].merge(together[["model", "checkpoint"]].drop_duplicates())
    parts = {"curves": shown[columns], "fitted": fitted, "fits": found[FIT]}
    return {name: part.reset_index(drop=True) for name, part in parts.items()}


def _looks(curves: pd.DataFrame) -> dict[str, Look]:
    """The look of every line: tasks in colours and dashes, black for all together, grey for these untrained."""
    lines = views.names(curves, "line")
    tasks = [line for line in lines if line not in (TOGETHER, UNTRAINED)]
    found = task_looks(tasks) | {TOGETHER: Look(COLOURS[-1]), UNTRAINED: Look(GREY)}
    return {line: look for line, look in found.items() if line in lines}


def _words(fit: pd.Series) -> str:
    """The fit to all tasks of a model in short lines: exponent with interval, which law it is; or why there is none."""
    if np.isnan(fit["alpha"]):
        said = ["no power law fitted:", *textwrap.wrap(str(fit["note"]), SHORT, break_on_hyphens=False)]
    else:
        said = [f"α = {fit['alpha']:.2f} [{fit['alpha_low']:.2f}, {fit['alpha_high']:.2f}]"]
        said += textwrap.wrap(f"best: {fit['best']}", SHORT, break_on_hyphens=False)
    return "\n".join(said)


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """Incidence against rank on logarithmic axes with the fitted power law, a panel a model."""
    curves = data["curves"]
    models, look = views.names(curves, "model"), _looks(curves)
    tasks = [line for line in look if line not in (TOGETHER, UNTRAINED)]
    if len(tasks) > TASKS_NAMED:
        look |= dict.fromkeys(tasks, Look(COLOURS[0]))
    columns = min(3 if len(models) <= 9 else 4, max(2, len(models)))
    rows = -(-len(models) // columns)
    figure = Drawing(figsize=(DOUBLE, 0.75 + min(2.3, 8.5 / rows) * rows))  # a page at most
    for axes, model in zip(panels(figure, len(models), columns, sharex=True, sharey=True), models, strict=True):
        own = curves[curves["model"] == model]
        for line in (*tasks, UNTRAINED, TOGETHER):
            curve, width = own[own["line"] == line], 0.7 if line in tasks else 1.2
            if len(curve):
                style = look[line]
                axes.plot(curve["rank"], curve["incidence"], color=style.colour, linestyle=style.dash, linewidth=width)
        fitted = data["fitted"][data["fitted"]["model"] == model]
        axes.plot(
            fitted["rank"], fitted["fitted"], color="black", linestyle="--", linewidth=1.4,
            path_effects=[withStroke(linewidth=2.6, foreground="white")],
        )  # fmt: skip
        last = own.loc[own["line"] != UNTRAINED, "checkpoint"].iloc[0]
        axes.set(title=f"{model}, {last}", xlabel="rank of the neuron", ylabel="share of samples")
        logarithmic(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        for _, fit in data["fits"][data["fits"]["model"] == model].iterrows():
            axes.text(0.03, 0.04, _words(fit), transform=axes.transAxes, fontsize=6)
    entries = {}
    for line, style in look.items():
        if line not in tasks or len(tasks) <= TASKS_NAMED:
            entries[line] = Line2D([], [], color=style.colour, linestyle=style.dash)
    entries["power law"] = Line2D([], [], color="black", linestyle="--")
    legend(figure, entries, columns=6)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The same, all panels on the same axes."""
    curves = data["curves"]
    series = Series("line", _looks(curves))
    highest, lowest = curves["rank"].max(), curves["incidence"].min()
    tens = [10.0**power for power in range(8)]
    x = page_style.x("rank", "Rank of the neuron", scale="log", domain=(0.8, 1.25 * highest), values=tens, format="~s")
    parts = [1 / ten for ten in tens]
    y = page_style.y(
        "incidence", "Share of samples", share=True, scale="log", domain=(lowest / 1.25, 1.25), values=parts
    )
    rows = page_style.marks("curves", series).transform_calculate(
        incidence_said="format(100 * datum.incidence, '.3~g') + ' %'"
    )
    fitted = page_style.marks("fitted", series)
    hue, together = page_style.coloured(series), f"indexof({[TOGETHER, UNTRAINED]}, datum.line) >= 0"
    specification = page_style.view(
        rows.mark_line().encode(
            x=x, y=y, color=hue, strokeDash=page_style.dashed(series),
            strokeWidth=alt.condition(together, alt.value(2.4), alt.value(1.1)), detail=["checkpoint:N"],
        ),
        page_style.named(
            rows.mark_point(size=14, opacity=1).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), fill=page_style.coloured(series, alt.Fill),
                shape=page_style.shaped(series),
                tooltip=page_style.hover(
                    model="Model", checkpoint="Checkpoint", line="Samples of", rank="Rank of the neuron",
                    incidence_said="Share of samples", n_samples="Samples",
                ),
            )
        ),
        _text(data["fits"]),
        fitted.mark_line(strokeWidth=5, color=page_style.CARD).encode(x=x, y=alt.Y("fitted:Q")),
        fitted.mark_line(strokeDash=[9, 5], strokeWidth=3, color=page_style.TEXT).encode(x=x, y=alt.Y("fitted:Q")),
        series=series,
        height=HEIGHT,
    )  # fmt: skip
    lasts = curves[curves["line"] != UNTRAINED].drop_duplicates("model").set_index("model")["checkpoint"]
    titles = {str(model): f"{model}, {last}" for model, last in lasts.items()}
    return Chart((specification,), series, panel="model", titles=titles)


def _text(fits: pd.DataFrame) -> alt.Chart:
    """The fit of each panel in words, where a curve that falls leaves room."""
    words = {str(fit["model"]): _words(fit) for _, fit in fits.iterrows()}
    rows = page_style.marks("fits").transform_calculate(words=f"({json.dumps(words)})[datum.model]")
    lines = max((text.count("\n") + 1 for text in words.values()), default=1)
    text = rows.mark_text(align="left", baseline="top", lineBreak="\n", lineHeight=13, tooltip=None)
    return page_style.named(text.encode(x=alt.value(6), y=alt.value(HEIGHT - 13 * lines - 4), text="words:N"))


FIGURE = Figure(
    name="utilization_decay",
    title="Decay of utilization",
    caption="Incidence of neurons ({curves}): the share of samples in which a neuron is key, against its rank, on "
    "logarithmic axes, at the last checkpoint of each model. Coloured: tasks; black, or white in the dark: all tasks "
    "together; grey: all tasks together at the untrained checkpoint. Dashed: the power law fitted to the tail of all "
    "tasks together, with its exponent α and the laws that none beats at p < 0.05. Neurons of a model are not "
    "independent, so intervals are too narrow and p-values too small.",
    definition="q_u is the number of the n samples in which neuron u is key. Among the neurons of the tail, those "
    "with q_u ≥ x_min, the power law gives the chance of q_u = k for k from x_min to n. It is fitted by maximum "
    "likelihood, x_min by the least Kolmogorov–Smirnov distance, and compared with a log-normal, an exponential and "
    "a truncated power law by likelihood ratios.",
    formula=r"P(q_u = k) = \frac{k^{-\alpha}}{\sum_{j = x_\mathrm{min}}^{n} j^{-\alpha}}",
    alt="Log-log line charts, one panel a model, of neuron incidence falling with rank, with a fitted power law.",
    tables=("decay_curve", "decay"),
    table_titles={
        "curves": "Share of samples by rank of the neuron",
        "fitted": "Fitted power law, point by point",
        "fits": "Exponent and best law of each model",
    },
    data=data,
    paper=paper,
    page=page,
    meanings={"line": ("the task; all tasks together; or all together at the untrained checkpoint", "")},
)
