"""Every figure is fit to print: column width, one style, its own fonts, nothing cut off, small or on top of another."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import published_size
import pytest
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.colorizer import ColorizingArtist
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from moemui.report.figures import FIGURES
from moemui.report.figures.figure import Data
from moemui.report.figures.looks import COLOURS
from moemui.report.figures.paper_style import DOUBLE, PAGE, SINGLE, legend, panels, save, styled

POINTS = 72  # of an inch
SMALLEST = 5.0  # points of a letter
TOUCH = 0.6  # points that two boxes of text may share, since letters don't fill theirs
SIZES = ("a small study", "a study of published size")
ONLY_LARGE = ("published",)  # the small study's models aren't the paper's


class Printed(NamedTuple):
    """A figure, its files, and what was said while they were made."""

    drawing: Drawing
    svg: bytes
    pdf: bytes
    said: list[str]


@pytest.fixture(scope="module")
def drawn(printed):
    """Draws a figure of one of the studies, once, and what was said meanwhile; the small one has been saved too."""

    @cache
    def large(name: str) -> tuple[Drawing, list[str]]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            drawing = FIGURES[name].paper(_data(name), published_size.CHOICE)
            _said(drawing)
        return drawing, [str(warning.message) for warning in found]

    def drawn(size: str, name: str) -> tuple[Drawing, list[str]]:
        if size == SIZES[1] or name in ONLY_LARGE:
            return large(name)
        made = printed(name)
        return made.drawing, made.said

    return drawn


@cache
def _data(name: str) -> Data:
    """What a figure shows of the study of published size."""
    return FIGURES[name].data(published_size.tables(), published_size.CHOICE)


@pytest.fixture(scope="module")
def printed(untouched_tables, choice, tmp_path_factory):
    """Draws and saves a figure of the small study, once; of the other one where this has no rows for it."""
    folder = tmp_path_factory.mktemp("figures")

    @cache
    def make(name: str, again: bool = False) -> Printed:
        figure, path = FIGURES[name], folder / f"{name}-{again}.svg"
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if name in ONLY_LARGE:
                drawing = figure.paper(_data(name), published_size.CHOICE)
            else:
                drawing = figure.paper(figure.data(untouched_tables, choice), choice)
            save(drawing, path)
        said = [str(warning.message) for warning in found]
        return Printed(drawing, path.read_bytes(), path.with_suffix(".pdf").read_bytes(), said)

    return make


every = pytest.mark.parametrize("name", list(FIGURES))
both = pytest.mark.parametrize("size", SIZES)


@every
def test_files_are_as_large_as_the_figure_was_drawn(printed, name):
    made = printed(name)
    width, height = (POINTS * float(end) for end in made.drawing.get_size_inches())
    written = re.search(rb'<svg[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', made.svg)
    assert [float(end) for end in written.groups()] == pytest.approx([width, height], abs=1e-3)
    assert _media_box(made.pdf) == pytest.approx([0, 0, width, height], abs=1e-3)
    assert made.said == []  # matplotlib warns of a font that lacks a letter


@every
@both
def test_figures_are_a_column_or_two_wide_and_no_taller_than_a_page(drawn, size, name):
    drawing, said = drawn(size, name)
    width, height = drawing.get_size_inches()
    assert width in (SINGLE, DOUBLE)
    assert height <= PAGE
    assert said == []  # matplotlib warns of a layout that has no room for its axes


def _media_box(pdf: bytes) -> list[float]:
    (box,) = re.findall(rb"/MediaBox \[([^\]]*)\]", pdf)
    return [float(end) for end in box.split()]


@every
def test_letters_need_no_font_of_the_reader(printed, name):
    made = printed(name)
    assert b"<text" not in made.svg  # they are outlines
    fonts = list(_fonts(made.pdf))
    assert fonts
    for font in fonts:
        assert b"/Subtype /Type3" not in font  # publishers refuse drawn letters
    descriptors = re.findall(rb"<<\s*/Type /FontDescriptor.*?>>", made.pdf, re.DOTALL)
    described = [font for font in fonts if b"/FontDescriptor" in font]
    assert len(descriptors) == len(described) > 0
    for descriptor in descriptors:
        assert re.search(rb"/FontFile[23]? (\d+) 0 R", descriptor)


def _fonts(pdf: bytes) -> Iterator[bytes]:
    """The objects of a PDF that are fonts; matplotlib writes dictionaries uncompressed."""
    for body in re.findall(rb"\d+ 0 obj(.*?)endobj", pdf, re.DOTALL):
        if re.search(rb"/Type /Font\b(?!Descriptor)", body.split(b"stream")[0]):
            yield body.split(b"stream")[0]


# what differs from run to run is made by the style and `save`, which all share: lines and bands, images, meshes, bars
@pytest.mark.parametrize("name", ["layers", "coactivation", "settings", "top_experts"])
def test_files_are_the_same_every_time(printed, name):
    first, second = printed(name), printed(name, again=True)
    assert first.drawing is not second.drawing
    assert first.svg == second.svg
    assert first.pdf == second.pdf


@every
@both
def test_colours_are_those_of_the_house_or_grey(drawn, size, name):
    drawing = drawn(size, name)[0]
    for artist in drawing.findobj(lambda artist: artist.get_visible()):
        for colour in _colours(artist):
            assert _of_the_house(colour), f"{artist} is {colors.to_hex(colour)}"


def _of_the_house(colour: Any) -> bool:
    """Whether it is grey, invisible, or one of the house's colours, pure or mixed with white."""
    *parts, alpha = colors.to_rgba(colour)
    ink = 1 - np.array(parts)
    pure = [1 - np.array(colors.to_rgb(other)) for other in COLOURS]
    mixed = [np.clip(ink @ other / (other @ other), 0, 1) * other for other in pure]
    return bool(alpha == 0 or np.ptp(ink) < 0.02) or any(np.abs(ink - other).max() < 0.02 for other in mixed)


def _colours(artist: Artist) -> list[Any]:
    if isinstance(artist, Text):
        return [artist.get_color()] if artist.get_text() else []
    if isinstance(artist, Line2D):
        return [artist.get_color(), artist.get_markerfacecolor(), artist.get_markeredgecolor()]
    if isinstance(artist, Patch):
        return [artist.get_facecolor(), artist.get_edgecolor()]
    if isinstance(artist, Collection) and artist.get_array() is None:
        return [*artist.get_facecolor(), *artist.get_edgecolor()]
    return []


@every
def test_colour_scales_can_be_read_in_grey(printed, name):
    drawing = printed(name).drawing
    for scale in [artist.get_cmap() for artist in drawing.findobj(_mapped)]:
        red, green, blue = scale(np.linspace(0, 1, 65))[:, :3].T
        steps = np.diff(0.2126 * red + 0.7152 * green + 0.0722 * blue)
        # from one end to the other, or from both ends to the middle
        for half in np.split(steps, 2):
            assert (half < 0.005).all() or (half > -0.005).all(), f"{scale.name} can't be read in grey"


@pytest.mark.parametrize(
    ("colour", "known"), [("#0072B2", True), ("#e2f3ec", True), ("#777777", True), ("red", False), ("#ffffe0", False)]
)
def test_colours_of_others_are_found(colour, known):
    assert _of_the_house(colour) is known


def _mapped(artist: Artist) -> bool:
    return isinstance(artist, ColorizingArtist) and artist.get_array() is not None


class Said(NamedTuple):
    """A text that is drawn: words, the box around it in points, its size in points, and the artist."""

    words: str
    box: Bbox
    size: float
    text: Text


@cache
def _said(drawing: Drawing) -> list[Said]:
    """All texts that are drawn, where matplotlib puts them."""
    drawing.set_dpi(POINTS)
    with matplotlib.rc_context({"text.parse_math": False}):
        renderer = FigureCanvasAgg(drawing).get_renderer()
        drawing.draw_without_rendering()  # puts all in its place
        return [
            Said(text.get_text(), text.get_window_extent(renderer), float(text.get_fontsize()), text)
            for text in _texts(drawing)
            if text.get_visible() and text.get_text().strip()
        ]


def _texts(drawing: Drawing) -> Iterator[Text]:
    legends = [*drawing.legends]
    yield from drawing.texts
    for axes in drawing.axes:
        if not axes.get_visible():
            continue
        yield from axes.texts
        yield from (axes.title, axes._left_title, axes._right_title)
        legends += [axes.get_legend()] if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            if axes.axison and axis.get_visible():
                yield axis.label
                yield axis.get_offset_text()
                yield from _tick_labels(axis)
    for each in legends:
        yield from each.get_texts()
        yield each.get_title()


def _tick_labels(axis: Axis) -> list[Text]:
    """The labels of ticks that lie within the axis; others aren't drawn."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    places = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
    return [label for place, label in places if low - room <= place <= high + room and label.get_visible()]


@every
@both
def test_letters_are_large_enough_and_none_is_cut_off(drawn, size, name):
    drawing = drawn(size, name)[0]
    said = _said(drawing)
    assert said
    page = drawing.bbox
    for words, box, points, _ in said:
        assert points >= SMALLEST, f"{words!r} has {points} points"
        inside = box.x0 >= page.x0 and box.y0 >= page.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, f"{words!r} at {box} leaves the page {page}"


@every
@both
def test_tick_labels_do_not_run_into_each_other(drawn, size, name):
    drawing = drawn(size, name)[0]
    boxes = {said.text: said for said in _said(drawing)}
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis) if axes.get_visible() else ():
            labels = [boxes[text] for text in _tick_labels(axis) if text in boxes]
            for first, second in itertools.pairwise(labels):
                assert _apart(first, second), f"{first.words!r} meets {second.words!r} in {axes.get_title()!r}"


def _apart(first: Said, second: Said) -> bool:
    """Whether two labels of an axis don't touch: their boxes or, where both are turned, the lines they stand on."""
    turned = np.deg2rad(first.text.get_rotation() % 180)
    if np.isclose(np.sin(turned), 0) or np.isclose(np.cos(turned), 0):
        return not _overlap(first.box, second.box)
    # parallel lines of equal letters: their distance across the writing is at least a letter's height
    across = abs((second.box.x1 - first.box.x1) * np.sin(turned) - (second.box.y1 - first.box.y1) * np.cos(turned))
    return across >= 0.9 * first.size


def _overlap(one: Bbox, other: Bbox) -> bool:
    common = Bbox.intersection(one, other)
    return common is not None and min(common.width, common.height) > TOUCH


@every
@both
def test_words_around_the_panels_do_not_lie_on_each_other(drawn, size, name):
    drawing = drawn(size, name)[0]
    inside = {text for axes in drawing.axes for text in axes.texts}
    around = [said for said in _said(drawing) if said.text not in inside and said.text.get_rotation() % 90 == 0]
    ticks = {label for axes in drawing.axes for axis in (axes.xaxis, axes.yaxis) for label in _tick_labels(axis)}
    for first, second in itertools.combinations(around, 2):
        if first.text in ticks and second.text in ticks and first.text.axes is second.text.axes:
            continue  # neighbours on an axis have a test of their own, and axes meet in a corner
        assert not _overlap(first.box, second.box), f"{first.words!r} lies on {second.words!r}"


def test_a_figure_is_saved_as_svg_alone_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.png'; a figure is saved as \.svg"):
        save(Drawing(), tmp_path / "figure.png")


def _label_panel(width: float, **options) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(width, 2))
    axes = drawing.subplots()
    axes.set_xticks(range(3), ["a long name", "another name", "a third one"], **options)
    return drawing, axes


@pytest.mark.parametrize(("width", "apart"), [(1.5, False), (7, True)])
def test_labels_that_meet_are_found(width, apart):
    drawing, axes = _label_panel(width)
    said = {one.text: one for one in _said(drawing)}
    labels = [said[text] for text in _tick_labels(axes.xaxis)]
    assert bool(_apart(labels[0], labels[1])) is apart


@pytest.mark.parametrize(("width", "apart"), [(0.4, False), (4, True)])
def test_turned_labels_that_meet_are_found(width, apart):
    drawing, axes = _label_panel(width, rotation=35, ha="right", rotation_mode="anchor")
    said = {one.text: one for one in _said(drawing)}
    labels = [said[text] for text in _tick_labels(axes.xaxis)]
    assert bool(_apart(labels[0], labels[1])) is apart


def test_a_text_beyond_the_page_is_found():
    drawing = Drawing(figsize=(2, 2))
    drawing.text(0.9, 0.5, "far too long for this place")
    (one,) = _said(drawing)
    assert one.box.x1 > drawing.bbox.x1


@styled
def _named(title: str, count: int, columns: int, height: float = 2.0) -> Drawing:
    """Panels of one title, and a legend of the same name for each."""
    drawing = Drawing(figsize=(DOUBLE, height))
    for axes in panels(drawing, count, columns):
        axes.set_title(title)
    entries = {f"{title} {number}": Line2D([], []) for number in range(count)}
    legend(drawing, entries, columns=columns)
    return drawing


@pytest.mark.parametrize(
    ("title", "columns", "shown"),
    [
        ("tiny, step-100", 3, "tiny, step-100"),
        ("DeepSeek-Coder-V2-Lite, step-50000", 1, "DeepSeek-Coder-V2-Lite, step-50000"),
        ("DeepSeek-Coder-V2-Lite, step-50000", 3, "DeepSeek-Coder-V2-Lite,\nstep-50000"),
    ],
)
def test_a_title_wider_than_its_column_goes_on_below(title, columns, shown):
    assert {axes.get_title() for axes in _named(title, columns, columns).axes} == {shown}


def test_a_legend_of_long_names_has_fewer_columns_and_stays_on_the_page():
    short, long = _named("a", 4, 4), _named("a model with a name that is long", 4, 4)
    assert [drawing.legends[0]._ncols for drawing in (short, long)] == [4, 3]
    entries = [one.box for one in _said(long) if one.text in long.legends[0].get_texts()]
    assert len(entries) == 4
    assert all(box.x0 >= 0 and box.x1 <= long.bbox.x1 for box in entries)


def test_no_figure_is_taller_than_a_page():
    assert list(_named("a", 1, 1, height=20).get_size_inches()) == [DOUBLE, PAGE]
