"""Which process of a training speaks for all of them; known without torch, before the process group exists."""

import os


def is_first_process() -> bool:
    """Whether this process is the first, or the only one. Launchers tell each process its place by these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
