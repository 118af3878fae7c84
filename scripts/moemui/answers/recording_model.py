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
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from moemui.progress import Progress, silent
from moemui.tap.heads import end_tokens


class Generated(NamedTuple):
    """What was fed and produced for one request. truncated: the token budget ended the response, nothing else did."""

    prompt_ids: list[int]
    response_ids: list[int]
    truncated: bool


class RecordingModel(HFLM):
    """lm_eval's model class on a loaded model, which keeps the ids of what it generates.

    `generate_until` follows HFLM's: same grouping by generation arguments, left padding, truncation from the left and
    stop sequences, and text up to `think_end` is taken off. It differs in these points: `generated` then holds the
    ids of every request; text after an end token is never taken into the response, and neither are tokens behind a
    stop sequence; stop sequences are not looked for in reasoning, whatever else is in the batch; and `think_end` is
    found where it is made of special tokens too, which HFLM drops from the text before it looks.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int,
        progress: Progress = silent,
        chat_template_args: Mapping[str, Any] | None = None,
        think_end: str | None = None,
    ) -> None:
        with only_errors():
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                backend="causal",
                chat_template_args=dict(chat_template_args or {}),
                think_end_token=think_end,
            )
        self.chat = bool(tokenizer.chat_template)
        self.progress = progress
        self.generated: list[Generated] = []
        self.ends = frozenset(end_tokens(model, tokenizer))
        self.think_end = think_end
        self.turn = self._turn() if self.chat and think_end else ""

    def _turn(self) -> str:
        """What the chat template puts where the model's turn begins."""
        user = [{"role": "user", "content": "x"}]
        without, with_turn = (
            self.tokenizer.apply_chat_template(
                user, tokenize=False, add_generation_prompt=begin, **self.chat_template_args
            )
            for begin in (False, True)
        )
        pairs = enumerate(zip(without, with_turn, strict=False))
        return str(with_turn[next((n for n, (a, b) in pairs if a != b), len(without)) :])

    def reasons(self, prompt: str) -> bool:
        """Whether the model's reasoning comes first: not after a turn that the prompt began, nor one opened past it."""
        return self.think_end is not None and self.think_end not in self.turn and prompt.endswith(self.turn)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = [""] * len(requests)
        self.generated = [Generated([], [], False)] * len(requests)
        groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
        for row, request in enumerate(requests):
            arguments = json.dumps(request.args[1], sort_keys=True, default=str)
            groups[arguments, self.reasons(request.args[0])].append(row)
        done = 0
        for (_, reasons), rows in groups.items():
            # Longest first, as in HFLM: running out of memory shows at once.
            rows.sort(key=lambda row: -len(requests[row].args[0]))
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                prompts = [requests[row].args[0] for row in batch]
                answers = self._generate_batch(prompts, requests[batch[0]].args[1], reasons)
                for row, (generated, text) in zip(batch, answers, strict=True):
                    texts[row], self.generated[row] = text, generated
                done += len(batch)
                self.progress(done, len(requests), "generated")
        return texts

    def _generate_batch(
        self, prompts: list[str], arguments: Mapping[str, Any], reasons: bool
    ) -> Iterator[tuple[Generated, str]]:
        """What was produced for every prompt, and the text to grade."""
        options = dict(normalize_gen_kwargs(dict(arguments), self.max_gen_toks))
        stops = handle_stop_sequences(options.pop("until"), eos=None)
        budget = options.pop("max_gen_toks")
        options.pop("max_length", None)
        if budget >= self.max_length:
            raise ValueError(
                f"a task wants up to {budget} new tokens but the model's context holds {self.max_length} in all; "
                "lower the task's max_new_tokens, or max_gen_toks in its generation_kwargs"
            )
        context, mask = self.tok_batch_encode(
            prompts, left_truncate_len=self.max_length - budget, truncation=self.truncation
        )
        context, mask = context.to(self.device), mask.to(self.device)
        width = context.shape[1]
        rows = self._model_generate(
            context=context,
            attention_mask=mask,
            # Reasoning holds stop sequences like blank lines; where they count, they are cut off afterwards.
            stop=[] if reasons else stops,
            max_length=width + budget,
            **options,
        )
        for ids, row, kept in zip(context.tolist(), rows.tolist(), mask.bool().tolist(), strict=True):
            prompt = [token for token, keep in zip(ids, kept, strict=True) if keep]
            response, text, truncated = self._cut(row[width : width + budget], stops, budget, reasons)
            yield Generated(prompt, response, truncated), text

    def _cut(
        self, ids: list[int], stops: Sequence[str], budget: int, reasons: bool = False
    ) -> tuple[list[int], str, bool]:
        """What of the produced ids is the response, its text without reasoning, and whether the budget ended it.

        The response ends with the first end token, or before the first stop sequence of what follows the reasoning;
        a token that holds both response and stop stays. Padding behind it is none of it. Reasoning that is cut off
        by the budget is the whole response.
        """
        end = next((position + 1 for position, token in enumerate(ids) if token in self.ends), None)
        ids = ids[:end]
        while end is None and ids and ids[-1] == self.tokenizer.pad_token_id:
            ids = ids[:-1]
        ran_out = end is None and len(ids) >= budget
        start = self._answer_start(ids)

        def stopped(n: int) -> bool:
            text = self.tok_decode(ids[:n], skip_special_tokens=False)
            if self.think_end is not None:
                # Blank lines between reasoning and answer are often stop sequences too.
                text = text.split(self.think_end)[-1].lstrip() if n >= start else ""
            return any(stop in text for stop in stops if stop)

        def answer(n: int) -> str:
            text = self.tok_decode(ids[:n])
            if start and self.think_end not in text:
                return str(self.tok_decode(ids[start:n]).lstrip())
            return postprocess_generated_text(text, None, self.think_end)

        if (reasons and not start and ran_out) or not stopped(len(ids)):
            return ids, answer(len(ids)), ran_out
        ids = ids[: bisect.bisect_left(range(len(ids)), True, lo=start, key=stopped)]
        text = postprocess_generated_text(answer(len(ids)), list(stops), None)
        needed = bisect.bisect_left(range(len(ids)), True, lo=start, key=lambda n: answer(n).startswith(text))
        return ids[:needed], text, False

    def _answer_start(self, ids: list[int]) -> int:
        """How many ids it takes to the end of the last `think_end`; 0 where it does not occur."""

        def ends(n: int) -> int:
            return str(self.tok_decode(ids[:n], skip_special_tokens=False)).count(self.think_end or "")

        if self.think_end is None or not (total := ends(len(ids))):
            return 0
        return bisect.bisect_left(range(len(ids)), total, key=ends)

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


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    batch_size: int = 16,
    progress: Progress = silent,
    chat_template_args: Mapping[str, Any] | None = None,
    think_end: str | None = None,
) -> RecordingModel:
    """A loaded causal language model as lm_eval sees it. batch_size: sequences in one forward pass.

    chat_template_args: further arguments of the chat template, such as {"enable_thinking": False}.
    think_end: text with which reasoning ends. What comes up to it stays in the response ids but is not graded.
    Raises ValueError for a batch size below 1, an empty think_end, arguments where there is no chat template, and
    enable_thinking without think_end, since the reasoning would then be graded.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it is a number of sequences, at least 1")
    if think_end == "":
        raise ValueError("think_end is empty; give the text with which reasoning ends, or leave it out")
    if chat_template_args and not tokenizer.chat_template:
        raise ValueError(
            f"chat_template_args are {dict(chat_template_args)}, but the tokenizer has no chat template; take them out"
        )
    if (chat_template_args or {}).get("enable_thinking") and think_end is None:
        raise ValueError(
            "enable_thinking is set without think_end, so reasoning would be graded; give the text that ends it"
        )
    return RecordingModel(model, tokenizer, batch_size, progress, chat_template_args, think_end)


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
