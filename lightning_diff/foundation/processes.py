"""The processes of a training: values of all of them. (Which is the first: `first_process`.)"""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from .first_process import is_first_process as is_first_process
from .first_process import take_rank as take_rank


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many there are; (0, 1) outside a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def from_all(values: Tensor) -> Tensor:
    """Each process's values become everybody's, in order of rank along the first axis; all have equally many.

    To be called on every process, with tensors where its backend has them: on the GPU under NCCL.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def rows_of_all(values: Tensor, rows: Sequence[int], n: int, device: torch.device | str) -> Tensor:
    """(n, ...) on every process, bit for bit and where `values` is, of which each process has some rows.

    To be called on every process; all have equal dtypes and shapes but for the number of rows.

    Args:
        values: (len(rows), ...), of a dtype of 1, 4 or 8 bytes.
        rows: which these are; every one of the n belongs to one process.
        n: of all processes together.
        device: where the processes' backend has its tensors.
    """
    whole = torch.zeros((n, *values.shape[1:]), dtype=values.dtype)
    whole[list(rows)] = values.cpu()
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        # Bits and zeros add up to bits, as numbers they need not: -0.0 + 0.0 is 0.0.
        bits = whole.view({1: torch.uint8, 4: torch.int32, 8: torch.int64}[whole.element_size()]).to(device)
        distributed.all_reduce(bits)
        whole = bits.cpu().view(whole.dtype)
    return whole.to(values.device)
