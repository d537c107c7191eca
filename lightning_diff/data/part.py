"""Some of a source's examples, held out of the others or what is left."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..condition import AnyCondition, Condition, Shapes
from ..foundation import rng
from .buckets import Buckets
from .caption_texts import Wordings, of_data
from .image_set import NOWHERE, Examples, Indices, Origin

TakeAt = Callable[[Indices, int, Int64[np.ndarray, " n"]], tuple[Tensor, AnyCondition | None]]


class Part:
    """The examples of another set at some places, in this order.

    Args:
        whole: the set.
        places: indices into it.
        name: what messages and reports call it.
    """

    def __init__(self, whole: Examples, places: Int64[np.ndarray, " n"], name: str):
        self.whole, self.places, self.name = whole, places, name
        self.shape, self.labelled, self.num_classes = whole.shape, whole.labelled, whole.num_classes
        self.class_names: Sequence[str] = getattr(whole, "class_names", ())
        self.origin: Origin = getattr(whole, "origin", NOWHERE)
        self.condition_shapes: Shapes | None = getattr(whole, "condition_shapes", None)
        self.null_condition: Condition | None = getattr(whole, "null_condition", None)
        self.mirrors, self.flip = getattr(whole, "mirrors", False), getattr(whole, "flip", False)  # of latents
        names: Sequence[str] = getattr(whole, "names", ())  # of files
        buckets: Buckets | None = getattr(whole, "buckets", None)
        self.buckets = None if buckets is None else buckets.part(places)
        self.names = tuple(names[i] for i in places.tolist()) if names else ()

    def __len__(self) -> int:
        return len(self.places)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], AnyCondition | None]:
        return self.whole.take(self._places(indices))

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n ..."], AnyCondition | None]:
        """As training sees them at these positions; see `stream.taken`."""
        take_at: TakeAt | None = getattr(self.whole, "take_at", None)
        places = self._places(indices)
        return self.whole.take(places) if take_at is None else take_at(places, seed, positions)

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return self.whole.images(self._places(indices))

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        return self.whole.label(self._places(indices))

    def texts(self, key: str) -> Wordings:
        """Captions of the images, from the data; see `caption_texts.of_data`."""
        every = of_data(self.whole, key)
        return [every[i] for i in self.places.tolist()]

    def std(self) -> float:
        """Of the whole set: held out at random, the part has the same but for chance."""
        return self.whole.std()

    def fingerprint(self) -> str:
        return hashlib.sha256(self.whole.fingerprint().encode() + self.places.tobytes()).hexdigest()

    def _places(self, indices: Indices) -> Int64[np.ndarray, " n"]:
        chosen: Int64[np.ndarray, " n"] = self.places[np.asarray(torch.as_tensor(indices))]
        return chosen


def of_bucket(examples: Examples, number: int) -> Part:
    """The examples of one bucket, all of one shape."""
    buckets: Buckets = examples.buckets  # type: ignore[attr-defined]
    part = Part(examples, buckets.members[number], examples.name)
    part.shape, part.buckets = buckets.shapes[number], None
    return part


def split(examples: Examples, held_out: int) -> tuple[Part, Part]:
    """The training set and the held-out one: `held_out` examples chosen at random, the same ones in every run.

    Args:
        examples: at least two.
        held_out: how many, 1 <= held_out < len(examples).
    """
    order = rng.permutation(0, "held out", 0, len(examples))
    train, test = np.sort(order[held_out:]), np.sort(order[:held_out])
    return Part(examples, train, examples.name), Part(examples, test, f"{examples.name}, held out")
