"""Blank examples with a stream of noise and labels: for runs that learn from a model's own trajectories."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..artifacts import ModelRecord, load_autoencoder, places, read_record
from ..autoencoders import Autoencoder
from ..foundation.errors import NotHereError, UserError
from .image_set import Indices
from .source import Data, Facts

N = 8192  # examples in an epoch, each class equally often where they divide it


@dataclass(eq=False, kw_only=True)
class Noise(Data):
    """The noise and the labels of the training stream for a trained model, beside blank images.

    Args:
        model: run folder, name of one in runs/, or model file, for shape, number of classes and sigma_data.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("model",)  # the module compares the hash of its weights

    model: str

    def load(self) -> tuple["_Blank", None]:
        if self.flip or self.augment:
            raise UserError("Noise: there are no images to flip or augment; leave it out")
        return _Blank(self._record.shape, self._record.num_classes, self._record.class_names), None

    @property
    def _record(self) -> ModelRecord:
        if not places.find(self.model).exists():
            raise NotHereError(f"data.model: {self.model}: no such model; train it first")
        return read_record(self.model)

    @cached_property
    def autoencoder(self) -> Autoencoder | None:  # type: ignore[override]
        """The model's own: rewards and pictures see images."""
        return load_autoencoder(self.model)

    def facts(self) -> Facts:
        return super().facts() | {"sigma_data": self._record.sigma_data}


class _Blank:
    """Examples of zeros."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.name, self.shape, self.num_classes, self.labelled = "noise", shape, num_classes, num_classes > 0

    def __len__(self) -> int:
        return N

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        return self.images(indices), self.label(indices) if self.labelled else None

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return torch.zeros(len(indices), *self.shape)

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        return torch.as_tensor(indices, dtype=torch.int64) % self.num_classes

    def std(self) -> float:
        return 1.0

    def fingerprint(self) -> str:
        return f"noise {self.shape} {self.num_classes}"
