"""Advantage-weighted matching (AWM, arXiv 2509.25050): a policy gradient whose log-probability is the flow-matching loss."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..noise import sigma_to_flow_time
from .nft import velocity_distance
from .policy_gradient import clipped_ratio_loss


class AdvantageWeightedLoss(NamedTuple):
    """What one batch gives.

    Args:
        loss: (B,) the whole of it, to be averaged, with the gradient that trains.
        kl: (B,) mean (v_theta - v_ref)^2, without its factor and without a graph; zeros without a reference.
        ratio: (B,) of the surrogate likelihoods under theta and theta_old, without a graph.
    """

    loss: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    ratio: Float[Tensor, " b"]


def advantage_weighted_loss(
    x0: Float[Tensor, "b *s"],
    x_hat: Float[Tensor, "b *s"],
    x_hat_old: Float[Tensor, "b *s"],
    x_hat_ref: Float[Tensor, "b *s"] | None,
    sigma: Float[Tensor, " b"],
    advantage: Float[Tensor, " b"],
    *,
    power: float = 0.0,
    clip: float = 1.0,
    kl: float = 1e-3,
    kl_old: float = 1.0,
    advantage_clip: float = 5.0,
) -> AdvantageWeightedLoss:
    """PPO's clipped loss with ln p = -t^power mean (v - v*)^2, plus distances to the reference and to the old policy.

    Both likelihoods are of the same noisy image x0 + sigma eps. With flow matching's t = sigma / (1 + sigma), v* = eps - x0 and
    D = x_t - t v, the squared error is mean (D - x0)^2 / t^2 (see `nft_loss`). At theta = theta_old the gradient is A times that of
    the weighted flow-matching loss on x0: training towards what the reward liked, and away from what it did not.

    Args:
        x0: clean images: what the old policy drew.
        x_hat: D_theta(x0 + sigma eps; sigma), with its graph.
        x_hat_old: the old policy's estimate for the same noisy image, used without its graph.
        x_hat_ref: the reference's. None needs kl = 0.
        sigma: noise levels, > 0.
        advantage: (see `nft.advantages`).
        power: of t, the weight of a noise level: 0 (all velocities alike), 1 or 2 (all estimates of x0 alike).
        clip: > 0, the ratio's distance from 1 at which its gradient ends. The published code: 1.
        kl: >= 0, of mean (v_theta - v_ref)^2. The published code: 1e-4 to 3e-3.
        kl_old: >= 0, of mean (v_theta - v_old)^2. The published code: 1, against a running mean of the weights.
        advantage_clip: > 0. The published code clips at 5, and then divides by 5 as well.
    """
    sigma = sigma.double()
    weight = sigma_to_flow_time(sigma) ** (power - 2)
    log_p, log_p_old = (
        -weight * (each.double() - x0.double()).square().flatten(1).mean(1) for each in (x_hat, x_hat_old.detach())
    )
    log_ratio = log_p - log_p_old
    distance = velocity_distance("advantage_weighted_loss", x_hat, x_hat_ref, sigma, kl)
    step = velocity_distance("advantage_weighted_loss", x_hat, x_hat_old, sigma, kl_old)
    loss = clipped_ratio_loss(log_ratio, advantage, clip, advantage_clip) + kl * distance + kl_old * step
    dtype = torch.promote_types(x0.dtype, torch.float32)
    return AdvantageWeightedLoss(loss.to(dtype), distance.detach().to(dtype), log_ratio.detach().exp().to(dtype))
