"""Differences of MUI: which models and checkpoints differ by more than noise?"""

from __future__ import annotations

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Series, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, GREY, Look
from moemui.report.figures.paper_style import DOUBLE, legend, panels, styled
from moemui.report.findings.comparisons import UNSHOWN
from moemui.report.findings.finding import reasons
from moemui.report.views import MEAN, Choice, NothingToShow

KINDS = {"models": Look(COLOURS[0], "o"), "checkpoints": Look(COLOURS[1], "D")}
LABELS = {"models": "against another model", "checkpoints": "against its own earlier checkpoint"}
MIRRORED = {"higher": "lower", "lower": "higher"}
ROW = 17  # pixels


def data(tables: Tables, choice: Choice) -> Data:
    """Mean MUI of each model's last checkpoint less that of every other model's, and of its own earlier checkpoints.

    A pair of models stands there twice, once from each side. Untrained checkpoints, and pairs without an outcome, are
    left out. Raises NothingToShow where that leaves nothing.
    """
    rows = views.at(tables["comparisons"], choice.curves, "comparisons")
    rows = rows[rows["kind"].isin(KINDS) & (rows["task_a"] == MEAN)]
    if rows.empty:
        raise NothingToShow("No two models, and no two checkpoints of a model, have a task in common.")
    cells = tables["utilization"].drop_duplicates(["model", "checkpoint"])
    for side in "ab":
        known = cells[["model", "checkpoint", "order", "tokens"]].add_suffix(f"_{side}")
        rows = rows.merge(known, how="left", on=[f"model_{side}", f"checkpoint_{side}"])
    rows = rows[(rows["tokens_a"] != 0) & (rows["tokens_b"] != 0)]
    if rows.empty:
        raise NothingToShow("All that could be compared is untrained, and its MUI is an artefact of initialisation.")
    if (rows["verdict"] == "").all():
        raise NothingToShow(f"No comparison of mean MUI has an outcome: {reasons(rows['note'])}.")
    rows = rows[rows["verdict"] != ""]
    found = pd.concat([_seen(rows, "b", "a", 1), _seen(rows[rows["kind"] == "models"], "a", "b", -1)])
    # other models from the one with the highest MUI down, then own checkpoints in training order
    earlier = found["kind"] == "checkpoints"
    found = found.assign(
        at=found["model"].map(views.names(cells, "model").index),
        earlier=earlier,
        within=found["difference"].where(~earlier, found["order"]),
    ).sort_values(["at", "earlier", "within"], kind="stable")
    return {"differences": found.drop(columns=["at", "earlier", "within", "order"]).reset_index(drop=True)}


def _seen(rows: pd.DataFrame, own: str, other: str, sign: int) -> pd.DataFrame:
    """The pairs from one side: own and other are the letters of the table's cells, sign that of mui_b − mui_a."""
    ends = ("low", "high") if sign > 0 else ("high", "low")
    return pd.DataFrame(
        {
            "model": rows[f"model_{own}"],
            "checkpoint": rows[f"checkpoint_{own}"],
            "kind": rows["kind"],
            "other_model": rows[f"model_{other}"],
            "other_checkpoint": rows[f"checkpoint_{other}"],
            "difference": sign * rows["difference"],
            "difference_low": sign * rows[f"difference_{ends[0]}"],
            "difference_high": sign * rows[f"difference_{ends[1]}"],
            "q": rows["q"],
            "verdict": rows["verdict"] if sign > 0 else rows["verdict"].replace(MIRRORED),
            "mui": rows[f"mui_{own}"],
            "mui_other": rows[f"mui_{other}"],
            "m": rows["m"],
            "n_samples": rows[f"n_{own}"],
            "n_samples_other": rows[f"n_{other}"],
            "paired": rows["paired"],
            "order": rows[f"order_{other}"],
        }
    )


def _against(row: pd.Series) -> str:
    return str(row["other_model"]) if row["kind"] == "models" else f"at {row['other_checkpoint']}"


def _spanned(rows: pd.DataFrame) -> list[float]:
    return page_style.spanned(rows["difference_low"], rows["difference_high"], rows["difference"], at=[0])


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A panel a model, a row each that it is compared with; hollow and pale: no difference shown."""
    found = data["differences"]
    models = views.names(found, "model")
    columns = min(3, max(2, len(models)))  # never four, since names take half of a panel
    highest = int(found.groupby("model").size().max())
    figure = Drawing(figsize=(DOUBLE, 0.6 + (0.42 + 0.105 * highest) * -(-len(models) // columns)))
    every = panels(figure, len(models), columns, sharex=True)
    for axes, model in zip(every, models, strict=True):
        rows = found[found["model"] == model]
        _rows(axes, rows)
        axes.set_title(f"{model}, {rows['checkpoint'].iloc[0]}", fontsize=6.5, loc="right")
        axes.set_xlim(*_spanned(found))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):+g}" if value else "0")
    for axes in every[-columns:]:
        axes.set_xlabel("difference of MUI, points")
    entries = {
        LABELS[kind]: Line2D([], [], color=look.colour, marker=look.marker, linewidth=0.8)
        for kind, look in KINDS.items()
        if kind in views.names(found, "kind")
    }
    if (found["verdict"] == UNSHOWN).any():
        entries["no difference shown"] = Line2D(
            [], [], color=GREY, marker="o", markerfacecolor="white", linewidth=0.8, alpha=0.6
        )
    legend(figure, entries, columns=3)
    return figure


def _rows(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axvline(0, color="black", linewidth=0.6)
    placed = rows.assign(place=range(len(rows)), unshown=rows["verdict"] == UNSHOWN)
    for (kind, unshown), own in placed.groupby(["kind", "unshown"]):
        look, value = KINDS[str(kind)], own["difference"]
        axes.errorbar(
            value, own["place"], xerr=[value - own["difference_low"], own["difference_high"] - value], fmt=look.marker,
            color=look.colour, markersize=3, elinewidth=0.7, alpha=0.6 if unshown else 1,
            markerfacecolor="white" if unshown else look.colour, markeredgewidth=0.7,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_against(row) for _, row in rows.iterrows()], fontsize=5.2)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False, axis="y")


def page(data: Data, choice: Choice) -> Chart:
    """The same; every mark tells the difference with its interval, both values of MUI, m, q and the samples."""
    found = data["differences"]
    there = views.names(found, "kind")
    series = Series("kind", {kind: look for kind, look in KINDS.items() if kind in there}, LABELS, line=False)
    number = "format(100 * {}, abs(datum.difference) < 0.01 ? '+.2f' : '+.1f')"  # as in prose
    value, low, high = (number.format(f"datum.difference{end}") for end in ("", "_low", "_high"))
    rows = page_style.marks("differences", series).transform_calculate(
        against="datum.kind === 'models' ? datum.other_model : 'at ' + datum.other_checkpoint",
        difference_said=f"{value} + ' points [' + {low} + ', ' + {high} + ']'",
        mui_said="format(100 * datum.mui, '.2f') + ' % and ' + format(100 * datum.mui_other, '.2f') + ' %'",
        samples="datum.n_samples + ' and ' + datum.n_samples_other",
        q_said="datum.q < 0.001 ? format(datum.q, '.0e') : format(datum.q, '.3f')",
        judged="datum.verdict === 'higher' || datum.verdict === 'lower' ? 'significantly ' + datum.verdict : "
        "datum.verdict",
    )
    unshown = f"datum.verdict === '{UNSHOWN}'"
    x = page_style.x("difference", "Difference", points=True, domain=_spanned(found))
    wide = min(130, 8 + 6 * max(len(_against(row)) for _, row in found.iterrows()))  # pixels for the names
    y = alt.Y("against:N", sort=None, axis=alt.Axis(title=None, ticks=False, labelLimit=wide, minExtent=wide))
    hue = page_style.coloured(series)
    specification = page_style.view(
        page_style.zero(),
        rows.mark_rule(strokeWidth=1.6).encode(
            x=alt.X("difference_low:Q"), x2="difference_high:Q", y=y, color=hue,
            opacity=alt.condition(unshown, alt.value(0.5), alt.value(1)),
        ),
        page_style.named(
            rows.mark_point(opacity=1, size=50).encode(
                x=x, y=y, stroke=page_style.coloured(series, alt.Stroke), fill=page_style.hollow(series, unshown),
                shape=page_style.shaped(series), strokeOpacity=alt.condition(unshown, alt.value(0.6), alt.value(1)),
                tooltip=page_style.hover(
                    other_model="Against", other_checkpoint="Its checkpoint",
                    difference_said="Difference [95 % interval]", judged="Outcome", q_said="q",
                    mui_said="MUI, own and other", m="MUI of samples", samples="Samples, own and other",
                ),
            )
        ),
        series=series,
        zoomed=False,
        height=ROW * max(3, int(found.groupby("model").size().max())),
    )  # fmt: skip
    last = found.drop_duplicates("model")
    titles = {str(row["model"]): f"{row['model']}, {row['checkpoint']}" for row in last.to_dict("records")}
    return Chart((specification,), series, panel="model", titles=titles)


FIGURE = Figure(
    name="comparisons",
    title="Differences of MUI",
    caption="Mean MUI over tasks ({curves}) of each model's last checkpoint, less that of every other model's last "
    "one and that of its own earlier trained checkpoints, in percentage points with 95 % intervals (Student's t, "
    "jackknife over samples). Right of the line: the model of the panel uses more of its neurons. Filled: significant "
    "at 5 % after correction for the number of comparisons (Benjamini–Hochberg); hollow and pale: no difference is "
    "shown. All comparisons between models are at one number of samples, and so are all between checkpoints. Each pair "
    "of models stands there twice, once from each side; pairs without an outcome are left out, the table comparisons "
    "says why. Intervals are over samples: another training run of the same model may differ more.",
    definition="The mean over the tasks T that both have of MUI at m samples of the one, less that of the other. Where "
    "both answered the same samples, the comparison is paired, so that what the samples have in common cancels.",
    formula=r"\Delta = \frac{1}{\left|\mathcal{T}\right|} \sum_{T \in \mathcal{T}} \left[ \mathrm{MUI}_T(m) - "
    r"\mathrm{MUI}'_T(m) \right]",
    alt="Forest plots, one panel a model, of differences of mean MUI to other models and to its own earlier "
    "checkpoints, with intervals around a line at no difference.",
    tables=("comparisons", "utilization"),
    table_titles={
        "differences": "Difference of mean MUI of every two models and checkpoints",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("difference", "mui − mui_other, mean over tasks", "share difference")
    | {
        "kind": ("models: the last checkpoints of two models; checkpoints: a last one and an earlier one", ""),
        "other_model": ("the model that it is compared with", ""),
        "other_checkpoint": ("the checkpoint that it is compared with", ""),
        "verdict": ("the model's MUI is `higher` or `lower` than the other's (q ≤ 0.05), or `no difference shown`", ""),
        "mui": ("expected MUI of m samples (exact rarefaction), mean over tasks", "share"),
        "mui_other": ("the same of the other", "share"),
        "n_samples": ("samples that are used, over all tasks", "samples"),
        "n_samples_other": ("samples of the other that are used, over all tasks", "samples"),
    },
)
