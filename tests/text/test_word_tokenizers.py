"""Tokenizers of given words: every word one token, the same number in every process."""

import subprocess
import sys

import pytest

from lightning_diff.text.word_tokenizers import _merges, clip_tokenizer, t5_tokenizer, words_of

pytest.importorskip("transformers")
TEXTS = [
    "a handwritten seven",
    "even nine please draw",
    "this figure should be eight",
    "an old scan of ten tens tense",
    "aa aaa aaaa",
]
WORDS = words_of(TEXTS)
PROGRAM = f"""
from lightning_diff.text.word_tokenizers import clip_tokenizer, words_of
tokenizer = clip_tokenizer(words_of({TEXTS!r}), 12)
print([tokenizer(text).input_ids for text in {TEXTS!r}])
"""


@pytest.mark.parametrize("kind", [clip_tokenizer, t5_tokenizer])
def test_every_word_is_one_token_of_its_own(kind):
    tokenizer = kind(WORDS, 12)
    around = len(tokenizer("").input_ids)
    ids = [tokenizer(word).input_ids for word in WORDS]
    assert {len(each) for each in ids} == {around + 1}
    assert len({tuple(each) for each in ids}) == len(WORDS)


def test_a_word_keeps_its_pairs_when_others_come_after():
    assert _merges(WORDS)[: len(_merges(WORDS[:5]))] == _merges(WORDS[:5])


@pytest.mark.whole
def test_numbers_of_tokens_are_the_same_in_every_process():
    printed = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    tokenizer = clip_tokenizer(WORDS, 12)
    assert printed == {f"{[tokenizer(text).input_ids for text in TEXTS]}\n"}
