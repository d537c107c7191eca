"""Blank examples with a stream of noise and labels: for runs that learn from a model's own trajectories."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..artifacts import ModelRecord, encoded_prompts, load_autoencoder, load_text, places, read_record
from ..autoencoders import Autoencoder
from ..condition import Prompts
from ..foundation.errors import NotHereError, UserError
from ..text import PromptList, TextEncoder, read_prompts
from .augment import Augment
from .image_set import Indices
from .source import Data, Facts

N = 8192  # examples in an epoch, each class equally often where they divide it


class Noise(Data):
    """The noise and the labels of the training stream for a trained model, beside blank images.

    Args:
        batch_size: trajectories per optimiser step.
        model: run folder, name of one in runs/, or model file, for shape, number of classes and sigma_data.
        prompts: of a text-conditional model, whose numbers are the labels: a file (see `text.read_prompts`) or a list;
            None for those of its record. The classes that a file tells, or the record of the same texts, are what rewards and
            figures by class see.
        flip, augment, workers, conditional: see `Data`; there is nothing to flip or augment.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("model",)  # the module compares the hash of its weights

    def __init__(
        self,
        batch_size: int,
        *,
        model: str,
        prompts: str | Sequence[str] | None = None,
        flip: bool = False,
        augment: Augment | None = None,
        workers: int = 0,
        conditional: bool = True,
    ):
        super().__init__(batch_size, flip=flip, augment=augment, workers=workers, conditional=conditional)
        self.model, self._asked = model, prompts

    def load(self) -> tuple["_Blank", None]:
        if self.flip or self.augment:
            raise UserError("Noise: there are no images to flip or augment; leave it out")
        record = self._record
        if (told := self.prompts) is not None:
            return _Blank(record.shape, len(told), told.texts, has_prompts=True), None
        if record.conditions.takes_condition:  # and so its null condition alone
            return _Blank(record.shape, 0, ()), None
        return _Blank(record.shape, record.num_classes, record.class_names), None

    @cached_property
    def prompts(self) -> Prompts | None:
        record, asked = self._record, self._asked
        if not record.conditions.takes_condition:
            if asked is not None:
                raise UserError(f"data.prompts: {self.model} is conditioned on no text; leave it out")
            return None
        if asked is not None and not asked:
            raise UserError("data.prompts: there are none; leave it out for those of the model")
        given = self._given()
        found = encoded_prompts(places.find(self.model), record, given)
        if found is not None and given is not None and given.labels is not None and found.labels is None:
            name = next(label for label in given.labels if not str(label).isdecimal())
            raise UserError(f"{given.source}: label {name!r} is a name, and {self.model} knows none; give its number")
        return found

    def _given(self) -> PromptList | None:
        """As the recipe gives them, with the classes that the model's record has of the same texts; None for the record's."""
        record, asked = self._record, self._asked
        if asked is None:
            return None
        given = read_prompts(asked) if isinstance(asked, str) else PromptList(tuple(asked), source="data.prompts")
        known = dict(zip(record.prompts, record.prompt_labels, strict=False))
        if given.labels is not None or not all(text in known for text in given.texts):
            return given
        return given._replace(labels=tuple(known[text] for text in given.texts))

    @property
    def _record(self) -> ModelRecord:
        if not places.find(self.model).exists():
            raise NotHereError(f"data.model: {self.model}: no such model; train it first")
        return read_record(self.model)

    @cached_property
    def autoencoder(self) -> Autoencoder | None:  # type: ignore[override]
        """The model's own: rewards and pictures see images."""
        return load_autoencoder(self.model)

    @cached_property
    def text(self) -> TextEncoder | None:  # type: ignore[override]
        """The model's own: what is trained on its prompts is sampled with prompts."""
        node = self._record.text
        return None if node is None else load_text(node, places.find(self.model))

    def facts(self) -> Facts:
        return super().facts() | {"sigma_data": self._record.sigma_data}


class _Blank:
    """Examples of zeros."""

    def __init__(
        self, shape: tuple[int, ...], num_classes: int, class_names: tuple[str, ...], *, has_prompts: bool = False
    ):
        self.class_names, self.has_prompts = class_names, has_prompts
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
        texts = f" {self.class_names}" if self.has_prompts else ""
        return f"noise {self.shape} {self.num_classes}{texts}"
