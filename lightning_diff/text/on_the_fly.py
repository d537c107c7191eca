"""Embeddings that are made when a batch needs them, for more captions than a disk has room for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..condition import Condition
from .protocol import TextEncoder


class OnTheFly:
    """What `embeddings.Embedded` is, without stored rows: texts are encoded each time, those of a batch together.

    The same batch gives the same numbers; in batches of other texts the last bits of a row may differ, as of any matrix product.

    Args:
        encoder: frozen; runs in whichever process reads the batch.
        texts: all that will be asked for.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str]):
        self.encoder, self.texts = encoder, tuple(dict.fromkeys(texts))
        self.rows = {text: number for number, text in enumerate(self.texts)}
        self.shapes, self.null = encoder.shapes(), encoder.null().to(torch.float32)

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """The numbers of these texts, int64."""
        return torch.tensor([self.rows[text] for text in texts], dtype=torch.int64)

    def condition(self, numbers: Tensor) -> Condition:
        """A row for each of these texts, float32 where they are real numbers; a text that stands there twice is encoded once."""
        distinct, places = numbers.unique(return_inverse=True)
        with torch.no_grad():
            made = self.encoder.encode([self.texts[number] for number in distinct.tolist()])
        return made[places].to(torch.float32)
