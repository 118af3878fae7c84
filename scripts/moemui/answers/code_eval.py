"""The metric that runs code which a model wrote, as lm_eval's HumanEval and MBPP ask for it, on our own executor.

Hugging Face's `evaluate` fetches its metric `code_eval` from the hub, and runs programs in a process without limits.
Here the same name gives the same numbers by `moemui.answers.code_sandbox`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

from moemui.answers import code_sandbox

METRIC = "code_eval"


class CodeEval:
    """In place of evaluate's metric `code_eval`: the same numbers, each program run by `code_sandbox.run`."""

    name = METRIC

    def __init__(self, limits: code_sandbox.Limits | None = None):
        self.limits = limits or code_sandbox.Limits()

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: int | Sequence[int] = (1, 10, 100),
        num_workers: int = 1,
        timeout: float | None = None,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """pass@k over tasks, and by task [(number, {task_id, passed, result, completion_id}) of each candidate].

        references: what tests a candidate, one a task. predictions: candidates a task. k: left out where some task has
        fewer candidates. timeout: as `code_sandbox.Limits.seconds`. num_workers: taken and not used.
        """
        if len(references) != len(predictions):
            raise ValueError(f"{len(predictions)} lists of candidates for {len(references)} tests; one list a test")
        limits = self.limits if timeout is None else code_sandbox.Limits(**{**asdict(self.limits), "seconds": timeout})
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, (candidates, test) in enumerate(zip(predictions, references, strict=True)):
            results[task] = []
            for number, candidate in enumerate(candidates):
                outcome = code_sandbox.run(f"{candidate}\n{test}", limits)
                verdict = {"task_id": task, "passed": outcome.passed, "result": outcome.result}
                results[task].append((number, {**verdict, "completion_id": number}))
        counts = [(len(rows), sum(row["passed"] for _, row in rows)) for rows in results.values()]
        wanted = [k] if isinstance(k, int) else k
        return {
            f"pass@{size}": math.fsum(pass_at_k(n, correct, size) for n, correct in counts) / len(counts)
            for size in wanted
            if counts and all(n >= size for n, _ in counts)
        }, results


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that one of k candidates passes, drawn without replacement from n of which `correct` do:
    1 − C(n−c, k) / C(n, k) (Chen et al. 2021, equation 1). Range 0 to 1; k ≤ n."""
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


@contextmanager
def replaced(allowed: bool) -> Iterator[None]:
    """Inside, where code is allowed, `evaluate.load("code_eval")` gives a CodeEval and asks no hub."""
    if not allowed:
        yield
        return
    import evaluate  # takes seconds

    own: Callable[..., Any] = evaluate.load

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        return CodeEval() if path == METRIC else own(path, *arguments, **options)

    with mock.patch.object(evaluate, "load", load):
        yield


def not_allowed(leaf: str, name: str) -> ValueError:
    """The error of a task that runs the model's code where the study doesn't allow it."""
    return ValueError(f"task {leaf} runs code that the model wrote; set allow_code: true for {name} where that is safe")


def refuse(task: Any, leaf: str, name: str, *, allowed: bool) -> None:
    """Refuse a task of lm_eval that runs the model's code where that is not allowed, or by other means than a CodeEval.

    leaf: the task's own name; name: that of its entry in the study. Raises ValueError.
    """
    metrics = [found for found in _reachable(task) if getattr(found, "name", None) == METRIC]
    runs = getattr(task, "UNSAFE_CODE", False) or metrics or METRIC in task._metric_fn_list
    if runs and not allowed:
        raise not_allowed(leaf, name)
    if runs and not any(isinstance(metric, CodeEval) for metric in metrics):
        raise ValueError(
            f"task {leaf} runs code that the model wrote by means of its own, where no limits hold; leave it out: only "
            f"tasks that use the metric {METRIC} of evaluate can be graded here"
        )


def _reachable(task: Any) -> Iterator[Any]:
    """What the Python that grades a task has at hand: the owners of its metrics, and its modules' global names."""
    for function in (*task._metric_fn_list.values(), task.config.process_results, type(task).process_results):
        owner = getattr(function, "__self__", None)  # of a metric that is a function: the function
        yield owner
        yield from getattr(function, "__globals__", getattr(owner, "__globals__", {})).values()
