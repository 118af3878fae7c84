"""Which experts are most often active, and how much of each is key?"""

from __future__ import annotations

import altair as alt
import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from moemui.report import views
from moemui.report.figures import expert_axis, page_style
from moemui.report.figures.expert_axis import KINDS
from moemui.report.figures.figure import Chart, Data, Figure, Tables, estimate_meanings
from moemui.report.figures.paper_style import DOUBLE, legend, model_columns, panels, percent, styled
from moemui.report.views import Choice
from moemui.statistics.intervals import wilson

DOMAIN = (0.0, 1.03)  # room for a mark at 100 %
STRENGTH = {"routed": 0.4, "shared": 0.85}  # opacity of bars, so that kinds differ without colour


def data(tables: Tables, choice: Choice) -> Data:
    """The ten most frequent experts of each model's last checkpoint, frequency with its interval, and expert MUI.

    Raises NothingToShow where there are no frequencies at the setting.
    """
    frequencies = tables["expert_frequency"]
    top = views.top_experts(frequencies, choice.experts)
    cells = views.last(views.at(frequencies, choice.experts, "expert_frequency"))
    counts = cells.groupby(["model", "expert"], sort=False).agg(
        n_samples=("n_samples", "sum"), n_tasks=("task", "size")
    )
    rows = top.merge(counts.reset_index(), on=["model", "expert"], how="left")
    n = rows["n_samples"].to_numpy()
    active = np.rint(rows["frequency"].to_numpy() * n).astype(int)
    ends = np.array([wilson(successes=int(k), trials=int(trials)) for k, trials in zip(active, n, strict=True)])
    rows = rows.assign(frequency_low=ends[:, 0], frequency_high=ends[:, 1])
    columns = ["model", "checkpoint", "rank", "expert", "kind", "frequency", "frequency_low", "frequency_high"]
    return {"experts": rows[[*columns, "expert_mui", "n_samples", "n_tasks"]]}


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model: bars frequency with its interval, diamonds expert MUI; shared experts full, with bold names."""
    rows = data["experts"]
    models = views.names(rows, "model")
    titles, columns = expert_axis.titles(rows), model_columns(len(models))
    figure = Drawing(figsize=(DOUBLE, 0.4 + 1.9 * -(-len(models) // columns)))
    for axes, model in zip(panels(figure, len(models), columns, sharex=True), models, strict=True):
        own = rows[rows["model"] == model]
        place = np.arange(len(own))
        for kind, look in KINDS.items():
            own_kind = (own["kind"] == kind).to_numpy()
            axes.barh(
                place[own_kind], own.loc[own_kind, "frequency"], color=look.colour, alpha=STRENGTH[kind], height=0.7
            )
        ends = [own["frequency"] - own["frequency_low"], own["frequency_high"] - own["frequency"]]
        axes.errorbar(own["frequency"], place, xerr=ends, fmt="none", ecolor="black", elinewidth=0.7)
        axes.plot(
            own["expert_mui"], place, "D", color="white", markeredgecolor="black", markeredgewidth=0.6, markersize=3.2,
            linestyle="none",
        )  # fmt: skip
        axes.set_yticks(place, list(own["expert"]))
        expert_axis.bold_shared(axes)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set(xlim=DOMAIN)
        axes.set_title(titles[model], fontsize=7 if columns < 4 else 5.5)
        percent(axes, "x")
        axes.set_xticks([0, 0.5, 1])
    entries = {
        f"frequency, {kind}": Line2D([], [], color=look.colour, linewidth=5, alpha=STRENGTH[kind])
        for kind, look in expert_axis.kinds(rows).looks.items()
    }
    diamond = Line2D([], [], color="white", marker="D", markeredgecolor="black", markeredgewidth=0.6, linestyle="none")
    legend(figure, entries | {"expert MUI": diamond}, columns=3)
    return figure


def page(data: Data, choice: Choice) -> Chart:
    """The same; every bar tells both values, the interval and the number of samples."""
    rows = data["experts"]
    series = expert_axis.kinds(rows)
    experts = page_style.marks("experts", series)
    y = alt.Y(
        "expert:N",
        sort=alt.EncodingSortField("rank", op="min", order="ascending"),
        scale=alt.Scale(paddingInner=0.3, paddingOuter=0.15),
        axis=expert_axis.labels(title=None, minExtent=52),
    )
    x = page_style.x("frequency", "Frequency (bar), expert MUI (diamond)", share=True, domain=DOMAIN)
    said = page_style.said(experts, ["frequency"]).transform_calculate(
        mui_said="format(100 * datum.expert_mui, '.1f') + ' %'"
    )
    tooltip = page_style.hover(
        expert="Expert", kind="Kind", rank="Rank",
        frequency_said="Frequency [95 % interval]", mui_said="Expert MUI, mean over tasks",
        n_samples="Samples", n_tasks="Tasks",
    )  # fmt: skip
    bars = said.mark_bar(strokeWidth=1).encode(
        x=x, y=y, fill=page_style.coloured(series, alt.Fill), stroke=page_style.coloured(series, alt.Stroke),
        fillOpacity=alt.condition(
            "datum.kind === 'shared'", alt.value(STRENGTH["shared"]), alt.value(STRENGTH["routed"])
        ),
        tooltip=tooltip,
    )  # fmt: skip
    whiskers = said.mark_rule(color=page_style.TEXT).encode(
        x=alt.X("frequency_low:Q"), x2="frequency_high:Q", y=y, tooltip=tooltip
    )
    diamonds = said.mark_point(
        shape="diamond", fill=page_style.CARD, stroke=page_style.TEXT, size=60, opacity=1
    ).encode(x=alt.X("expert_mui:Q"), y=y, tooltip=tooltip)
    high = 40 + 21 * int(rows.groupby("model").size().max())
    specification = page_style.view(
        page_style.named(bars), whiskers, diamonds, series=series, zoomed=False, height=high
    )
    return Chart((specification,), series, panel="model", titles=expert_axis.titles(rows))


FIGURE = Figure(
    name="top_experts",
    title="The ten most frequent experts",
    caption="The ten most frequent experts of each model's last checkpoint ({experts}), the most frequent on top. "
    "Bars: share of all tasks' samples in which the expert holds a key neuron, with its 95 % interval; diamonds: "
    "expert MUI, the share of the expert's own neurons that are key, mean over tasks. L3-E5 is routed expert 5 of "
    "layer 3, counted from 0, L3-S1 its first shared one. Shared experts have fuller bars and bold names; they see "
    "every token.",
    definition="An expert is active in a sample when at least one of its neurons is among the sample's key neurons "
    "K(s). Its frequency is the share of samples in which it is active, here of all tasks' samples T together. Expert "
    "MUI is the share of its own neurons that are key in at least one sample of a task; it grows with the number of "
    "samples.",
    formula=r"\mathrm{freq}(e) = \frac{|\{s \in T : K(s) \cap e \neq \emptyset\}|}{|T|}, \quad "
    r"\mathrm{MUI}(e) = \frac{\left| \bigcup_s K(s) \cap e \right|}{|e|}",
    alt="Horizontal bar charts, one panel a model, of the ten most frequent experts, with their expert MUI as marks.",
    tables=("expert_frequency",),
    table_titles={
        "experts": "Frequency and expert MUI of the most frequent experts",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("frequency", "share of all tasks' samples in which the expert is active (Wilson)")
    | {
        "rank": ("1 = most frequent; ties: higher expert_mui, then the expert's place in the model", ""),
        "expert_mui": ("share of the expert's own neurons that are key on a task, mean over tasks", "share"),
        "n_samples": ("samples of all tasks together, those with an empty key set included", "samples"),
        "n_tasks": ("tasks whose samples are counted together", "tasks"),
    },
)
