"""Which process of a training speaks for all of them; asked without importing torch."""

import sys

_rank = 0  # of this process, as the Trainer said


def take_rank(rank: int) -> None:
    """Say which of the processes of a training this one is; it is the first before that."""
    global _rank
    _rank = rank


def is_first_process() -> bool:
    """Whether this process is the first, or the only one: by its process group, or else by what the Trainer said.

    Not by variables of the environment, which may be left over from another program: of several processes each is taken for the
    first until its Trainer is built.
    """
    distributed = sys.modules.get("torch.distributed")  # without it there is no process group
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() == 0)
    return _rank == 0
