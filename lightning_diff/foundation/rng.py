"""Random numbers addressed by (seed, purpose, position): no state, so nothing to save and nothing that depends on the machine.

Every random choice of a run is looked up here by what it is for and which training example (or sample, or step) it belongs
to. The same address gives the same number on one process or eight, before and after a crash. The integer mixing is SplitMix64
(Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), written out because library
generators do not promise the same stream across versions.
"""

import math
import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_AT_ONCE = 1 << 17  # normals
_MERSENNE = 624  # words of 32 bits in the state of torch's generator on a CPU

GENERATOR = 2  # of a plain int, and of a new run whose recipe names none
Positions = Int64[np.ndarray, " n"] | Sequence[int]


class Seed(int):
    """A run's seed, with the generator that turns addresses into normal numbers and starts torch's own generators.

    1: by torch's CPU generator, which knows 32 bits of a key: of 200 million noises 5 % have an equal. Runs of version 0.1 keep it.
    2: 128-bit keys; also what a plain int means.
    """

    generator: int

    def __new__(cls, value: int, generator: int = GENERATOR) -> "Seed":
        if generator not in (1, 2):
            raise ValueError(f"Seed: the generators are 1 and 2, got {generator}")
        seed = super().__new__(cls, value)
        seed.generator = generator
        return seed

    def __reduce__(self) -> tuple[type["Seed"], tuple[int, int]]:
        return Seed, (int(self), self.generator)


def generator_of(seed: int) -> int:
    """Which generator a seed draws with."""
    return seed.generator if isinstance(seed, Seed) else GENERATOR


def alike(seed: int, run: int) -> Seed:
    """A seed of its own with the generator of a run's, for what is drawn beside the training."""
    return Seed(seed, generator_of(run))


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


def wide_keys(
    seed: int, purpose: str, positions: Positions
) -> tuple[UInt64[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """Two 64-bit keys for each position, different for any two of 2^64 positions, and of any two seeds or purposes."""
    root = blake2b(purpose.encode(), digest_size=16, key=(seed & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")).digest()
    first, second = np.frombuffer(root, "<u8").astype(np.uint64)
    mixed = _mix(np.asarray(positions, np.int64).view(np.uint64))
    return _mix(mixed ^ first), _mix(_mix(mixed + second) ^ first)


def key(seed: int, purpose: str, position: int = 0) -> int:
    """One key as a non-negative integer below 2**63: what `torch.manual_seed` and `Generator.manual_seed` take."""
    return int(keys(seed, purpose, [position])[0] >> np.uint64(1))


def uniform(seed: int, purpose: str, positions: Positions) -> Float[np.ndarray, " n"]:
    """Float64 uniforms in the open interval (0, 1), one for each position."""
    return ((keys(seed, purpose, positions) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, purpose: str, positions: Positions, shape: Sequence[int]) -> Float[Tensor, "n ..."]:
    """Standard normal float32 tensors of `shape`, one for each position, drawn on the CPU.

    Element e of a position is a hash of (128-bit key of seed, purpose and position; e): two positions have equal noise with odds of
    2^-128. A seed of generator 1 draws what version 0.1 drew (see `Seed`).
    """
    if generator_of(seed) == 1:
        return _normal_1(seed, purpose, positions, shape)
    first, second = wide_keys(seed, purpose, positions)
    elements = math.prod(shape)
    out = torch.empty((len(first), elements))
    rows = max(_AT_ONCE // max(elements, 1), 1)  # few enough to stay in the processor's cache
    for start in range(0, len(first), rows):
        some = slice(start, start + rows)
        out[some] = _box_muller(_hashes(first[some], second[some], (elements + 1) // 2))[:, :elements]
    return out.reshape(-1, *shape)


def _hashes(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " n"], count: int
) -> UInt64[np.ndarray, "n count"]:
    """SplitMix64 started at the first key, with the second one mixed in on the way: `count` numbers for each pair of keys."""
    x: UInt64[np.ndarray, "n count"] = first[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= second[:, None]
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x


def _box_muller(bits: UInt64[np.ndarray, "n count"]) -> Float[Tensor, "n twice"]:
    """Two normals from each 64 bits: radius and angle from 32 each."""
    halves = torch.from_numpy(bits.view(np.int32))  # each uniform in [-2^31, 2^31)
    u = halves[:, 0::2].float().mul_(2.0**-32).add_(0.5 + 2.0**-33).clamp_(2.0**-33, 1.0)
    radius = u.log_().mul_(-2).sqrt_()
    angle = halves[:, 1::2].float().mul_(math.pi * 2.0**-31)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)


def _normal_1(seed: int, purpose: str, positions: Positions, shape: Sequence[int]) -> Float[Tensor, "n ..."]:
    """By torch's generator, which knows the low 32 bits of a key: of n positions n^2 / 2^33 pairs have equal noise."""
    out = torch.empty((len(positions), *shape))
    generator = torch.Generator()
    for row, position_key in zip(out, keys(seed, purpose, positions), strict=True):
        generator.manual_seed(int(position_key >> np.uint64(1)))
        row.normal_(generator=generator)
    return out


def seed_generator(generator: torch.Generator, seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Start one of torch's generators at an address, for what only torch draws: initial weights, dropout, distributions.

    On a CPU the whole state is filled, since `manual_seed` knows 32 bits there; on a GPU it knows 64. Returns the generator.
    """
    if generator_of(seed) == 1 or generator.device.type != "cpu":
        return generator.manual_seed(key(seed, purpose, position))
    first, second = wide_keys(seed, purpose, [position])
    words = _hashes(first, second, _MERSENNE // 2).view(np.uint32)[0]
    state = generator.get_state().numpy()
    state[:24] = np.array([first[0] >> np.uint64(1), 1 | 1 << 32, 0], np.uint64).view(
        np.uint8
    )  # seed; left, seeded; next
    state[24 : 24 + 8 * _MERSENNE] = words.astype(np.uint64).view(np.uint8)
    state[24 + 8 * _MERSENNE :] = 0  # no normal kept back
    generator.set_state(torch.from_numpy(state))
    return generator


def start(generator: torch.Generator, seed: int, purpose: str) -> torch.Generator:
    """`seed_generator` where version 0.1 gave the seed itself to torch: numbers of a plain int below 2^32 are as they were."""
    if 0 <= seed < 2**32 and not (isinstance(seed, Seed) and seed.generator == 2):
        return generator.manual_seed(seed)
    return seed_generator(generator, Seed(seed, 2), purpose)


def permutation(seed: int, purpose: str, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
    """A permutation of range(n) for this epoch: the order of n random keys."""
    sub_seed = key(seed, purpose, epoch)
    return np.argsort(keys(sub_seed, "permutation", np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64)
