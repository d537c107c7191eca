"""How often a learner has learned: for checkpoints in a buffer, for decisions in a number."""

from typing import Any

import torch
from torch import Tensor, nn


class Counted(nn.Module):
    """Base of learners that count their updates.

    The buffer `updates` is on the device with the rest, and a look at its value would wait for everything that the device has been
    given. `count` is the same number on the host.
    """

    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._count: int | None = 0  # None where only the buffer knows

    @property
    def count(self) -> int:
        """Updates so far."""
        if self._count is None:
            self._count = int(self.updates)
        return self._count

    def count_update(self) -> None:
        """One more."""
        self._count = self.count + 1
        self.updates += 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None
