"""Given responses, token boundaries, and the likelihood of reference answers."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from moemui.answers import responses
from moemui.models import synthetic


@pytest.fixture
def tokenizer():
    return synthetic.build_tokenizer()


@pytest.fixture
def model():
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(synthetic.vocabulary()),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.5,
        )
    ).eval()


def given(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_fixed_responses_become_records(tokenizer, tmp_path):
    path = given(
        tmp_path / "fixed.jsonl",
        {"prompt": "Question: sort b a\nAnswer:", "response": " a b", "gold": " a b", "correct": True, "id": "x"},
        {"prompt": "Question:", "response": "", "domain": "other"},
    )
    first, second = responses.fixed_responses(path, tokenizer, task="t", domain="d")
    assert first["id"] == "x"
    assert (first["correct"], first["gold"], first["domain"], first["task"]) == (True, " a b", "d", "t")
    assert first["prompt_ids"] == tokenizer("Question: sort b a\nAnswer:")["input_ids"]
    assert first["response_ids"] == tokenizer.encode(" a b", add_special_tokens=False)
    assert (second["id"], second["correct"], second["gold"], second["domain"]) == ("1", None, "", "other")
    assert second["response_ids"] == []
    assert (first["truncated"], second["truncated"]) == (False, False)
    assert len(responses.fixed_responses(path, tokenizer, task="t", domain="d", limit=1)) == 1


def test_a_finished_prompt_gets_no_second_bos_and_no_template(tokenizer, tmp_path):
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }} so"
    path = given(
        tmp_path / "fixed.jsonl", {"prompt": "<bos> add", "response": " is"}, {"prompt": " add", "response": " is"}
    )
    finished, raw = responses.fixed_responses(path, tokenizer, task="t", domain="d")
    assert finished["prompt_ids"] == [1, *tokenizer.encode(" add", add_special_tokens=False)]
    assert raw["prompt"] == "<bos> add so"
    assert raw["prompt_ids"] == [1, *tokenizer.encode(" add so", add_special_tokens=False)]
    bare = responses.fixed_responses(path, tokenizer, task="t", domain="d", chat=False)[1]
    assert bare["prompt_ids"] == finished["prompt_ids"]
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ ending }}"
    ended = responses.fixed_responses(path, tokenizer, task="t", domain="d", chat_template_args={"ending": " of"})[1]
    assert ended["prompt"] == " add of"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "", "response": " a", "id": "s7"}], "sample s7 of .* has an empty prompt"),
        ([{"prompt": " a"}], "line 1 of .* lacks response; its keys are prompt, response, id"),
        ([{"prompt": " a", "response": " b", "corect": 1}], "has the unknown corect; its keys are"),
        ([{"prompt": " a", "response": None}], "has response = None; it is text"),
        ([{"prompt": " a", "response": " b", "correct": "yes"}], "has correct = 'yes'; it is true, false or null"),
        ([{"prompt": " a", "response": " b", "id": 1}] * 2, "id 1 occurs twice"),
        ([[1]], "line 1 of .* is a list; write a JSON object"),
        ([], "holds no sample; write one JSON object"),
    ],
)
def test_lines_that_cannot_be_used_say_why(tokenizer, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        responses.fixed_responses(given(tmp_path / "f.jsonl", *rows), tokenizer, task="t", domain="d")


class Merging:
    """A tokenizer of characters that merges `ab` over any boundary and swallows tildes."""

    bos_token = None
    chat_template = None

    def encode(self, text, add_special_tokens=True):
        ids = []
        for character in text.replace("~", ""):
            if character == "b" and ids[-1:] == ["a"]:
                ids[-1] = "ab"
            else:
                ids.append(character)
        return ids


def test_a_merge_over_the_boundary_falls_back_on_separate_ids(tmp_path):
    assert responses.continuation_ids(Merging(), "xa", "cd") == ["c", "d"]
    assert responses.continuation_ids(Merging(), "xa", "bcd") == ["b", "c", "d"]
    path = given(tmp_path / "f.jsonl", {"prompt": "x", "response": "~~", "id": "lost"})
    with pytest.raises(ValueError, match=r"the response of sample lost of .* is '~~' but the tokenizer makes no token"):
        responses.fixed_responses(path, Merging(), task="t", domain="d")


def record(tokenizer, prompt, gold):
    return {"id": prompt, "prompt": prompt, "prompt_ids": tokenizer(prompt)["input_ids"], "gold": gold}


class FullLogits(torch.nn.Module):
    """A model that can't select positions."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.device = inner, inner.device

    def forward(self, input_ids, attention_mask, use_cache):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("wrapper", [lambda model: model, FullLogits])
def test_reference_likelihood_against_one_token_at_a_time(model, tokenizer, batch_size, wrapper):
    records = [
        record(tokenizer, "Question: sort d c b a\nAnswer:", " a b c d"),
        record(tokenizer, "Question:", " red"),
        record(tokenizer, "Question: add 1 2\nAnswer:", ""),
        record(tokenizer, "Question: add 1 2\nAnswer:", " is A"),
    ]
    expected = []
    for entry in records:
        ids, losses = list(entry["prompt_ids"]), []
        for token in tokenizer.encode(entry["gold"], add_special_tokens=False):
            losses.append(-model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item())
            ids.append(token)
        expected.append(np.mean(losses) if losses else np.nan)
    found = responses.reference_nll(wrapper(model), tokenizer, records, batch_size)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_uniform_model_has_the_logarithm_of_its_vocabulary(model, tokenizer):
    torch.nn.init.zeros_(model.lm_head.weight)
    (found,) = responses.reference_nll(model, tokenizer, [record(tokenizer, "Question:", " a b c")])
    assert found == pytest.approx(np.log(len(tokenizer)), rel=1e-6)


def test_a_prompt_without_tokens_is_refused_by_name(model, tokenizer):
    with pytest.raises(ValueError, match="sample empty has no prompt tokens"):
        responses.reference_nll(model, tokenizer, [{"id": "empty", "prompt": "", "prompt_ids": [], "gold": " a"}])
