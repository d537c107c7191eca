"""How many processors this process may use."""

import os
from pathlib import Path

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
