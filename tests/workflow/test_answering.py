"""The scripts that let a model answer: tasks are read before it is loaded, and truncation is told."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import generate_responses
import mask_neurons
from moemui.models import checkpoints, synthetic

CHAT = {"chat_template_args": {}, "think_end": None}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.json"
    path.write_text("{}")
    return path


def entry(folder, **more):
    """A task of four prompts; the model may say six tokens."""
    rows = [{"prompt": f"Question: sort {letter} a\nAnswer:", "answer": "a"} for letter in "bcde"]
    (folder / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "say",
        "dataset_path": "json",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [], "max_gen_toks": 6, "do_sample": False},
        "num_fewshot": 0,
    }
    (folder / "say.yaml").write_text(yaml.safe_dump(task))
    return {"lm_eval": "say", "domain": "d", "include": str(folder), **more}


def llama(*_, **__):
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(synthetic.vocabulary()), **sizes, eos_token_id=2, pad_token_id=0)
    return LlamaForCausalLM(config).eval(), synthetic.build_tokenizer()


@pytest.mark.parametrize("script", [generate_responses, mask_neurons])
def test_a_task_mistake_costs_no_model(script, checkpoint, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: loads.append(1))
    given = {"checkpoint": checkpoint, "data": [], "responses": [], "batch_size": 2, "loading": {}, "chat": CHAT}
    if script is mask_neurons:
        tables = {"masking": tmp_path / "a.parquet", "masking_effect": tmp_path / "b.parquet"}
        given["manifest"] = given.pop("checkpoint")
        given |= {
            "stores": [],
            "shards": 1,
            "model": "m",
            "checkpoint": "c",
            "settings": [["projection", "pairs", 0.001]],
            "seeds": 2,
            "seed": 0,
            **tables,
        }
        given |= {"counting": {"alignment": "next_token", "eos": "exclude", "max_batch_tokens": 64}}
    with pytest.raises(ValueError, match="task t names sayy, which lm_eval does not know"):
        script.main(tasks={"t": {**entry(tmp_path), "lm_eval": "sayy"}}, progress=lambda *_: None, **given)
    assert loads == []


def test_truncation_is_counted_and_told(checkpoint, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpoints, "load", llama)
    given = tmp_path / "given.jsonl"
    given.write_text(json.dumps({"prompt": "Question:", "response": " a"}) + "\n")
    paths = [tmp_path / "t.out", tmp_path / "g.out"]
    with caplog.at_level(logging.WARNING):
        metrics = generate_responses.main(
            checkpoint=checkpoint,
            data=[tmp_path / "say.jsonl"],
            responses=paths,
            tasks={"say": entry(tmp_path), "g": {"responses": str(given), "domain": "d"}},
            batch_size=4,
            loading={},
            chat=CHAT,
            progress=lambda *_: None,
        )
    records = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert all(record["truncated"] is (len(record["response_ids"]) == 6) for record in records)
    share = sum(record["truncated"] for record in records) / 4
    assert share > 0.05
    asked = metrics.pop("task_data")
    assert metrics == {"accuracy.say": 0.0, "truncated.say": share, "truncated.g": 0.0}
    assert asked["g"] == hashlib.sha256(given.read_bytes()).hexdigest()
    rows = [json.loads(line) for line in (tmp_path / "say.jsonl").read_text().splitlines()]
    written = "".join(json.dumps(["say", n, row], sort_keys=True) + "\n" for n, row in enumerate(rows))
    assert asked["say"] == hashlib.sha256(written.encode()).hexdigest()
    assert f"task say: the token budget cut off {100 * share:.0f} % of the responses" in caplog.text
    assert "task g" not in caplog.text
