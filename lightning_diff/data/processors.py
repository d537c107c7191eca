"""How many processors this process may use, and what to say of more workers than that."""

import os
import sys
from pathlib import Path
from typing import TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")

CGROUP = Path("/sys/fs/cgroup")


def allowed(cgroup: Path = CGROUP) -> int:
    """Processors that the system (taskset, a batch system) and a container's quota leave to this process, at least 1."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup / "cpu.max", None) or _quota(
        cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us"
    )
    return max(min(here, here if quota is None else int(quota)), 1)


def _quota(file: Path, period: Path | None) -> float | None:
    """Processors' worth of time for each second; None where there is no limit."""
    try:
        words = file.read_text(encoding="ascii").split() + ([] if period is None else period.read_text("ascii").split())
        return float(words[0]) / float(words[1]) if float(words[0]) > 0 else None
    except (OSError, ValueError, IndexError, ZeroDivisionError):  # "max", another system
        return None


class Workers(DataLoader[T]):
    """torch's DataLoader that says in a line, in place of a warning at every start, when it has more workers than processors.

    They are kept, since workers that wait for a disk need no processor; which images are trained on does not depend on them.
    """

    def check_worker_number_rationality(self) -> None:
        """Called by torch when the loader is made and when it starts."""
        if self.num_workers > (most := allowed()) and not hasattr(self, "_is_said"):
            print(
                f"data.workers: {self.num_workers} on {most} processor{'s' * (most > 1)}; fewer may be faster",
                file=sys.stderr,
            )
            self._is_said = True
