"""The figure of data diversity draws what its table says, at the settings chosen."""

import numpy as np
import pytest

from moemui.report import figures_diversity
from moemui.report.figure_style import save
from moemui.report.figures_diversity import PANELS, shown
from moemui.report.views import NothingToShow
from moemui.tables.diversity import DIVERSITY, DIVERSITY_EFFECT


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


def lines(axes):
    return [
        ([int(x) for x in line.get_xdata()], [round(float(y), 6) for y in line.get_ydata()])
        for line in axes.lines
        if len(line.get_xdata())
    ]


def test_each_panel_has_last_and_untrained_checkpoint_by_number_of_domains(choice):
    figure = figures_diversity.diversity({"diversity": table(choice)}, choice)
    assert [axes.get_title() for axes in figure.axes] == ["neuron", "expert", "expert", "lexical"]
    for axes in figure.axes:
        assert lines(axes) == [
            ([1, 2, 3], [0.11, 0.21, 0.31]),
            ([1, 2, 3], [0.1, 0.2, 0.3]),
            ([1, 2, 3], [1.11, 1.21, 1.31]),
            ([1, 2, 3], [1.1, 1.2, 1.3]),
        ]
        bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
        assert [(round(band.min(), 6), round(band.max(), 6)) for band in bands] == [(0.05, 0.35), (1.05, 1.35)]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["tiny-olmoe", "tiny-deepseek", "untrained"]


def test_a_single_checkpoint_untrained_or_not_is_drawn_once(choice):
    for seen in (0.0, 5.0):
        figure = figures_diversity.diversity({"diversity": table(choice, tokens=(seen,))}, choice)
        assert len(lines(figure.axes[0])) == 2
        assert "untrained" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_measure_without_values_has_no_panel(choice):
    rows = table(choice)
    rows.loc[rows["level"] == "lexical", ["mean", "sd", "low", "high"]] = np.nan
    figure = figures_diversity.diversity({"diversity": rows}, choice)
    assert [axes.get_title() for axes in figure.axes] == ["neuron", "expert", "expert"]


def test_only_the_chosen_settings_are_shown(choice):
    rows = shown(table(choice), choice)
    assert set(rows[["level", "measure", "setting"]].itertuples(index=False, name=None)) == {
        ("neuron", "mui", choice.curves.label),
        ("expert", "key_expert_proportion", choice.experts.label),
        ("expert", "active_experts", choice.experts.label),
        ("lexical", "distinct_2", ""),
    }


def test_nothing_to_show_is_said(choice):
    with pytest.raises(NothingToShow, match=r"number of domains was not measured"):
        figures_diversity.diversity({"diversity": DIVERSITY.frame([])}, choice)
    rows = table(choice)
    rows = rows[(rows["level"] == "neuron") & (rows["setting"] == choice.experts.label)]
    with pytest.raises(NothingToShow, match=f"no measured rows at {choice.curves.label} .* only at"):
        shown(rows, choice)


def test_caption_and_files(choice, tmp_path):
    caption = figures_diversity.DIVERSITY.caption_for(choice)
    assert choice.curves.label in caption
    assert choice.experts.label in caption
    assert "{" not in caption
    for name in ("first", "second"):
        save(figures_diversity.diversity({"diversity": table(choice)}, choice), tmp_path / f"{name}.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_the_tables_say_what_every_column_means():
    for one in (DIVERSITY, DIVERSITY_EFFECT):
        assert all(column.meaning for column in one.columns)
        assert set(one.key) <= set(one.names)
