"""Distribution matching: a student's samples follow the difference of two denoisers, its teacher's and one of its own samples.

A denoiser is a score, D(x; sigma) = x + sigma^2 grad log p_sigma(x). With D_T of the teacher's density p and D_psi of the density q
of the student's samples G (the critic), both blurred by sigma, at x = G + sigma eps

    D_psi(x) - D_T(x) = sigma^2 grad_x log (q_sigma / p_sigma)(x),

whose mean times dG/dtheta is sigma^2 times the gradient of KL(q_sigma || p_sigma) by the student's weights: no density is needed.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition
from ..denoiser import Denoiser

Matching = Literal["dmd", "sid"]
SMALLEST = 1e-5  # of what the losses are divided by
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> x0


class MatchingLoss(NamedTuple):
    """What one batch gives.

    Args:
        loss: (B,) summed over dimensions, with the gradient that trains the student.
        residual: (B, ...) D_psi(x) - D_T(x), in the images' units, without a graph.
    """

    loss: Float[Tensor, " b"]
    residual: Float[Tensor, "b ..."]


def dmd_loss(G: Float[Tensor, "b ..."], D_T: Float[Tensor, "b ..."], D_psi: Float[Tensor, "b ..."]) -> MatchingLoss:
    """|G - stop(G - (D_psi - D_T) / mean|G - D_T|)|^2 (DMD, arXiv 2311.18828, eq. 7 and 8; in this form rCM, arXiv 2510.08431).

    Args:
        G: samples of the student, with their graph.
        D_T: the teacher's denoiser at x = G + sigma eps.
        D_psi: the critic's.
    """
    residual = (D_psi - D_T).detach()
    target = G.detach() - residual / _distance(G, D_T)
    return MatchingLoss((G - target).square().flatten(1).sum(1), residual)


def sid_loss(
    G: Float[Tensor, "b ..."], D_T: Float[Tensor, "b ..."], D_psi: Float[Tensor, "b ..."], alpha: float = 1.2
) -> MatchingLoss:
    """sum (D_T - D_psi) ((D_T - G) - alpha (D_T - D_psi)) / mean|G - D_T| (SiD, arXiv 2404.04057, eq. 23).

    With an exact critic its mean, but for the denominator, is (1 - alpha) E|D_T - D_psi|^2: a Fisher divergence, of which this is
    an estimate with the gradient that a critic that lags behind would lack. So alpha > 1 minimises it.

    Args:
        G: samples of the student, with their graph.
        D_T: the teacher's denoiser at x = G + sigma eps, with the graph through x into G.
        D_psi: the critic's, likewise.
        alpha: 1.2 in SiD, 1.0 in SiDA.
    """
    difference = D_T - D_psi
    terms = difference * ((D_T - G) - alpha * difference) / _distance(G, D_T)
    return MatchingLoss(terms.flatten(1).sum(1), -difference.detach())


def matching_loss(
    G: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    teacher: Denoise,
    critic: Denoise,
    *,
    loss: Matching = "dmd",
    alpha: float = 1.2,
) -> MatchingLoss:
    """One of these losses at x = G + sigma noise. Neither network's weights get a gradient, whether they require one or not.

    SiD's graph through the two networks is followed back to G at once, and its memory given back, before the student's own.

    Args:
        G: samples of the student, with their graph.
        sigma: noise levels, > 0.
        noise: standard normal, shaped like G.
        teacher: (x, sigma) -> D_T(x), conditions and guidance included.
        critic: (x, sigma) -> D_psi(x), likewise.
        loss: "dmd", without a pass back through the networks, or "sid", with one through each.
        alpha: SiD's.
    """
    column = sigma.to(G.dtype).reshape(-1, *[1] * (G.ndim - 1))
    if loss == "dmd":
        with torch.no_grad():
            x = G + column * noise
            D_T, D_psi = teacher(x, sigma), critic(x, sigma)
        return dmd_loss(G, D_T, D_psi)
    if loss != "sid":
        raise ValueError(f"matching_loss: loss must be one of {', '.join(get_args(Matching))}, got {loss!r}")
    with torch.enable_grad():
        leaf = G.detach().requires_grad_()
        x = leaf + column * noise
        result = sid_loss(leaf, teacher(x, sigma), critic(x, sigma), alpha)
        (gradient,) = torch.autograd.grad(result.loss.sum(), leaf)  # of the leaf alone: weights keep theirs
    follows = ((G - G.detach()) * gradient).flatten(1).sum(1)  # 0, with this gradient
    return MatchingLoss(result.loss.detach() + follows, result.residual)


def teacher_mean(
    teacher: Denoiser,
    label: AnyCondition | None = None,
    guidance: Float[Tensor, " b"] | None = None,
    **conditioning: Tensor | None,
) -> Denoise:
    """(x, sigma) -> the teacher's D, guided: D_without + scale (D - D_without), or as its own input for the scale has it.

    Args:
        teacher: a denoiser.
        label: classes, a `Condition`, or None.
        guidance: scale of each sample's classifier-free guidance; None for none.
        conditioning: handed to the network as it is.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if guidance is not None and getattr(teacher.net, "guided", False):
            own: Tensor = teacher(x, sigma, label, guidance=guidance, **conditioning)
            return own
        D: Tensor = teacher(x, sigma, label, **conditioning)
        if guidance is None:
            return D
        D_without: Tensor = teacher(x, sigma, None, **conditioning)
        return D_without + guidance.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) * (D - D_without)

    return denoise


def _distance(G: Tensor, D_T: Tensor) -> Tensor:
    """mean|G - D_T| of each sample, to broadcast against it: how far the teacher moves it, about sigma where sigma is small."""
    mean = (G - D_T).detach().abs().flatten(1).mean(1).clamp(min=SMALLEST)
    return mean.reshape(-1, *[1] * (G.ndim - 1))
