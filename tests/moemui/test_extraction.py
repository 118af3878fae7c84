"""From responses to a store to key neurons, on tiny models, against the slow oracle."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from types import SimpleNamespace

import made_up_scores
import numpy as np
import pytest
import torch
import transformers

import tiny_models
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons.selection import select_key_neurons
from moemui.models.synthetic import build_tokenizer
from moemui.scores import disk, extraction, store
from moemui.scores.contributions import Options, Scorer


def records(count: int = 4) -> list[dict]:
    """Responses of different lengths, the first empty; the end token 2 closes every second one."""
    g = torch.Generator().manual_seed(5)
    made = []
    for i in range(count):
        response = torch.randint(3, 97, (i,), generator=g).tolist() + [2] * (i % 2)
        prompt = torch.randint(3, 97, (2 + i % 2,), generator=g).tolist()
        made.append({
            "sample": i, "id": f"t/{i}", "task": "t", "domain": "d", "prompt": "", "response": "", "gold": "",
            "correct": [True, False, None][i % 3], "prompt_ids": prompt, "response_ids": response,
        })  # fmt: skip
    return made


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "gpt_oss", "llama"])
def test_key_neurons_equal_those_of_the_slow_oracle(tmp_path, family):
    model, rows, threshold = tiny_models.build(family), records(), 0.03
    scorer = Scorer(model, Options(largest_threshold=0.05), eos_ids=[2])
    quality = extraction.extract(scorer, rows, tmp_path / "c.zarr", attributes={"model": "m"})
    assert quality.conservation_error < 1e-5
    assert quality.identity_error == 0
    assert (quality.samples, quality.response_tokens) == (4, 0 + 1 + 2 + 3)
    answers, path = write(tmp_path / "r.jsonl", rows), tmp_path / "k.h5"
    select_key_neurons([tmp_path / "c.zarr"], answers, path, thresholds=[threshold], model="m", checkpoint="c")
    file = key_neurons.read(path)
    assert file.samples.correct.tolist() == [1, 0, -1, 1]
    k = file.geometry.key_count(threshold)
    for formulation in ("projection", "glu", "activation"):
        pairs, neurons = (file.sets(formulation, name, threshold) for name in ("pairs", "neurons"))
        assert pairs.indptr[1] == neurons.indptr[1] == 0  # the empty response has the empty set
        for s, row in enumerate(rows[1:], start=1):
            response = [token for token in row["response_ids"] if token != 2]
            by_pairs, by_neurons = set(), set()
            for layer, expected in enumerate(tiny_models.oracle(model, row["prompt_ids"], response)):
                values, offset = expected[formulation], file.geometry.layer_offsets[layer]
                entries = [(-values[t, j], t, j) for t, j in zip(*np.nonzero(~np.isnan(values)), strict=True)]
                by_pairs |= {offset + j for _, _, j in sorted(entries)[: k[layer]]}
                best = {j: -np.nanmax(values[:, j]) for _, _, j in entries}
                by_neurons |= {offset + j for j in sorted(best, key=lambda j: (best[j], j))[: k[layer]]}
            assert set(pairs.neurons[pairs.indptr[s] : pairs.indptr[s + 1]].tolist()) == by_pairs
            assert set(neurons.neurons[neurons.indptr[s] : neurons.indptr[s + 1]].tolist()) == by_neurons


def test_chunks_do_not_change_a_store(tmp_path):
    scorer = Scorer(tiny_models.build("deepseek_v2"), Options(largest_threshold=0.05), eos_ids=[2])
    extraction.extract(scorer, records(7), tmp_path / "one.zarr", attributes={})
    extraction.extract(scorer, records(7), tmp_path / "many.zarr", attributes={}, chunk_samples=3)
    one, many = store.Contributions(tmp_path / "one.zarr"), store.Contributions(tmp_path / "many.zarr")
    assert many.attributes["chunk_samples"] == 3
    for setting in one.settings:
        np.testing.assert_array_equal(one.ranked(*setting).neuron, many.ranked(*setting).neuron)


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "gpt_oss"])
def test_bfloat16_passes_its_own_conservation(tmp_path, family):
    scorer = Scorer(tiny_models.build(family).to(torch.bfloat16), Options(largest_threshold=0.05), eos_ids=[2])
    quality = extraction.extract(scorer, records(), tmp_path / "c.zarr", attributes={})
    assert 0 < quality.conservation_error < scorer.tolerance


def test_a_model_that_computes_something_else_under_the_tap_is_refused(tmp_path, monkeypatch):
    scorer = Scorer(tiny_models.build("olmoe"), Options(largest_threshold=0.05), eos_ids=[2])
    monkeypatch.setattr(scorer, "identity_error", lambda sample: 0.1)
    with pytest.raises(extraction.IdentityError, match=r"differ by 0\.1 of the largest one"):
        extraction.extract(scorer, records(), tmp_path / "c.zarr", attributes={})
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompt_ids": []}, "sample t/3 of here has an empty prompt, so no state predicts its first response token"),
        ({"prompt_ids": [1, 2.0]}, r"sample t/3 of here has prompt_ids \[1, 2\.0\]; they are a list of whole numbers"),
        ({"prompt_ids": [True]}, r"sample t/3 of here has prompt_ids \[True\]"),
        ({"prompt_ids": "12"}, "sample t/3 of here has prompt_ids '12'"),
        ({"prompt_ids": None}, "sample t/3 of here has prompt_ids none; they are a list of whole numbers from 0 up"),
        ({"response_ids": [4, -1]}, r"sample t/3 of here has response_ids \[4, -1\]"),
        ({"response_ids": [4, "5"]}, r"sample t/3 of here has response_ids \[4, '5'\]"),
        ({"response": "so", "response_ids": []}, "sample t/3 of here has the response 'so' but no response tokens, so"),
        ({"id": "t/0"}, "sample 3 of here has the id 't/0'; each sample needs a text of its own"),
        ({"id": 7}, "sample 3 of here has the id 7"),
        ({"id": ""}, "sample 3 of here has the id ''"),
    ],
)  # fmt: skip
def test_a_record_that_can_not_be_scored_is_named(change, text):
    rows = records()
    extraction.check(rows, "here")
    rows[3] |= change
    with pytest.raises(ValueError, match=text):
        extraction.check(rows, "here")


def test_no_responses_are_refused():
    with pytest.raises(ValueError, match=r"here has no responses; a task needs at least one sample"):
        extraction.check([], "here")


@pytest.mark.parametrize("change", [{"prompt_ids": []}, {"response_ids": [5000]}, {"response_ids": [5] * 70}])
def test_a_bad_sample_stops_before_any_work(tmp_path, monkeypatch, change):
    scorer = Scorer(tiny_models.build("olmoe"), Options(largest_threshold=0.05), eos_ids=[2])
    monkeypatch.setattr(scorer, "score", lambda *_: pytest.fail("a sample was scored"))
    rows = records()
    rows[3] |= change
    with pytest.raises(ValueError, match="sample t/3 "):
        extraction.extract(scorer, rows, tmp_path / "c.zarr", attributes={})
    tasks = [extraction.Task(records(), tmp_path / "a.zarr"), extraction.Task(rows, tmp_path / "b.zarr")]
    with pytest.raises(ValueError, match="sample t/3 "):
        extraction.extract_all(scorer, tasks)
    assert list(tmp_path.iterdir()) == []


NAMES = [f"q{i}" for i in range(7)]
TOKENS = sum(map(made_up_scores.tokens_of, NAMES))


def test_empty_responses_are_counted_and_warned_about_once(tmp_path, caplog):
    rows = made_up_scores.records([*NAMES, *(f"r{i}" for i in range(30))])
    empty = [row["id"] for row in rows if not row["response_ids"]]
    assert len(empty) > 5
    tasks = [extraction.Task(rows[:7], tmp_path / "a.zarr"), extraction.Task(rows[7:], tmp_path / "b.zarr")]
    with caplog.at_level(logging.WARNING):
        quality = extraction.extract_all(made_up_scores.Scorer(), tasks)
    assert (quality.empty_responses, quality.samples) == (len(empty), 37)
    (warning,) = caplog.messages
    assert warning.startswith(f"{len(empty)} of 37 responses are empty, so their key sets are, too: ")
    assert warning.endswith(f"{', '.join(empty[:5])} and {len(empty) - 5} more")


def test_progress_counts_all_tasks_and_tells_the_pace_of_finished_chunks(tmp_path):
    said = []
    rows = made_up_scores.records(NAMES)
    tasks = [extraction.Task(rows, tmp_path / f"{name}.zarr") for name in "ab"]
    extraction.extract_all(
        made_up_scores.Scorer(), tasks, chunk_samples=4, progress=lambda *report: said.append(report)
    )
    assert [done for done, *_ in said] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 11, 11, 12, 13, 14, 14]
    assert {total for _, total, _ in said} == {14}
    assert [note for *_, note in said[:5]] == [""] * 5  # nothing is finished yet
    assert all(note.endswith(" response tokens/s") for *_, note in said[5:])


def test_what_an_earlier_run_had_finished_is_where_progress_begins(tmp_path):
    rows, scored = made_up_scores.records(NAMES), []

    def stop(names):
        if len(scored) == 3:
            raise InterruptedError
        scored.append(names)

    def tasks(folder):
        return [extraction.Task(rows, tmp_path / folder / f"{name}.zarr") for name in "ab"]

    with pytest.raises(InterruptedError):
        extraction.extract_all(made_up_scores.Scorer(log=stop), tasks("half"), chunk_samples=4)
    said, again = [], []
    quality = extraction.extract_all(
        made_up_scores.Scorer(log=again.append),
        tasks("half"),
        chunk_samples=4,
        progress=lambda *report: said.append(report),
    )
    assert again == [NAMES[4:]]
    assert said[0] == (11, 14, "")
    assert quality.resumed_samples == 11
    whole = extraction.extract_all(made_up_scores.Scorer(), tasks("whole"), chunk_samples=4)
    assert {**vars(quality), "resumed_samples": 0} == vars(whole)


def test_the_estimate_and_the_size_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        quality = extraction.extract(
            made_up_scores.Scorer(), made_up_scores.records(NAMES), tmp_path / "c.zarr", attributes={}
        )
    before, after = (message for message in caplog.messages if message.startswith("contributions "))
    assert f"at most {disk.readable(quality.most_bytes)}" in before
    assert f"are free in {tmp_path}" in before
    assert disk.readable(quality.bytes) in after
    assert quality.bytes == disk.size(tmp_path / "c.zarr") <= quality.most_bytes
    assert quality.bytes_per_response_token == quality.bytes / TOKENS


def test_a_disk_without_the_least_room_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda path: 100)
    scorer = made_up_scores.Scorer(log=lambda names: pytest.fail("a sample was scored"))
    tasks = [extraction.Task(made_up_scores.records(NAMES), tmp_path / f"{name}.zarr") for name in "ab"]
    with pytest.raises(
        disk.FullDiskError, match=r"has 100 B free, but the contributions of 14 samples take at least \d+ B and about"
    ):
        extraction.extract_all(scorer, tasks)
    assert list(tmp_path.iterdir()) == []


def test_room_that_an_earlier_run_has_taken_already_counts(tmp_path, monkeypatch):
    rows = made_up_scores.records(NAMES)
    extraction.extract(made_up_scores.Scorer(), rows, tmp_path / "c.zarr", attributes={})
    monkeypatch.setattr(disk, "free", lambda path: 100)
    quality = extraction.extract(made_up_scores.Scorer(), rows, tmp_path / "c.zarr", attributes={})
    assert quality.resumed_samples == 7


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e8, "200 MB"), (3.21e15, "3210 TB")]
)
def test_bytes_as_people_read_them(count, text):
    assert disk.readable(count) == text


def plain(value):
    """Whether a value is of JSON types alone."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    return (
        (isinstance(value, list) and all(map(plain, value))) or value is None or type(value) in (str, int, float, bool)
    )


MANIFEST = {"kind": "hub", "path": "/cache", "revision": "main", "commit": "f" * 40, "files": {"a": {"bytes": 1}}}


def test_a_store_says_what_made_it(tmp_path):
    model, tokenizer = tiny_models.build("olmoe").to(torch.bfloat16), build_tokenizer()
    told = extraction.provenance(model, tokenizer, MANIFEST)
    assert plain(told)
    assert (told["dtype"], told["device"], told["revision"], told["commit"]) == ("bfloat16", "cpu", "main", "f" * 40)
    assert told["manifest"] == MANIFEST
    assert told["packages"] == {"torch": str(torch.__version__), "transformers": transformers.__version__}
    assert told["chat_template"] is None
    scorer = Scorer(model, Options(largest_threshold=0.05), eos_ids=[2])
    extraction.extract(scorer, records(), tmp_path / "c.zarr", attributes=told)
    attributes = store.Contributions(tmp_path / "c.zarr").attributes
    assert told.items() <= attributes.items()
    assert attributes["options"] == scorer.options.to_dict()
    assert attributes["identity_error"] == 0
    assert attributes["sample_ids"] == [f"t/{i}" for i in range(4)]


def test_digests_tell_tokenizers_templates_and_responses_apart(tmp_path):
    model, tokenizer = tiny_models.build("olmoe"), build_tokenizer()
    before = extraction.provenance(model, tokenizer, MANIFEST)
    assert before == extraction.provenance(model, build_tokenizer(), MANIFEST)
    tokenizer.chat_template = "{{ messages }}"
    after = extraction.provenance(model, tokenizer, MANIFEST)
    assert after["chat_template"] == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert after["tokenizer"] == before["tokenizer"]
    tokenizer.add_tokens(["more"])
    assert extraction.provenance(model, tokenizer, MANIFEST)["tokenizer"] != before["tokenizer"]
    digests = []
    for change in ({}, {"prompt_ids": [6]}, {"response_ids": [8]}):
        rows = made_up_scores.records(["q5"])
        rows[0] |= change
        path = tmp_path / f"{len(digests)}.zarr"
        extraction.extract(made_up_scores.Scorer(), rows, path, attributes={})
        digests.append(store.Contributions(path).attributes["responses"])
    assert len(set(digests)) == 3


def test_a_tokenizer_without_a_serialised_backend_is_known_by_its_vocabulary():
    def slow(vocabulary):
        return SimpleNamespace(get_vocab=lambda: vocabulary, chat_template={"default": "x", "tool": "y"})

    one, same, other = (
        extraction.provenance(tiny_models.build("llama"), slow(vocabulary), MANIFEST)
        for vocabulary in ({"a": 0, "b": 1}, {"b": 1, "a": 0}, {"a": 1, "b": 0})
    )
    assert one == same
    assert one["tokenizer"] != other["tokenizer"]
    assert len(one["chat_template"]) == 64


@pytest.mark.parametrize(("count", "shards"), [(7, 1), (7, 2), (7, 3), (7, 7), (2, 3), (1, 4)])
def test_shards_are_contiguous_and_of_like_size(count, shards):
    rows = [{"id": str(i)} for i in range(count)]
    parts = [extraction.shard_of(rows, number, shards) for number in range(1, shards + 1)]
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [2, 7])
def test_the_number_of_shards_changes_no_key_neuron(tmp_path, count):
    selections = ("pairs", "neurons", "per_token")
    scorer = Scorer(tiny_models.build("qwen2_moe"), Options(selections=selections, largest_threshold=0.05), eos_ids=[2])
    rows, files = records(count), []
    answers = write(tmp_path / "r.jsonl", rows)
    for shards in (1, 2, 3):
        paths = [tmp_path / f"{number}-of-{shards}.zarr" for number in range(1, shards + 1)]
        for number, path in enumerate(paths, start=1):
            task = extraction.Task(extraction.shard_of(rows, number, shards), path, {}, (number, shards))
            extraction.extract_all(scorer, [task], chunk_samples=2)
        files.append(tmp_path / f"{shards}.h5")
        select_key_neurons(paths, answers, files[-1], thresholds=[0.02, 0.05], model="m", checkpoint="c")
    one, two, three = (file.read_bytes() for file in files)
    assert one == two == three
    assert key_neurons.read(files[0]).sets("projection", "per_token", 0.05).n_samples == count


def test_per_token_key_sets_from_made_up_scores_equal_a_plain_loop(tmp_path):
    rows = made_up_scores.records([f"q{i}" for i in range(20)])
    extraction.extract(made_up_scores.Scorer(threshold=0.5), rows, tmp_path / "c.zarr", attributes={}, chunk_samples=6)
    answers, path = write(tmp_path / "r.jsonl", rows), tmp_path / "k.h5"
    thresholds = [0.1, 0.25, 0.3, 0.5]
    select_key_neurons([tmp_path / "c.zarr"], answers, path, thresholds=thresholds, model="m", checkpoint="c")
    for threshold in thresholds:
        sets = key_neurons.read(path).sets("glu", "per_token", threshold)
        k = made_up_scores.GEOMETRY.key_count(threshold)
        for s, row in enumerate(rows):
            expected = {
                offset + neuron
                for scores, ranks, offset in zip(made_up_scores.token_scores(row["id"]), k, (0, 8), strict=True)
                for _, neuron in made_up_scores.best_ranks(scores, ranks)
            }
            assert sets.neurons[sets.indptr[s] : sets.indptr[s + 1]].tolist() == sorted(expected)


def test_store_and_responses_of_other_samples_are_refused(tmp_path):
    scorer = Scorer(tiny_models.build("olmoe"), Options(largest_threshold=0.05), eos_ids=[2])
    extraction.extract(scorer, records(), tmp_path / "c.zarr", attributes={})
    answers = write(tmp_path / "r.jsonl", records(3))
    with pytest.raises(ValueError, match="hold other samples"):
        select_key_neurons(
            [tmp_path / "c.zarr"], answers, tmp_path / "k.h5", thresholds=[0.05], model="m", checkpoint="c"
        )
