"""Which prompts and seeds an epoch draws, and which of them are kept by their scores."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..foundation import rng

Mode = Literal["extremes", "top", "random", "mean_deviation", "extremes_random"]
ONE_SIDED: frozenset[Mode] = frozenset({"top"})  # keeps a truncated range, in which scores agree less than in the pool


def pool_seeds(seed: int, groups: Sequence[int], pool: int) -> Int64[Tensor, "g n"]:
    """The seeds of each group's pool: whole numbers from 0 to 2^63 - 1.

    Args:
        seed: the run's.
        groups: numbers of the groups, counted over all epochs.
        pool: N.
    """
    rows = [rng.keys(rng.key(seed, "rollout", group), "pool", range(pool)) >> np.uint64(1) for group in groups]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def prompt_labels(seed: int, groups: Sequence[int], classes: Sequence[int]) -> Int64[Tensor, " g"]:
    """The class of each group: all classes in a new order, over and over."""
    n = len(classes)
    orders = {turn: rng.permutation(seed, "prompt", turn, n) for turn in {group // n for group in groups}}
    return torch.tensor([classes[orders[group // n][group % n]] for group in groups], dtype=torch.int64)


def select(
    score: Float[Tensor, "g n"], keep: int, mode: Mode = "extremes", keys: Sequence[int] = ()
) -> Int64[Tensor, "g m"]:
    """Places of `keep` scores of each row, ascending; of equal scores the earlier counts as the higher one.

    extremes         the highest and the lowest, half of each (one more of the highest if odd)
    top              the highest
    random           any
    mean_deviation   the furthest from the row's mean
    extremes_random  half of them extremes, the others any of what is left

    Args:
        score: finite.
        keep: M <= N.
        mode: its name.
        keys: a whole number for each row, which decides what is random.
    """
    n = score.shape[1]
    if keep > n:
        raise ValueError(f"select: cannot keep {keep} of {n}")
    if "random" in mode and len(keys) != len(score):
        raise ValueError(f"select: {mode} needs a key for each of {len(score)} rows, got {len(keys)}")
    if mode == "mean_deviation":
        score = (score - score.mean(1, keepdim=True)).abs()
    order = score.argsort(dim=1, descending=True, stable=True)
    if mode in ("top", "mean_deviation"):
        return order[:, :keep].sort(1).values
    if mode == "random":
        order = torch.stack([torch.from_numpy(rng.permutation(key, "select", 0, n)) for key in keys])
        return order[:, :keep].sort(1).values
    extreme = keep if mode == "extremes" else keep // 2
    chosen = torch.cat([order[:, : extreme - extreme // 2], order[:, n - extreme // 2 :]], 1)
    if mode == "extremes_random":
        left = order[:, extreme - extreme // 2 : n - extreme // 2]
        places = torch.stack([torch.from_numpy(rng.permutation(key, "select", 0, n - extreme)) for key in keys])
        chosen = torch.cat([chosen, left.gather(1, places[:, : keep - extreme])], 1)
    return chosen.sort(1).values
