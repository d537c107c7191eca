"""Learning rates as functions of images seen: a factor in [0, 1] that multiplies the optimiser's own rate.

Counting images, not steps, keeps the curve where it is when the batch size changes. Each schedule warms up linearly first.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class LearningRate(Protocol):
    """images seen -> factor."""

    def __call__(self, images: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over `warmup` images, then 1 (EDM, arXiv 2206.00364, table 7: 10 Mimg on CIFAR-10)."""

    warmup: int = 0

    def __call__(self, images: int) -> float:
        return _ramp(images, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Warm-up, then half a cosine that reaches `floor` at `total` images and stays there."""

    total: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.total:
            raise ValueError(f"Cosine: need 0 <= warmup < total, got warmup={self.warmup}, total={self.total}")

    def __call__(self, images: int) -> float:
        share = min(max(images - self.warmup, 0) / (self.total - self.warmup), 1.0)
        return _ramp(images, self.warmup) * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True)
class InverseSqrt:
    """Warm-up, then 1 / sqrt(max(images / reference, 1)) (EDM2, arXiv 2312.02696, eq. 67)."""

    reference: int
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.reference < 1:
            raise ValueError(f"InverseSqrt: reference must be at least 1 image, got {self.reference}")

    def __call__(self, images: int) -> float:
        return _ramp(images, self.warmup) / math.sqrt(max(images / self.reference, 1.0))


def _ramp(images: int, warmup: int) -> float:
    return min(images / warmup, 1.0) if warmup else 1.0
