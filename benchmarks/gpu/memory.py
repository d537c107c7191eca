"""What `train --dry-run` says a run needs, against the most that the allocator gave it."""

from collections.abc import Iterator

from .rows import Row, Setting, Skip, checked
from .training import VARIANTS, WORKLOADS, Clock, ran

BOUND = 0.15  # of the estimate: gaps of the allocator and work space of the libraries are not in it


def rows(setting: Setting) -> Iterator[Row]:
    Clock.steps = (1, 2)
    for workload in WORKLOADS:
        for variant in [name for name, (_, compiled) in VARIANTS.items() if compiled is None]:
            found = ran(setting, workload, variant)
            case = f"{workload}, {variant}"
            yield Row("memory", case, "estimated", found["estimated memory"], "GB")
            if "peak memory" not in found:
                raise Skip("only a CUDA allocator says what it had at most")
            yield Row("memory", case, "at most allocated", found["peak memory"], "GB")
            off = abs(found["peak memory"] / found["estimated memory"] - 1)
            yield checked("memory", case, "relative difference", off, BOUND)
