"""What drawing costs: images, network evaluations and seconds, by phase and precision."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Count(NamedTuple):
    """What one phase cost: images drawn, network evaluations for them (one image each), and seconds."""

    phase: str
    precision: str
    images: int
    evaluations: int
    seconds: float


@dataclass
class Total:
    """Images and evaluations since the start of a run, of all processes, by "phase/precision"."""

    evaluations: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Iterable[Count]) -> None:
        for count in counts:
            key = f"{count.phase}/{count.precision}"
            self.evaluations[key] = self.evaluations.get(key, 0) + count.evaluations
            self.images[key] = self.images.get(key, 0) + count.images


def added(counts: Iterable[Count]) -> tuple[Count, ...]:
    """Counts of the same phase and precision as one."""
    totals: dict[tuple[str, str], Count] = {}
    for phase, precision, images, evaluations, seconds in counts:
        before = totals.get((phase, precision), Count(phase, precision, 0, 0, 0.0))
        sums = before.images + images, before.evaluations + evaluations, before.seconds + seconds
        totals[phase, precision] = Count(phase, precision, *sums)
    return tuple(totals.values())
