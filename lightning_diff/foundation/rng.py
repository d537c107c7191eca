"""Random numbers addressed by (seed, purpose, position): no state, so nothing to save and nothing that depends on the machine.

Every random choice of a run is looked up here by what it is for and which training example (or sample, or step) it belongs
to. The same address gives the same number on one process or eight, before and after a crash. The integer mixing is SplitMix64
(Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), written out because library
generators do not promise the same stream across versions.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Positions = Int64[np.ndarray, " n"] | Sequence[int]


def _mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """SplitMix64's finaliser: a bijection of the 64-bit integers that flips half the bits for any change of input."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    mixed: UInt64[np.ndarray, "*shape"] = x ^ (x >> np.uint64(31))
    return mixed


def keys(seed: int, purpose: str, positions: Positions) -> UInt64[np.ndarray, " n"]:
    """One 64-bit key for each position; `purpose` is a word such as "noise" that keeps the streams apart."""
    root = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) ^ np.uint64(zlib.crc32(purpose.encode()) << 16))
    return _mix(root ^ _mix(np.asarray(positions, np.int64).view(np.uint64)))


def key(seed: int, purpose: str, position: int = 0) -> int:
    """One key as a non-negative integer below 2**63: what `torch.manual_seed` and `Generator.manual_seed` take."""
    return int(keys(seed, purpose, [position])[0] >> np.uint64(1))


def uniform(seed: int, purpose: str, positions: Positions) -> Float[np.ndarray, " n"]:
    """Float64 uniforms in the open interval (0, 1), one for each position."""
    return ((keys(seed, purpose, positions) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, purpose: str, positions: Positions, shape: Sequence[int]) -> Float[Tensor, "n ..."]:
    """Standard normal float32 tensors of `shape`, one for each position, drawn on the CPU."""
    out = torch.empty((len(positions), *shape))
    generator = torch.Generator()
    for row, position_key in zip(out, keys(seed, purpose, positions), strict=True):
        generator.manual_seed(int(position_key >> np.uint64(1)))
        row.normal_(generator=generator)
    return out


def permutation(seed: int, purpose: str, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
    """A permutation of range(n) for this epoch: the order of n random keys."""
    sub_seed = key(seed, purpose, epoch)
    return np.argsort(keys(sub_seed, "permutation", np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64)
