"""moemui.load: MUI of any samples of a cell, as the tables have it, from whatever file there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import made_up_scores
import numpy as np
import pytest
import s3_server

import _code
import moemui
from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.selection import select_key_neurons
from moemui.key_neurons.settings import Setting
from moemui.mui import utilization
from moemui.scores import extraction, remote

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Layer 0: 2 routed experts of 3 neurons; layer 2: 1 routed of 3 and 1 shared of 3: 12 neurons.
GEOMETRY = Geometry((Layer(0, 2, 0, 3, 0, 1), Layer(2, 1, 1, 3, 3, 1)))
USUAL, HIGH = Setting("projection", "pairs", 0.001), Setting("projection", "pairs", 0.01)
OTHER = Setting("glu", "neurons", 0.01)
LISTS = {"a": [0, 9], "b": [0, 4, 9], "c": [], "d": [5]}


def sets_of(lists):
    return KeySets(np.cumsum([0, *map(len, lists)]), np.array([u for own in lists for u in own], dtype=np.int32))


@pytest.fixture
def folder(tmp_path):
    """A cell's folder: samples a and b correct, c wrong, d not graded."""
    samples = files.Samples(
        id=np.array(list(LISTS), dtype=object),
        domain=np.array(["math", "math", "code", "code"], dtype=object),
        correct=np.array([1, 1, 0, -1], dtype=np.int8),
        response_tokens=np.array([3, 5, 0, 2], dtype=np.int32),
    )
    files.write(
        tmp_path / "key_neurons.h5",
        model="m",
        checkpoint="c",
        task="t",
        geometry=GEOMETRY,
        samples=samples,
        sets={
            USUAL: sets_of(LISTS.values()),
            HIGH: sets_of([[0, 1], [0], [1], [2]]),
            OTHER: sets_of([[7]] * 4),
            HIGH._replace(threshold=0.5, rule="top_score"): sets_of([[3]] * 4),
        },
        routed_tokens=np.zeros((2, 2), dtype=np.int64),
        incomplete={HIGH: 3},
    )
    return tmp_path


def test_mui_by_hand_of_any_samples(folder):
    cell = moemui.load(folder)
    found = cell.mui()
    assert found[:1] + found[3:7] == (4 / 12, 4, 4, 12, "projection/pairs/0.001")
    for asked, union, n in (
        ({"correct": True}, {0, 4, 9}, 2),
        ({"correct": False}, set(), 1),
        ({"domain": "code"}, {5}, 2),
        ({"min_tokens": 3, "max_tokens": 4}, {0, 9}, 1),
        ({"which": ["d", "a"]}, {0, 5, 9}, 2),
        ({"which": {"d", "a"}}, {0, 5, 9}, 2),
        ({"which": {"d": 1, "a": 2}.keys()}, {0, 5, 9}, 2),
        ({"which": (name for name in "da")}, {0, 5, 9}, 2),
        ({"which": cell.samples["id"] == "b"}, {0, 4, 9}, 1),
        ({"which": np.array([True, False, False, True]), "domain": "math"}, {0, 9}, 1),
    ):
        again = asked | ({"which": ["a", "d"]} if hasattr(asked.get("which"), "send") else {})  # it is used up
        found = cell.mui(**asked)
        assert (found.value, found.n_samples) == (len(union) / 12, n), asked
        flat = cell.union(**again)
        assert flat["expert"].tolist() == [GEOMETRY.expert_names[GEOMETRY.expert_of(u)] for u in sorted(union)]
        assert flat["neuron"].tolist() == [u % 3 for u in sorted(union)]


def test_samples_are_a_frame_whose_ungraded_ones_are_missing(folder):
    samples = moemui.load(folder).samples
    assert samples["id"].tolist() == list(LISTS)
    assert samples["correct"].isna().tolist() == [False, False, False, True]
    assert samples["correct"].tolist()[:3] == [True, True, False]
    assert samples["response_tokens"].tolist() == [3, 5, 0, 2]


def test_fewer_samples_and_parts_are_what_the_tables_have(folder):
    """m, kind and layer against the rows of `utilization`, experts against `expert_mui_at`."""
    cell = moemui.load(folder)
    file = files.read(folder / "key_neurons.h5")
    rows = utilization.rows(key_neurons=file, tokens=0, order=0, common_m={"all": 2, "correct": 1}, settings=[USUAL])
    columns = ["mui_at_m", "mui_at_m_sample_low", "mui_at_m_sample_high"]
    everything = rows[rows["samples"] == "all"]
    total = everything[everything["scope"] == "total"].iloc[0]
    assert cell.mui(m=2)[:3] == pytest.approx(total[columns].tolist())
    assert 0 < cell.mui(m=2).low < cell.mui(m=2).value < cell.mui(m=2).high < 1
    # by hand: one of the 6 pairs of samples, c and d, misses 0 and 9; half of the pairs miss 4, and half miss 5
    assert cell.mui(m=2).value == pytest.approx((2 * 5 / 6 + 2 * 3 / 6) / 12)
    correct = rows[(rows["samples"] == "correct") & (rows["scope"] == "total")].iloc[0]
    assert cell.mui(correct=True, m=1).value == correct["mui_at_m"]
    kinds, layers = cell.mui(m=2, by="kind"), cell.mui(m=2, by="layer")
    assert layers["layer"].tolist() == [0, 2]
    for found, name, scopes in ((kinds, "kind", ["routed", "shared"]), (layers, "layer", ["layer", "layer"])):
        for (_, row), scope in zip(found.iterrows(), scopes, strict=True):
            same = everything[(everything["scope"] == scope) & ((name == "kind") | (everything["layer"] == row[name]))]
            expected = same.iloc[0][["n_neurons", "n_key", *columns]].astype(float).tolist()
            assert row[["n_neurons", "n_key", "mui", "low", "high"]].tolist() == pytest.approx(expected, nan_ok=True)
    assert kinds[["low", "high"]].notna().all(axis=None)
    experts = cell.mui(m=2, by="expert")
    expected = utilization.expert_mui_at(sets=file.sets(*USUAL), geometry=GEOMETRY, m=2)
    assert experts["expert"].tolist() == ["L0-E0", "L0-E1", "L2-E0", "L2-S1"]
    assert experts["n_key"].tolist() == [1, 2, 0, 1]
    assert experts["mui"].tolist() == pytest.approx(expected.estimate.tolist())
    assert experts[["low", "high"]].isna().all(axis=None)
    about = {"setting": "projection/pairs/0.001", "n_samples": 4, "m": 2}
    assert experts.attrs == {**about, "note": "no interval over samples by expert"}
    assert kinds.attrs == {**about, "note": ""}


def test_an_interval_over_samples_takes_twice_as_many_samples_as_are_asked_about(folder):
    cell = moemui.load(folder)
    note = "m = {} is above half of 4 samples, so no interval over samples; ask for m=2"
    for m, asked in ((4, {}), (3, {"m": 3}), (4, {"m": np.int64(4)})):
        found = cell.mui(**asked)
        assert (found.m, found.note) == (m, note.format(m))
        assert np.isnan([found.low, found.high]).all()
        kinds = cell.mui(by="kind", **asked)
        assert kinds.attrs["note"] == note.format(m)
        assert kinds[["low", "high"]].isna().all(axis=None)
    assert cell.mui(m=2).note == cell.mui(m=1).note == ""
    assert cell.mui(which=["a"]).note == "one sample, so no interval over samples"


def test_key_experts_are_the_frequent_ones_the_most_frequent_first(folder):
    cell = moemui.load(folder)
    assert cell.key_experts(eta=0.5)["expert"].tolist() == ["L0-E1", "L0-E0", "L2-S1"]  # a tie goes to the higher MUI
    found = cell.key_experts(correct=True)
    assert found["expert"].tolist() == ["L0-E0", "L2-S1"]
    assert found[["layer", "kind"]].values.tolist() == [[0, "routed"], [2, "shared"]]
    assert found["frequency"].tolist() == [1, 1]
    assert cell.key_experts(eta=0.9).empty
    assert (found["low"] < 1).all()


def test_settings_are_chosen_by_keyword_and_what_is_known_of_them_is_said(folder):
    cell = moemui.load(folder, threshold=0.01)
    assert cell.mui().value == 3 / 12
    cut = "3 of 8 sample × layer cells reach the end of what is stored, so sets are lower bounds"
    assert cell.mui(m=2).note == cell.union().attrs["note"] == cut
    assert cell.mui().note.endswith(f"; {cut}")
    assert cell.union(["a", "b"]).attrs["note"] == f"of all 4 samples together, {cut}"  # which of them is not known
    assert cell.mui(threshold=0.001).value == 4 / 12
    assert moemui.load(folder, formulation="glu").mui().setting == "glu/neurons/0.01"  # the only one of its kind
    assert cell.mui(rule="top_score", threshold=0.5).setting == "projection/pairs/0.5/top_score"
    with pytest.raises(ValueError, match=r"no key neurons for rule='topk', threshold=0\.5; nearest are ") as caught:
        cell.mui(threshold=0.5)
    near, rest = str(caught.value).split("nearest are ")[1].split("; ")
    assert set(near.split(", ")) == {"projection/pairs/0.5/top_score", "glu/neurons/0.01", "projection/pairs/0.01"}
    assert rest == "see `settings` for what is there"


def test_what_is_not_the_papers_and_not_the_only_one_has_to_be_said(folder, tmp_path):
    file = files.read(folder / "key_neurons.h5")
    settings = [HIGH, HIGH._replace(threshold=0.02)]
    files.write(
        tmp_path / "other.h5", model="m", checkpoint="c", task="t", geometry=GEOMETRY, samples=file.samples,
        sets={setting: file.sets(*HIGH) for setting in settings}, routed_tokens=file.routed_tokens,
    )  # fmt: skip
    cell = moemui.load(tmp_path / "other.h5")
    with pytest.raises(ValueError, match=r"several settings fit: projection/pairs/0\.01, projection/pairs/0\.02; say"):
        cell.mui()
    assert cell.mui(threshold=0.02).value == 3 / 12


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"which": ["a", "z"]}, ValueError, "there is no sample 'z'"),
        ({"which": "a"}, TypeError, "give a list of sample ids"),
        ({"which": 5}, TypeError, "give a list of sample ids"),
        ({"which": np.ones((2, 4), dtype=bool)}, ValueError, "a mask with one axis"),
        ({"m": 2.5}, TypeError, r"m is 2\.5; give a whole number"),
        ({"m": True}, TypeError, "m is True; give a whole number"),
        ({"m": "5"}, TypeError, "m is '5'; give a whole number"),
        ({"m": 0}, ValueError, "m is 0; rarefaction draws 1 to n = 4 samples"),
        ({"correct": "yes"}, TypeError, "correct is 'yes'; give True or False"),
        ({"correct": 2}, TypeError, "correct is 2; give True or False"),
        ({"min_tokens": "a"}, TypeError, "min_tokens is 'a'; give a whole number"),
        ({"threshold": "x"}, TypeError, "threshold is 'x'; give a number"),
        ({"threshold": -1}, ValueError, "threshold is -1; give a number above 0"),
        ({"threshold": float("nan")}, ValueError, "threshold is nan; give a number above 0"),
        ({"rule": "best"}, ValueError, "rule is 'best'; allowed are topk"),
        ({"domain": 3}, TypeError, "domain is 3; give its name as text"),
        ({"which": [True]}, ValueError, "for each of the 4 samples"),
        ({"which": []}, ValueError, "no sample is left"),
        ({"domain": "art"}, ValueError, "domains: code, math"),
        ({"m": 5}, ValueError, "m is 5; rarefaction draws 1 to n = 4 samples"),
        ({"by": "token"}, ValueError, "allowed are kind, layer, expert"),
        ({"tresholds": 1}, TypeError, "'tresholds' is not known here; allowed are correct"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(folder, asked, error, text):
    with pytest.raises(error, match=text) as caught:
        moemui.load(folder).mui(**asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("eta", "error"), [("a", TypeError), (True, TypeError), (0, ValueError), (1.5, ValueError)])
def test_a_share_of_samples_is_one(folder, eta, error):
    with pytest.raises(error, match=rf"^eta is {eta!r}; give a number"):
        moemui.load(folder).key_experts(eta=eta)


def test_a_mask_with_gaps_is_refused(folder):
    cell = moemui.load(folder)
    with pytest.raises(ValueError, match="the mask has 4 values, 1 of them missing"):
        cell.mui(cell.samples["correct"])


def test_a_path_without_a_cell_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no key_neurons\.h5 and no contributions\.zarr; give a folder"):
        moemui.load(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"text\.h5 is no whole HDF5 file .* give key_neurons\.h5"):
        moemui.load(tmp_path / "text.h5")
    with pytest.raises(TypeError, match="'correct' is not known here; allowed are formulation"):
        moemui.load(tmp_path, correct=True)


NAMES = [f"q{i}" for i in range(7)]
THRESHOLD = 0.25


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Nothing here loses its power supply."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def stores(folder, *, shards=1, url=None):
    rows = made_up_scores.records(NAMES)
    for number in range(1, shards + 1):
        part = extraction.shard_of(rows, number, shards)
        name = "contributions.zarr" if shards == 1 else f"contributions-{number}-of-{shards}.zarr"
        task = extraction.Task(part, folder / name, {"task": "t"}, shard=(number, shards), url=url)
        extraction.extract_all(made_up_scores.Scorer(), [task], chunk_samples=4)
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sorted(folder.glob("*.zarr"))


@pytest.mark.parametrize("shards", [1, 2])
def test_a_store_gives_what_its_key_neuron_file_gives(shards, tmp_path):
    found = stores(tmp_path, shards=shards)
    from_store = moemui.load(tmp_path, threshold=THRESHOLD)
    select_key_neurons(
        found, tmp_path / "responses.jsonl", tmp_path / "key_neurons.h5", thresholds=[THRESHOLD, 0.1],
        top_score=[0.5], model="m", checkpoint="c",
    )  # fmt: skip
    from_file = moemui.load(tmp_path, threshold=THRESHOLD)
    assert from_store.samples.equals(from_file.samples)
    assert from_store.mui().setting == from_file.mui().setting == f"glu/pairs/{THRESHOLD}"
    for selection in ("pairs", "neurons", "per_token"):
        for asked in ({}, {"correct": True, "m": 3, "threshold": 0.1}, {"which": ["q1", "q3"]}):
            asked["selection"] = selection
            assert from_store.mui(**asked) == from_file.mui(**asked), asked
            assert from_store.mui(**asked).value > 0
        assert from_store.mui(threshold=0.2, selection=selection).value <= from_store.mui(selection=selection).value
        with pytest.raises(ValueError, match="stored"):
            from_store.mui(threshold=0.9, selection=selection)
        by_score = {"rule": "top_score", "threshold": 0.5, "selection": selection}
        if selection == "per_token":
            with pytest.raises(ValueError, match="rule top_score chooses by score, and per_token has none stored"):
                from_store.mui(**by_score)
        else:
            assert from_store.mui(**by_score) == from_file.mui(**by_score)


def test_a_task_that_lacks_a_shard_is_refused(tmp_path):
    first, _ = stores(tmp_path, shards=2)
    one = moemui.load(first, threshold=THRESHOLD)
    assert one.samples["id"].tolist() == NAMES[:3]  # one that is named is what is meant
    assert "shard 1 of 2" in repr(one)
    assert one.mui(m=1).note == one.union().attrs["note"] == "shard 1 of 2 alone, so not all samples of the task"
    whole = moemui.load(tmp_path, threshold=THRESHOLD)
    assert "shard" not in repr(whole) + whole.mui().note
    shutil.rmtree(first)
    with pytest.raises(ValueError, match=r"holds contributions-2-of-2\.zarr, which are not all shards of one number"):
        moemui.load(tmp_path)


def test_a_store_in_the_folder_of_a_variant_is_named_after_it(tmp_path, monkeypatch):
    main, variant = tmp_path / "own", tmp_path / "own/no_gate"
    variant.mkdir(parents=True)
    stores(main)
    shutil.copytree(main / "contributions.zarr", variant / "contributions.zarr")
    label = f"glu/pairs/{THRESHOLD}"
    assert moemui.load(main, threshold=THRESHOLD).mui().setting == label
    monkeypatch.chdir(variant)
    for path in (variant, variant / "contributions.zarr", "contributions.zarr", "../no_gate"):
        cell = moemui.load(path, threshold=THRESHOLD)
        assert cell.mui().setting == f"{label}/no_gate"
        assert {setting.variant for setting in cell.settings} == {"no_gate"}
        assert "no_gate" in repr(cell)
        assert cell.samples["correct"].notna().any()  # of the responses.jsonl above
    copy = tmp_path / "copied/t/no_gate/contributions.zarr"  # as on S3, below the folder of the task t
    shutil.copytree(main / "contributions.zarr", copy)
    assert moemui.load(copy, threshold=THRESHOLD).mui().setting == f"{label}/no_gate"
    copy.parent.rename(copy.parents[1].with_name("other"))
    assert moemui.load(tmp_path / "copied/other", threshold=THRESHOLD).mui().setting == label


def test_a_store_whose_responses_are_of_other_samples_is_refused(tmp_path):
    stores(tmp_path)
    (tmp_path / "responses.jsonl").write_text(json.dumps(made_up_scores.records(["q0"])[0]) + "\n")
    with pytest.raises(ValueError, match="lacks the sample 'q1'"):
        moemui.load(tmp_path)


def test_a_store_on_s3_is_loaded_by_its_url(tmp_path, monkeypatch):
    server = s3_server.Server()
    monkeypatch.setattr(remote, "RETRIES", 1)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.BUCKET}/prefix/results/own/contributions.zarr"
    try:
        stores(tmp_path, url=url)
        here, there = moemui.load(tmp_path / "contributions.zarr"), moemui.load(url)
        assert there.mui(threshold=THRESHOLD) == here.mui(threshold=THRESHOLD)
        assert there.samples["correct"].isna().all()  # responses.jsonl stays with the study
    finally:
        server.stop()


def test_importing_costs_nothing_and_loading_needs_neither_torch_nor_transformers(folder):
    program = f"""
import sys
before = set(sys.modules)
import moemui
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not new & {{"numpy", "pandas", "torch", "transformers", "zarr"}}, new
print(moemui.load({str(folder)!r}).mui().value)
assert not {{"torch", "transformers", "snakemake", "mlflow"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, str(4 / 12)), run.stderr


def test_no_job_depends_on_what_a_notebook_imports():
    """A digest that held moemui.cell would make every forward pass again for a change of any statistic."""
    for script in ("extract_contributions", "generate_responses", "train_model", "measure_utilization"):
        found = _code._closure(_code.SCRIPTS / f"{script}.py")
        counted = {path.relative_to(_code.SCRIPTS).as_posix() for path in found}
        assert "moemui/__init__.py" in counted
        assert not counted & {"moemui/cell.py", "moemui/scored.py"}
    with pytest.raises(AttributeError, match="module 'moemui' has no attribute 'lode'"):
        moemui.lode  # noqa: B018
