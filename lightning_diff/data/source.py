"""A source of examples: what a recipe's `data` node names."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import ClassVar, TypedDict

from ..autoencoders import Autoencoder
from ..condition import Condition, Prompts, Shapes
from ..foundation.errors import UserError
from ..text import TextEncoder
from . import class_names
from .augment import Augment
from .buckets import Buckets
from .image_set import NOWHERE, Examples, Origin
from .part import split


class Facts(TypedDict):
    """What networks and denoisers take from the data."""

    shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...]
    sigma_data: float
    augment_dim: int
    condition_shapes: Shapes


@dataclass(eq=False)
class Data:
    """A training set, perhaps a held-out set, and how training draws from them.

    A subclass says where the examples come from, in one method, `load`. Building one reads nothing; `setup()`, or the
    first look at an example or a fact, does.

    Args:
        batch_size: images per optimiser step, over all devices and accumulated micro-batches.
        flip: mirror every training image left to right with probability 1/2.
        augment: EDM's augmentations, on which the network is conditioned; None for none.
        workers: loader processes on each device; 0 reads in the training process, which is best for images in memory.
        conditional: False ignores the labels: the model is unconditional.
        hold_out: images that are held out of the training set, chosen at random, the same ones in every run: for measures and
            validation, where the source has no test set of its own.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("workers", "test_*")
    autoencoder: ClassVar[Autoencoder | None] = None  # of latents: what makes images of them
    text: ClassVar[TextEncoder | None] = None  # of data with prompts: what encodes them

    batch_size: int
    _: KW_ONLY
    flip: bool = False
    augment: Augment | None = None
    workers: int = 0
    conditional: bool = True
    hold_out: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"{self.name}: batch_size must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ValueError(f"{self.name}: workers must not be negative, got {self.workers}")
        if self.hold_out < 0:
            raise ValueError(f"{self.name}: hold_out must not be negative, got {self.hold_out}")

    def load(self) -> tuple[Examples, Examples | None]:
        """The training set and the held-out set (None if there is none). Called once."""
        raise NotImplementedError(f"{type(self).__name__} must define load(), which returns (train, test or None)")

    def setup(self) -> None:
        """Load and check the examples; a second call does nothing.

        Raises:
            UserError: sets of different shapes, test labels that training lacks, constant images, flips of what is
                no image.
        """
        _ = self._sets, self.sigma_data

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def train(self) -> Examples:
        return self._sets[0]

    @property
    def test(self) -> Examples | None:
        return self._sets[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (C, H, W) for images. Of images in buckets, that of samples."""
        return self.train.shape

    @property
    def in_buckets(self) -> Buckets | None:
        """Which of several shapes each training example has; None where all have one."""
        buckets: Buckets | None = getattr(self.train, "buckets", None)
        return buckets

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All shapes that training examples have: `shape`, or those of the buckets."""
        return (self.shape,) if (buckets := self.in_buckets) is None else buckets.shapes

    @property
    def num_classes(self) -> int:
        """0 if unlabelled or not conditional."""
        return self.train.num_classes if self.conditional else 0

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Names and shapes, for one example, of what examples are conditioned on beside labels; None for nothing."""
        shapes: Shapes | None = getattr(self.train, "condition_shapes", None)
        if not self.conditional or not shapes:
            return None
        return {name: tuple(shape) for name, shape in shapes.items()}

    @property
    def null_condition(self) -> Condition | None:
        """One row that stands for "no condition": of the empty prompt, for instance; None where there is none."""
        null: Condition | None = getattr(self.train, "null_condition", None)
        return null

    @property
    def pictured(self) -> "Data":
        """What figures are measured against: of latents, the images that they are of; else these data themselves."""
        return self

    @property
    def prompts(self) -> Prompts | None:
        """What a text-conditional model of these data is sampled with where nobody says; None where there are no texts."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes, in order of label; () where they have numbers alone."""
        return class_names.complete(_names(self.train), self.num_classes)

    @cached_property
    def sigma_data(self) -> float:
        """Standard deviation over all values of the training set, to four significant digits.

        Rounded, because it enters every weight of the preconditioning and must not depend on the order of a sum.
        """
        std = float(f"{self.train.std():.4g}")
        if not std > 1e-6:  # of equal values, rounding leaves up to 1e-8
            raise UserError(f"{self.name}: all training values are equal; there is nothing to learn")
        return std

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the training pixels and labels, in hexadecimal digits: a resumed run must find the same one."""
        return self.train.fingerprint()

    def facts(self) -> Facts:
        """What networks and denoisers take from the data."""
        return {
            "shape": self.shape,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "sigma_data": self.sigma_data,
            "augment_dim": 0 if self.augment is None else self.augment.dim,
            "condition_shapes": {name: list(shape) for name, shape in (self.condition_shapes or {}).items()},
        }

    def summary(self) -> str:
        """One line: how many examples, of what size, with which classes and from where, and what was passed over."""
        (train, test), words = self._sets, _origin(self.train)
        labels = "no labels"
        if train.labelled:
            labels = f"{train.num_classes} classes" if self.conditional else "labels not used"
        parts = [
            f"{len(train):,} {kind_of_images(train.shape, about=self.in_buckets is not None)}"
            + (f" from {words.where}" if words.where else ""),
            labels + (f" by {words.labels}" if words.labels else "") + self._named(),
        ]
        parts += words.notes
        if (buckets := self.in_buckets) is not None:
            parts.append(buckets.summary(self.batch_size))
        if test is not None:
            parts += [f"{len(test):,} held out", *(note for note in _origin(test).notes if note not in words.notes)]
        return f"{self.name}: {'; '.join(parts)}"

    def _named(self) -> str:
        """The classes by name, for the summary."""
        return f" ({class_names.listed(self.class_names)})" if self.class_names else ""

    @cached_property
    def _sets(self) -> tuple[Examples, Examples | None]:
        train, test = self._after_hold_out(*self.load())
        if self.flip and getattr(train, "mirrors", False) and not getattr(train, "flip", False):
            raise UserError(f"{self.name}: flip would mirror latents; set flip of the Latents, which mirrors images")
        if (self.flip or self.augment) and len(train.shape) != 3:
            raise UserError(f"{self.name}: flip and augment need images (C, H, W), got examples of shape {train.shape}")
        if test is not None:
            if test.shape != train.shape:
                raise UserError(f"{self.name}: training images are {train.shape}, test images {test.shape}")
            if test.labelled != train.labelled and self.conditional:
                labelled, bare = ("test", "training") if test.labelled else ("training", "test")
                raise UserError(f"{self.name}: the {labelled} images have labels, the {bare} images have none")
            if test.num_classes > train.num_classes:
                raise UserError(
                    f"{self.name}: the test images have {test.num_classes} classes, training has {train.num_classes}"
                )
            if self.conditional:
                class_names.refuse_other_order(self.name, _names(train), _names(test))
        return train, test

    def _after_hold_out(self, train: Examples, test: Examples | None) -> tuple[Examples, Examples | None]:
        """The sets after `hold_out`."""
        if not self.hold_out:
            return train, test
        if test is not None:
            raise UserError(
                f"{self.name}: hold_out is for a source without a test set; this one has {len(test):,} images in it"
            )
        if self.hold_out >= len(train):
            raise UserError(f"{self.name}: hold_out is {self.hold_out}, and there are {len(train)} images")
        return split(train, self.hold_out)


def _names(examples: Examples) -> Sequence[str]:
    names: Sequence[str] = getattr(examples, "class_names", ())  # a class of the user's may say nothing
    return names


def _origin(examples: Examples) -> Origin:
    origin: Origin = getattr(examples, "origin", NOWHERE)  # a class of the user's may say nothing
    return origin


def kind_of_images(shape: Sequence[int], *, about: bool = False) -> str:
    """Size and colours, in words; `about` where that is the size of some."""
    if len(shape) != 3:
        return f"examples of shape {tuple(shape)}"
    channels, height, width = shape
    return (
        f"images of {'about ' * about}{width}x{height}, {({1: 'grey', 3: 'RGB'}).get(channels, f'{channels} channels')}"
    )
