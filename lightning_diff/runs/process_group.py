"""Several processes of one command, as torchrun starts them: `torchrun --nproc-per-node N -m lightning_diff evaluate RUN`.

(Those of a training are Lightning's; see `launch`.)
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from ..foundation.errors import UserError
from ..foundation.processes import take_rank
from .meeting import OF_TORCHRUN, meeting, number


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """The processes of this command as one group while the block runs; alone, or in a group that is there, nothing changes.

    The first process speaks for all: the others print no remarks and warnings.

    Args:
        device: as it was typed; "auto" takes a GPU if there is one.

    Yields:
        The name of this process's own device.

    Raises:
        UserError: what torchrun says of this process in the environment is not right, or the processes do not meet.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield device
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield device
        return
    own = _own_device(device)
    take_rank(rank := _meet(own))
    try:
        with warnings.catch_warnings():
            if rank > 0:
                warnings.simplefilter("ignore")
            yield own
    finally:
        distributed.destroy_process_group()


def _meet(device: str) -> int:
    """Join the group of those that torchrun has started; this process's number. On a GPU tensors go by NCCL, else by gloo."""
    processes = number("WORLD_SIZE", None)
    rank = number("RANK", None, processes)
    with meeting(processes, OF_TORCHRUN):
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the {processes} processes do not meet: {str(error).splitlines()[0]}") from error
    return rank


def _own_device(device: str) -> str:
    """One GPU for each process of a machine."""
    if device not in ("auto", "cuda"):
        return device
    if not torch.cuda.is_available():
        return "cpu" if device == "auto" else device
    local, there = number("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"--device: {there} GPU(s) for process {local + 1} of this machine; start as many, or give --device cpu"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"
