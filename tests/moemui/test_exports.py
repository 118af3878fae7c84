"""Key neurons and expert sets as other tools get them: by hand, and a mask in the hands of transformers alone."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import made_up_cells
import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
import transformers

import tiny_models
from moemui.checks.masking import by_layer
from moemui.exports import mask, sets
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.settings import Setting
from moemui.tables import table as tables
from moemui.tables.exports import EXPERT_SETS, KEY_NEURONS, NEURONS
from moemui.tap import families
from moemui.tap.capture import Tap

PAGE = Path(__file__).parents[2] / "docs/files.md"
SETTING = made_up_cells.SETTING
OTHER = Setting("glu", "neurons", 0.02)
# Layer 0: 2 routed experts of 3 neurons; layer 2: 1 routed of 3 and 2 shared of 2. Flat numbers 0–5 and 6–12.
GEOMETRY = Geometry((Layer(0, 2, 0, 3, 0, 1), Layer(2, 1, 2, 3, 2, 1)))
CELL = made_up_cells.cell("m", "c", "t", [[1, 3, 12], [], [3, 6, 9]], geometry=GEOMETRY, settings=(SETTING, OTHER))
PLACES = {
    1: (0, "L0-E0", "routed", 1),
    3: (0, "L0-E1", "routed", 0),
    6: (2, "L2-E0", "routed", 0),
    9: (2, "L2-S1", "shared", 0),
    12: (2, "L2-S2", "shared", 1),
}
PLACE = ["layer", "expert", "kind", "neuron"]


@pytest.mark.parametrize("at_once", [1, 2, 2**20])
def test_a_row_for_each_sample_and_key_neuron_however_many_at_once(at_once, monkeypatch, tmp_path):
    monkeypatch.setattr(sets, "ENTRIES_AT_ONCE", at_once)
    rows = sets.key_neuron_rows(key_neurons=CELL, settings=[SETTING, OTHER])
    assert tables.write_parts(rows, tmp_path / "k.parquet", KEY_NEURONS) == 12
    found = tables.read(tmp_path / "k.parquet", KEY_NEURONS)
    assert found["formulation"].tolist() == ["projection"] * 6 + ["glu"] * 6
    assert found["sample"].tolist() == ["t/0", "t/0", "t/0", "t/2", "t/2", "t/2"] * 2
    assert list(found[PLACE].itertuples(index=False, name=None)) == [PLACES[u] for u in (1, 3, 12, 3, 6, 9)] * 2
    assert set(found["model"] + found["checkpoint"] + found["task"]) == {"mct"}


def test_incidences_count_samples_and_leave_out_what_is_never_key():
    found = NEURONS.frame(sets.neuron_rows(key_neurons=CELL, settings=[SETTING]).to_dict("records"))
    assert list(found[PLACE].itertuples(index=False, name=None)) == [PLACES[u] for u in (1, 3, 6, 9, 12)]
    assert found["incidence"].tolist() == [1, 2, 1, 1, 1]
    assert found["share"].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert set(found["n_samples"]) == {3}


def test_a_cell_without_key_neurons_has_tables_without_rows(tmp_path):
    empty = made_up_cells.cell("m", "c", "t", [[], []], geometry=GEOMETRY)
    assert (
        tables.write_parts(sets.key_neuron_rows(key_neurons=empty, settings=[SETTING]), tmp_path / "k", KEY_NEURONS)
        == 0
    )
    assert len(tables.conform(sets.neuron_rows(key_neurons=empty, settings=[SETTING]), NEURONS)) == 0
    assert mask.write(tmp_path / "m", key_neurons=empty, setting=SETTING) == 0


def test_expert_sets_at_every_threshold_from_frequencies():
    rows = [
        {"expert": expert, "layer": 0, "kind": kind, "frequency": frequency, "rank": 1, **setting._asdict()}
        for setting in (SETTING, OTHER)
        for expert, kind, frequency in (("L0-E0", "routed", 0.6), ("L0-S1", "shared", 1.0))
    ]
    frequencies = pd.DataFrame(rows).assign(model="m", checkpoint="c", task="t")
    found = sets.expert_set_rows(frequencies=frequencies, settings=[SETTING], expert_thresholds=[0.6, 0.7])
    found = tables.conform(found, EXPERT_SETS)
    assert list(found[["expert_threshold", "expert", "is_key"]].itertuples(index=False, name=None)) == [
        (0.6, "L0-E0", True), (0.6, "L0-S1", True), (0.7, "L0-E0", False), (0.7, "L0-S1", True),
    ]  # fmt: skip
    assert set(found["formulation"]) == {"projection"}
    with pytest.raises(ValueError, match=r"no rows for glu/pairs/0\.5; make it again"):
        sets.expert_set_rows(frequencies=frequencies, settings=[Setting("glu", "pairs", 0.5)], expert_thresholds=[0.6])


def test_a_mask_by_hand_read_by_safetensors_alone(tmp_path):
    path = tmp_path / "mask.safetensors"
    assert mask.write(path, key_neurons=CELL, setting=SETTING) == 5
    with safetensors.safe_open(path, "numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        about = json.loads(file.metadata()["moemui"])
    assert {name: values.tolist() for name, values in found.items()} == {
        "layers.0.routed.incidence": [[0, 1, 0], [2, 0, 0]],
        "layers.0.routed.key": [[False, True, False], [True, False, False]],
        "layers.2.routed.incidence": [[1, 0, 0]],
        "layers.2.routed.key": [[True, False, False]],
        "layers.2.shared.incidence": [[1, 0], [0, 1]],
        "layers.2.shared.key": [[True, False], [False, True]],
    }
    assert {values.dtype.name for values in found.values()} == {"int32", "bool"}
    assert about == {
        "format": "moemui-mask", "format_version": 1, "model": "m", "checkpoint": "c", "task": "t",
        "formulation": "projection", "selection": "pairs", "threshold": 0.01, "rule": "topk", "variant": "main",
        "n_samples": 3, "n_key": 5,
    }  # fmt: skip
    mask.write(tmp_path / "again", key_neurons=CELL, setting=SETTING)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def documented():
    """The function that docs/files.md gives to whom only has safetensors and transformers."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def silence" in b)
    assert "moemui" not in block
    names: dict = {}
    exec(block, names)
    return names["silence_key_neurons"]


def aria():
    """As many neurons as hidden units, where transposed weights have the shape of those that are not."""
    torch.manual_seed(0)
    config = transformers.AriaTextConfig(
        **tiny_models.COMMON, intermediate_size=32, moe_num_experts=8, moe_topk=2, moe_num_shared_experts=2
    )
    model = transformers.AriaTextForCausalLM(config)
    for name, weight in model.named_parameters():
        if "experts" in name:  # as they come they are nearly 0
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "qwen2_moe", "gpt_oss", "aria", "llama"])
@torch.no_grad()
def test_the_documented_recipe_silences_what_the_tap_masks(family, tmp_path):
    model = aria() if family == "aria" else tiny_models.build(family)
    sites = families.sites(model)
    geometry = families.geometry(sites)
    generator = np.random.default_rng(0)
    lists = [sorted(generator.choice(geometry.neurons, geometry.neurons // 6, replace=False)) for _ in range(2)]
    cell = made_up_cells.cell("m", "c", "t", lists, geometry=geometry)
    mask.write(tmp_path / "mask.safetensors", key_neurons=cell, setting=SETTING)
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(1))
    plain = model(input_ids=ids).logits
    masked = by_layer(neurons=cell.sets(*SETTING).union(), geometry=geometry)
    with Tap(sites, masked_neurons=[torch.from_numpy(layer) for layer in masked]):
        expected = model(input_ids=ids).logits
    documented()(model, tmp_path / "mask.safetensors")
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    assert (expected - plain).abs().max() > 1e-3


def test_the_documented_recipe_refuses_a_mask_of_another_model(tmp_path):
    mask.write(tmp_path / "mask.safetensors", key_neurons=CELL, setting=SETTING)
    with pytest.raises(AssertionError, match=r"torch\.Size\(\[8, 32, 24\]\), torch\.Size\(\[2, 3\]\)"):
        documented()(tiny_models.build("olmoe"), tmp_path / "mask.safetensors")
