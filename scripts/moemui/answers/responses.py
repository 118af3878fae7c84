"""Responses of a model to the prompts of a task: the records that every later stage reads.

A record (one JSON object a line of responses.jsonl) holds: sample (0-based), id (unique in the task), task, domain,
prompt, response, gold (the reference answer as it would continue the prompt, "" if there is none), correct (null where
nothing graded it), prompt_ids and response_ids (the tokens really fed and produced, a produced end token included), and
truncated (generation used up its token budget before an end token or stop sequence; false for choices and given
responses). Ids are kept because text does not always turn back into the same ids, and because they hold the reasoning
that the graded text of some models lacks.

Generated and chosen responses come from moemui.answers.harness; here are the records themselves, responses that
somebody else made, and the likelihood of the reference answers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Response = dict[str, Any]

FIXED_REQUIRED = ("prompt", "response")
FIXED_OPTIONAL = ("id", "gold", "correct", "domain")


def write_responses(records: Iterable[Response], path: str | Path) -> None:
    """One JSON object a line, in order of sample."""
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_responses(path: str | Path) -> list[Response]:
    """The records that `write_responses` wrote."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def verdicts(records: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Correctness of the records as tables and HDF5 hold it: int8 (samples,), 1 correct, 0 not, −1 not graded."""
    return np.array([{True: 1, False: 0, None: -1}[record["correct"]] for record in records], dtype=np.int8)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt with the tokenizer's special tokens, but never with a second BOS."""
    starts_with_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer.encode(text, add_special_tokens=not starts_with_bos))


def continuation_ids(tokenizer: Any, prompt: str, continuation: str) -> list[int]:
    """Ids of a text that continues a prompt: the rest of the joint ids where these begin with the prompt's own,
    else (the tokenizer merges across the boundary) the ids of the continuation alone.
    """
    start = encode_prompt(tokenizer, prompt)
    joint = encode_prompt(tokenizer, prompt + continuation)
    if joint[: len(start)] == start:
        return joint[len(start) :]
    return list(tokenizer.encode(continuation, add_special_tokens=False))


def fixed_responses(
    path: str | Path,
    tokenizer: Any,
    *,
    task: str,
    domain: str,
    limit: int | None = None,
    chat: bool | None = None,
    chat_template_args: Mapping[str, Any] | None = None,
) -> list[Response]:
    """Records of prompts and responses that are given, as JSON lines {prompt, response} with optional id, gold,
    correct (true, false or null) and domain (else the task's).

    chat: put the prompt through the tokenizer's chat template as a user's message; by default where there is one.
    A prompt that begins with the BOS token counts as finished text and is left alone. chat_template_args: further
    arguments of the template.

    Raises ValueError, naming the line or id, for a missing or unknown key, an empty prompt (no state would predict
    its first response token), an id that occurs twice, or a response that is lost in tokenization. An empty response
    is kept: it has no tokens and no key neurons.
    """
    templated = chat if chat is not None else bool(tokenizer.chat_template)
    records: list[Response] = []
    names: set[str] = set()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if limit is not None and len(records) == limit:
                break
            given = _fixed_line(line, f"line {number} of {path}")
            name = str(given.get("id", len(records)))
            if name in names:
                raise ValueError(f"id {name} occurs twice in {path}; every sample has an id of its own")
            names.add(name)
            prompt, response = given["prompt"], given["response"]
            if not prompt:
                raise ValueError(
                    f"sample {name} of {path} has an empty prompt, so no state predicts its first response token; "
                    "give it a prompt or take it out"
                )
            if templated and not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token)):
                prompt = tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}],
                    tokenize=False,
                    add_generation_prompt=True,
                    **(chat_template_args or {}),
                )
            ids = continuation_ids(tokenizer, prompt, response)
            if response and not ids:
                raise ValueError(
                    f"the response of sample {name} of {path} is {response[:40]!r} but the tokenizer makes no token "
                    "of it; move the boundary between prompt and response or take the sample out"
                )
            records.append(
                {
                    "sample": len(records),
                    "id": name,
                    "task": task,
                    "domain": given.get("domain") or domain,
                    "prompt": prompt,
                    "response": response,
                    "gold": given.get("gold") or "",
                    "correct": given.get("correct"),
                    "prompt_ids": encode_prompt(tokenizer, prompt),
                    "response_ids": ids,
                    "truncated": False,
                }
            )
    if not records:
        raise ValueError(f"{path} holds no sample; write one JSON object with prompt and response a line")
    return records


def _fixed_line(line: str, where: str) -> dict[str, Any]:
    """One line of fixed responses, its keys and types checked."""
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} is a {type(given).__name__}; write a JSON object with prompt and response")
    allowed = (*FIXED_REQUIRED, *FIXED_OPTIONAL)
    missing = [key for key in FIXED_REQUIRED if key not in given]
    unknown = sorted(set(given) - set(allowed))
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; its keys are {', '.join(allowed)}")
    if unknown:
        raise ValueError(f"{where} has the unknown {', '.join(unknown)}; its keys are {', '.join(allowed)}")
    for key in ("prompt", "response", "gold", "domain"):
        optional = key in FIXED_OPTIONAL and given.get(key) is None
        if not optional and not isinstance(given[key], str):
            raise ValueError(f"{where} has {key} = {given[key]!r}; it is text")
    if given.get("correct") not in (True, False, None):
        raise ValueError(f"{where} has correct = {given['correct']!r}; it is true, false or null (not graded)")
    return given


def reference_nll(model: Any, tokenizer: Any, records: Sequence[Mapping[str, Any]], batch_size: int = 32) -> np.ndarray:
    """Mean negative log-likelihood of the reference answer's tokens given the prompt, in nats: float64 (samples,).

    −(1/m) Σ_t log p(g_t | prompt, g_<t) over the m tokens of `gold`, end token excluded, teacher-forced, with the
    softmax in float32. NaN for a sample without a reference answer. Range 0 to ∞.
    Raises ValueError for a sample without prompt tokens, by id.
    """
    import torch

    result = np.full(len(records), np.nan)
    sequences: dict[int, tuple[list[int], list[int]]] = {}
    for row, record in enumerate(records):
        if not record["prompt_ids"]:
            raise ValueError(f"sample {record['id']} has no prompt tokens, so no state predicts its reference answer")
        answer = continuation_ids(tokenizer, record["prompt"], record["gold"]) if record["gold"] else []
        if answer:
            sequences[row] = (list(record["prompt_ids"]), answer)
    selects = "logits_to_keep" in inspect.signature(model.forward).parameters
    order = sorted(sequences, key=lambda row: len(sequences[row][0]) + len(sequences[row][1]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(prompt) + len(answer) for prompt, answer in map(sequences.__getitem__, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        targets = torch.full_like(ids, -1)
        for line, row in enumerate(rows):
            prompt, answer = sequences[row]
            length = len(prompt) + len(answer)
            ids[line, :length] = torch.tensor(prompt + answer)
            mask[line, :length] = 1
            targets[line, len(prompt) - 1 : length - 1] = torch.tensor(answer)
        # Logits over a large vocabulary are the largest tensor here: only the columns that predict an answer token.
        columns = (targets >= 0).any(dim=0).nonzero()[:, 0]
        options = {"logits_to_keep": columns.to(model.device)} if selects else {}
        with torch.no_grad():
            logits = model(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, **options
            ).logits
        if not selects:
            logits = logits[:, columns.to(logits.device)]
        targets = targets[:, columns].to(logits.device)
        wanted = targets >= 0
        losses = torch.zeros(targets.shape, device=logits.device)
        losses[wanted] = torch.nn.functional.cross_entropy(logits[wanted].float(), targets[wanted], reduction="none")
        result[rows] = (losses.double().sum(dim=1) / wanted.sum(dim=1)).cpu().numpy()
    return result
