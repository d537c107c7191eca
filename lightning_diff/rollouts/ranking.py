"""How well one score orders images as another one does, within the groups of one prompt."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class ChosenRanks(NamedTuple):
    """Mean rank, by the true score, of what another score chose as the best and as the worst; 1 is the best of N.

    With K chosen on each side, a perfect order gives (K + 1) / 2 and N + 1 - (K + 1) / 2; chance gives (N + 1) / 2 twice.
    """

    top: float
    bottom: float


def ranks(scores: Float[Tensor, "*g n"]) -> Float[Tensor, "*g n"]:
    """Rank of each score in its row, 1 for the highest, in float64; equal scores share the mean of their places."""
    above = (scores[..., None, :] > scores[..., :, None]).sum(-1)
    equal = (scores[..., None, :] == scores[..., :, None]).sum(-1)
    return above.double() + (equal.double() + 1) / 2


def spearman(a: Float[Tensor, "*g n"], b: Float[Tensor, "*g n"]) -> Float[Tensor, "*g"]:
    """Spearman's rank correlation of each row, in [-1, 1]: Pearson's, of ranks. NaN where a row's scores are all equal."""
    x, y = (rank - rank.mean(-1, keepdim=True) for rank in (ranks(a), ranks(b)))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()


def mean_spearman(a: Float[Tensor, "g n"], b: Float[Tensor, "g n"]) -> float:
    """Mean over the groups; equal scores on one side count as 0, groups with equal scores on both sides are left out."""
    rho = spearman(a, b)
    constant = ((a == a[:, :1]).all(1), (b == b[:, :1]).all(1))
    rho = torch.where(constant[0] ^ constant[1], 0.0, rho)[~(constant[0] & constant[1])]
    return float(rho.mean()) if len(rho) else 1.0


def chosen_ranks(true: Float[Tensor, "g n"], top: Int64[Tensor, "g k"], bottom: Int64[Tensor, "g k"]) -> ChosenRanks:
    """Where the chosen stand by the true score.

    Args:
        true: scores of the whole pools.
        top, bottom: places in the pool of what another score chose.
    """
    true_ranks = ranks(true)
    return ChosenRanks(float(true_ranks.gather(1, top).mean()), float(true_ranks.gather(1, bottom).mean()))
