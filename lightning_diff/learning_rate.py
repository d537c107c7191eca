"""Learning rates as functions of images seen: a factor in [0, 1] that multiplies the optimiser's own rate.

Counting images, not steps, keeps the curve where it is when the batch size changes. Each schedule warms up linearly first.
A length may be given as a part of the run (a share between 0 and 1; see `foundation.lengths`), so that the curve ends with the run
and a short trial of a long recipe has the shape of the whole: recipes and modules put images in its place before it is called.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

from .foundation.lengths import Length, in_images, is_part, refuse


@runtime_checkable
class LearningRate(Protocol):
    """images seen -> factor."""

    def __call__(self, images: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over `warmup` images, then 1 (EDM, arXiv 2206.00364, table 7: 10 Mimg on CIFAR-10).

    Args:
        warmup: images, or a share of the run between 0 and 1.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("warmup",)

    warmup: int | float = 0

    def __post_init__(self) -> None:
        refuse("Constant", warmup=self.warmup)

    def __call__(self, images: int) -> float:
        return _ramp(images, _known("Constant", "warmup", self.warmup))


@dataclass(frozen=True)
class Cosine:
    """Warm-up, then half a cosine that reaches `floor` at `total` images and stays there.

    Args:
        total: images, or a share of the run between 0 and 1. None: it ends with the run.
        warmup: images, or a share of the run; less than `total`.
        floor: factor at the end, in [0, 1].
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("total", "warmup")

    total: int | float | None = None
    warmup: int | float = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        refuse("Cosine", total=self.total, warmup=self.warmup)
        alike = self.total is not None and is_part(self.total) == is_part(self.warmup or self.total)
        if alike and not 0 <= self.warmup < (self.total or 0):
            raise ValueError(f"Cosine: need 0 <= warmup < total, got warmup={self.warmup}, total={self.total}")

    def __call__(self, images: int) -> float:
        total, warmup = _known("Cosine", "total", self.total), _known("Cosine", "warmup", self.warmup)
        share = min(max(images - warmup, 0) / (total - warmup), 1.0)
        return _ramp(images, warmup) * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True)
class InverseSqrt:
    """Warm-up, then 1 / sqrt(max(images / reference, 1)) (EDM2, arXiv 2312.02696, eq. 67).

    Args:
        reference: images from which on the rate falls, or a share of the run between 0 and 1.
        warmup: images, or a share of the run.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("reference", "warmup")

    reference: int | float
    warmup: int | float = 0

    def __post_init__(self) -> None:
        refuse("InverseSqrt", reference=self.reference, warmup=self.warmup)
        if not self.reference > 0:
            raise ValueError(f"InverseSqrt: reference must be at least 1 image, got {self.reference}")

    def __call__(self, images: int) -> float:
        reference = _known("InverseSqrt", "reference", self.reference)
        return _ramp(images, _known("InverseSqrt", "warmup", self.warmup)) / math.sqrt(max(images / reference, 1.0))


def parts(schedule: LearningRate) -> dict[str, Length]:
    """The lengths of a schedule that are parts of a run, by name."""
    names = getattr(type(schedule), "OF_RUN", ())
    return {name: length for name in names if is_part(length := getattr(schedule, name))}


def over(schedule: LearningRate, run: int) -> LearningRate:
    """The schedule of a run of so many images: itself, with images in the place of parts.

    One of the user's own that has `OF_RUN` is a dataclass.
    """
    if not (relative := parts(schedule)):
        return schedule
    lengths = in_images({name: getattr(schedule, name) for name in type(schedule).OF_RUN}, run)  # type: ignore[attr-defined]
    return replace(schedule, **{name: lengths[name] for name in relative})  # type: ignore[type-var]


def _known(owner: str, name: str, length: Length) -> int | float:
    if length is None or is_part(length):
        raise ValueError(
            f"{owner}: {name} is a part of a run ({length}); learning_rate.over(schedule, images) says of which"
        )
    return length


def _ramp(images: int, warmup: int | float) -> float:
    return min(images / warmup, 1.0) if warmup else 1.0
