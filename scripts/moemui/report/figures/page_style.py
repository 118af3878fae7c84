"""How every figure looks on the page: Vega-Lite through Altair, in the page's own colours, which change with its theme.

Colours are names of the page's style sheet (`var(--text)`), so that light and dark need no other drawing. A layer that
is named like a data set has one mark for each of its rows; intervals, bands and fitted lines are layers without a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

from moemui.report.figures.figure import Series
from moemui.report.figures.looks import COLOURS, GREY, Look

HEIGHT = 230  # pixels of a view
TEXT, SOFT, LINE, CARD = "var(--text)", "var(--soft)", "var(--line)", "var(--card)"
SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
    "X": "M-1,-.5L-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0Z",
}  # fmt: skip
# The same as paths of the legend, in a square from -1 to 1.
PATHS = {
    "o": "M-.8,0A.8,.8,0,1,1,.8,0A.8,.8,0,1,1,-.8,0Z", "s": "M-.75,-.75H.75V.75H-.75Z", "^": "M0,-.85L.85,.7H-.85Z",
    "D": "M0,-1L.8,0L0,1L-.8,0Z", "v": "M0,.85L.85,-.7H-.85Z", "X": SHAPES["X"],
    "P": "M-.3,-.9H.3V-.3H.9V.3H.3V.9H-.3V.3H-.9V-.3H-.3Z",
}  # fmt: skip
SHARE = (-0.03, 1.03)  # ends of an axis that shows all shares there are, with room for marks at its ends
CELL = "var(--colour-0)"
FULL = 0.6  # opacity of the fullest cell of a heat map on which the page's text is still read, light or dark
MOST_TOLD = 8  # fields that hovering shows
# The page's own; Vega measures text with it to place labels, for which a name like `inherit` is no font.
FONT = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
# What all views share. The page gives it to Vega once.
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT, "titleColor": TEXT, "titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11,
        "domainColor": SOFT, "tickColor": SOFT, "titlePadding": 6, "gridColor": LINE, "labelLimit": 150, "tickCount": 5,
    },
    "axisX": {"labelSeparation": 8},  # less, and 60 % and 70 % read as one
    "axisY": {"minExtent": 44},  # so that views above each other begin at one place
    "axisDiscrete": {"grid": False},
    "legend": {
        "labelColor": SOFT, "titleColor": TEXT, "titleFontWeight": "normal", "orient": "top", "gradientLength": 160,
        "titleOrient": "left",
    },
    "text": {"fill": TEXT, "fontSize": 11},
    "rule": {"color": SOFT},
    "line": {"strokeWidth": 1.8},
    "point": {"size": 55, "strokeWidth": 1.6},
}  # fmt: skip
# The wheel scrolls the page and a finger moves it; zoom is asked for by a key, dragging by the mouse, or buttons.
ZOOM: Any = {
    "zoom": "wheel![event.shiftKey || event.ctrlKey]",
    "translate": "[pointerdown[event.pointerType == 'mouse'], window:pointerup] > window:pointermove!",
}


def colour(look: Look) -> str:
    """A look's colour as the page's style sheet names it."""
    return SOFT if look.colour == GREY else f"var(--colour-{COLOURS.index(look.colour)})"


def marks(data: str, series: Series | None = None) -> alt.Chart:
    """A layer's data: the rows of a data set that the legend shows."""
    chart = alt.Chart(alt.NamedData(data))
    if series is None:
        return chart
    return chart.transform_filter(f"indexof(shown, datum[{series.column!r}]) >= 0")


def named(layer: alt.Chart) -> alt.Chart:
    """The layer that has a mark for each row of its data set."""
    return layer.properties(name=layer.data.name)


def view(
    *layers: alt.Chart,
    series: Series | None = None,
    zoomed: bool = True,
    height: int = HEIGHT,
    zoom_encodings: Sequence[Literal["x", "y"]] = ("x", "y"),
) -> dict[str, Any]:
    """One view of a figure, as wide as its place on the page.

    zoomed: both axes are numbers, and those of zoom_encodings can be zoomed. Scales are given the same domain in every
    layer that has one.
    """
    clipped = []
    for layer in layers:
        mark = layer.mark if isinstance(layer.mark, alt.MarkDef) else alt.MarkDef(type=layer.mark)
        layer = layer.copy()
        layer.mark = mark.copy()
        layer.mark.clip = zoomed
        layer.mark.aria = layer.name is not alt.Undefined  # to a screen reader, rows are marks and nothing else is
        clipped.append(layer)
    if zoomed:
        last = clipped[-1]
        zoom = alt.selection_interval(name="zoom", bind="scales", encodings=list(zoom_encodings), **ZOOM)
        clipped[-1] = last.add_params(zoom)
    chart = alt.layer(*clipped).properties(width="container", height=height)
    if series is not None:
        chart = chart.add_params(alt.param(name="shown", value=list(series.looks)))
    specification = chart.to_dict()
    specification.pop("config", None)  # the page's
    specification.pop("$schema", None)
    for written in specification["layer"]:
        _tell(written.get("encoding", {}))
    return specification


def _tell(encoding: dict[str, Any]) -> None:
    """What hovering shows, and a screen reader says, without the fields that a row leaves empty."""
    if not isinstance(encoding.get("tooltip"), list):
        return
    shown, said = [], []
    for told in encoding["tooltip"]:
        value, title = f"datum[{json.dumps(told['field'])}]", json.dumps(told["title"], ensure_ascii=False)
        known = f"isValid({value}) && {value} !== ''"
        shown.append(f"{known} ? {{{title}: {value}}} : {{}}")
        said.append(f"({known} ? {title} + ': ' + {value} + '; ' : '')")
    encoding["tooltip"] = {"value": {"expr": f"merge({', '.join(shown)})"}}
    encoding["description"] = {"value": {"expr": f"slice({' + '.join(said)}, 0, -2)"}}


def percent_axis(title: str | None, **options: Any) -> alt.Axis:
    """An axis of shares, printed as percent."""
    return alt.Axis(title=title, labelExpr="format(100 * datum.value, '~g') + ' %'", **options)


def points_axis(title: str | None, **options: Any) -> alt.Axis:
    """An axis of differences of shares, printed as percentage points with their sign."""
    label = "(datum.value > 0 ? '+' : '') + format(100 * datum.value, '~g')"
    return alt.Axis(title=f"{title} (points)" if title else "points", labelExpr=label, **options)


def x(
    field: str, title: str | None, *, share: bool = False, domain: Sequence[float] | None = None, **options: Any
) -> alt.X:
    """A horizontal axis of numbers; share: printed as percent. domain: its ends, from the data where there are none.

    points=True, instead of share: differences of shares, printed as percentage points.
    """
    return alt.X(field, type="quantitative", **_scaled(title, share, domain, options))


def y(
    field: str, title: str | None, *, share: bool = False, domain: Sequence[float] | None = None, **options: Any
) -> alt.Y:
    """A vertical axis of numbers, as `x`."""
    return alt.Y(field, type="quantitative", **_scaled(title, share, domain, options))


def _scaled(title: str | None, share: bool, domain: Sequence[float] | None, options: dict[str, Any]) -> dict[str, Any]:
    kind = options.pop("scale", "linear")
    scale: dict[str, Any] = {"type": kind, "nice": domain is None} | ({"zero": False} if kind == "linear" else {})
    if domain is not None:
        scale["domain"] = [float(end) for end in domain]
    written = points_axis if options.pop("points", False) else percent_axis if share else alt.Axis
    axis = written(title=title, **options)
    return {"scale": alt.Scale(**scale), "axis": axis}


def spanned(*values: pd.Series, at: Sequence[float] = (), room: float = 0.04) -> list[float]:
    """The ends of an axis that holds all values (gaps aside) and those of `at`, with some room on both sides for marks.

    Ends are 0 and 1 where there is no value at all.
    """
    known = pd.concat([pd.Series(at, dtype=float), *(part.astype(float).dropna() for part in values)])
    if known.empty:
        return [0.0, 1.0]
    low, high = float(known.min()), float(known.max())
    wide = room * ((high - low) or abs(high) or 1.0)
    return [low - wide, high + wide]


def coloured(series: Series, channel: Any = alt.Color) -> Any:
    """The colour of each value of the legend, on a channel: Color, Fill or Stroke."""
    scale = alt.Scale(domain=list(series.looks), range=[colour(look) for look in series.looks.values()])
    return channel(series.column, type="nominal", scale=scale, legend=None)


def shaped(series: Series) -> alt.Shape:
    """The mark of each value of the legend."""
    scale = alt.Scale(domain=list(series.looks), range=[SHAPES[look.marker] for look in series.looks.values()])
    return alt.Shape(series.column, type="nominal", scale=scale, legend=None)


def dashed(series: Series) -> alt.StrokeDash:
    """The dash of each value of the legend."""
    dashes = [dash(look) for look in series.looks.values()]
    scale = alt.Scale(domain=list(series.looks), range=dashes)
    return alt.StrokeDash(series.column, type="nominal", scale=scale, legend=None)


def dash(look: Look) -> list[float]:
    """A look's dash as SVG takes it: pixels drawn and left out in turns; [1, 0] is a whole line."""
    return [1, 0] if look.dash == "-" else [2.0 * part for part in look.dash[1]]


def said(
    chart: alt.Chart,
    names: Sequence[str],
    *,
    share: bool = True,
    points: bool = False,
    decimals: int = 1,
    form: str = "",
) -> alt.Chart:
    """The chart with NAME_said for each estimate: its value and its interval in words, for what hovering shows.

    share: in percent. points: a difference of shares, in percentage points with its sign, as prose has it. form: how d3
    prints the number, where that says more than decimals.
    """
    factor = "100 * " if share or points else ""
    sign = "+" if points else ""
    form = f"'{form or f'{sign}.{decimals}f'}'"
    after, unit = (" + ' points'", "") if points else ("", " + ' %'" if share else "")
    for name in names:
        value, low, high = (f"format({factor}datum.{name}{end}, {form})" for end in ("", "_low", "_high"))
        words = (
            f"isValid(datum.{name}) ? {value}{after} + (isValid(datum.{name}_low) ? "
            f"' [' + {low} + ', ' + {high} + ']' : ' (no interval)'){unit} : 'not known'"
        )
        chart = chart.transform_calculate(**{f"{name}_said": words})
    return chart


def hover(**fields: str) -> list[alt.Tooltip]:
    """What hovering shows, by column: hover(model="Model", mui_said="MUI [95 % interval]", n_samples="Samples")."""
    return [alt.Tooltip(name, type="nominal", title=title) for name, title in fields.items()]


def hollow(series: Series, where: str = "datum.tokens === 0") -> Any:
    """Fill of marks: the page's colour where the condition holds (an untrained checkpoint), else that of the legend."""
    return alt.condition(where, alt.value(CARD), coloured(series, alt.Fill))


def heat(field: str, *, low: float = 0.0) -> alt.FillOpacity:
    """How full a cell of a heat map is, from nothing at `low` to FULL at 1; numbers in the cells say it exactly."""
    scale = alt.Scale(domain=[low, 1], range=[0, FULL], clamp=True)
    return alt.FillOpacity(field, type="quantitative", scale=scale, legend=None)


def zero(channel: str = "x", at: float = 0.0) -> alt.Chart:
    """A line where nothing has happened: no loss, an odds ratio of 1."""
    rule = alt.Chart(alt.InlineData(values=[{}])).mark_rule(color=TEXT, strokeWidth=1)
    return rule.encode(**{channel: alt.datum(at)})


def entries(series: Series) -> list[Mapping[str, Any]]:
    """The legend as the page writes it: value, label, colour, path of the mark, line and dash of each entry."""
    return [
        {
            "value": value,
            "label": series.labels.get(value, value),
            "colour": colour(look),
            "path": PATHS[look.marker],
            "line": series.line,
            "dash": " ".join(f"{part:g}" for part in dash(look)) if look.dash != "-" else "",
        }
        for value, look in series.looks.items()
    ]


def checkpoint_x(rows: pd.DataFrame, field: str = "order", *, labels: bool = True) -> alt.X:
    """A horizontal axis of checkpoints in training order (columns order and checkpoint of the rows).

    Names stand there where all models call the checkpoint of a place alike, else its place. labels: False leaves out
    names and title, where another view below has them.
    """
    places = rows.drop_duplicates(["order", "checkpoint"]).sort_values("order")
    values = sorted({int(order) for order in places["order"]})
    title, options = "Checkpoint, in training order", {}
    if not places["order"].duplicated().any():
        names = json.dumps(dict(zip(map(str, values), places["checkpoint"], strict=True)))
        title = "Checkpoint"
        options = {"labelExpr": f"{names}[datum.value]", "labelAngle": -35, "labelLimit": 80, "labelOverlap": False}
    room = 0.3
    ends = [values[0] - room, values[-1] + room]
    shown = options if labels else {"labels": False, "ticks": False}
    # Vega draws no more ticks than it is told to count, also of those that are listed.
    return x(field, title if labels else None, domain=ends, values=values, tickCount=len(values), grid=False, **shown)


def trajectory(
    name: str,
    title: str,
    x_axis: alt.X,
    series: Series,
    *,
    domain: Sequence[float],
    data: str = "",
    samples: str = "n_samples",
    **options: Any,
) -> tuple[alt.Chart, ...]:
    """A share over checkpoints as layers: band, line and marks; untrained checkpoints hollow, with a bar, not joined.

    name: the column of the share, with NAME_low, NAME_high, order, tokens, checkpoint, task, the column of
    samples and n_tasks beside it; data: its data set, else the one of that name. options: of the vertical axis.
    """
    data = data or name
    rows = marks(data, series)
    trained, untrained = (rows.transform_filter(f"datum.tokens {sign} 0") for sign in ("!==", "==="))
    height = y(name, title, share=True, domain=domain, **options)
    hue, dashes = coloured(series), dashed(series)
    low, high = alt.Y(f"{name}_low:Q"), f"{name}_high:Q"
    tooltip = {"model": "Model", "checkpoint": "Checkpoint", "task": "Task", f"{name}_said": f"{title} [95 % interval]"}
    points = said(rows, [name]).mark_point(size=38)
    return (
        trained.mark_area(opacity=0.18).encode(x=x_axis, y=low, y2=high, color=hue),
        trained.mark_line().encode(x=x_axis, y=height, color=hue, strokeDash=dashes),
        untrained.mark_rule().encode(x=x_axis, y=low, y2=high, color=hue),
        named(
            points.encode(
                x=x_axis, y=height, stroke=coloured(series, alt.Stroke), fill=hollow(series), shape=shaped(series),
                tooltip=hover(**tooltip, **{samples: "Samples"}, n_tasks="Tasks"),
            )
        ),
    )  # fmt: skip
