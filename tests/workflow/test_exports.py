"""The stage exports beside a finished study, and what the documents say about reading a study's files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from workflow.conftest import ROOT, SMOKE, copy_study, planned_jobs, snakemake

import moemui
from moemui.tables import dictionary
from moemui.tables.exports import EXPORTS
from moemui.tables.table import read

pytestmark = pytest.mark.slow

CHECKPOINT = "results/smoke/smoke-deepseek/step-120"
CELL = f"{CHECKPOINT}/sorting"
MADE = (f"{CELL}/exports/mask.safetensors", "results/smoke/exports/expert_sets.parquet")
# From the study that the documents speak of to the one that is run here.
HERE = {"step-01000": "step-00120", "step-1000": "step-120", "tiny-": "smoke-", "results/demo": "results/smoke"}


@pytest.fixture(scope="module")
def exported(smoke, tmp_path_factory):
    """The smoke study with the exports of one cell and those of the study, by what `make exports` runs for all."""
    folder = copy_study(smoke, tmp_path_factory.mktemp("exported") / "smoke")
    make = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "exports", f"CONFIG={SMOKE[1]}"]
    (line,) = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    program, target, *words = shlex.split(line)
    assert (program, target) == (".venv/bin/snakemake", "exports")
    run = snakemake(folder, *MADE, *words)
    assert run.returncode == 0, run.stdout[-3000:]
    assert planned_jobs(run.stdout) == {"key_neuron_exports": 1, "expert_set_exports": 1}
    return folder


def code(page, section=""):
    """The Python blocks of a page, or of one of its sections, as they are about the study that is run here."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text[text.index(section) :]
    text = text[: text.index("\n## ", 1)] if section else text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for there, here in HERE.items():
        blocks = [block.replace(there, here) for block in blocks]
    return blocks


def test_exports_are_no_part_of_all_and_one_cell_asks_for_nothing_else(exported):
    everything = planned_jobs(snakemake(exported, "-n", "--forceall", *SMOKE).stdout)
    assert everything["model_experts"] == 2
    assert not {"key_neuron_exports", "expert_set_exports"} & set(everything)
    rest = planned_jobs(snakemake(exported, "exports", "-n", *SMOKE).stdout)
    assert rest == {"key_neuron_exports": 17, "exports": 1}  # 2 models × 3 checkpoints × 3 tasks, less the one made


def test_tables_and_mask_say_what_the_key_neuron_file_says(exported):
    """Against h5py alone."""
    folder = exported / CELL
    with h5py.File(folder / "key_neurons.h5") as file:
        layers = json.loads(file.attrs["geometry"])["layers"]
        ids = file["samples/id"].asstr()[()]
        sets = {
            threshold: (group["indptr"][()], group["neurons"][()])
            for threshold in (0.01, 0.02)
            for group in [file[f"sets/topk/projection/pairs/{threshold:g}"]]
        }
    rows = read(folder / "exports/key_neurons.parquet", EXPORTS["key_neurons"])
    neurons = read(folder / "exports/neurons.parquet", EXPORTS["neurons"])
    assert set(rows["threshold"]) == set(neurons["threshold"]) == {0.01, 0.02}  # analysis.threshold, curve_threshold
    for threshold, (indptr, flat) in sets.items():
        own = rows[rows["threshold"] == threshold]
        assert own["sample"].tolist() == ids[np.repeat(np.arange(len(ids)), np.diff(indptr))].tolist()
        often = np.unique(flat, return_counts=True)[1]
        assert neurons.loc[neurons["threshold"] == threshold, "incidence"].tolist() == often.tolist()
    mask = safetensors.numpy.load_file(folder / "exports/mask.safetensors")
    parts = [mask[f"layers.{x['index']}.{kind}.incidence"].ravel() for x in layers for kind in ("routed", "shared")]
    counts = np.concatenate(parts)
    assert np.flatnonzero(counts).tolist() == np.unique(sets[0.01][1]).tolist()
    assert counts.sum() == len(sets[0.01][1])
    # Where each row says that its neuron lies, the mask is set as often.
    for row in neurons[neurons["threshold"] == 0.01].itertuples():
        number = int(row.expert.split("-")[1][1:]) - (row.kind == "shared")
        assert mask[f"layers.{row.layer}.{row.kind}.incidence"][number, row.neuron] == row.incidence
        assert mask[f"layers.{row.layer}.{row.kind}.key"][number, row.neuron]


def test_the_study_has_its_expert_sets_and_its_data_dictionary(exported):
    folder = exported / "results/smoke"
    found = read(folder / "exports/expert_sets.parquet", EXPORTS["expert_sets"])
    key = pd.read_parquet(folder / "tables/key_experts.parquet").query("threshold == 0.01 and rule == 'topk'")
    key = key[(key["formulation"] == "projection") & (key["selection"] == "pairs") & (key["variant"] == "main")]
    cell = ["model", "checkpoint", "task", "expert_threshold"]
    own = found[found["threshold"] == 0.01].groupby(cell)["is_key"].sum()
    assert len(own) == len(key) > 18
    assert own.to_dict() == key.set_index(cell)["n_key"].to_dict()
    twin = pd.read_csv(folder / "exports/data_dictionary.csv", keep_default_na=False)
    assert twin.to_dict("list") == dictionary.frame().to_dict("list")


def test_audit_knows_the_exports_by_their_records(exported):
    record = json.loads((exported / "results/smoke/records/smoke-deepseek/step-120/exports_sorting.json").read_text())
    assert record["metrics"]["rows"] > record["metrics"]["neurons"] > record["metrics"]["masked"] > 0
    assert set(record["outputs"]) == {
        f"{CELL}/exports/{name}" for name in ("key_neurons.parquet", "neurons.parquet", "mask.safetensors")
    }

    def audit():
        words = [sys.executable, "scripts/audit.py", *MADE, "--json"]
        return subprocess.run(words, cwd=exported, capture_output=True, text=True, check=False)

    assert audit().returncode == 0
    mask = exported / MADE[0]
    whole = mask.read_bytes()
    mask.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = audit()
    mask.write_bytes(whole)
    assert damaged.returncode != 0
    assert "mask.safetensors" in damaged.stdout


def test_every_file_is_read_as_the_page_says(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    names: dict = {}
    blocks = code("docs/files.md")
    assert len(blocks) >= 9
    for block in blocks:
        exec(block, names)
        said = capsys.readouterr().out
        assert said.strip() or "def silence_key_neurons" in block, block
        if "h5py" in block:
            assert names["mui"] == moemui.load(CELL).mui(correct=True).value
    assert all(name in (ROOT / "docs/files.md").read_text() for name in os.listdir(exported / CELL))


def test_a_cell_says_what_the_tables_of_the_study_say(exported):
    """Total, layers and kinds at the common m, and with all samples, of all and of the correct ones, main and not."""
    table = pd.read_parquet(exported / "results/smoke/tables/utilization.parquet")
    model, checkpoint, task = CELL.split("/")[2:]
    table = table[(table["model"] == model) & (table["checkpoint"] == checkpoint) & (table["task"] == task)]
    table = table.query("selection == 'pairs' and formulation == 'projection' and threshold == 0.01 and rule == 'topk'")
    ends = ["mui_at_m", "mui_at_m_sample_low", "mui_at_m_sample_high"]
    tried = 0
    for variant, place in (("main", CELL), ("no_gate", f"{CELL}/no_gate"), ("main", f"{CELL}/contributions.zarr")):
        cell = moemui.load(exported / place, threshold=0.01)
        for samples, asked in (("all", {}), ("correct", {"correct": True})):
            rows = table[(table["variant"] == variant) & (table["samples"] == samples)]
            total = rows[rows["scope"] == "total"].iloc[0]
            if total["n_samples"] == 0:
                continue
            m = int(total["common_m"])
            assert cell.mui(**asked).value == pytest.approx(total["mui"])
            assert cell.mui(**asked).setting == f"projection/pairs/0.01{'/no_gate' * (variant != 'main')}"
            if m > total["n_samples"]:
                continue
            tried += 1
            found = cell.mui(m=m, **asked)
            assert found[:3] == pytest.approx(total[ends].tolist(), nan_ok=True)
            assert (found.n_samples, found.n_neurons) == (total["n_samples"], total["n_neurons"])
            layers = rows[rows["scope"] == "layer"].set_index("layer")["mui_at_m"]
            by_layer = cell.mui(m=m, by="layer", **asked).set_index("layer")["mui"]
            assert by_layer.to_dict() == pytest.approx(layers.to_dict())
            for kind in cell.mui(m=m, by="kind", **asked).itertuples():
                row = rows[rows["scope"] == kind.kind].iloc[0]
                assert (kind.mui, kind.low, kind.high) == pytest.approx(tuple(row[ends]), nan_ok=True)
    assert tried >= 3
    assert cell.mui(m=2).low > 0


def test_tables_explain_themselves_as_the_page_says(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    (block,) = code("docs/tables.md")
    exec(block, {})
    assert "mui  share  n_key / n_neurons" in capsys.readouterr().out


def test_the_library_is_used_as_the_readme_says(exported):
    program = "\n".join(code("README.md", "\n## As a library\n"))
    assert "moemui" in program
    env = os.environ | {"PYTHONPATH": "scripts"}
    run = subprocess.run([sys.executable, "-c", program], cwd=exported, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout
