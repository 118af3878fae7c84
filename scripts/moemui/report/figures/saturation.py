"""Saturation: has a task shown nearly all neurons that would ever be key, or would MUI still grow with its samples?"""

from __future__ import annotations

import json

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import Look, task_looks
from moemui.report.figures.panel_domains import panel_domain
from moemui.report.figures.paper_style import (
    DOUBLE,
    legend,
    logarithmic,
    mark,
    model_columns,
    name_axes,
    panels,
    percent,
    styled,
)
from moemui.report.findings.saturation import measured
from moemui.report.views import Choice

CELL = ["model", "checkpoint", "task"]
ENDLESS = "∞"
TOP = "chao2_high"
# Asymptotes stand right of the largest n, at these multiples of it: a line, the first, the last, the end of the axis.
# Each task has a place of its own, so that intervals don't hide each other.
EDGE, FIRST, LAST, END = 1.25, 1.6, 4.0, 5.0


def data(tables: Tables, choice: Choice) -> Data:
    """MUI(m) of every task at each model's last checkpoint, and the asymptote of each task that has one.

    A task has no asymptote with fewer than two samples or without any key neuron. Raises NothingToShow where the table
    has no curve.
    """
    curves = views.last(views.at(tables["saturation"], choice.curves, "saturation"))
    curves = curves.rename(columns={"low": "mui_low", "high": "mui_high"})
    totals = tables["utilization"]
    if len(totals):
        totals = measured(views.last(views.total_mui(totals, choice.curves)))
    asymptotes = totals[[*CELL, "n_samples", "mui", "chao2", "chao2_low", "chao2_high"]]
    curves = curves[[*CELL, "n_samples", "m", "mui", "mui_low", "mui_high"]]
    return {"curves": curves.reset_index(drop=True), "asymptotes": asymptotes.reset_index(drop=True)}


def _places(data: Data) -> dict[str, float]:
    """Where on the axis of m the asymptote of each task stands."""
    tasks, most = views.names(data["curves"], "task"), float(data["curves"]["n_samples"].max())
    if len(tasks) == 1:
        return {tasks[0]: most * (FIRST * LAST) ** 0.5}
    step = (LAST / FIRST) ** (1 / (len(tasks) - 1))
    return {task: most * FIRST * step**place for place, task in enumerate(tasks)}


def _ticks(data: Data) -> list[float]:
    """Numbers of samples that the axis names, in a narrow panel too."""
    most = int(data["curves"]["n_samples"].max())
    found = [1.0]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    if most < 3 * found[-1]:  # the two would run into each other
        found = found[:-1]
    return sorted({1.0, *found, float(most)})


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model, a line a task with its band, and right of all samples its asymptote with its interval."""
    curves, asymptotes = data["curves"], data["asymptotes"]
    models, look = views.names(curves, "model"), task_looks(views.names(curves, "task"))
    columns = model_columns(len(models))
    figure = Drawing(figsize=(DOUBLE, 0.5 + 2.1 * -(-len(models) // columns)))
    every = panels(figure, len(models), columns, sharex=True)
    for axes, model in zip(every, models, strict=True):
        own = curves[curves["model"] == model]
        for task, curve in own.groupby("task", sort=False):
            style, curve = look[str(task)], curve.sort_values("m")
            axes.plot(curve["m"], curve["mui"], color=style.colour, linestyle=style.dash)
            axes.fill_between(
                curve["m"], curve["mui_low"].astype(float), curve["mui_high"].astype(float), color=style.colour,
                alpha=0.18, linewidth=0,
            )  # fmt: skip
        logarithmic(axes)
        _asymptotes(axes, asymptotes[asymptotes["model"] == model], data, look)
        axes.set_title(f"{model}, {own['checkpoint'].iloc[0]}", fontsize=6.5)
        percent(axes)
    name_axes(every, columns, "samples m", "MUI")
    legend(figure, {task: mark(style) for task, style in look.items()}, columns=8)
    return figure


def _asymptotes(axes: Axes, rows: pd.DataFrame, data: Data, look: dict[str, Look]) -> None:
    """The asymptotes of one model, each joined to the end of its curve, beyond a line at the largest n."""
    places, ticks, most = _places(data), _ticks(data), float(data["curves"]["n_samples"].max())
    for task, row in rows.groupby("task", sort=False):
        style, place = look[str(task)], places[str(task)]
        n, mui, end, low, high = (
            float(row[name].iloc[0]) for name in ("n_samples", "mui", "chao2", "chao2_low", "chao2_high")
        )
        axes.plot([n, place], [mui, end], color=style.colour, linewidth=0.5, dashes=(3, 2))
        error = [[max(0.0, end - low)], [max(0.0, high - end)]]
        axes.errorbar(place, end, yerr=error, fmt=style.marker, color=style.colour, elinewidth=0.7, markersize=2.8)
    axes.set_xlim(0.9, most * END)
    beyond = most * (FIRST * LAST) ** 0.5
    axes.xaxis.set_major_locator(FixedLocator([*ticks, beyond]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ENDLESS if value > most else f"{value:g}"))
    axes.axvline(most * EDGE, color="#b0b0b0", linewidth=0.6)


def page(data: Data, choice: Choice) -> Chart:
    """The same; every point of a curve and every asymptote tells its value with its interval."""
    curves = data["curves"]
    series = Series("task", task_looks(views.names(curves, "task")))
    most = float(curves["n_samples"].max())
    label = f"datum.value > {most} ? '{ENDLESS}' : format(datum.value, '~g')"
    ticks = [*_ticks(data), most * (FIRST * LAST) ** 0.5]
    x = page_style.x(
        "m",
        "Samples m (logarithmic)",
        domain=[0.9, most * END],
        scale="log",
        values=ticks,
        labelExpr=label,
        grid=False,
        tickCount=len(ticks),
    )
    # said for each panel, since Vega finds no ends of its own where the legend hides all tasks
    tops = pd.concat([curves[["model", "mui"]], *(data["asymptotes"][["model", name]] for name in ("chao2", TOP))])
    ends = {
        str(model): page_style.spanned(own["mui"], own["chao2"], own[TOP], at=[0])
        for model, own in tops.groupby("model", sort=False)
    }
    scale = alt.Scale(domain=panel_domain("curves", "model", ends))
    y = alt.Y("mui:Q", scale=scale, axis=page_style.percent_axis("MUI"))
    hue = page_style.coloured(series)
    rows = page_style.marks("curves", series)
    beyond = page_style.marks("asymptotes", series).transform_calculate(
        place=f"{json.dumps(_places(data))}[datum.task]"
    )
    place = alt.X("place:Q")
    tooltip = {"model": "Model", "checkpoint": "Checkpoint", "task": "Task"}
    edge = page_style.zero(at=most * EDGE).mark_rule(color=page_style.SOFT, strokeDash=[2, 2])
    specification = page_style.view(
        edge,
        rows.mark_area(opacity=0.18).encode(x=x, y=alt.Y("mui_low:Q"), y2="mui_high:Q", color=hue),
        rows.mark_line().encode(x=x, y=y, color=hue, strokeDash=page_style.dashed(series)),
        page_style.named(
            page_style.said(rows, ["mui"]).mark_point(size=14, strokeWidth=0.8, filled=True).encode(
                x=x, y=y, color=hue,
                tooltip=page_style.hover(
                    **tooltip, m="Samples m", n_samples="Of samples n", mui_said="MUI(m) [95 % interval]"
                ),
            )
        ),
        beyond.mark_rule(strokeDash=[4, 3], opacity=0.55).encode(
            x=alt.X("n_samples:Q"), x2="place:Q", y=y, y2="chao2:Q", color=hue
        ),
        beyond.mark_rule(strokeWidth=1.6).encode(x=place, y=alt.Y("chao2_low:Q"), y2="chao2_high:Q", color=hue),
        page_style.named(
            page_style.said(beyond, ["chao2"]).transform_calculate(
                mui_all="format(100 * datum.mui, '.1f') + ' %'"
            ).mark_point(size=38, opacity=1).encode(
                x=place, y=alt.Y("chao2:Q"), stroke=page_style.coloured(series, alt.Stroke),
                fill=page_style.coloured(series, alt.Fill), shape=page_style.shaped(series),
                tooltip=page_style.hover(
                    **tooltip, chao2_said="Asymptote [95 % interval]", mui_all="MUI of all samples (a count)",
                    n_samples="Samples",
                ),
            )
        ),
        series=series,
        zoom_encodings=["y"],
    )  # fmt: skip
    last = curves.drop_duplicates("model")
    titles = {str(row["model"]): f"{row['model']}, {row['checkpoint']}" for row in last.to_dict("records")}
    return Chart((specification,), series, panel="model", titles=titles)


FIGURE = Figure(
    name="saturation",
    title="Saturation of MUI",
    caption="Expected MUI of m samples ({curves}) at the last checkpoint of each model, by exact rarefaction, with 95 "
    "% bands (Colwell et al. 2012); logarithmic m; the axes of MUI differ. Where a curve ends stands the MUI of all "
    "the task's samples. Right of it, at ∞: the asymptote (Chao2) with its 95 % interval, joined by a dashed line; it "
    "is a lower bound of what endless samples would show. A task without it has fewer than two samples or no key "
    "neuron. A curve that still rises at its end, far below its asymptote, would grow with more samples.",
    definition="How MUI grows with the number m of samples, and where it would end. q_u is the number of the n samples "
    "in which neuron u is key, M_l the neurons of layer l. Chao2 estimates the neurons never seen from Q_1 and Q_2, "
    "the numbers of those that are key in exactly one and exactly two samples; the formula shown holds for Q_2 above 0,"
    " else Q_1 (Q_1 − 1) / 2 takes the place of Q_1² / (2 Q_2). At most all neurons are key.",
    formula=r"\mathrm{MUI}(m) = \frac{1}{\sum_l M_l} \sum_u \left[ 1 - \binom{n - q_u}{m} \Big/ \binom{n}{m} \right],"
    r"\qquad \mathrm{MUI}(\infty) \ge \frac{1}{\sum_l M_l} \left[ \left| \bigcup_s K(s) \right| + \frac{n - 1}{n} "
    r"\frac{Q_1^2}{2 Q_2} \right]",
    alt="Line charts, one panel a model, of MUI rising with the number of samples, one line a task, and the asymptote "
    "of each task at the right edge.",
    tables=("saturation", "utilization"),
    table_titles={
        "curves": "Expected MUI by number of samples",
        "asymptotes": "Asymptote of each task",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("mui", "expected MUI of m samples; of an asymptote's row MUI of all n samples")
    | {"n_samples": ("samples n of the task", "samples")},
)
