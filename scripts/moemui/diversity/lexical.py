"""Lexical diversity of text: distinct-n and compression ratio, both at a common length.

Tokens are words (runs of letters, digits and underscores) and single other marks that are not white space, case
folded; so a run of a script that is written without spaces counts as one word. N-grams never cross from one text into
the next. Both measures depend on length, so sets of texts are compared at the same number of n-grams or bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from moemui.mui.rarefaction import absent

TOKEN = re.compile(r"\w+|[^\w\s]")
LEVEL = 9  # of zlib; the library's version may move the result by a few bytes


def text_of(*, record: Mapping[str, Any]) -> str:
    """The text of a sample: prompt and response, since the data's diversity lies in what is asked and what is produced.

    Examples that a few-shot task puts before every question are part of the prompt, and repeat.
    """
    return str(record["prompt"]) + str(record["response"])


def tokens(*, text: str) -> list[str]:
    """Words and marks of a text, case folded; none for white space alone."""
    return TOKEN.findall(text.casefold())


def ngram_counts(*, texts: Sequence[str], n: int) -> sparse.csr_array:
    """How often each n-gram of the collection occurs in each text: int64, (texts, distinct n-grams).

    A text of fewer than n tokens has an empty row. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has one token or more")
    columns: dict[tuple[str, ...], int] = {}
    found: list[int] = []
    ends = [0]
    for text in texts:
        words = tokens(text=text)
        grams = zip(*(words[start:] for start in range(n)), strict=False)
        found += [columns.setdefault(gram, len(columns)) for gram in grams]
        ends.append(len(found))
    ones = np.ones(len(found), dtype=np.int64)
    counts = sparse.csr_array((ones, np.array(found, dtype=np.int64), ends), shape=(len(texts), len(columns)))
    counts.sum_duplicates()
    return counts


def distinct_share(*, counts: np.ndarray, at: int | None = None) -> float:
    """Expected share of distinct n-grams among `at` of them: Σ_u [1 − C(T−c_u, at)/C(T, at)] / at, in 1/at..1.

    counts: int64, how often each n-gram occurs, T their sum. `at` of the T are drawn without replacement: the same
    rarefaction as MUI's (Hurlbert 1971), with n-grams in the place of samples, so it needs no cut. None: all T, which
    is distinct-n itself. Raises ValueError for no n-grams or fewer than `at`.
    """
    total = int(counts.sum())
    if not 1 <= (total if at is None else at) <= total:
        raise ValueError(f"found {total} n-grams, but {at or 1} are needed; give more or longer texts")
    length = total if at is None else at
    occurring = np.bincount(counts)
    occurring[0] = 0
    return float((1.0 - absent(n=total, m=length)[: len(occurring)]) @ occurring) / length


def distinct_n(*, texts: Sequence[str], n: int, at: int | None = None) -> float:
    """Distinct-n: distinct n-grams / all n-grams of the texts together, above 0, at most 1 (Li et al. 2016).

    It falls with length, so compare sets of texts at one number of n-grams, `at` (see `distinct_share`).
    Raises ValueError where no text has n tokens, or where there are fewer than `at` n-grams.
    """
    return distinct_share(counts=np.asarray(ngram_counts(texts=texts, n=n).sum(axis=0)), at=at)


def compression_ratio(*, texts: Sequence[str], at: int | None = None) -> float:
    """UTF-8 bytes of the texts, joined by line breaks, / their bytes after zlib; high means repetitive.

    Around 1 to 1,000. zlib's own 8 to 11 bytes lower it on short text, below 1 for a few words, and it rises with
    length, so compare sets of texts at one number of bytes, `at`: what lies behind is cut off, and the texts' order
    should be random. zlib looks back 32 KiB, so what repeats farther apart is not seen.
    Raises ValueError for no text, fewer than `at` bytes, or nothing but white space in these: line breaks repeat too.
    """
    raw = "\n".join(texts).encode()
    if not 1 <= (len(raw) if at is None else at) <= len(raw):
        raise ValueError(f"found {len(raw)} bytes of text, but {at or 1} are needed; give more or longer texts")
    cut = raw if at is None else raw[:at]
    if not cut.decode(errors="replace").strip():
        raise ValueError(f"the first {len(cut)} bytes hold nothing but white space; give texts with characters")
    return len(cut) / len(zlib.compress(cut, LEVEL))
