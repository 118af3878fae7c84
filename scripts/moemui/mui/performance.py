"""Performance of a checkpoint on a task: accuracy with its interval, response lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from moemui.key_neurons.files import Samples
from moemui.statistics import intervals


def row(
    *, model: str, checkpoint: str, tokens: float | None, order: int, task: str, samples: Samples
) -> dict[str, Any]:
    """One row of the table `performance`.

    Accuracy is the share of the graded samples that are correct, with its 95 % Wilson interval; where nothing was
    graded it is missing and the note says so. Raises ValueError for a task without samples.
    """
    if samples.n == 0:
        raise ValueError(f"{model} {checkpoint} {task} has no samples; give the task at least one")
    graded, correct = int((samples.correct >= 0).sum()), int((samples.correct == 1).sum())
    low, high = intervals.wilson(successes=correct, trials=graded) if graded else (np.nan, np.nan)
    return {
        "model": model,
        "checkpoint": checkpoint,
        "tokens": tokens,
        "order": order,
        "task": task,
        "domain": samples.task_domain,
        "n_samples": samples.n,
        "n_graded": graded,
        "n_correct": correct,
        "accuracy": correct / graded if graded else np.nan,
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_response_tokens": float(samples.response_tokens.mean()),
        "n_empty": int((samples.response_tokens == 0).sum()),
        "note": "" if graded else "no sample was graded",
    }
