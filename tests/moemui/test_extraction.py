"""From responses to a store to key neurons, on tiny models, against the slow oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tiny_models
from moemui import extraction, key_neurons, store
from moemui.contributions import Options, Scorer


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
    extraction.select_key_neurons(tmp_path / "c.zarr", answers, path, thresholds=[threshold], model="m", checkpoint="c")
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


def test_chunks_do_not_change_a_store(tmp_path, monkeypatch):
    scorer = Scorer(tiny_models.build("deepseek_v2"), Options(largest_threshold=0.05), eos_ids=[2])
    extraction.extract(scorer, records(7), tmp_path / "one.zarr", attributes={})
    monkeypatch.setattr(store, "CHUNK_SAMPLES", 3)
    done = []
    extraction.extract(scorer, records(7), tmp_path / "many.zarr", attributes={}, progress=done.append)
    one, many = store.Contributions(tmp_path / "one.zarr"), store.Contributions(tmp_path / "many.zarr")
    for setting in one.settings:
        np.testing.assert_array_equal(one.ranked(*setting).neuron, many.ranked(*setting).neuron)
    assert done[-1] == 7


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


def test_a_bad_sample_stops_before_any_work(tmp_path):
    scorer = Scorer(tiny_models.build("olmoe"), Options(largest_threshold=0.05), eos_ids=[2])
    rows = records()
    rows[3]["prompt_ids"] = []
    with pytest.raises(ValueError, match="sample t/3 has an empty prompt"):
        extraction.extract(scorer, rows, tmp_path / "c.zarr", attributes={})
    with pytest.raises(ValueError, match="has no responses"):
        extraction.extract(scorer, [], tmp_path / "c.zarr", attributes={})
    assert not (tmp_path / "c.zarr").exists()


def test_store_and_responses_of_other_samples_are_refused(tmp_path):
    scorer = Scorer(tiny_models.build("olmoe"), Options(largest_threshold=0.05), eos_ids=[2])
    extraction.extract(scorer, records(), tmp_path / "c.zarr", attributes={})
    answers = write(tmp_path / "r.jsonl", records(3))
    with pytest.raises(ValueError, match="hold other samples"):
        extraction.select_key_neurons(
            tmp_path / "c.zarr", answers, tmp_path / "k.h5", thresholds=[0.05], model="m", checkpoint="c"
        )
