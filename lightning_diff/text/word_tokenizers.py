"""Tokenizers of given words, in transformers' classes for CLIP and T5: each word is one token, others are cut into letters.

Merges that end in whole words make each of them one token of CLIP's byte-pair encoding; T5's unigrams have
the words as pieces, far more likely than their letters.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..foundation.extras import required

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # of a token that ends a word
WORD, LETTER = -1.0, -20.0  # log-probabilities of T5's pieces


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The distinct words of texts, sorted."""
    return tuple(sorted({word for text in texts for word in text.split()}))


def clip_tokenizer(words: Sequence[str], tokens: int) -> Any:
    """CLIP's, which writes everything small; padded with its end token to `tokens`."""
    transformers = required("transformers", "text.RandomEncoders")
    tokenizers = required("tokenizers", "text.RandomEncoders")
    empty = transformers.CLIPTokenizer().backend_tokenizer
    pieces = {
        piece
        for word in words
        for piece, _ in empty.pre_tokenizer.pre_tokenize_str(empty.normalizer.normalize_str(word))
    }
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(sorted(pieces))
    names = dict.fromkeys(
        [*letters, *(f"{letter}{SUFFIX}" for letter in letters), *("".join(merge) for merge in merges)]
    )
    vocabulary = {name: number for number, name in enumerate([*names, START, END])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of byte-pair encoding, in order of rank, that make each of these words one token.

    Not learned: a trainer breaks ties by the order of a hash table, which differs from process to process. Each word is encoded by
    the pairs so far, and what is left of it joined from its beginning. Pairs that come later leave the words before as they are:
    until such a word is whole, there is a pair of a lower rank.
    """
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}{SUFFIX}"]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            known = [pair for pair in pairs if pair in rank]
            best = min(known, key=rank.__getitem__) if known else pairs[0]
            rank.setdefault(best, len(rank))
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
    return list(rank)


def t5_tokenizer(words: Sequence[str], tokens: int) -> Any:
    """T5's."""
    transformers = required("transformers", "text.RandomEncoders")
    whole = dict.fromkeys(f"▁{word}" for each in words for word in (each, each.lower()))
    letters = sorted(
        {letter for word in words for letter in word + word.lower()} | set("abcdefghijklmnopqrstuvwxyz") | {"▁"}
    )
    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    pieces += [(piece, WORD) for piece in whole] + [(letter, LETTER) for letter in letters if letter not in whole]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens)
