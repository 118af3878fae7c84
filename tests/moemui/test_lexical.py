"""Lexical diversity: distinct-n by hand and by enumeration, its rarefaction, zlib's ratio, what has none."""

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemui.diversity import lexical

WORDS = st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), min_size=1, max_size=4)


def test_tokens_are_words_and_marks():
    assert lexical.tokens(text=" The cat's 4+5=9;\nthe END_2. ") == [
        "the", "cat", "'", "s", "4", "+", "5", "=", "9", ";", "the", "end_2", "."
    ]  # fmt: skip
    assert lexical.tokens(text=" \n") == []


def test_text_is_prompt_and_response():
    assert lexical.text_of(record={"prompt": "add 1 2 =", "response": " 3", "gold": " 3"}) == "add 1 2 = 3"


def test_distinct_n_by_hand():
    texts = ["a b a b", "a b", "c", ""]
    assert lexical.distinct_n(texts=texts, n=1) == pytest.approx(3 / 7)
    # ab ba ab | ab: two kinds of four; no 2-gram crosses from one text into the next
    assert lexical.distinct_n(texts=texts, n=2) == pytest.approx(2 / 4)
    assert lexical.distinct_n(texts=texts, n=4) == 1.0


def test_counts_by_text_leave_short_texts_empty():
    counts = lexical.ngram_counts(texts=["a b a b", "b", "", "b a"], n=2)
    assert counts.toarray().tolist() == [[2, 1], [0, 0], [0, 0], [0, 1]]


def test_at_a_fixed_number_of_tokens_as_all_subsets_say():
    words = list("aaabbc")
    every = [len(set(chosen)) / 3 for chosen in itertools.combinations(words, 3)]
    assert lexical.distinct_n(texts=[" ".join(words)], n=1, at=3) == pytest.approx(np.mean(every))


def test_rarefaction_takes_the_length_out_of_distinct_n():
    rng = np.random.default_rng(0)
    short, long = (" ".join(f"w{i}" for i in rng.integers(0, 500, size)) for size in (400, 4000))
    assert lexical.distinct_n(texts=[long], n=1) < 0.3 * lexical.distinct_n(texts=[short], n=1)
    found = [lexical.distinct_n(texts=[text], n=1, at=300) for text in (short, long)]
    # the expected number of different ones among 300 of 500 equally likely words
    assert found == pytest.approx([500 * (1 - (1 - 1 / 500) ** 300) / 300] * 2, rel=0.03)


@given(WORDS, st.integers(1, 3))
def test_distinct_n_counts_what_a_set_holds(texts, n):
    grams = [
        tuple(words[start : start + n])
        for words in (text.split() for text in texts)
        for start in range(len(words) - n + 1)
    ]
    if not grams:
        with pytest.raises(ValueError, match="found 0 n-grams, but 1 are needed"):
            lexical.distinct_n(texts=texts, n=n)
        return
    assert lexical.distinct_n(texts=texts, n=n) == pytest.approx(len(set(grams)) / len(grams))
    rarefied = [lexical.distinct_n(texts=texts, n=n, at=at) for at in range(1, len(grams) + 1)]
    assert rarefied[0] == pytest.approx(1.0)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rarefied))


def test_too_few_n_grams_are_refused():
    with pytest.raises(ValueError, match="found 2 n-grams, but 3 are needed; give more or longer texts"):
        lexical.distinct_n(texts=["a b"], n=1, at=3)
    with pytest.raises(ValueError, match="n is 0; an n-gram has one token or more"):
        lexical.distinct_n(texts=["a b"], n=0)


def test_compression_ratio_is_zlibs():
    raw = "\n".join(["one two", "drei vier"]).encode()
    assert lexical.compression_ratio(texts=["one two", "drei vier"]) == len(raw) / len(zlib.compress(raw, 9))


def test_compression_ratio_sees_repetition_and_zlibs_header():
    letters = "".join(np.random.default_rng(1).choice(list("abcdefghijklmnop"), 4000))
    # 16 letters equally likely are 4 bits each, so no coder gets far below half of the bytes
    assert lexical.compression_ratio(texts=[letters]) == pytest.approx(2, rel=0.15)
    assert lexical.compression_ratio(texts=["ab"] * 2000) > 50
    assert lexical.compression_ratio(texts=["abc"]) == pytest.approx(3 / 11)  # 3 bytes, 8 of header and checksum


def test_compression_is_compared_at_a_number_of_bytes():
    assert lexical.compression_ratio(texts=["ab", "ä"], at=3) == lexical.compression_ratio(texts=["ab", ""])
    with pytest.raises(ValueError, match="found 5 bytes of text, but 6 are needed"):
        lexical.compression_ratio(texts=["ab", "ä"], at=6)
    with pytest.raises(ValueError, match="found 0 bytes of text, but 1 are needed"):
        lexical.compression_ratio(texts=[""])


@pytest.mark.parametrize(("texts", "at"), [([""] * 50, None), ([" ", "\n\t"], None), ([*[""] * 50, "ab"], 50)])
def test_line_breaks_alone_are_no_text_to_compress(texts, at):
    with pytest.raises(ValueError, match=r"the first \d+ bytes hold nothing but white space; give texts with char"):
        lexical.compression_ratio(texts=texts, at=at)


def test_half_a_letter_is_text():
    assert lexical.compression_ratio(texts=["ä"], at=1) == pytest.approx(1 / 9)
