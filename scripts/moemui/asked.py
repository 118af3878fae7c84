"""What is asked of a cell: its samples and its setting, checked. Whatever can't be meant is refused in one sentence."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moemui import scored
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import RULES, Setting

USUAL: dict[str, Any] = {
    "formulation": "projection",
    "selection": "pairs",
    "threshold": scored.USUAL_THRESHOLD,
    "rule": "topk",
}  # the paper's
OF_SAMPLES = ("correct", "domain", "min_tokens", "max_tokens")
NEAREST = 3  # settings that a refusal names


def known(asked: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    """The keywords that were given a value, each as what it stands for.

    Raises TypeError for a keyword that is not allowed and for a value of another type, ValueError for one out of range.
    """
    if unknown := sorted(set(asked) - set(allowed)):
        raise TypeError(f"{unknown[0]!r} is not known here; allowed are {', '.join(allowed)}")
    return {name: _value(name, value) for name, value in asked.items() if value is not None}


def whole(name: str, value: Any) -> int:
    """A whole number. Raises TypeError, naming it, for anything else: 2.5, "5", True."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; give a whole number, such as {name}=20") from None


def share(name: str, value: Any) -> float:
    """A number above 0 and at most 1. Raises TypeError, naming it, for what is no number, ValueError for other ones."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; give a number, such as {name}=0.01")
    if not 0 < float(value) <= 1:
        raise ValueError(f"{name} is {value!r}; give a number above 0 and at most 1")
    return float(value)


def _value(name: str, value: Any) -> Any:
    if name == "correct":
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"correct is {value!r}; give True or False, or leave it out for all samples")
        return bool(value)
    if name in ("min_tokens", "max_tokens"):
        return whole(name, value)
    if name == "threshold":
        return share(name, value)
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; give its name as text")
    if name == "rule" and value not in RULES:
        raise ValueError(f"rule is {value!r}; allowed are {', '.join(RULES)}")
    return value


def mask_of(which: Iterable[Any] | None, ids: np.ndarray) -> np.ndarray:
    """The samples that are meant: bool, (samples,).

    which: sample ids, or a truth value for each sample; None for all. Raises TypeError for what is neither, ValueError
    for an id that is not there and for a mask of another length or with gaps.
    """
    if which is None:
        return np.ones(len(ids), dtype=bool)
    if isinstance(which, str) or not isinstance(which, Iterable):
        raise TypeError(f"which is {which!r}; give a list of sample ids, or a boolean mask")
    boolean = str(getattr(which, "dtype", "")) == "boolean"  # pandas' own, which may have gaps
    given = np.asarray(which if hasattr(which, "__array__") else list(which))
    given = given if given.size else given.astype(object)  # an empty list is one of no ids
    if given.ndim != 1:
        raise ValueError(f"which has the shape {given.shape}; give a list of sample ids, or a mask with one axis")
    if given.dtype == bool or boolean:
        if len(given) != len(ids) or pd.isna(given).any():
            raise ValueError(
                f"the mask has {len(given)} values, {int(pd.isna(given).sum())} of them missing; give a truth "
                f"value for each of the {len(ids)} samples"
            )
        return given.astype(bool)
    if unknown := sorted(set(map(str, given.tolist())) - set(ids)):
        raise ValueError(f"there is no sample {unknown[0]!r}; ids are those of `samples`, such as {ids[:1].tolist()}")
    return np.isin(ids.astype(str), given.astype(str))


def setting_of(file: KeyNeurons, parts: Mapping[str, Any]) -> Setting:
    """The one setting of a file that has these parts, with the usual ones where several have.

    Raises ValueError, naming the nearest, where none has, and naming all that do where several are left.
    """
    parts, stored = {"rule": USUAL["rule"], **parts}, file.settings
    if isinstance(file, scored.Scored):  # every threshold and rule is a read
        stored = tuple(s._replace(**{k: v for k, v in parts.items() if k in ("threshold", "rule")}) for s in stored)
    fitting = [setting for setting in stored if all(getattr(setting, part) == parts[part] for part in parts)]
    if not fitting:
        asked = ", ".join(f"{part}={value!r}" for part, value in parts.items())
        near = sorted(stored, key=lambda setting: _distance(setting, parts))[:NEAREST]
        there = f"nearest are {', '.join(setting.label for setting in near)}" if near else "it has none at all"
        raise ValueError(f"{file.path} has no key neurons for {asked}; {there}; see `settings` for what is there")
    for part, usual in USUAL.items():
        fitting = [setting for setting in fitting if getattr(setting, part) == usual] or fitting
    if len(fitting) > 1:
        raise ValueError(
            f"several settings fit: {', '.join(setting.label for setting in fitting)}; say which by {', '.join(USUAL)}"
        )
    return fitting[0]


def _distance(setting: Setting, parts: Mapping[str, Any]) -> tuple[int, float]:
    """In how many parts a setting is another one than was asked for, then how far away its threshold lies."""
    threshold = parts.get("threshold", USUAL["threshold"])
    others = sum(getattr(setting, part) != value for part, value in parts.items())
    return others, abs(math.log(setting.threshold / threshold))
