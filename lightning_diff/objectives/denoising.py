"""The denoising loss, in F-space."""

from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition
from ..denoiser import Denoiser


def denoising_loss(
    denoiser: Denoiser,
    x0: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    label: AnyCondition | None = None,
    **conditioning: Tensor | None,
) -> Float[Tensor, " b"]:
    """Unweighted loss per sample, |F - target|^2 averaged over dimensions (EDM, arXiv 2206.00364, eq. 8).

    With x = x0 + sigma * noise the target is F* = (x0 - c_skip x) / c_out, which is written here after cancelling:
        F* = sin(t) x0 / sigma_data - cos(t) noise,   t = arctan(sigma / sigma_data),
    so that no small difference of large numbers is taken at either end. It equals lambda(sigma) |D - x0|^2 with EDM's
    lambda = 1 / c_out^2, and TrigFlow's |F - v_t / sigma_data|^2 (arXiv 2410.11081, eq. 3), term by term.

    Args:
        denoiser: the model.
        x0: clean images.
        sigma: noise levels, > 0.
        noise: standard normal, shaped like x0.
        label: class labels, or None.
        conditioning: handed to the network as it is.
    """
    sigma = sigma.to(x0.dtype)
    column = sigma.reshape(-1, *[1] * (x0.ndim - 1))
    output = denoiser.edm_output(x0 + column * noise, sigma, label, **conditioning)
    target = (column * x0 / denoiser.sigma_data - denoiser.sigma_data * noise) / (
        column**2 + denoiser.sigma_data**2
    ).sqrt()
    return (output - target).square().flatten(1).mean(1)
