"""Arrays in a file that every process of a machine reads from the same memory, and that none may write."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


class Mapped(NamedTuple):
    """A file of nothing but values, and what was computed from them.

    Args:
        path: of the file.
        dtype: "uint8" or "float32".
        shape: of the array.
        std: standard deviation over all its values, as examples.
        fingerprint: of the examples.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    std: float
    fingerprint: str

    def array(self) -> Shaped[np.ndarray, "..."]:
        return np.memmap(Path(self.path), np.dtype(self.dtype), "r", shape=tuple(self.shape))

    def tensor(self) -> Shaped[Tensor, "..."]:
        return tensor_of(self.array())


def tensor_of(array: Shaped[np.ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """The same memory as a tensor, which must not be written if the array may not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
