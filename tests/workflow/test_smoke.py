"""The whole chain on the smoke study: what lies in results. What a change costs: test_reruns.py."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

from moemui.key_neurons import files as key_neurons
from moemui.scores import store
from moemui.tables import table as tables
from moemui.tables.catalog import TABLES

pytestmark = pytest.mark.slow
STAGES = {
    "train", "task_data", "checkpoint", "responses_synthetic", "contributions_synthetic", "key_neurons_synthetic",
    "contributions_synthetic_no_gate", "key_neurons_synthetic_no_gate", "model_utilization", "model_experts",
    "model_expert_structure", "enrichment", "sensitivity", "masking_synthetic", "threshold_selection", "comparisons",
    "dynamics", "model_diversity", "laws", "diagnostics", "gather", "report",
}  # fmt: skip


def records(folder):
    return [json.loads(path.read_text()) for path in (folder / "results/smoke/records").rglob("*.json")]


def test_every_table_is_there_and_valid(smoke):
    folder = smoke / "results/smoke/tables"
    for name in sorted({path.stem for path in folder.glob("*.parquet")}):
        frame = tables.read([folder / f"{name}.parquet"], TABLES[name])
        assert len(frame) or name.startswith("published"), name  # no model here has a published one's name
        assert (folder / f"{name}.csv").read_text().count("\n") == len(frame) + 1
    assert {path.stem for path in folder.glob("*.parquet")} == set(TABLES)


def test_conservation_and_identity_hold_in_the_run_itself(smoke):
    qualities = [r["metrics"] for r in records(smoke) if r["stage"] == "contributions_synthetic"]
    assert len(qualities) == 6
    assert max(quality["conservation_error"] for quality in qualities) < 1e-4
    assert max(quality["identity_error"] for quality in qualities) == 0
    assert all(0 < quality["bytes"] <= quality["most_bytes"] for quality in qualities)
    assert all(quality["resumed_samples"] == 0 for quality in qualities)


def test_stores_and_sets_are_complete_and_agree(smoke):
    found = sorted(smoke.glob("results/smoke/*/*/*/contributions.zarr"))
    assert len(found) == 2 * 3 * 3
    assert len(list(smoke.glob("results/smoke/*/*/*/no_gate/key_neurons.h5"))) == 2 * 2 * 3
    for path in found:
        store.verify(path)
        sets = key_neurons.read(path.with_name("key_neurons.h5"))
        assert list(sets.samples.id) == store.Contributions(path).sample_ids
        assert sets.samples.n == 40


def test_mui_is_the_union_of_the_key_sets_over_all_neurons(smoke):
    mui = tables.read([smoke / "results/smoke/tables/utilization.parquet"], TABLES["utilization"])
    row = mui.query("samples == 'all' and scope == 'total' and threshold == 0.02 and variant == 'main'").iloc[-1]
    file = key_neurons.read(smoke / f"results/smoke/{row['model']}/{row['checkpoint']}/{row['task']}/key_neurons.h5")
    sets = file.sets(row["formulation"], row["selection"], 0.02)
    assert row["mui"] == len(set(sets.neurons.tolist())) / file.geometry.neurons


def test_the_report_and_its_figures_are_there(smoke):
    page = (smoke / "results/smoke/report.html").read_text()
    assert "smoke-deepseek" in page
    assert not re.search(r"""<[^>]*(src|href)=["']?(https?:)?//""", page)
    figures = {path.stem for path in (smoke / "results/smoke/figures").glob("*.svg")}
    assert {"trajectories", "saturation", "masking", "enrichment", "settings", "diversity"} <= figures


def test_mlflow_has_a_run_for_every_job_of_every_stage(smoke):
    database = sqlite3.connect(smoke / "results/mlflow/mlflow.db")
    stages = [row[0] for row in database.execute("select value from tags where key = 'stage'")]
    assert set(stages) == STAGES
    assert stages.count("contributions_synthetic") == 6
    assert list((smoke / "results/mlflow/artifacts").rglob("report.html"))
