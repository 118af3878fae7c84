"""Whatever is missing in a table, no sentence prints it: none says nan, None or inf, and nothing breaks."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from moemui.report import page
from moemui.report.findings import TOPICS, findings
from moemui.report.glance import glance
from moemui.report.headline import headline
from moemui.report.limits import limits
from moemui.report.views import NothingToShow
from moemui.tables.catalog import TABLES
from moemui.tables.table import conform

# What a table's text columns hold, for tables that the made-up study leaves empty.
WORDS = {
    "control": "expert",
    "direction": "rises",
    "expert": "L0-E0",
    "figure": "trajectory",
    "kind": "routed",
    "metric": "mui",
    "note": "made up",
    "outcome": "undecided",
    "pairs": "all",
    "published_model": "OLMoE",
    "separation": "none",
    "task": "all",
    "task_a": "addition",
    "task_b": "facts",
    "task_set": "all",
    "verdict": "no difference shown",
}
# Drawn and offered as tables, but read by no sentence.
NO_SENTENCE = {
    "coactivation", "decay_curve", "diversity", "expert_frequency", "masking", "published", "saturation",
    "utility_curve",
}  # fmt: skip
MISSING = re.compile(r"\b(nan|NaN|NaT|None|inf)\b|<NA>")


def rows_of(name, choice, **changes):
    """Two models' rows of a table, trained and untrained, with a value in every column."""
    values = {"string": "", "int64": 2, "Int64": 2, "float64": 0.5, "bool": True, "boolean": True}
    full = {column.name: values[column.dtype] for column in TABLES[name].columns}
    strings = {column.name for column in TABLES[name].columns if column.dtype == "string"}
    full |= {key: word for key, word in WORDS.items() if key in strings} | changes
    full |= {key: value for key, value in choice.experts._asdict().items() if key in full}
    places = [(model, order) for model in ("tiny-olmoe", "tiny-deepseek") for order in (0, 3)]
    own = [{"model": model, "order": order, "tokens": float(order)} for model, order in places]
    return [full | {key: value for key, value in place.items() if key in full} for place in own]


def filled(name, choice):
    if name == "diagnostics":
        flags = ("mui_without_decline", "few_key_experts", "shared_and_total_mui_high", "cheap_masking")
        rows = [row for flag in flags for row in rows_of(name, choice, flag=flag)]
    elif name == "diversity_effect":
        measures = {("mui", choice.curves.label): "neuron", ("active_experts", choice.experts.label): "expert"}
        measures[("key_expert_proportion", choice.experts.label)] = "expert"
        rows = [
            row for (measure, setting), level in measures.items()
            for row in rows_of(name, choice, measure=measure, setting=setting, level=level)
        ]  # fmt: skip
    elif name == "threshold_selection":
        rows = [row | {"model": "all models"} for control in ("expert", "frequency")
                for row in rows_of(name, choice, control=control)]  # fmt: skip
    else:
        rows = rows_of(name, choice)
    if "expert_threshold" in rows[0]:
        rows = [row | {"expert_threshold": choice.expert_threshold} for row in rows]
    return TABLES[name].frame({tuple(row[key] for key in TABLES[name].key): row for row in rows}.values())


@pytest.fixture
def everything(study_tables, choice):
    """All tables with rows."""
    found = {name: frame if len(frame) else filled(name, choice) for name, frame in study_tables.items()}
    assert all(len(frame) for frame in found.values())
    return found


def at_a_glance(tables, choice):
    for row in glance(tables, choice):
        for cell in dataclasses.asdict(row).values():
            for part in [cell] if isinstance(cell, str) else cell:
                yield from [part] if isinstance(part, str) else part


def of_topic(topic):
    def sentences(tables, choice):
        try:
            found = topic(tables, choice)
        except NothingToShow as reason:
            return (str(reason),)
        return (*found.sentences, found.caveat)

    return sentences


# All that prints sentences: from tables and settings to texts.
PRINTERS = (at_a_glance, headline, limits, *(of_topic(topic) for topic in TOPICS.values()))


@pytest.fixture(scope="module")
def readers(untouched_tables, choice):
    """table → what prints something of it, so that a gap is tried on that alone."""
    found = {name: [] for name in TABLES}
    for printer in PRINTERS:
        read = Recorded(
            {name: frame if len(frame) else filled(name, choice) for name, frame in untouched_tables.items()}
        )
        assert list(printer(read, choice))
        for name in read.names:
            found[name].append(printer)
    assert {name for name in page.NEEDED if not found[name]} == NO_SENTENCE
    return found


class Recorded(dict):
    """Tables that remember which of them were read."""

    def __init__(self, tables):
        super().__init__(tables)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


def printed(tables, choice, printers):
    return [text for printer in printers for text in printer(tables, choice)]


def without(frame, columns, rows):
    """The frame with gaps in these columns at these rows, and a note that says so."""
    frame = frame.copy()
    for column in columns:
        frame[column] = frame[column].mask(rows)
    for note in (column for column in frame if column.endswith("note")):
        frame[note] = frame[note].mask(rows & (frame[note] == ""), "made up to be missing")
    return frame


def gaps(name, frame, generator):
    """Every nullable column all missing, all of them at once, and some of them in some rows."""
    nullable = [
        column.name for column in TABLES[name].columns if column.nullable and column.name not in TABLES[name].key
    ]
    every = pd.Series(True, index=frame.index)
    for column in nullable:
        yield column, without(frame, [column], every)
    if nullable:
        yield "all", without(frame, nullable, every)
        for _ in range(2):
            some = pd.Series(generator.random(len(frame)) < 0.5, index=frame.index)
            yield "some", without(frame, [c for c in nullable if generator.random() < 0.5], some)


@pytest.mark.parametrize("name", sorted({*page.NEEDED} - NO_SENTENCE))
def test_no_missing_value_is_printed(everything, choice, readers, name):
    read = everything[name]
    for what, frame in gaps(name, read, np.random.default_rng(0)):
        tables = everything | {name: conform(frame, TABLES[name])}
        said = printed(tables, choice, readers[name])
        assert [text for text in said if MISSING.search(text)] == [], what
        assert said


def test_no_missing_value_is_printed_of_empty_tables(everything, empty_tables, readers, choice):
    for name in page.NEEDED:
        said = printed(everything | {name: empty_tables[name]}, choice, readers[name])
        assert [text for text in said if MISSING.search(text)] == []
    assert len(findings(empty_tables, choice)) == 14
