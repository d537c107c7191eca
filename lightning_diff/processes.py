"""Values of all processes of a training."""

import torch
from torch import Tensor, distributed


def from_all(values: Tensor) -> Tensor:
    """Each process's values become everybody's, in order of rank along the first axis; all have equally many.

    To be called on every process, with tensors where its backend has them: on the GPU under NCCL.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
