"""The utility law: does performance follow from MUI, over models, over training, and in the paper's own figures?"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from moemui.laws import laws
from moemui.laws.published import load
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, DASHES, GREY, Look, looks
from moemui.report.figures.panel_domains import panel_domain
from moemui.report.figures.paper_style import DOUBLE, legend, mark, percent, styled
from moemui.report.views import MEAN, Choice, NothingToShow, names

OWN, PAPER = "this study", "the paper's printed figures"
TITLES = {OWN: "This study", PAPER: "The paper's printed figures"}
PRINTED = {"mui_performance": "the paper's models", "trajectory": "the paper's OLMoE in training"}  # its figure → line
PRINTED_LOOKS = dict(zip(PRINTED.values(), (Look("#000000", "D"), Look(GREY, "o")), strict=True))
OVER_MODELS = "all models"
FORMS: dict[str, Any] = dict(zip(laws.FORMS, DASHES, strict=False))
# Names stand to the right of the paper's marks, at their height but for these, which would meet others.
ABOVE, BELOW = ("DeepSeek-Coder-V2",), ("DeepSeek-V2.5", "OLMoE in training")
OFFSET = {"bottom": 1, "middle": 0, "top": -1}  # points of a name up from its mark
ROOM = {"paper": 0.12, "page": 0.22}  # of MUI, for names to the right of the last mark
ESTIMATES = [f"{name}{end}" for name in ("mui", "accuracy") for end in ("", "_low", "_high")]


def data(tables: Tables, choice: Choice) -> Data:
    """The points that laws are fitted to, of the study and as the paper prints them, and the fitted lines.

    Raises NothingToShow where no trained checkpoint has both values.
    """
    cells = laws.cells(utilization=tables["utilization"], performance=tables["performance"], setting=choice.curves)
    trained = cells[cells["tokens"] != 0]
    groups = [("checkpoints", group) for _, group in trained.groupby("model", sort=False)]
    found = [laws.means(cells=group).assign(scope=scope) for scope, group in groups]
    if not sum(map(len, found)):
        raise NothingToShow(
            "No trained checkpoint has a task with both an accuracy and a MUI, so there is no law to fit."
        )
    found.append(laws.means(cells=laws.last(table=cells)).assign(scope="models"))
    own = pd.concat([points for points in found if len(points)], ignore_index=True)
    at = cells.groupby(["model", "checkpoint"], sort=False)["common_m"].first().reset_index()
    own = own.merge(at, on=["model", "checkpoint"], how="left").assign(panel=OWN, line=own["model"])
    order = ["panel", "scope", "line", "model", "checkpoint", "order", *ESTIMATES, "n_tasks", "common_m"]
    points = pd.concat([own[order], _printed().reindex(columns=order)], ignore_index=True)
    curves = tables["utility_curve"]
    curves = curves[curves["task"] == MEAN]
    published = curves["scope"] == "published"
    models, path = PRINTED_LOOKS
    printed = (curves["model"] == "").map({True: models, False: path})
    curves = curves.assign(
        panel=published.map({True: PAPER, False: OWN}),
        line=curves["model"].replace("", OVER_MODELS).where(~published, printed),
    )
    columns = ["panel", "scope", "line", "form", "point", "mui", "performance", "performance_low", "performance_high"]
    return {"points": points, "fits": curves[columns].reset_index(drop=True)}


def _printed() -> pd.DataFrame:
    """The paper's printed means over tasks as shares, without intervals, which it doesn't print."""
    table = load()
    parts = []
    for figure, line in PRINTED.items():
        rows = table[(table["figure"] == figure) & (table["task"] == MEAN)]
        wide = rows.pivot(index="model", columns="metric", values="value") / 100
        wide = wide.rename(columns={"mui_percent": "mui", "performance_percent": "accuracy"})
        parts.append(wide.reset_index().assign(line=line))
    return pd.concat(parts, ignore_index=True).assign(panel=PAPER, scope="published", checkpoint="")


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """Accuracy against MUI with fits: the study's checkpoints small, the last ones large; the paper's figures apart."""
    points, fits = data["points"], data["fits"]
    own = points[points["panel"] == OWN]
    look = looks(names(own, "model"), choice.families)
    entries = {model: mark(Look(style.colour, style.marker, "none")) for model, style in look.items()}
    entries |= {form: Line2D([], [], color="black", linestyle=dash) for form, dash in FORMS.items()}
    figure = Drawing(figsize=(DOUBLE, 2.75 + 0.14 * -(-len(entries) // 4)))  # the legend has four entries a line
    left, right = figure.subplots(1, 2)
    for (model, scope), rows in own.groupby(["model", "scope"], sort=False):
        style, last = look[str(model)], scope == "models"
        left.plot(
            rows["mui"], rows["accuracy"], style.marker, color=style.colour, markersize=5.5 if last else 2.5,
            alpha=1 if last else 0.6,
        )  # fmt: skip
    for line, rows in points[points["panel"] == PAPER].groupby("line", sort=False):
        style = PRINTED_LOOKS[str(line)]
        right.plot(rows["mui"], rows["accuracy"], style.marker, color=style.colour, markerfacecolor="white")
    for name in _labels(points).to_dict("records"):
        place = str(name["place"])
        right.annotate(
            name["label"], (name["mui"], name["accuracy"]), (4, OFFSET[place]), textcoords="offset points", fontsize=5,
            va="center" if place == "middle" else place,
        )  # fmt: skip
    right.set_xlim(right=points.loc[points["panel"] == PAPER, "mui"].max() + ROOM["paper"])
    colours = {name: style.colour for name, style in (look | PRINTED_LOOKS).items()} | {OVER_MODELS: "black"}
    for axes, (panel, title) in zip((left, right), TITLES.items(), strict=True):
        _fits(axes, fits[fits["panel"] == panel], colours)
        axes.set(xlabel="MUI", ylabel="accuracy")
        axes.set_title(title, loc="left")
        axes.set_ylim(*page_style.SHARE)
        percent(axes, "xy")
    legend(figure, entries, columns=4)
    return figure


def _labels(points: pd.DataFrame) -> pd.DataFrame:
    """Names beside the paper's marks with mui, accuracy and place (which part of it is at the mark); a path has one."""
    models, path = (points[points["line"] == line] for line in PRINTED_LOOKS)
    start = path.head(1).assign(label=path["model"].str.rsplit("-", n=1).str[0] + " in training")
    found = pd.concat([models.assign(label=models["model"]), start], ignore_index=True)
    places = {"bottom": found["label"].isin(ABOVE), "top": found["label"].isin(BELOW)}
    found["place"] = np.select(list(places.values()), list(places), "middle")
    return found[["model", "label", "mui", "accuracy", "place"]]


def _fits(axes: Axes, fits: pd.DataFrame, colours: dict[str, str]) -> None:
    """The fitted lines, with the linear ones' bands, cut off at accuracies that can't be."""
    for (line, form), rows in fits.groupby(["line", "form"], sort=False):
        colour = colours[str(line)]
        axes.plot(rows["mui"], rows["performance"], color=colour, linestyle=FORMS[str(form)], linewidth=0.9)
        if form == "linear":
            low, high = (rows[f"performance_{end}"].clip(0, 1) for end in ("low", "high"))
            axes.fill_between(rows["mui"], low, high, color=colour, alpha=0.08, linewidth=0)


def page(data: Data, choice: Choice) -> Chart:
    """The same; panels have the vertical axis in common, since other samples and tasks make other MUI."""
    points = data["points"]
    look = looks(names(points[points["panel"] == OWN], "model"), choice.families) | PRINTED_LOOKS
    series = Series("line", {name: Look(style.colour, style.marker) for name, style in look.items()}, line=False)
    rows = page_style.said(page_style.marks("points", series), ["mui", "accuracy"])
    domains = {
        str(panel): page_style.spanned(*(rows[f"mui{end}"] for end in ("", "_low", "_high")))
        for panel, rows in points.groupby("panel", sort=False)
    }
    domains[PAPER][1] += ROOM["page"]
    scale = alt.Scale(domain=panel_domain("points", "panel", domains))
    x = alt.X("mui:Q", scale=scale, axis=page_style.percent_axis("MUI"))
    y = page_style.y("accuracy", "Accuracy", share=True, domain=page_style.SHARE)
    fits = alt.Chart(alt.NamedData("fits")).transform_filter(
        f"datum.line === '{OVER_MODELS}' || indexof(shown, datum.line) >= 0"
    )
    hue = page_style.coloured(Series("line", {**series.looks, OVER_MODELS: Look(COLOURS[-1])}))
    dashes = alt.Scale(domain=list(FORMS), range=[page_style.dash(Look(GREY, dash=dash)) for dash in FORMS.values()])
    line = fits.mark_line(strokeWidth=1.5).encode(
        x=x, y=alt.Y("performance:Q"), color=hue, strokeDash=alt.StrokeDash("form:N", scale=dashes, legend=None),
        detail=["line:N"], order="point:Q",
    )  # fmt: skip
    band = fits.transform_filter("datum.form === 'linear'").mark_area(opacity=0.1).encode(
        x=x, y=alt.Y("performance_low:Q"), y2="performance_high:Q", color=hue
    )  # fmt: skip
    layers = [
        band,
        line,
        page_style.named(
            rows.mark_point(opacity=1).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), shape=page_style.shaped(series),
                fill=page_style.hollow(series, "datum.scope === 'published'"),
                size=alt.condition("datum.scope === 'checkpoints'", alt.value(25), alt.value(90)),
                tooltip=page_style.hover(
                    model="Model", checkpoint="Checkpoint", mui_said="MUI [95 % interval]",
                    accuracy_said="Accuracy [95 % interval]", common_m="MUI of samples", n_tasks="Tasks",
                ),
            )
        ),
    ]  # fmt: skip
    layers += _names(points, series, x, y)
    return Chart((page_style.view(*layers, series=series, height=340),), series, panel="panel", titles=TITLES)


def _names(points: pd.DataFrame, series: Series, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The names beside the paper's marks, a layer for each place where a name stands."""
    layers = []
    for place, labels in _labels(points).groupby("place"):
        words = json.dumps(dict(zip(labels["model"], labels["label"], strict=True)))
        rows = page_style.marks("points", series).transform_filter(f"datum.panel === {json.dumps(PAPER)}")
        rows = rows.transform_calculate(label=f"({words})[datum.model]").transform_filter("isValid(datum.label)")
        baseline = alt.TextBaseline(str(place))
        text = rows.mark_text(align="left", baseline=baseline, dx=7, dy=-OFFSET[str(place)], fontSize=10, tooltip=None)
        layers.append(text.encode(x=x, y=y, text="label:N"))
    return layers


FIGURE = Figure(
    name="utility_law",
    title="Performance against MUI: is there a law?",
    caption="Mean accuracy over tasks against MUI. This study ({curves}, at the common number of samples): small marks "
    "are the trained checkpoints of a model, over the tasks that all of them have; large ones each model's last "
    "checkpoint, over the tasks that all models have. Apart from it, hollow: the figures that the paper prints for "
    "eight other models and for OLMoE in training, measured with other samples and tasks. Lines: least squares, solid "
    "linear, dashed logarithmic, with the linear fit's 95 % band of the mean; over models black, over the checkpoints "
    "of one model in its colour. A fit takes four points, and checkpoints of one model are no independent points.",
    definition="Two forms are fitted by ordinary least squares, which takes MUI as exact and all points as equally "
    "certain. The table utility_law has slopes and R² with their 95 % intervals, and tells which form is better by "
    "Akaike's criterion corrected for few points.",
    formula=r"\mathrm{performance} = a + b \cdot \mathrm{MUI} \qquad "
    r"\mathrm{performance} = a + b \cdot \ln \mathrm{MUI}",
    alt="Two scatter plots of accuracy against MUI with fitted lines and bands: this study, and the paper's figures.",
    tables=("utility_curve", "utility_law", "performance", "utilization"),
    table_titles={
        "points": "Accuracy and MUI of models and checkpoints, own and published",
        "fits": "Fitted lines",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("mui", "MUI to expect of common_m of the samples, mean over tasks; as printed")
    | estimate_meanings("accuracy", "share of correct answers, mean over tasks; performance as printed")
    | {
        "panel": ("where the values are from: this study or the paper's printed figures", ""),
        "line": (
            "the points that the law is fitted to: those of a model's checkpoints, of all models, or the paper's",
            "",
        ),
        "model": ("the model's name in the config, or as the paper prints it", ""),
        "checkpoint": ("the checkpoint's name in the config; empty where the paper prints none", ""),
        "order": ("position of the checkpoint in training order, from 0; missing for the paper's", ""),
        "n_tasks": ("tasks that the mean is over; missing for the paper's", "tasks"),
        "common_m": ("number of samples m of each task at which MUI is given; missing for the paper's", "samples"),
    },
)
