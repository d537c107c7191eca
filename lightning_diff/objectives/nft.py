"""DiffusionNFT: reward fine-tuning on the forward process, without likelihoods (arXiv 2509.16117; Sol-RL, arXiv 2604.06916)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..noise import sigma_to_flow_time

SMALLEST_WEIGHT = 1e-5  # of a sample's self-normalisation, as in the published code


class NFTLoss(NamedTuple):
    """What one batch gives.

    Args:
        loss: (B,) the whole of it, to be averaged, with the gradient that trains. Its value at theta = theta_old does not depend on
            the reward: no measure of progress.
        kl: (B,) mean (v_theta - v_ref)^2, without its factor and without a graph; zeros without a reference.
        positive, negative: (B,) self-normalised errors of the implicit positive and negative policy, without a graph.
    """

    loss: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    positive: Float[Tensor, " b"]
    negative: Float[Tensor, " b"]


def nft_loss(
    x0: Float[Tensor, "b *s"],
    x_hat: Float[Tensor, "b *s"],
    x_hat_old: Float[Tensor, "b *s"],
    x_hat_ref: Float[Tensor, "b *s"] | None,
    sigma: Float[Tensor, " b"],
    optimality: Float[Tensor, " b"],
    *,
    beta: float = 1.0,
    kl: float = 1e-4,
    advantage_clip: float = 5.0,
) -> NFTLoss:
    """The loss of DiffusionNFT with self-normalised weights, for denoisers.

    Flow matching has x_t = (1 - t) x0 + t eps and v = eps - x0. Divided by 1 - t, x_t is our x = x0 + sigma eps with
    sigma = t / (1 - t), that is t = sigma / (1 + sigma), in the images' own units. A prediction v is the estimate
    D = x_t - t v of x0, affine in v at a fixed x_t; so the implicit policies, which mix v_theta and v_old, mix the estimates:

        v+ = beta v_theta + (1 - beta) v_old       D+ = beta D_theta + (1 - beta) D_old
        v- = (1 + beta) v_old - beta v_theta       D- = (1 + beta) D_old - beta D_theta
        w± = stop(max(mean |D± - x0|, 1e-5))       l± = mean (D± - x0)^2 / w±
        loss = clip (r l+ + (1 - r) l-) / beta + kl mean (v_theta - v_ref)^2,     (v_theta - v_ref)^2 = (D_theta - D_ref)^2 / t^2

    At theta = theta_old its gradient with respect to v_theta is -(2 t / (d w)) A (D - x0), d the number of elements and A the
    clipped advantage, because clip (2 r - 1) = A: beta cancels, and the factor `clip` restores the advantage's scale.

    Args:
        x0: clean images: what the old policy drew.
        x_hat: D_theta(x0 + sigma eps; sigma), with its graph.
        x_hat_old: the old policy's estimate for the same noisy image, used without its graph.
        x_hat_ref: the reference's. None needs kl = 0.
        sigma: noise levels, > 0.
        optimality: r in [0, 1], the probability that the image is a good one; see `optimality`.
        beta: > 0, how far the implicit policies stand apart.
        kl: lambda >= 0, of the distance to the reference.
        advantage_clip: at which `optimality` clipped the advantages, > 0.

    Returns:
        The record; computed in float64, given in x0's precision or float32, whichever is wider.
    """
    if not beta > 0:
        raise ValueError(f"nft_loss: beta must be positive, got {beta}")
    dtype = torch.promote_types(x0.dtype, torch.float32)
    x0, D, old = x0.double(), x_hat.double(), x_hat_old.detach().double()
    positive = _self_normalised(beta * D + (1 - beta) * old - x0)
    negative = _self_normalised((1 + beta) * old - beta * D - x0)
    r = optimality.double()
    loss = advantage_clip * (r * positive + (1 - r) * negative) / beta
    distance = velocity_distance("nft_loss", D, x_hat_ref, sigma, kl)
    loss = loss + kl * distance
    return NFTLoss(loss.to(dtype), *(each.detach().to(dtype) for each in (distance, positive, negative)))


def advantages(
    reward: Float[Tensor, " n"],
    group: Int64[Tensor, " n"],
    *,
    spread: Literal["global", "group"] | float = "global",
    baseline: Float[Tensor, " n"] | None = None,
    eps: float = 1e-4,
) -> Float[Tensor, " n"]:
    """(reward - its group's mean) / (standard deviation + eps), in float64.

    Args:
        reward: of every sample of the epoch, over all processes: the standard deviation is of what is given here.
        group: number of each sample's prompt; the mean is over the samples of one prompt that are given here, the selected ones.
        spread: the standard deviation is of all rewards, or of the sample's group; or this number > 0 stands in for it, so that
            where rewards hardly differ any more there is little left to learn.
        baseline: in place of the groups' means, (n,): the means of the unselected pools, for instance.
        eps: added to the standard deviation, so that equal rewards give advantage 0.
    """
    reward = reward.double()
    _, index = group.unique(return_inverse=True)
    count = torch.zeros(len(group), dtype=torch.float64, device=reward.device).index_add_(
        0, index, torch.ones_like(reward)
    )

    def group_mean(values: Tensor) -> Tensor:
        return (torch.zeros_like(count).index_add_(0, index, values) / count)[index]

    mean = group_mean(reward)
    if spread == "global":
        std = reward.std(correction=0)
    elif spread == "group":
        std = group_mean((reward - mean).square()).sqrt()
    else:
        std = torch.full_like(reward, spread)
    return (reward - (mean if baseline is None else baseline.double())) / (std + eps)


def optimality(advantage: Float[Tensor, " n"], clip: float = 5.0) -> Float[Tensor, " n"]:
    """r = 1/2 + clip(advantage, -clip, clip) / (2 clip), in [0, 1]."""
    if not clip > 0:
        raise ValueError(f"optimality: clip must be positive, got {clip}")
    return (0.5 + advantage.clamp(-clip, clip) / (2 * clip)).clamp(0, 1)


def velocity_distance(
    name: str, x_hat: Tensor, x_hat_ref: Tensor | None, sigma: Tensor, factor: float
) -> Float[Tensor, " b"]:
    """mean (v_theta - v_ref)^2 = mean (D_theta - D_ref)^2 / t^2 in float64; zeros where no factor needs it.

    Args:
        name: of the loss, for its error.
        x_hat, x_hat_ref: (B, ...) estimates of x0 for the same noisy images; the reference's graph is not used.
        sigma: (B,) noise levels.
        factor: what the loss multiplies the distance by.
    """
    if x_hat_ref is None:
        if factor != 0:
            raise ValueError(f"{name}: kl={factor:g} needs the reference's estimate x_hat_ref, got None; or give kl=0")
        return torch.zeros_like(sigma, dtype=torch.float64)
    difference = (x_hat.double() - x_hat_ref.detach().double()).square().flatten(1).mean(1)
    return difference / sigma_to_flow_time(sigma.double()).square()


def _self_normalised(error: Float[Tensor, "b *s"]) -> Float[Tensor, " b"]:
    weight = error.detach().abs().flatten(1).mean(1).clamp(min=SMALLEST_WEIGHT)
    return error.square().flatten(1).mean(1) / weight
