"""Every number in the report's prose is the table's: all of them, in their order, counted by queries of their own."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import printed_numbers
import published_size
import pytest
from printed_numbers import page
from printed_numbers.reading import left_out, names, numbers, printed

from moemui.key_neurons.settings import Setting
from moemui.report.findings import TOPICS, findings
from moemui.report.glance import Glance, glance, grounds
from moemui.report.headline import headline
from moemui.report.limits import limits
from moemui.report.views import Choice
from moemui.tables.catalog import TABLES
from moemui.tables.table import read

STUDY = "MOEMUI_REPORT_STUDY"
PROVENANCE = {"conservation_error_max": 3.74e-7}


def finished(folder: Path) -> tuple[dict[str, pd.DataFrame], Choice]:
    """A finished study's tables, and settings that its tables hold: the highest threshold for MUI, the lowest else."""
    files = {name: folder / "tables" / f"{name}.parquet" for name in TABLES}
    tables = {
        name: read(path, TABLES[name]) if path.exists() else TABLES[name].frame([]) for name, path in files.items()
    }
    fields = list(Setting._fields)

    def main(name: str) -> list[Setting]:
        rows = tables[name].loc[(tables[name]["rule"] == "topk") & (tables[name]["variant"] == "main"), fields]
        rows = rows[(rows["formulation"] == "projection") & (rows["selection"] == "pairs")].drop_duplicates()
        return sorted((Setting(*row) for row in rows.itertuples(index=False)), key=lambda setting: setting.threshold)

    masked = main("masking_effect") or main("key_experts")
    trained = tuple(tables["training"]["model"].unique())
    return tables, Choice(main("phases")[-1], main("key_experts")[0], masked[0], trained_here=trained)


@pytest.fixture(scope="module", params=["made up", "published size", "finished"])
def study(request, untouched_tables, choice):
    """(tables, choice) of the made-up study, of one of published size, and of a finished one if there is any."""
    if request.param == "made up":
        return untouched_tables, choice
    if request.param == "published size":
        return published_size.tables(), published_size.CHOICE
    if not os.environ.get(STUDY):
        pytest.skip(f"set {STUDY} to the folder of a finished study (results/demo) to check its report's numbers too")
    return finished(Path(os.environ[STUDY]))


def words(row: Glance) -> list[str]:
    """The cells of a row that hold no name."""
    cells = [value for name, value in dataclasses.asdict(row).items() if name not in ("model", "checkpoint")]
    parts = [part for cell in cells for part in ([cell] if isinstance(cell, str) else cell)]
    return [text for part in parts for text in ([part] if isinstance(part, str) else part)]


def check(tables, choice, topic):
    """The finding's numbers, after they were found equal to those counted."""
    finding = TOPICS[topic](tables, choice)
    said = printed((*finding.sentences, finding.caveat), names(tables))
    assert said == printed_numbers.TOPICS[topic](tables, choice).numbers(left_out(finding.sentences))
    return said


def test_every_number_of_the_findings_is_the_tables(study):
    tables, choice = study
    known = names(tables)
    shown = [finding for finding in findings(tables, choice) if finding.verdict != "not measured"]
    assert len(shown) >= 9
    for finding in shown:
        expected = printed_numbers.TOPICS[finding.topic](tables, choice).numbers(left_out(finding.sentences))
        assert printed((*finding.sentences, finding.caveat), known) == expected, finding.topic
        assert len(expected) > 5, finding.topic


def test_every_number_of_the_first_screen_and_the_limits_is_the_tables(study):
    tables, choice = study
    known = names(tables)
    rows, expected = glance(tables, choice), page.glance(tables, choice)
    assert [row.model for row in rows] == list(expected)
    for row in rows:
        assert printed(words(row), known) == expected[row.model], row.model
        assert len(expected[row.model]) > 12
    assert printed(headline(tables, choice), known) == page.headline(tables, choice)
    assert 1 <= len(headline(tables, choice)) <= 3
    assert printed(limits(tables, choice), known) == page.limits(tables, choice)
    for provenance in (PROVENANCE, {"conservation_error_max": 0.0}, {}):
        assert printed(grounds(choice, provenance), known) == page.grounds(provenance)


def test_the_published_size_has_every_topic():
    found = findings(published_size.tables(), published_size.CHOICE)
    assert [finding.topic for finding in found] == list(printed_numbers.TOPICS)
    assert "not measured" not in {finding.verdict for finding in found}
    assert all(len(finding.sentences) <= 11 for finding in found)
    assert any(left_out(finding.sentences) for finding in found)


# topic → a table that it reads, and columns whose change must be seen; ENDS stands for NAME, NAME_low and NAME_high
CHANGED = [
    ("Performance and MUI", "performance", "accuracy"),
    ("Performance and MUI", "utilization", "mui_at_m+mui_at_m_sample_low+mui_at_m_sample_high"),
    ("Differences of MUI", "comparisons", "m"),
    ("Phases of training", "change_points", "slope_before"),
    ("Phases of training", "change_points", "p_no_change"),
    ("Phases of training", "phase_divergence", "n_differ"),
    ("Saturation", "utilization", "mui"),
    ("Saturation", "utilization", "chao2"),
    ("Key experts", "key_experts", "proportion"),
    ("Key experts", "key_experts", "n_undecided"),
    ("Structure of experts", "expert_overlap", "jaccard"),
    ("Structure of experts", "specialization_summary", "mean_mutual_information"),
    ("Structure of experts", "coactivation_summary", "n_together_within"),
    ("Shared experts", "enrichment", "odds_ratio_corrected"),
    ("Shared experts", "enrichment", "log_odds_change"),
    ("Shared experts", "exposure", "likelihood_ratio_p"),
    ("Shared experts", "top_composition", "n_shared"),
    ("Masking", "masking_effect", "loss_key"),
    ("Masking", "masking_effect", "loss_difference"),
    ("Masking", "masking_effect", "nll_difference"),
    ("Masking", "masking_effect", "activation_frequency_smd"),
    ("Choice of setting", "sensitivity", "pearson+pearson_clustered_low+pearson_clustered_high"),
    ("Choice of setting", "sensitivity", "n_cells"),
    ("Choice of threshold", "threshold_selection", "separation"),
    ("Diversity of data", "diversity_effect", "spearman"),
    ("Diversity of data", "diversity_effect", "difference_p"),
    ("Laws", "utility_law", "r_squared"),
    ("Laws", "decay", "alpha"),
    ("Laws", "decay", "n_tail"),
    ("The paper's own figures", "published_agreement", "mean_difference"),
]


@pytest.fixture(scope="module")
def two_models():
    """Of the published size but for the models, so that trying a change takes no time."""
    return published_size.of_models(2)


@pytest.mark.parametrize(("topic", "name", "columns"), CHANGED)
def test_a_changed_value_changes_the_sentence(two_models, topic, name, columns):
    tables = two_models
    before = check(tables, published_size.CHOICE, topic)
    changed = tables[name].copy()
    wanted = columns.split("+")
    wanted += [column for end in ("low", "high") if (column := f"{columns}_{end}") in changed]
    for column in wanted:
        factor = 2 if changed[column].dtype.kind == "i" or str(changed[column].dtype) == "Int64" else 0.7
        changed[column] = changed[column] * factor
    after = check(tables | {name: changed}, published_size.CHOICE, topic)
    assert after != before


def test_flags_print_their_evidence(two_models):
    tables = two_models
    rows = tables["diagnostics"].copy()
    rows["evidence"] = rows["evidence"].str.replace(r"\d\.\d", "7.7", regex=True)
    before, after = (
        check(tables | {"diagnostics": table}, published_size.CHOICE, "Flags")
        for table in (tables["diagnostics"], rows)
    )
    assert "7.7" in after
    assert before != after


def test_numbers_are_read_as_printed():
    text = "m-7B: −0.35 [−1.2, 3e−07], L28-S1 and Chao2 of 1,024; p = 1e−300, k = 4, x/0.001, 12 %."
    assert numbers(text, ["m-7B"]) == ["−0.35", "−1.2", "3e−07", "1,024", "1e−300", "4", "0.001", "12"]
    assert np.all([json.loads(number.replace("−", "-").replace(",", "")) is not None for number in numbers(text)])
