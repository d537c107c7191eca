"""A network and data that are conditioned on named tensors: the points of `data.Toy`, each with the embedding of a sentence on its class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_diff.condition import Condition, NullCondition, Prompts
from lightning_diff.data import Data, Toy
from lightning_diff.nets.layers import Linear
from lightning_diff.nets.mlp import MLP

SHAPES = {"text": (3, 4), "mask": (3,)}


def sentences(classes: int, first: int = 0) -> Condition:
    """One sentence of up to 3 words for each class: embeddings in bfloat16's values, and a mask of its words."""
    draw = torch.Generator().manual_seed(17 + first)
    text = torch.randn(classes, 3, 4, generator=draw).bfloat16().float()
    mask = torch.arange(3) <= torch.arange(classes)[:, None] % 3
    return Condition({"text": text, "mask": mask})


class TextNet(nn.Module):
    """An MLP whose embedding has the mean of the words added.

    Args:
        shape: of one sample.
        condition_shapes: "text" and "mask".
        width, dropout, guided: of the MLP.
    """

    def __init__(
        self,
        shape: Sequence[int],
        condition_shapes: Mapping[str, Sequence[int]],
        width: int = 16,
        dropout: float = 0.0,
        guided: bool = False,
    ):
        super().__init__()
        self.shape, self.num_classes, self.guided = tuple(shape), 0, guided
        self.condition_shapes = {name: tuple(each) for name, each in condition_shapes.items()}
        self.words = Linear(self.condition_shapes["text"][1], self.shape[0])
        self.mlp = MLP(shape, width=width, depth=1, dropout=dropout, guided=guided)
        self.null = NullCondition(self.condition_shapes)

    @property
    def null_condition(self) -> Condition | None:
        return self.null.row

    def keep_null_condition(self, condition: Condition) -> None:
        self.null.keep(condition)

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        if condition is None:
            if self.null.row is None:
                raise ValueError("TextNet: no condition, and no null condition is known")
            condition = self.null.row.expand(len(x))
        text, mask = condition.tensors["text"], condition.tensors["mask"]
        mean = (text * mask[..., None]).sum(1) / mask.sum(1).clamp(min=1)[:, None]
        return self.mlp(x + self.words(mean.to(x.dtype)), c_noise, None, guidance)


@dataclass(eq=False, kw_only=True)
class TextToy(Toy):
    """Points of the plane, each with the sentence of its class."""

    conditional: bool = True

    def load(self):
        return tuple(Captioned(each) for each in super().load())

    @property
    def prompts(self) -> Prompts:
        return Prompts([f"class {i}" for i in range(8)], sentences(8))


class Captioned:
    """Examples with a condition in place of labels."""

    labelled, num_classes, condition_shapes = False, 0, SHAPES

    def __init__(self, examples):
        self.examples, self.name, self.shape = examples, examples.name, examples.shape
        self.table, self.null_condition = sentences(8), sentences(1, first=100)

    def __len__(self):
        return len(self.examples)

    def take(self, indices):
        return self.examples.images(indices), self.table[self.examples.label(indices)]

    def images(self, indices):
        return self.examples.images(indices)

    def label(self, indices):
        raise AssertionError("there are none")

    def std(self):
        return self.examples.std()

    def fingerprint(self):
        return self.examples.fingerprint()


class Unprompted(TextToy):
    """Without prompts to sample with."""

    prompts = None


class OtherToy(TextToy):
    """With sentences of another length."""

    @property
    def condition_shapes(self):
        return {"text": (3, 5), "mask": (3,)}


def to_the_right(images, label):
    """To the right, and for the even prompts up."""
    return images[:, 0] + images[:, 1] * (label % 2 == 0)


@dataclass(eq=False, kw_only=True)
class Drawn(Data):
    """Examples of any shape and condition, drawn at random by their number.

    Args:
        size: shape of an example.
        conditions: shapes of its condition, by name; a name with "mask" has a mask.
        classes: in place of it.
    """

    size: Sequence[int]
    conditions: Mapping[str, Sequence[int]] | None = None
    classes: int = 0
    n: int = 64

    def load(self):
        return Random(self.n, self.size, self.conditions or {}, self.classes), None

    @property
    def prompts(self) -> Prompts | None:
        return Prompts("abcd", self.train.take(torch.arange(4))[1]) if self.conditions else None


class Random:
    """Examples of `Drawn`."""

    name = "random"

    def __init__(self, n, size, conditions, classes):
        self.n, self.shape, self.num_classes, self.labelled = n, tuple(size), classes, classes > 0
        self.condition_shapes = {name: tuple(conditions[name]) for name in sorted(conditions)}
        self.values, self.conditions = self._drawn(n, 1)
        self.null_condition = self._drawn(1, 2)[1]

    def _drawn(self, n, seed):
        draw = torch.Generator().manual_seed(seed)
        values = {name: torch.randn(n, *each, generator=draw) for name, each in self.condition_shapes.items()}
        for name, (length, *_) in self.condition_shapes.items():
            if "mask" in name:
                values[name] = (torch.arange(length) <= torch.arange(n)[:, None] % length).float()
            elif name in ("time_ids", "resolution"):
                values[name] = torch.full((n, length), 64.0)
        return torch.randn(n, *self.shape, generator=draw), Condition(values) if values else None

    def __len__(self):
        return self.n

    def take(self, indices):
        rows = torch.as_tensor(indices)
        given = self.label(rows) if self.labelled else None if self.conditions is None else self.conditions[rows]
        return self.values[rows], given

    def images(self, indices):
        return self.values[torch.as_tensor(indices)]

    def label(self, indices):
        return torch.as_tensor(indices) % self.num_classes

    def std(self):
        return 1.0

    def fingerprint(self):
        return f"random {self.shape}"
