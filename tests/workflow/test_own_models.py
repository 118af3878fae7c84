"""A model of one's own from a local folder, dense, on given responses, without masking: the smallest real study."""

from __future__ import annotations

import json

import pytest
import torch
from workflow.conftest import copy_project, planned_jobs, snakemake

import tiny_models
from moemui.models.synthetic import build_tokenizer
from moemui.tables import table as tables
from moemui.tables.catalog import TABLES

pytestmark = pytest.mark.slow
STUDY = """
study: own
models:
  my-llama:
    source: {path: model}
    checkpoints: [{name: main}]
    dtype: float32
  too-large:
    source: {hub: some/model}
    checkpoints: [{name: main, revision: main}]
    hold: it needs eight GPUs
tasks:
  given: {responses: given.jsonl, domain: general}
contributions: {thresholds: [0.05, 0.2]}
analysis: {threshold: 0.05}
masking: {checkpoints: none}
"""
GIVEN = [
    {"prompt": "Question: sort c b a\nAnswer:", "response": " a b c", "correct": True},
    {"prompt": "Question: sort b a c\nAnswer:", "response": " a b", "correct": False},
    {"prompt": "Question: sort a c b\nAnswer:", "response": " a b c"},
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("own"))
    tokenizer = build_tokenizer()
    model = tiny_models.build("llama")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in GIVEN))
    (folder / "own.yaml").write_text(STUDY)
    return folder


def test_it_runs_to_its_report(own):
    run = snakemake(own, "--configfile", "own.yaml")
    assert run.returncode == 0, run.stdout[-4000:]
    performance = tables.read([own / "results/own/tables/performance.parquet"], TABLES["performance"]).iloc[0]
    assert (performance["n_samples"], performance["n_graded"], performance["n_correct"]) == (3, 2, 1)
    utilization = tables.read([own / "results/own/tables/utilization.parquet"], TABLES["utilization"])
    total = utilization[(utilization["scope"] == "total") & (utilization["samples"] == "all")]
    assert total["mui"].between(0, 1, inclusive="right").all()
    page = (own / "results/own/report.html").read_text()
    assert "too-large is on hold: it needs eight GPUs" in page


def test_weights_replaced_in_place_are_measured_again(own):
    file = own / "model/model.safetensors"
    size = file.stat().st_size
    model = tiny_models.build("llama", seed=7)
    torch.manual_seed(7)
    model.resize_token_embeddings(len(build_tokenizer()))
    model.save_pretrained(own / "model")
    assert file.stat().st_size == size
    planned = planned_jobs(snakemake(own, "--configfile", "own.yaml", "-n").stdout)
    assert {"checkpoint", "responses_given", "contributions_given"} <= set(planned)
