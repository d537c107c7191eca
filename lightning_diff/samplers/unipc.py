"""UniPC: a predictor through the denoiser's last outputs, and a corrector that costs no call."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, column, combined, level, log
from .solver import Node, OdeSolver, Reached, follow


def step(
    denoise: Denoise,
    node: Node,
    sigma_next: Level,
    past: Sequence[Node] = (),
    left: int | None = None,
    *,
    order: int = 3,
) -> Reached:
    """With lambda = -ln sigma and h = lambda_{i+1} - lambda_i the ODE says x_{i+1} = e^-h x_i + integral over u in (0, 1) of
    h e^{-h (1 - u)} D(u). UniP puts the polynomial through the last outputs in D's place, UniC then corrects the step with the
    output at its end, which serves the next step too, so that it costs no call."""
    known = [node, *past][: order if left is None else min(order, left)]
    ratio, h = sigma_next / node.sigma, log(node.sigma / sigma_next)
    places = [(-log(at.sigma) - -log(node.sigma)) / h for at in known]
    outputs = [at.denoised for at in known]
    kept = column(ratio, node.x) * node.x
    guess = kept + combined(exponential_weights(h, places), outputs)
    D = denoise(guess, level(sigma_next, node.x))
    return Reached(kept + combined(exponential_weights(h, [*places, 1.0]), [*outputs, D]), D)


def unipc(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    order: int = 3,
    lower_order_final: bool = True,
) -> Float[Tensor, "b ..."]:
    """UniPC, the multistep one in data prediction with B(h) = e^h - 1 (arXiv 2302.04867, alg. 7 and 8). n calls.

    With two outputs the integral of the slope is replaced by half of B(h)'s, as in the paper. Step i is of order
    p = min(order, i + 1, n - i) and one more by its correction: few steps need a low order at the end. Deterministic: `generator`
    is accepted, as by every sampler, and not used.

    Args:
        order: of the predictor, 1 to 3.
        lower_order_final: False for p = min(order, i + 1), the steps of a solution whose end is not known beforehand.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc: order must be 1, 2 or 3, got {order}")

    def own(
        denoise: Denoise, node: Node, sigma_next: Level, past: Sequence[Node] = (), left: int | None = None
    ) -> Reached:
        return step(denoise, node, sigma_next, past, left if lower_order_final else None, order=order)

    return follow(own, denoise, x, sigmas, keeps=order - 1)


_PLACES, _WEIGHTS = (torch.from_numpy(numbers) / 2 for numbers in np.polynomial.legendre.leggauss(48))


def exponential_weights(h: Level, places: Sequence[Level]) -> list[Level]:
    """w with integral over u in (0, 1) of h e^{-h (1 - u)} P(u) = sum_j w_j P(places_j), for polynomials P through those places.

    places: distinct, the first one 0, in units of the step; floats like h, or tensors of its shape, () or (B,), as are the weights.
    """
    tensors = isinstance(h, Tensor)
    h = torch.as_tensor(h, dtype=torch.float64)
    whole = -torch.expm1(-h)
    if len(places) == 2:  # the paper's shortcut: half of B(h) for the slope
        slope = whole / (2 * places[1])
        weights = torch.stack([whole - slope, slope])
    else:
        at = torch.stack(
            [torch.as_tensor(place, dtype=torch.float64, device=h.device).expand_as(h) for place in places], -1
        )
        u = (_PLACES + 0.5).to(h.device)
        powers = torch.arange(len(places), device=h.device)[:, None]
        # By quadrature: the closed form of these moments cancels where h is small.
        density = h[..., None] * (-h[..., None] * (1 - u)).exp()
        higher = (density[..., None, :] * u ** powers[1:]) @ _WEIGHTS.to(h.device)
        moments = torch.cat([whole[..., None], higher], -1)
        weights = torch.linalg.solve(at[..., None, :] ** powers, moments[..., None])[..., 0].movedim(-1, 0)
    return list(weights) if tensors else weights.tolist()


UNIPC = OdeSolver("unipc", unipc, step=step, order=4, keeps=2, two_step_order=3)
