"""How fast the policy that samples follows the one that trains: theta_old <- eta theta_old + (1 - eta) theta after each epoch."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class OldPolicy(Protocol):
    """Optimiser steps taken -> eta in [0, 1], the share of itself that the old policy keeps."""

    def __call__(self, steps: int) -> float: ...


@dataclass(frozen=True)
class Ramp:
    """min(slope (steps - start), limit), and 0 before `start` (DiffusionNFT's and Sol-RL's published code).

    Args:
        slope: per optimiser step, >= 0.
        limit: in [0, 1).
        start: optimiser steps.
    """

    slope: float = 0.001
    limit: float = 0.5
    start: int = 0

    def __post_init__(self) -> None:
        if self.slope < 0 or not 0 <= self.limit < 1 or self.start < 0:
            raise ValueError(
                "Ramp: need slope >= 0, 0 <= limit < 1 and start >= 0, "
                f"got slope={self.slope}, limit={self.limit}, start={self.start}"
            )

    def __call__(self, steps: int) -> float:
        return min(self.slope * max(steps - self.start, 0), self.limit)


# The published code's decay types 0, 1 and 2. Sol-RL uses the second, DiffusionNFT's OCR recipe, with beta = 0.1, the third.
OLD_POLICIES: dict[str, Ramp] = {
    "on_policy": Ramp(slope=0.0, limit=0.0),
    "ramp": Ramp(),
    "late_ramp": Ramp(slope=0.0075, limit=0.999, start=75),
}
