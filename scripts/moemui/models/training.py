"""Training the small Mixture-of-Experts models of the embedded study, with the real transformers classes.

A recipe holds every knob; the same recipe gives the same weights bit for bit on one thread. The model learns only
the tokens of the answers, plus transformers' load-balancing loss on the router logits. Snapshots are ordinary
checkpoint folders (`step-00050/`) that any transformers program can load.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from moemui.models import synthetic
from moemui.models.checkpoints import snapshot_name, without_bars
from moemui.models.recipe import Recipe
from moemui.progress import Progress, silent

# Batches are cut from this many batches' worth of examples sorted by length, so that little of them is padding.
BUCKETS = 8
IGNORED = -100
REPORT_STEPS = 20


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The untrained model of a recipe: float32 on the CPU, weights drawn from torch's current random state."""
    import transformers

    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "num_experts_per_tok": recipe.top_k,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "initializer_range": recipe.initializer_range,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if recipe.family == "olmoe":
        return transformers.OlmoeForCausalLM(
            transformers.OlmoeConfig(
                **common, intermediate_size=recipe.neurons_per_expert, num_experts=recipe.experts, norm_topk_prob=False
            )
        )
    head = recipe.hidden // recipe.heads
    return transformers.DeepseekV2ForCausalLM(
        transformers.DeepseekV2Config(
            **common,
            intermediate_size=recipe.neurons_per_expert,
            moe_intermediate_size=recipe.neurons_per_expert,
            n_routed_experts=recipe.experts,
            n_shared_experts=recipe.shared_experts,
            first_k_dense_replace=0,
            # Latent attention at this size: no low-rank queries, keys and values of half the hidden width, and half
            # of each query carries the position.
            q_lora_rank=None,
            kv_lora_rank=recipe.hidden // 2,
            qk_nope_head_dim=head // 2,
            qk_rope_head_dim=head // 2,
            v_head_dim=head,
            topk_method="greedy",
            n_group=None,
            topk_group=None,
            routed_scaling_factor=1.0,
        )
    )


def train(
    recipe: Recipe, tasks: Sequence[str] | Mapping[str, int], output: str | Path, *, progress: Progress = silent
) -> pd.DataFrame:
    """Train a model on `tasks` and write `output/step-NNNNN/` (model and tokenizer) at every step to keep.

    tasks: names, or name → the first step whose batch may hold the task, counted from 0 (`examples_for`).
    Returns one row a step: step (int, from 1), loss (mean negative log-likelihood of the batch's answer tokens,
    nats), balance (load-balancing loss before its weight; top_k when experts are used evenly), learning_rate,
    tokens (int, tokens read so far, padding excluded), seconds (since the start, saving excluded).

    Runs on one thread: that is what makes the weights reproducible, and at small sizes more threads are slower. On a
    GPU they are so but for rounding. Raises RuntimeError where the recipe's device is not there,
    ValueError for a task that does not exist, FloatingPointError where the loss is no longer a number.
    """
    output = Path(output)
    tokenizer = synthetic.build_tokenizer()
    examples = encode(examples_for(recipe, tasks), tokenizer)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        # Weights are drawn on the CPU, so that they are the same wherever they go.
        model = build_model(recipe, tokenizer).to(recipe.device).train()

        def save(step: int) -> None:
            if step in recipe.save_steps:
                save_snapshot(model, tokenizer, output / snapshot_name(step))

        return pd.DataFrame(_steps(recipe, model, examples, save, progress), columns=HISTORY)


HISTORY = ["step", "loss", "balance", "learning_rate", "tokens", "seconds"]


def examples_for(recipe: Recipe, tasks: Sequence[str] | Mapping[str, int]) -> list[synthetic.Example]:
    """The training examples of a recipe in their order, batch × steps of them.

    Each is of a random one of the tasks that have begun by its step; `batches` may bring an example up to `BUCKETS` − 1
    steps earlier or later than its place here. With `distinct` set they are that many examples again and again, in
    another order each time round. Raises ValueError for a task that does not exist, for none that begins at step 0, and
    for `distinct` together with tasks that begin later.
    """
    starts = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, 0)
    n = recipe.batch * recipe.steps
    if not any(starts.values()):
        pool = synthetic.training_examples(list(starts), recipe.distinct or n, recipe.seed)
        return synthetic.again_and_again(pool, n, recipe.seed) if recipe.distinct else pool
    if recipe.distinct:
        raise ValueError(f"distinct is {recipe.distinct} and tasks begin at {starts}; only one of both is possible")
    return synthetic.staggered_examples(starts, recipe.batch, recipe.steps, recipe.seed)


def save_snapshot(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as a checkpoint folder that any transformers program can load."""
    with without_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Step(NamedTuple):
    """What one optimizer step saw: losses as in `train`'s history, and the batch's tokens without padding."""

    loss: float
    balance: float
    tokens: int


class Trainer:
    """A model with its optimizer, taught one batch after another by a recipe's knobs.

    Its `experts` and `top_k` are those of the model. The caller seeds torch and chooses the rate of a step.
    """

    def __init__(self, recipe: Recipe, model: Any):
        self.recipe, self.model = recipe, model
        decayed = [weights for weights in model.parameters() if weights.ndim >= 2]
        others = [weights for weights in model.parameters() if weights.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rate: float) -> Step:
        """One optimizer step at a learning rate. batch: ids, mask and targets as `batches` yields them.

        Raises FloatingPointError where the loss is no number; the weights are spoilt then.
        """
        from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

        ids, mask, targets = (part.to(self.model.device) for part in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The decoder without its head: DeepSeek-V2's class has no load-balancing loss of its own, and only the
        # answers' positions need logits.
        states = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True)
        wanted = targets != IGNORED
        loss = F.cross_entropy(self.model.lm_head(states.last_hidden_state[wanted]), targets[wanted])
        balance: Any = load_balancing_loss_func(
            tuple(states.router_logits), self.recipe.experts, self.recipe.top_k, mask
        )
        (loss + self.recipe.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}; lower learning_rate ({self.recipe.learning_rate})")
        return Step(value, float(balance.detach()), int(mask.sum()))


def _steps(
    recipe: Recipe,
    model: Any,
    examples: list[tuple[list[int], list[int]]],
    save: Callable[[int], None],
    progress: Progress,
) -> list[dict[str, float]]:
    """Run the training steps and return their history."""
    trainer = Trainer(recipe, model)
    history: list[dict[str, float]] = []
    tokens, seconds = 0, 0.0
    save(0)
    for step, batch in enumerate(batches(examples, recipe.batch, recipe.seed), start=1):
        started = time.perf_counter()
        rate = learning_rate(recipe, step)
        try:
            done = trainer.step(batch, rate)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step} of {recipe.steps}: {error}") from None
        tokens += done.tokens
        seconds += time.perf_counter() - started
        history.append(dict(zip(HISTORY, (step, done.loss, done.balance, rate, tokens, seconds), strict=True)))
        if step % REPORT_STEPS == 0:
            progress(step, recipe.steps, f"loss {done.loss:.3f}")
        save(step)
    return history


def learning_rate(recipe: Recipe, step: float) -> float:
    """The rate of step 1, 2, … steps: linear warm-up times a cosine from 1 to `final_rate`.

    A fraction of a step is allowed, where progress is counted in tokens.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    warm = min(1.0, step / recipe.warm_up) if recipe.warm_up else 1.0
    return recipe.learning_rate * warm * (recipe.final_rate + (1 - recipe.final_rate) * cosine)


def encode(examples: Sequence[synthetic.Example], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(prompt ids with <bos>, answer ids with <eos>) of every example."""
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    texts = [synthetic.DELIMITER + example.answer for example in examples]
    answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(prompt, [*answer, tokenizer.eos_token_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def batches(
    examples: Sequence[tuple[list[int], list[int]]], size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Every example once, in batches of similar length whose order is random; the last batch may be short.

    Yields ids, mask and targets, each int64 (batch, token), padded on the right; the target of a position is the
    next token where that belongs to the answer, else `IGNORED`.
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    order = list(range(len(examples)))
    draws = synthetic.Draws(f"batches {seed}")
    pool = size * BUCKETS
    for start in range(0, len(order), pool):
        # Examples were drawn at random already, so only the order inside a pool is left to choose.
        rows = sorted(order[start : start + pool], key=lambda row: lengths[row])
        cuts = [rows[cut : cut + size] for cut in range(0, len(rows), size)]
        for batch in draws.sample(cuts, len(cuts)):
            yield collate([examples[row] for row in batch])


def collate(batch: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoded examples as one batch: ids, mask and targets as `batches` yields them."""
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    targets = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor(prompt + answer)
        mask[row, :length] = 1
        targets[row, len(prompt) - 1 : length - 1] = torch.tensor(answer)
    return ids, mask, targets


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
