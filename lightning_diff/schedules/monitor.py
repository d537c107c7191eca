"""The flow of the probability-flow ODE and its rate of change along itself: what a time grid has to follow.

With sigma falling from sigma_max to 0 and tau = sigma_max - sigma as time, sampling solves dx/dtau = F(x, sigma) with

    F = (D(x; sigma) - x) / sigma.

One Euler step of width h loses h^2 / 2 Q + O(h^3), where Q is F's derivative along its own trajectory (ART, arXiv 2601.18681,
eq. 8):

    Q = dF/dtau = J_F F - dF/dsigma.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .. import tangent
from ..samplers import Denoise

Sigma = Float[Tensor, ""] | Float[Tensor, " b"]
Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x (B, *S), sigma (B,)) -> F, Q, both like x


def flow(denoise: Denoise, x: Float[Tensor, "b *s"], sigma: Sigma) -> Float[Tensor, "b *s"]:
    """F = (D(x; sigma) - x) / sigma, the velocity towards less noise: dx/dsigma = -F.

    Args:
        denoise: callable (x, sigma) -> estimate of x0; bind labels and guidance first (see `guidance.guided`).
        x: samples at noise level sigma.
        sigma: > 0, one level for all or one for each.
    """
    sigma = sigma.to(x.dtype)
    return (denoise(x, sigma) - x) / _column(sigma, x)


def monitor(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    derivative: str = "jvp",
    step: float | None = None,
) -> tuple[Float[Tensor, "b *s"], Float[Tensor, "b *s"]]:
    """The flow F and the monitor Q = J_F F - dF/dsigma = (J_D F - dD/dsigma) / sigma, both like x.

    Q is taken from the second form: in the first, F / sigma is subtracted from itself. F keeps its autograd graph where gradients
    are enabled; Q has none.

    Args:
        denoise, x, sigma: see `flow`.
        derivative: "jvp", exact: D for F, and then a Jacobian-vector product along (F, -1) (two calls, of which one carries a
            tangent); or "difference", for a network without forward-mode derivatives: the central difference
            [D(x + h F, sigma - h) - D(x - h F, sigma + h)] / (2 h sigma) (three calls).
        step: h / sigma of the difference, in (0, 1). None: the dtype's precision to the power 1/5, 0.04 in float32. A network that
            computes in lower precision needs more.

    Raises:
        ValueError: an unknown derivative, or a step outside (0, 1).
    """
    sigma = sigma.to(x.dtype)
    F = flow(denoise, x, sigma)
    along = F.detach()
    if derivative == "jvp":
        with torch.no_grad():
            _, dD = tangent.jvp(denoise, (x, sigma), (along, -torch.ones_like(sigma)))
            return F, dD.to(x.dtype) / _column(sigma, x)
    if derivative != "difference":
        raise ValueError(f"monitor: derivative must be 'jvp' or 'difference', got {derivative!r}")
    step = torch.finfo(x.dtype).eps ** 0.2 if step is None else step
    if not 0 < step < 1:
        raise ValueError(f"monitor: step must be between 0 and 1, got {step}")
    h = step * sigma
    move = _column(h, x) * along
    with torch.no_grad():
        ahead, behind = denoise(x + move, sigma - h), denoise(x - move, sigma + h)
        return F, (ahead - behind) / (2 * _column(h * sigma, x))


def _column(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1))
