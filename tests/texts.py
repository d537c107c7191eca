"""A text encoder that needs no library: how often a text has each letter; and a network for pictures that takes what it gives."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_diff.condition import Condition, NullCondition

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Letters:
    """Half the letters in each of two tokens, and the length beside them; `calls` counts texts.

    Args:
        scale: of the embeddings.
    """

    def __init__(self, scale: float = 1.0):
        self.scale, self.calls, self.released = scale, 0, 0

    def encode(self, prompts: Sequence[str]) -> Condition:
        self.calls += len(prompts)
        counts = torch.tensor([[text.count(letter) for letter in LETTERS] for text in prompts], dtype=torch.float32)
        lengths = torch.tensor([[len(text)] for text in prompts])
        return Condition({"letters": self.scale * counts.reshape(-1, 2, 13), "length": lengths})

    def null(self) -> Condition:
        return self.encode([""])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"letters": (2, 13), "length": (1,)}

    def fingerprint(self) -> str:
        return hashlib.sha256(str(self.scale).encode()).hexdigest()

    def save(self, folder: Path | str) -> dict[str, tuple[str, str]]:
        (Path(folder) / "letters.json").write_text(json.dumps(LETTERS))
        return {}

    def node(self) -> dict[str, object]:
        return {"_target_": "texts.Letters", "scale": self.scale}

    def call_arguments(self) -> Mapping[str, object]:
        return {}

    def release(self) -> None:
        self.released += 1


class LetterNet(nn.Module):
    """A linear map of the picture and of the letters."""

    def __init__(self, shape: Sequence[int], condition_shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        self.shape, self.num_classes = tuple(shape), 0
        self.condition_shapes = {name: tuple(each) for name, each in condition_shapes.items()}
        size = torch.Size(self.shape).numel()
        self.map, self.of_letters = nn.Linear(size, size), nn.Linear(26, size)
        self.null = NullCondition(self.condition_shapes)

    @property
    def null_condition(self) -> Condition | None:
        return self.null.row

    def keep_null_condition(self, condition: Condition) -> None:
        self.null.keep(condition)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        if condition is None:
            assert self.null.row is not None
            condition = self.null.row.expand(len(x))
        letters = condition.tensors["letters"].to(x.dtype).flatten(1)
        return (self.map(x.flatten(1)) + self.of_letters(letters)).reshape(x.shape)
