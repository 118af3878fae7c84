"""Data diversity: which level shows from how many domains a set of samples comes, neurons, experts or the text?"""

from __future__ import annotations

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from moemui.key_neurons.settings import Setting
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables
from moemui.report.figures.looks import GREY, Look, looks
from moemui.report.figures.panel_domains import panel_domain
from moemui.report.figures.paper_style import DOUBLE, legend, mark, panels, percent, styled
from moemui.report.views import Choice, NothingToShow

# (level, measure) → what its axis says, and whether it is a share; two of experts, since they need not agree
PANELS = {
    ("neuron", "mui"): ("MUI", True),
    ("expert", "key_expert_proportion"): ("key experts", True),
    ("expert", "active_experts"): ("active experts", False),
    ("lexical", "distinct_2"): ("distinct 2-grams", True),
}
SHARES = [measure for (_, measure), (_, share) in PANELS.items() if share]
COLUMNS = [
    "level", "measure", "setting", "model", "checkpoint", "tokens", "order", "n_domains", "mean", "low", "high",
    "n_samples", "draws",
]  # fmt: skip


def data(tables: Tables, choice: Choice) -> Data:
    """Each measure by number of domains, of each model's last checkpoint and the untrained one.

    Raises NothingToShow where diversity was not measured, or at other settings only.
    """
    table = tables["diversity"]
    if table.empty:
        raise NothingToShow(views.NONE["diversity"])
    wanted = {"neuron": choice.curves, "expert": choice.experts}
    parts = [
        table[(table["level"] == level) & (table["measure"] == measure) & _is(table["setting"], wanted.get(level))]
        for level, measure in PANELS
    ]
    rows = pd.concat(parts).dropna(subset=["mean", "low", "high"])
    if rows.empty:
        there = ", ".join(sorted(set(table["setting"]) - {""}))
        raise NothingToShow(
            f"The table diversity has no measured rows at {choice.curves.label} or {choice.experts.label}, only at "
            f"{there or 'none'}."
        )
    shown = rows[views.untrained(rows) | rows.index.isin(views.last(rows).index)]
    return {"sets": shown[COLUMNS].reset_index(drop=True)}


def _is(settings: pd.Series, wanted: Setting | None) -> pd.Series:
    return settings == ("" if wanted is None else wanted.label)


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a measure, the trained checkpoints with their bands, the untrained ones dotted and hollow."""
    rows = data["sets"]
    measures = [place for place in PANELS if (rows["measure"] == place[1]).any()]
    look = looks(views.names(rows, "model"), choice.families)
    figure = Drawing(figsize=(DOUBLE, 2.0 + 0.14 * -(-(len(look) + 1) // 4)))  # the legend has four entries a line
    for axes, (level, measure) in zip(panels(figure, len(measures), len(PANELS)), measures, strict=True):
        label, share = PANELS[level, measure]
        for (model, _), line in rows[rows["measure"] == measure].groupby(["model", "order"], sort=False):
            _line(axes, line.sort_values("n_domains"), look[str(model)])
        axes.set(title=level, xlabel="domains", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if share:
            percent(axes)
    entries = {model: mark(style) for model, style in look.items()}
    if views.untrained(rows).any():
        entries["untrained"] = Line2D([], [], color=GREY, linestyle=":", marker="o", markerfacecolor="white")
    legend(figure, entries, columns=4)
    return figure


def _line(axes: Axes, line: pd.DataFrame, look: Look) -> None:
    """One checkpoint's means over its sets."""
    if views.untrained(line).any():
        axes.plot(
            line["n_domains"], line["mean"], color=look.colour, linestyle=":", linewidth=0.8, marker=look.marker,
            markerfacecolor="white",
        )  # fmt: skip
        return
    axes.plot(line["n_domains"], line["mean"], color=look.colour, linestyle=look.dash, marker=look.marker)
    low, high = (line[end].astype(float) for end in ("low", "high"))
    axes.fill_between(line["n_domains"], low, high, color=look.colour, alpha=0.18, linewidth=0)


def page(data: Data, choice: Choice) -> Chart:
    """The same. Panels have one specification and axes of their own, so shares are numbers of percent in all."""
    rows = data["sets"]
    series = Series("model", looks(views.names(rows, "model"), choice.families))
    base = page_style.marks("sets", series)
    share = f"indexof({SHARES}, datum.measure) >= 0"
    for name in ("mean", "low", "high"):
        base = base.transform_calculate(**{f"{name}_shown": f"datum.{name} * ({share} ? 100 : 1)"})
    base = base.transform_calculate(
        said=f"format(datum.mean_shown, '.4~g') + ' [' + format(datum.low_shown, '.4~g') + ', ' + "
        f"format(datum.high_shown, '.4~g') + ']' + ({share} ? ' %' : '')",
    )
    domains = sorted(int(number) for number in rows["n_domains"].unique())
    room = 0.04 * max(1, domains[-1] - domains[0])
    x = page_style.x("n_domains", "Domains", domain=(domains[0] - room, domains[-1] + room), values=domains, format="d")
    tops = {}
    for measure, highest in rows.groupby("measure")["high"].max().items():
        tops[str(measure)] = (0.0, (105 if measure in SHARES else 1.05) * (highest or 1.0))
    y = alt.Y("mean_shown:Q", title=None, scale=alt.Scale(domain=panel_domain("sets", "measure", tops)))
    hue = page_style.coloured(series)
    trained, untrained = (base.transform_filter(f"datum.tokens {sign} 0") for sign in ("!==", "==="))
    specification = page_style.view(
        trained.mark_area(opacity=0.18).encode(x=x, y=alt.Y("low_shown:Q"), y2="high_shown:Q", color=hue),
        trained.mark_line().encode(x=x, y=y, color=hue, strokeDash=page_style.dashed(series)),
        untrained.mark_line(strokeDash=[2, 3], strokeWidth=1.2).encode(x=x, y=y, color=hue),
        page_style.named(
            base.mark_point(size=38, opacity=1).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), fill=page_style.hollow(series),
                shape=page_style.shaped(series),
                tooltip=page_style.hover(
                    model="Model", checkpoint="Checkpoint", level="Level", measure="Measure", n_domains="Domains",
                    said="Mean [95 % of the sets]", n_samples="Samples a set", draws="Sets",
                ),
            )
        ),
        series=series,
        zoom_encodings=["y"],
    )  # fmt: skip
    titles = {
        measure: f"{level}: {label}" + (", %" if share else "") for (level, measure), (label, share) in PANELS.items()
    }
    return Chart((specification,), series, panel="measure", titles=titles)


FIGURE = Figure(
    name="diversity",
    title="Which level shows from how many domains samples come?",
    caption="Sets of equally many samples, spread evenly over 1 to all domains, at each model's last checkpoint: MUI "
    "({curves}), KeyExpertProportion and the number of experts active in any sample ({experts}), and the share of "
    "distinct 2-grams of prompt and response at one number of 2-grams. Lines: mean over random sets; bands: where "
    "95 % of the sets lie, no interval of the mean; dotted and hollow: the untrained checkpoint. The less "
    "neighbouring numbers of domains overlap, the finer the resolution; the table diversity_effect tests whether "
    "levels differ in it.",
    definition="A set S of n samples takes d of the D domains at random, then as many samples from each of them, "
    "without replacement. Every measure is taken of each set; the mean and the quantiles from 2.5 to 97.5 % are over "
    "the sets drawn. K(s) are the key neurons of sample s, M_l the neurons of layer l, E_key(S) the experts with a "
    "key neuron in at least a share η_expert of its samples.",
    formula=r"\mathrm{MUI}(S) = \frac{\left| \bigcup_{s \in S} K(s) \right|}{\sum_l M_l} \qquad "
    r"\mathrm{KeyExpertProportion}(S) = \frac{|E_{\mathrm{key}}(S)|}{\sum_l (E_r + E_s)}",
    alt="Line charts, one panel a measure (neurons, experts, text), against the number of domains, a line a model.",
    tables=("diversity",),
    table_titles={
        "sets": "Each measure by number of domains",
    },
    data=data,
    paper=paper,
    page=page,
)
