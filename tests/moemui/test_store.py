"""The contributions store: round trip, work taken up again, and faults that must not read as numbers."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import made_up_scores
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.scores import journal, store, store_writer

NAMES = [f"q{i}" for i in range(8)]


def layout(names, scorer, chunk_samples=3):
    chosen = [(f, s) for f in scorer.options.formulations for s in scorer.options.selections]
    tokens = [made_up_scores.tokens_of(name) for name in names]
    return store.Layout(scorer.geometry, chosen, scorer.ranks, tokens, chunk_samples)


def write(path, names=NAMES, *, chunks=None, shard=(1, 1), chunk_samples=3, scorer=None, **attributes):
    """Write the chunks that are missing, or those of them that are given; returns which those were."""
    scorer = scorer or made_up_scores.Scorer()
    plan = layout(names, scorer, chunk_samples)
    given_attributes = {"model": "tiny", **attributes}
    with store_writer.create(path, plan, sample_ids=names, attributes=given_attributes, shard=shard) as writer:
        wanted = [chunk for chunk in writer.missing if chunks is None or chunk in chunks]
        for chunk in wanted:
            writer.write(chunk, scorer.chunk(names[plan.part(chunk)]))
        if writer.missing:
            raise InterruptedError
    return wanted


def interrupt(path, **how):
    with pytest.raises(InterruptedError):
        write(path, **how)


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here depends on when bytes reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def saved(tmp_path):
    write(tmp_path / "contributions.zarr")
    return tmp_path / "contributions.zarr"


def test_round_trip(tmp_path):
    saved, scorer = tmp_path / "c.zarr", made_up_scores.Scorer(formulations=["glu", "activation"])
    write(saved, scorer=scorer)
    found, whole = store.Contributions(saved), scorer.chunk(NAMES)
    assert found.settings == [(f, s) for f in ("glu", "activation") for s in ("pairs", "neurons", "per_token")]
    for name, expected in zip(("neuron", "token", "score"), whole.ranked["glu", "pairs"], strict=True):
        values = getattr(found.ranked("glu", "pairs"), name)
        np.testing.assert_array_equal(values, expected)
        assert values.dtype == expected.dtype
    for name in ("response_tokens", "routed_tokens", "conservation", "imbalance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert (found.geometry, found.sample_ids) == (made_up_scores.GEOMETRY, NAMES)
    assert found.attributes["model"] == "tiny"
    assert found.attributes["chunk_samples"] == 3
    store.verify(saved)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text("abcdef", min_size=1, max_size=4), unique=True, max_size=9), chunk_samples=st.integers(1, 5)
)
def test_per_token_entries_come_back_as_a_plain_loop_finds_them(tmp_path_factory, names, chunk_samples):
    path = tmp_path_factory.mktemp("store") / "c.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "ENTRY_CHUNK", 4)  # a chunk of samples fills several chunks of entries
        write(path, names, chunk_samples=chunk_samples, scorer=made_up_scores.Scorer(selections=["per_token"]))
        found = [
            list(zip(part.rank.tolist(), part.neuron.tolist(), strict=True))
            for part in store.Contributions(path).per_token("glu")
        ]
        counts = [row for part in store.Contributions(path).per_token("glu") for row in part.counts.tolist()]
    ranks = made_up_scores.Scorer().ranks
    expected = [[made_up_scores.best_ranks(s, ranks) for s in made_up_scores.token_scores(name)] for name in names]
    starts = range(0, len(names), chunk_samples)
    assert found == [
        [e for sample in expected[s : s + chunk_samples] for layer in sample for e in layer] for s in starts
    ]
    assert counts == [[len(layer) for layer in sample] for sample in expected]


def test_a_store_without_samples(tmp_path):
    write(tmp_path / "c.zarr", [])
    found = store.Contributions(tmp_path / "c.zarr")
    assert found.sample_ids == list(found.per_token("glu")) == []
    assert found.ranked("glu", "pairs").neuron.shape == (0, 2, 3)


def test_shards_read_as_one_store(tmp_path, saved):
    paths = [tmp_path / f"{i}.zarr" for i in (1, 2, 3)]
    for number, (path, names) in enumerate(zip(paths, (NAMES[:5], [], NAMES[5:]), strict=True), start=1):
        write(path, names, shard=(number, 3), device="cpu" if number == 1 else "cuda")
    whole, parts = store.Contributions(saved), store.Contributions(*paths)
    assert parts.sample_ids == NAMES
    np.testing.assert_array_equal(parts.ranked("glu", "neurons").score, whole.ranked("glu", "neurons").score)
    np.testing.assert_array_equal(parts.routed_tokens, whole.routed_tokens)
    for field in (0, 1, 2):
        np.testing.assert_array_equal(*(np.concatenate([p[field] for p in s.per_token("glu")]) for s in (whole, parts)))
    assert parts.bytes == sum(store.Contributions(path).bytes for path in paths)


def test_stores_of_different_work_are_no_shards(tmp_path):
    write(tmp_path / "1.zarr", NAMES[:4], shard=(1, 2), code="a")
    write(tmp_path / "2.zarr", NAMES[4:], shard=(2, 2), code="b")
    with pytest.raises(ValueError, match=r"2\.zarr and .*1\.zarr differ in code, so they are not shards of one task"):
        store.Contributions(tmp_path / "1.zarr", tmp_path / "2.zarr")


def test_a_setting_that_is_not_stored_is_named(saved):
    with pytest.raises(ValueError, match=r"holds \[\('glu', 'pairs'\).*\], not \('projection', 'pairs'\)"):
        store.Contributions(saved).ranked("projection", "pairs")
    with pytest.raises(ValueError, match=r"not \('projection', 'per_token'\)"):
        next(store.Contributions(saved).per_token("projection"))


def test_a_missing_chunk_is_found_before_anything_is_read(saved):
    next(saved.rglob("scores/glu/pairs/neuron/c/1/*/*")).unlink()
    with pytest.raises(store.IncompleteStoreError, match="is missing or truncated"):
        store.Contributions(saved)


def change(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def test_a_changed_chunk_is_found_by_its_content(saved):
    change(next(saved.rglob("scores/glu/pairs/neuron/c/1/*/*")))
    store.Contributions(saved)  # of the right size
    with pytest.raises(store.IncompleteStoreError, match="is not the file that was written"):
        store.verify(saved)


def test_a_file_too_many_is_found_but_not_the_stamp_of_snakemake(saved):
    (saved / ".snakemake_timestamp").touch()
    store.verify(saved)
    (saved / "scores/extra").touch()
    with pytest.raises(store.IncompleteStoreError, match="extra is not the file that was written"):
        store.verify(saved)


def test_another_schema_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SCHEMA_VERSION", 99)
    write(tmp_path / "c.zarr")
    with pytest.raises(ValueError, match="schema version 99, this code reads 2"):
        store.Contributions(tmp_path / "c.zarr")


def test_an_interrupted_store_is_no_store_and_is_taken_up_again(tmp_path, saved, caplog):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0, 2])  # in any order
    with pytest.raises(store.IncompleteStoreError, match=r"has no manifest\.json"):
        store.Contributions(path)
    with caplog.at_level(logging.INFO):
        assert write(path) == [1]
    assert "2 of 3 chunks are finished" in caplog.text
    assert content(path) == content(saved)
    assert write(path) == []  # and a finished one is left as it is
    assert content(path) == content(saved)


def test_a_store_depends_on_its_content_alone(tmp_path, saved):
    assert write(tmp_path / "again.zarr") == [0, 1, 2]
    assert content(tmp_path / "again.zarr") == content(saved)


@pytest.mark.parametrize("fault", [change, lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_chunk_that_is_not_as_it_was_written_is_done_again(tmp_path, saved, fault):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0, 1])
    fault(next(path.rglob("scores/glu/pairs/score/c/1/*/*")))
    assert write(path) == [1, 2]
    assert content(path) == content(saved)


def test_what_a_killed_job_left_of_a_chunk_is_removed(tmp_path, saved):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0])
    for name in (
        "scores/glu/pairs/neuron/c/1/0/0",
        "routing/tokens/c/1/0/0.123.partial",
        ".journal/1.part",
        "manifest.part",
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"half")
    assert write(path) == [1, 2]
    assert content(path) == content(saved)


def test_a_chunk_counts_as_finished_only_when_its_files_are_on_the_disk(tmp_path, monkeypatch):
    done = []  # what reached the disk, and what got its name, in that order
    rename = Path.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    monkeypatch.setattr(Path, "rename", lambda part, name: (done.append(name), rename(part, name))[1])
    write(tmp_path / "c.zarr")
    for chunk in ("0", "1", "2"):
        entry = done.index(tmp_path / "c.zarr/.journal" / f"{chunk}.json")
        assert done[entry - 1] == tmp_path / "c.zarr/.journal" / f".{chunk}.json.part"  # whole before it got its name
        files = {file for file in (tmp_path / "c.zarr").rglob(f"c/{chunk}/**/*") if file.is_file()}
        assert files
        assert files <= set(done[:entry])


@pytest.mark.parametrize("left", ["", "{\n", "\0\0\0"])
def test_a_piece_whose_entry_is_damaged_is_done_again(tmp_path, saved, left):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0, 1])
    (path / journal.JOURNAL / "1.json").write_text(left)
    assert write(path) == [1, 2]
    assert content(path) == content(saved)


def test_a_store_killed_while_it_was_sealed_is_whole(tmp_path, saved):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0])
    entries = path / journal.JOURNAL
    shutil.copytree(entries, tmp_path / "entries")
    assert write(path) == [1, 2]
    shutil.copytree(tmp_path / "entries", entries)  # the manifest was there, the journal not yet gone
    assert write(path) == []
    assert content(path) == content(saved)


def test_metadata_that_were_cut_off_begin_anew(tmp_path, saved, caplog):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0])
    (path / "routing/tokens/zarr.json").write_text("{")
    with caplog.at_level(logging.INFO):
        assert write(path) == [0, 1, 2]
    assert "was left before its first chunk; it begins anew" in caplog.text
    assert content(path) == content(saved)


@pytest.mark.parametrize(
    ("how", "differs"),
    [
        ({"code": "other"}, "code"),
        ({"shard": (1, 2)}, "shard"),
        ({"chunk_samples": 4}, "chunk_samples"),
        ({"names": [*NAMES[:7], "other"]}, "sample_ids"),
        ({"scorer": made_up_scores.Scorer(selections=["pairs"])}, "settings"),
        ({"scorer": made_up_scores.Scorer(threshold=0.2)}, "ranks"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_work_begins_anew_and_the_log_says_why(tmp_path, caplog, how, differs, finished):
    path, undisturbed = tmp_path / "half.zarr", tmp_path / "whole.zarr"
    write(path) if finished else interrupt(path, chunks=[0, 1])
    write(undisturbed, **how)
    with caplog.at_level(logging.INFO):
        again = write(path, **how)
    assert again == ([0, 1] if differs == "chunk_samples" else [0, 1, 2])
    assert f"left by other work (it differs in {differs}); it begins anew" in caplog.text
    assert content(path) == content(undisturbed)


def test_what_is_measured_is_no_other_work(tmp_path):
    path = tmp_path / "half.zarr"
    interrupt(path, chunks=[0], identity_error=0.0)
    assert write(path, identity_error=1e-9) == [1, 2]


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/precious").touch()
    with pytest.raises(FileExistsError, match=r"data exists and is not named like a store, \*\.zarr"):
        write(tmp_path / "data")
    assert (tmp_path / "data/precious").exists()


def test_a_store_that_lacks_chunks_is_not_sealed(tmp_path):
    scorer = made_up_scores.Scorer()
    plan = layout(NAMES, scorer)
    with (
        pytest.raises(RuntimeError, match=r"lacks the chunks \[1, 2\] of 3"),
        store_writer.create(tmp_path / "c.zarr", plan, sample_ids=NAMES, attributes={}) as writer,
    ):
        writer.write(0, scorer.chunk(NAMES[:3]))
    with pytest.raises(store.IncompleteStoreError):
        store.Contributions(tmp_path / "c.zarr")


def wrong_shape(scores):
    scores.gate_mass = scores.gate_mass[:2]


def lost_entries(scores):
    neuron, rank, count = scores.per_token["glu"]
    scores.per_token["glu"] = (neuron[:-1], rank[:-1], count)


def too_many_entries(scores):
    neuron, rank, count = (np.repeat(values, 50, axis=0) for values in scores.per_token["glu"])
    scores.per_token["glu"] = (neuron, rank, count)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (wrong_shape, r"routing/gate_mass of chunk 0 has shape \(2, 2, 2\); it must be \(3, 2, 2\)"),
        (lost_entries, r"chunk 0 has \d+ neurons and \d+ ranks in scores/glu/per_token, and counts of \d+ in all"),
        (too_many_entries, r"the three must agree, and be at most \d+"),
    ],
)
def test_scores_that_are_not_of_the_chunk_are_refused(tmp_path, monkeypatch, fault, text):
    monkeypatch.setattr(store, "ENTRY_CHUNK", 4)
    scorer = made_up_scores.Scorer()
    scores = scorer.chunk(NAMES[:3])
    fault(scores)
    with (
        pytest.raises(ValueError, match=text),
        store_writer.create(tmp_path / "c.zarr", layout(NAMES, scorer), sample_ids=NAMES, attributes={}) as writer,
    ):
        writer.write(0, scores)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 40),
    chunk_samples=st.integers(1, 20),
    chosen=st.lists(st.sampled_from(made_up_scores.ALL), unique=True, min_size=1),
)
def test_no_store_is_larger_than_was_estimated(tmp_path_factory, count, chunk_samples, chosen):
    path, names = tmp_path_factory.mktemp("store") / "c.zarr", [f"q{i}" for i in range(count)]
    scorer = made_up_scores.Scorer(selections=chosen)
    write(path, names, chunk_samples=chunk_samples, scorer=scorer)
    found = store.estimate(layout(names, scorer, chunk_samples))
    assert found.least <= found.usual <= found.most
    assert store.Contributions(path).bytes <= found.most


def test_an_estimate_by_hand():
    # Two samples of 1 and 2 tokens, 3 ranks. A token uses 1 · 4 neurons in layer 0, 1 · 4 + 1 · 6 in layer 2, so each
    # sample fills all 3 ranks of both layers: 12 entries of 12 bytes, a quarter of which is surely needed.
    plan = store.Layout(made_up_scores.GEOMETRY, [("glu", "pairs")], 3, [1, 2])
    assert store.estimate(plan).least == 12 * 12 // 4
    # per_token: at most min(8, 3t) + min(10, 3t) entries a sample.
    assert store.Layout(made_up_scores.GEOMETRY, [("glu", "per_token")], 3, [0, 1, 2, 3]).entries.tolist() == [
        0,
        6,
        12,
        17,
    ]
    # An empty response has no entries.
    assert store.estimate(store.Layout(made_up_scores.GEOMETRY, [("glu", "pairs")], 3, [0] * 9)).least == 0
