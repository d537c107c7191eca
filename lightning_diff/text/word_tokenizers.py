"""Tokenizers of given words, in transformers' classes for CLIP and T5: each word is one token, others are cut into letters.

A list of merges learned to the end from the words makes each of them one token of CLIP's byte-pair encoding; T5's unigrams have
the words as pieces, far more likely than their letters.
"""

import json
from collections.abc import Iterable, Sequence
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
    learned = tokenizers.Tokenizer(tokenizers.models.BPE(continuing_subword_prefix="", end_of_word_suffix=SUFFIX))
    learned.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    enough = 2 * len(letters) + sum(map(len, pieces))  # a merge for each letter of each word
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=enough, min_frequency=1, show_progress=False, end_of_word_suffix=SUFFIX, initial_alphabet=letters
    )
    learned.train_from_iterator(sorted(pieces), trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    names = dict.fromkeys(
        [*letters, *(f"{letter}{SUFFIX}" for letter in letters), *("".join(merge) for merge in merges)]
    )
    vocabulary = {name: number for number, name in enumerate([*names, START, END])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


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
