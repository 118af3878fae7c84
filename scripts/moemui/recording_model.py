"""lm_eval's model class on a model that is already loaded, with a memory of the ids that it produced.

Importing this module imports lm_eval and torch, which takes seconds.
"""

from __future__ import annotations

import bisect
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from moemui.families import end_tokens
from moemui.progress import Progress, silent


class RecordingModel(HFLM):
    """lm_eval's model class on a loaded model, which keeps the ids of what it generates.

    `generate_until` follows HFLM's: same grouping by generation arguments, left padding, truncation from the left and
    stop sequences. It differs in three points: `generated` then holds (prompt ids, response ids) of every request,
    text after an end token is never taken into the response, and neither are tokens behind a stop sequence.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, progress: Progress = silent) -> None:
        with only_errors():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.chat = bool(tokenizer.chat_template)
        self.progress = progress
        self.generated: list[tuple[list[int], list[int]]] = []
        self.ends = frozenset(end_tokens(model, tokenizer))

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = [""] * len(requests)
        self.generated = [([], [])] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        for row, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(row)
        done = 0
        for rows in groups.values():
            # Longest first, as in HFLM: running out of memory shows at once.
            rows.sort(key=lambda row: -len(requests[row].args[0]))
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                arguments = requests[batch[0]].args[1]
                for row, (prompt, response, text) in zip(
                    batch, self._generate_batch([requests[row].args[0] for row in batch], arguments), strict=True
                ):
                    texts[row], self.generated[row] = text, (prompt, response)
                done += len(batch)
                self.progress(done, len(requests), "generated")
        return texts

    def _generate_batch(
        self, prompts: list[str], arguments: Mapping[str, Any]
    ) -> Iterator[tuple[list[int], list[int], str]]:
        """(prompt ids, response ids, response text) of every prompt."""
        options = dict(normalize_gen_kwargs(dict(arguments), self.max_gen_toks))
        stops = handle_stop_sequences(options.pop("until"), eos=None)
        budget = options.pop("max_gen_toks")
        options.pop("max_length", None)
        if budget >= self.max_length:
            raise ValueError(
                f"a task wants up to {budget} new tokens but the model's context holds {self.max_length} in all; "
                "lower max_gen_toks in the task's generation_kwargs"
            )
        context, mask = self.tok_batch_encode(
            prompts, left_truncate_len=self.max_length - budget, truncation=self.truncation
        )
        context, mask = context.to(self.device), mask.to(self.device)
        width = context.shape[1]
        rows = self._model_generate(
            context=context, attention_mask=mask, stop=stops, max_length=width + budget, **options
        )
        for ids, row, kept in zip(context.tolist(), rows.tolist(), mask.bool().tolist(), strict=True):
            prompt = [token for token, keep in zip(ids, kept, strict=True) if keep]
            yield prompt, *self._cut(row[width : width + budget], stops)

    def _cut(self, ids: list[int], stops: Sequence[str]) -> tuple[list[int], str]:
        """What of the produced ids is the response, and its text.

        The response ends with the first end token, or before the first stop sequence; a token that holds both
        response and stop stays.
        """
        end = next((position + 1 for position, token in enumerate(ids) if token in self.ends), len(ids))
        ids = ids[:end]

        def stopped(n: int) -> bool:
            text = self.tok_decode(ids[:n], skip_special_tokens=False)
            return any(stop in text for stop in stops if stop)

        if not stopped(len(ids)):
            return ids, self.tok_decode(ids)
        ids = ids[: bisect.bisect_left(range(len(ids)), True, key=stopped)]
        text = postprocess_generated_text(self.tok_decode(ids), list(stops), None)
        needed = bisect.bisect_left(range(len(ids)), True, key=lambda n: self.tok_decode(ids[:n]).startswith(text))
        return ids[:needed], text

    def scored_ids(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids) that `loglikelihood` scores for a pair of texts."""
        if not context:
            answer = self.tok_encode(continuation, add_special_tokens=False)
            prompt = [self.prefix_token_id]
            if answer[:1] == prompt:
                answer = answer[1:]
        else:
            prompt, answer = self._encode_pair(context, continuation)
        overflow = max(0, len(prompt) + len(answer) - self.max_length - 1)
        return prompt[overflow:], answer


def wrap(model: Any, tokenizer: Any, *, batch_size: int = 16, progress: Progress = silent) -> RecordingModel:
    """A loaded causal language model as lm_eval sees it. batch_size: sequences in one forward pass.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it is a number of sequences, at least 1")
    return RecordingModel(model, tokenizer, batch_size, progress)


@contextmanager
def only_errors() -> Iterator[None]:
    """lm_eval warns about a model that is passed in loaded and about data that is: both on purpose here."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
