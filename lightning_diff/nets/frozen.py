"""Networks that a module uses and does not train."""

from typing import Generic, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Frozen(Generic[T]):
    """Something beside a module, out of sight of its parameters(), state_dict(), train() and to(): a teacher, a reward.

    A network is put into eval mode and requires no gradients. Being no `nn.Module`, the holder can be an attribute of one.

    Args:
        value: a network, or anything else, such as a reward that is a plain function; later in `.value`.
    """

    def __init__(self, value: T):
        self.value = value
        if isinstance(value, nn.Module):
            value.eval().requires_grad_(False)

    def to(self, device: torch.device | str, memory_format: torch.memory_format | None = None) -> None:
        """Move a network, and lay out its weights; anything else stays as it is."""
        if isinstance(self.value, nn.Module):
            self.value.to(device)
            if memory_format is not None:
                self.value.to(memory_format=memory_format)  # type: ignore[call-overload]
