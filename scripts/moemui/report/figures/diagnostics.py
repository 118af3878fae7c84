"""Diagnostics: which flags does a study raise, and on which figures?"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from moemui.laws.diagnostics import NOT_MEASURED, NOT_RAISED, RAISED, UNDECIDED
from moemui.report import views
from moemui.report.figures import page_style
from moemui.report.figures.figure import Chart, Data, Figure, Tables, estimate_meanings
from moemui.report.figures.looks import COLOURS, GREY
from moemui.report.figures.paper_style import DOUBLE, styled
from moemui.report.findings.flags import FLAGS
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import estimate, percent, points

# outcome → its symbol, its name in the style sheet, and its colour on paper
OUTCOMES = {
    RAISED: ("▲", "bad", COLOURS[1]),
    NOT_RAISED: ("✓", "good", COLOURS[2]),
    UNDECIDED: ("?", "open", COLOURS[4]),
    NOT_MEASURED: ("–", "none", GREY),
}
# flag → what its first and second figure are
FIGURES = {
    "mui_without_decline": ("MUI", "last step"),
    "few_key_experts": ("key", ""),
    "shared_and_total_mui_high": ("shared", "all"),
    "cheap_masking": ("lost", "accuracy before"),
}
LIMITED = ("MUI", "key", "shared", "all", "lost")  # the others only have to be above 0, or enough to lose
BREAK = "; "  # between the two figures of a tile, which has a line for each


def data(tables: Tables, choice: Choice) -> Data:
    """A row for every model's last checkpoint and flag, with the figures as its tile tells them.

    Raises NothingToShow where no model was measured.
    """
    rows = tables["diagnostics"]
    if rows.empty:
        raise NothingToShow("No model was measured, so there is nothing to raise a flag on.")
    order = {model: place for place, model in enumerate(views.names(rows, "model"))}
    flags = list(FLAGS)
    rows = rows.assign(figures=[_figures(row) for _, row in rows.iterrows()])
    rows = rows.sort_values("flag", key=lambda names: names.map(flags.index), kind="stable")
    rows = rows.sort_values("model", key=lambda names: names.map(order), kind="stable")
    columns = ["model", "checkpoint", "flag", "outcome", "figures", "value", "value_low", "value_high", "limit"]
    columns += ["second", "second_low", "second_high", "second_limit", "evidence", "note"]
    return {"flags": rows[columns].reset_index(drop=True)}


def _figures(row: pd.Series) -> str:
    """What the tile of a row says below its outcome: each figure with its interval, and the limit."""
    first, second = FIGURES[str(row["flag"])]
    said = []
    for what, name in ((first, "value"), (second, "second")):
        if not what:
            continue
        form = points if what in ("lost", "last step") else percent
        figure, limit = estimate(row, name), float(row["limit" if name == "value" else "second_limit"])
        words = "not measured" if pd.isna(figure.value) else form(figure)
        said.append(f"{what} {words}" + f" (limit {100 * limit:g})" * (what in LIMITED))
    return BREAK.join(said)


@styled
def paper(data: Data, choice: Choice) -> Drawing:
    """A row a model, a column a flag: a tile with the outcome in symbol and words, and its figures."""
    rows = data["flags"]
    models, flags = views.names(rows, "model"), views.names(rows, "flag")
    drawing = Drawing(figsize=(DOUBLE, 0.45 + 0.42 * len(models)))
    axes = drawing.subplots()
    axes.set(xlim=(0, len(flags)), ylim=(len(models), 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xticks([place + 0.5 for place in range(len(flags))], [_heading(flag) for flag in flags])
    axes.set_yticks([place + 0.5 for place in range(len(models))], models)
    for row in rows.to_dict("records"):
        x, y = flags.index(row["flag"]), models.index(row["model"])
        symbol, _, colour = OUTCOMES[row["outcome"]]
        tile = Rectangle((x + 0.02, y + 0.06), 0.96, 0.88, facecolor=(colour, 0.13), edgecolor=colour, linewidth=0.7)
        axes.add_patch(tile)
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        axes.text(x + 0.5, y + 0.26, f"{symbol} {row['outcome']}", fontsize=6.5, fontweight="bold", **style)
        axes.text(x + 0.5, y + 0.66, row["figures"].replace(BREAK, "\n"), fontsize=5, **style)
    return drawing


def _heading(flag: str) -> str:
    """The flag's name in two lines of like length."""
    words = FLAGS[flag].split(" ")
    ways = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    first, second = min(ways, key=lambda lines: abs(len(lines[0]) - len(lines[1])))
    return f"{first}\n{second}"


def page(data: Data, choice: Choice) -> Chart:
    """A panel a model, a tile a flag: its outcome in symbol, words and colour, with its figures."""
    places = data["flags"].drop_duplicates("model")
    symbols = json.dumps({outcome: symbol for outcome, (symbol, *_) in OUTCOMES.items()}, ensure_ascii=False)
    names = json.dumps({flag: f"{name[:1].upper()}{name[1:]}?" for flag, name in FLAGS.items()}, ensure_ascii=False)
    base = page_style.marks("flags").transform_calculate(
        question=f"{names}[datum.flag]",
        words=f"{symbols}[datum.outcome] + ' ' + datum.outcome",
        lines=f"split(datum.figures, '{BREAK}')",
    )
    scale = alt.Scale(domain=list(FLAGS), paddingInner=0.1, paddingOuter=0.04)
    y = alt.Y("flag:N", sort=list(FLAGS), scale=scale, axis=None)
    ink, back = (_colours(form) for form in ("--{}", "--{}-back"))
    tile = base.mark_bar(cornerRadius=3, strokeWidth=1).encode(
        y=y,
        x=alt.value(0),
        x2=alt.value("width"),
        fill=alt.Fill("outcome:N", scale=back, legend=None),
        stroke=alt.Stroke("outcome:N", scale=ink, legend=None),
        tooltip=page_style.hover(
            model="Model", checkpoint="Checkpoint", question="Flag", outcome="Outcome", evidence="Why", note="Note"
        ),
    )
    at = {"y": y, "x": alt.value(8)}
    inked = at | {"color": alt.Color("outcome:N", scale=ink, legend=None)}
    place: dict[str, Any] = {"align": "left", "baseline": "middle", "tooltip": None}
    specification = page_style.view(
        page_style.named(tile),
        base.mark_text(dy=-22, **place).encode(text="question:N", **at),
        base.mark_text(dy=-5, fontWeight="bold", fontSize=12, **place).encode(text="words:N", **inked),
        base.mark_text(dy=12, fontSize=10.5, lineHeight=14, **place).encode(text="lines:N", **inked),
        zoomed=False,
        height=76 * len(FLAGS),
    )
    titles = {row["model"]: f"{row['model']}, {row['checkpoint']}" for row in places.to_dict("records")}
    return Chart((specification,), panel="model", titles=titles)


def _colours(form: str) -> alt.Scale:
    """Colours of the outcomes, by their names in the page's style sheet."""
    colours = [f"var({form.format(name)})" for _, name, *_ in OUTCOMES.values()]
    return alt.Scale(domain=list(OUTCOMES), range=colours)


FIGURE = Figure(
    name="diagnostics",
    title="Diagnostics",
    caption="Four flags on each model's last checkpoint, with the figures they look at, their 95 % intervals and "
    "limits in percent or points: MUI ({curves}), key experts ({experts}, key from a frequency of {expert_threshold}) "
    "and masking ({masking}), each the mean over tasks. ▲ raised: the whole interval lies beyond the limit. ✓ not "
    "raised: none of it does. ? undecided: the interval contains the limit, or the reason that the tile tells when "
    "pointed at. – not measured. A flag is a reason to look, not a verdict.",
    definition="A flag is raised where MUI is above 30 % and rose in the last step of training; where fewer than 5 % "
    "of the experts are key; where the MUI of the shared experts is above 50 % and that of all neurons above 30 %; "
    "where masking the key neurons costs less than 2 points of accuracy. With two conditions both must hold. The limit "
    "of the shared experts is the project's: the paper gives none.",
    formula="",
    alt="Tiles, a panel a model and a tile a flag, that say raised, not raised, undecided or not measured, with the "
    "figures and limits.",
    tables=("diagnostics",),
    table_titles={
        "flags": "Outcome of each flag for each model",
    },
    data=data,
    paper=paper,
    page=page,
    meanings=estimate_meanings("value", "the figure that the flag looks at, mean over tasks")
    | {"figures": ("what the tile says: the figures with their intervals and limits", "")},
)
assert set(FLAGS) == set(FIGURES)
