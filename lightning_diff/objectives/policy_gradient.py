"""Policy gradient over the sampling chain: DDPO (arXiv 2305.13301) and Flow-GRPO (arXiv 2505.05470), for denoisers.

The sampler is made stochastic, so that each of its steps is a draw from a Gaussian whose density is known, and the denoiser is
trained as the policy that draws them. With D the estimate of x0 at x, a step from sigma to sigma_next is

    x_next = D + sqrt(sigma_next^2 - std^2) / sigma (x - D) + std z,    std = eta sigma_next sqrt(sigma^2 - sigma_next^2) / sigma,

DDIM's family (arXiv 2010.02502, eq. 12 and 16): eta -> 0 is Euler's method for the ODE, eta = 1 is DDPM's ancestral sampler, which
is DDPO's choice. In small steps std^2 per unit of sigma is 2 eta^2 sigma. Flow-GRPO's noise a sqrt(t / (1 - t)) is a^2 sigma in the
same unit, so its a is sqrt(2) eta: the usual a = 0.7 is eta = 0.495.

The last step, to sigma 0, is deterministic. It has no density and belongs to the environment, as in DDPO: how the sample depends on
theta through it alone is not seen.
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers import Denoise, Noise, check_sigmas, standard_normal

Reduction = Literal["mean", "sum"]


class Chain(NamedTuple):
    """One pass of the stochastic sampler.

    Args:
        states: (n+1, B, ...) x at every node of the grid; the last one is the sample.
        log_prob: (n-1, B) log density of each state given the one before it, over all elements, in float64; the step to 0 has none.
    """

    states: Float[Tensor, "nodes b *s"]
    log_prob: Float[Tensor, "steps b"]


class PolicyGradientLoss(NamedTuple):
    """What one batch of transitions gives.

    Args:
        loss: (B,) the whole of it, to be averaged, with the gradient that trains.
        kl: (B,) distance to the reference's transition, without its factor and without a graph; zeros without a reference.
        ratio: (B,) of the densities under theta and under the policy that drew the chain, without a graph.
    """

    loss: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    ratio: Float[Tensor, " b"]


@torch.no_grad()
def sample_chain(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigmas: Float[Tensor, " nodes"],
    *,
    eta: float = 1.0,
    generator: Noise = None,
) -> Chain:
    """Draw samples and keep what the policy gradient needs.

    Args:
        denoise: callable (x, sigma ()) -> estimate of x0, as the samplers take it.
        x: at noise level sigmas[0].
        sigmas: (n+1,) strictly decreasing, the last one 0; n >= 2.
        eta: in (0, 1], the amount of fresh noise.
        generator: where fresh noise comes from (see `samplers`).
    """
    nodes = check_sigmas(sigmas)
    if len(nodes) < 3:
        raise ValueError("sample_chain: one step has no transition with a density; give a grid of at least two steps")
    states, log_probs = [x], []
    for step, (sigma, sigma_next) in enumerate(pairwise(nodes)):
        levels = (
            x.new_full((len(x),), sigma, dtype=torch.float64),
            x.new_full((len(x),), sigma_next, dtype=torch.float64),
        )
        x_hat = denoise(x, x.new_full((), sigma))
        if sigma_next == 0:
            states.append(x_hat)
            break
        mean, std = transition(x, x_hat, *levels, eta=eta)
        x_next = (mean + _column(std, mean) * standard_normal(generator, x, step)).to(x.dtype)
        log_probs.append(gaussian_log_prob(x_next, mean, std))
        states.append(x_next)
        x = x_next
    return Chain(torch.stack(states), torch.stack(log_probs))


def transition(
    x: Float[Tensor, "b *s"],
    x_hat: Float[Tensor, "b *s"],
    sigma: Float[Tensor, " b"],
    sigma_next: Float[Tensor, " b"],
    *,
    eta: float = 1.0,
) -> tuple[Float[Tensor, "b *s"], Float[Tensor, " b"]]:
    """Mean and standard deviation of x_next given x, in float64.

    Args:
        x: at noise levels sigma.
        x_hat: the estimate of x0 there.
        sigma, sigma_next: > 0, the second below the first.
        eta: in (0, 1].
    """
    if not 0 < eta <= 1:
        raise ValueError(f"transition: eta must be in (0, 1] for the step to have a density, got {eta}")
    sigma, sigma_next, x, x_hat = sigma.double(), sigma_next.double(), x.double(), x_hat.double()
    std = eta * sigma_next * (sigma**2 - sigma_next**2).sqrt() / sigma
    ratio = _column((sigma_next**2 - std**2).sqrt() / sigma, x)
    return ratio * x + (1 - ratio) * x_hat, std


def gaussian_log_prob(
    x: Float[Tensor, "b *s"], mean: Float[Tensor, "b *s"], std: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """ln N(x; mean, std^2), over all elements of a sample, in float64."""
    z = ((x.double() - mean.double()) / _column(std.double(), mean)).flatten(1)
    return -0.5 * z.square().sum(1) - z.shape[1] * (std.double().log() + 0.5 * math.log(2 * math.pi))


def policy_gradient_loss(
    x: Float[Tensor, "b *s"],
    x_next: Float[Tensor, "b *s"],
    x_hat: Float[Tensor, "b *s"],
    x_hat_ref: Float[Tensor, "b *s"] | None,
    sigma: Float[Tensor, " b"],
    sigma_next: Float[Tensor, " b"],
    log_prob_old: Float[Tensor, " b"],
    advantage: Float[Tensor, " b"],
    *,
    eta: float = 1.0,
    clip: float = 1e-4,
    kl: float = 0.04,
    advantage_clip: float = 5.0,
    reduction: Reduction = "mean",
) -> PolicyGradientLoss:
    """PPO's clipped loss on transitions of the chain, plus kl times the divergence from the reference's transition.

    Args:
        x, x_next: two states of a chain that follow each other, neither the last one.
        x_hat: D_theta(x; sigma), with its graph.
        x_hat_ref: the reference's estimate there. None needs kl = 0.
        sigma, sigma_next: noise levels of the two states, > 0.
        log_prob_old: the chain's own log density.
        advantage: of the sample that the chain ended in.
        eta: that the chain was drawn with.
        clip: > 0, the ratio's distance from 1 at which its gradient ends. 1e-4 belongs to the reduction "mean".
        kl: >= 0. Flow-GRPO: 0.01 to 0.04.
        advantage_clip: > 0.
        reduction: of log densities and divergence over the elements of a sample: "mean", as DDPO and Flow-GRPO have it, is the
            density's d-th root, which one clip fits at every image size; "sum" is the density itself.
    """
    mean, std = transition(x, x_hat, sigma, sigma_next, eta=eta)
    scale = 1 / x[0].numel() if reduction == "mean" else 1.0
    log_ratio = scale * (gaussian_log_prob(x_next, mean, std) - log_prob_old.double())
    if x_hat_ref is None:
        if kl != 0:
            raise ValueError(f"policy_gradient_loss: kl={kl:g} needs the reference's estimate x_hat_ref, got None")
        divergence = torch.zeros_like(std)
    else:
        mean_ref, _ = transition(x, x_hat_ref.detach(), sigma, sigma_next, eta=eta)
        divergence = scale * ((mean - mean_ref).flatten(1).square().sum(1) / (2 * std**2))
    loss = clipped_ratio_loss(log_ratio, advantage, clip, advantage_clip) + kl * divergence
    dtype = torch.promote_types(x.dtype, torch.float32)
    return PolicyGradientLoss(loss.to(dtype), divergence.detach().to(dtype), log_ratio.detach().exp().to(dtype))


def clipped_ratio_loss(
    log_ratio: Float[Tensor, " b"], advantage: Float[Tensor, " b"], clip: float, advantage_clip: float
) -> Float[Tensor, " b"]:
    """PPO (arXiv 1707.06347, eq. 7): max(-A r, -A clip(r, 1 - clip, 1 + clip)), A clipped to ±advantage_clip, in float64."""
    if not clip > 0 or not advantage_clip > 0:
        raise ValueError(f"clip and advantage_clip must be positive, got {clip} and {advantage_clip}")
    A, ratio = advantage.double().clamp(-advantage_clip, advantage_clip), log_ratio.double().exp()
    return torch.maximum(-A * ratio, -A * ratio.clamp(1 - clip, 1 + clip))


def _column(values: Float[Tensor, " b"], x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))
