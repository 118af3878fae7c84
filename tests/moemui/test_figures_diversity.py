"""The figure of data diversity shows what its table says, at the settings chosen, on paper and on the page."""

import json

import numpy as np
import pytest

from moemui.report.figures.diversity import FIGURE, PANELS, data
from moemui.report.views import NothingToShow
from moemui.tables.diversity import DIVERSITY


def table(choice, models=("tiny-olmoe", "tiny-deepseek"), tokens=(0.0, 1e6)):
    """Three numbers of domains; the mean is the model's place, a tenth of d, and a hundredth a checkpoint."""
    labels = {"neuron": choice.curves.label, "expert": choice.experts.label, "lexical": ""}
    measures = [(level, name, labels[level]) for level, name in PANELS]
    measures += [("neuron", "mui", choice.experts.label), ("lexical", "distinct_1", "")]
    return DIVERSITY.frame(
        {
            "model": model, "checkpoint": f"step-{order}", "tokens": seen, "order": order, "level": level,
            "measure": name, "setting": setting, "n_domains": d, "n_samples": 22, "draws": 200,
            "mean": place + d / 10 + order / 100, "sd": 0.01, "low": place + d / 10 - 0.05,
            "high": place + d / 10 + 0.05, "note": "",
        }
        for place, model in enumerate(models)
        for order, seen in enumerate(tokens)
        for level, name, setting in measures
        for d in (3, 1, 2)
    )  # fmt: skip


def drawn(rows, choice):
    return FIGURE.paper(FIGURE.data({"diversity": rows}, choice), choice)


def lines(axes):
    return [
        ([int(x) for x in line.get_xdata()], [round(float(y), 6) for y in line.get_ydata()])
        for line in axes.lines
        if len(line.get_xdata())
    ]


def test_each_panel_has_last_and_untrained_checkpoint_by_number_of_domains(choice):
    figure = drawn(table(choice), choice)
    assert [axes.get_title() for axes in figure.axes] == ["neuron", "expert", "expert", "lexical"]
    for axes in figure.axes:
        assert lines(axes) == [
            ([1, 2, 3], [0.1, 0.2, 0.3]),
            ([1, 2, 3], [0.11, 0.21, 0.31]),
            ([1, 2, 3], [1.1, 1.2, 1.3]),
            ([1, 2, 3], [1.11, 1.21, 1.31]),
        ]
        assert [line.get_markerfacecolor() == "white" for line in axes.lines] == [True, False, True, False]
        bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
        assert [(round(band.min(), 6), round(band.max(), 6)) for band in bands] == [(0.05, 0.35), (1.05, 1.35)]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["tiny-olmoe", "tiny-deepseek", "untrained"]


@pytest.mark.parametrize(("seen", "untrained"), [(0.0, True), (5.0, False), (None, False)])
def test_a_single_checkpoint_is_drawn_once_and_hollow_if_untrained(choice, seen, untrained):
    figure = drawn(table(choice, tokens=(seen,)), choice)
    assert len(lines(figure.axes[0])) == 2
    assert (figure.axes[0].lines[0].get_markerfacecolor() == "white") is untrained
    assert ("untrained" in [text.get_text() for text in figure.legends[0].get_texts()]) is untrained


def test_checkpoints_between_the_untrained_and_the_last_are_left_out(choice):
    rows = data({"diversity": table(choice, tokens=(0.0, 1.0, 2.0))}, choice)["sets"]
    assert list(rows["checkpoint"].unique()) == ["step-0", "step-2"]


def test_a_measure_without_values_has_no_panel(choice):
    rows = table(choice)
    rows.loc[rows["level"] == "lexical", ["mean", "sd", "low", "high"]] = np.nan
    assert [axes.get_title() for axes in drawn(rows, choice).axes] == ["neuron", "expert", "expert"]


def test_only_the_chosen_settings_are_shown_in_the_order_of_panels(choice):
    rows = data({"diversity": table(choice)}, choice)["sets"]
    assert list(rows[["level", "measure", "setting"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("neuron", "mui", choice.curves.label),
        ("expert", "key_expert_proportion", choice.experts.label),
        ("expert", "active_experts", choice.experts.label),
        ("lexical", "distinct_2", ""),
    ]
    assert len(rows) == 4 * 2 * 2 * 3  # panels, models, checkpoints, numbers of domains


def test_nothing_to_show_is_said(choice):
    with pytest.raises(NothingToShow, match=r"number of domains was not measured"):
        data({"diversity": DIVERSITY.frame([])}, choice)
    rows = table(choice)
    rows = rows[(rows["level"] == "neuron") & (rows["setting"] == choice.experts.label)]
    with pytest.raises(NothingToShow, match=f"no measured rows at {choice.curves.label} .* only at"):
        data({"diversity": rows}, choice)


def test_the_page_has_a_panel_a_measure_on_axes_of_its_own_and_marks_every_set(choice):
    shown = data({"diversity": table(choice)}, choice)
    chart = FIGURE.page(shown, choice)
    assert chart.panel == "measure"
    assert {shown["sets"]["measure"].iloc[i] for i in range(len(shown["sets"]))} == set(chart.titles)
    assert list(chart.series.looks) == ["tiny-olmoe", "tiny-deepseek"]
    (view,) = chart.views
    assert [layer["name"] for layer in view["layer"] if layer.get("name") in shown] == ["sets"]
    (ends,) = {
        json.dumps(layer["encoding"]["y"]["scale"]) for layer in view["layer"] if "scale" in layer["encoding"]["y"]
    }
    expression = json.loads(ends)["domain"]["expr"]
    domains = json.loads(expression[1 : expression.index(")")])
    # the highest of all is 1.35, as percent 135
    assert {name: round(high, 3) for name, (_, high) in domains.items()} == {
        "mui": 141.75, "key_expert_proportion": 141.75, "active_experts": 1.418, "distinct_2": 141.75,
    }  # fmt: skip
    assert expression.endswith("[data('sets')[0]['measure']]")


def test_every_column_has_a_meaning_and_the_caption_its_settings(choice):
    columns = FIGURE.columns(data({"diversity": table(choice)}, choice)["sets"])
    assert all(column.meaning for column in columns)
    caption = FIGURE.caption_for(choice)
    assert choice.curves.label in caption
    assert choice.experts.label in caption
    assert "{" not in caption + FIGURE.definition
