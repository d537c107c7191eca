"""What the exact denoisers share: the angle form, the checks, and the network form of their functions."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..denoiser import Denoiser

Sigma = Float[Tensor, ""] | Float[Tensor, " b"]
Time = Literal["edm", "trigflow"]


class AngleForm(nn.Module):
    """A function of x0's estimates in TrigFlow's coordinates, finite at both ends of (0, pi/2]."""

    def edm_output(
        self,
        x_in: Float[Tensor, "b ..."],
        cos: Float[Tensor, " b"],
        sin: Float[Tensor, " b"],
        sigma_data: float,
        label: Int64[Tensor, " b"] | None = None,
    ) -> Tensor:
        """F with EDM's sign at the angle with this cosine and sine, for x_in = c_in x, in float64."""
        raise NotImplementedError


class Oracle(AngleForm):
    """What the exact denoisers share: sigma is () or (B,), labels are checked, and `denoiser` wraps them as a
    network."""

    num_classes: int = 0

    def forward(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """E[x0 | x], in x's dtype. sigma > 0."""
        raise NotImplementedError

    def ode_end(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Sigma,
        label: Int64[Tensor, " b"] | None = None,
        *,
        steps: int = 256,
        sigma_data: float = 0.5,
    ) -> Float[Tensor, "b ..."]:
        """Where the probability-flow ODE takes x from sigma to 0: the exact consistency function f(x, sigma), in x's dtype.

        In TrigFlow's coordinates, where dx_t/dt = -sigma_data F_edm and F is smooth down to t = 0, by the classical Runge-Kutta
        method of order 4 in float64. The steps shrink towards 0 like t_i = t (1 - i / steps)^2, because what the data's
        components are like shows late. Four evaluations each.

        Args:
            sigma: > 0.
            label: classes, or None.
            steps: of the solver; halve the step to see its error.
            sigma_data: of the coordinates; the result does not depend on it, its error does a little.
        """
        if steps < 1:
            raise ValueError(f"ode_end: steps must be at least 1, got {steps}")
        start = torch.atan(torch.as_tensor(sigma, device=x.device).double().expand(len(x)) / sigma_data)
        column = (-1, *[1] * (x.ndim - 1))
        u = start.cos().reshape(column) * x.double() / sigma_data

        def slope(u: Tensor, t: Tensor) -> Tensor:
            return -self.edm_output(u, t.cos(), t.sin(), sigma_data, label)

        for i in range(steps):
            t, t_next = (start * (1 - k / steps) ** 2 for k in (i, i + 1))
            middle, h = (t + t_next) / 2, (t_next - t).reshape(column)
            k1 = slope(u, t)
            k2 = slope(u + h / 2 * k1, middle)
            k3 = slope(u + h / 2 * k2, middle)
            k4 = slope(u + h * k3, t_next)
            u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (sigma_data * u).to(x.dtype)

    def denoiser(self, sigma_data: float = 0.5, time: Time = "edm") -> Denoiser:
        """This function as a network F(x_in, c_noise, label) inside a `Denoiser` with that preconditioning."""
        return Denoiser(OracleNetwork(self, sigma_data, time), sigma_data, time)


class OracleNetwork(nn.Module):
    """F(x_in, c_noise, label) of an oracle, with the time conditioning and the sign that `Denoiser` expects of a
    network."""

    def __init__(self, oracle: AngleForm, sigma_data: float, time: Time):
        super().__init__()
        self.oracle, self.sigma_data, self.time = oracle, sigma_data, time

    def forward(
        self, x_in: Float[Tensor, "b ..."], c_noise: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b ..."]:
        c_noise = c_noise.double()
        if self.time == "trigflow":
            return -self.oracle.edm_output(x_in, c_noise.cos(), c_noise.sin(), self.sigma_data, label).to(x_in.dtype)
        sigma = (4 * c_noise).exp()
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        return self.oracle.edm_output(x_in, self.sigma_data / norm, sigma / norm, self.sigma_data, label).to(x_in.dtype)


def as_column(sigma: Tensor, x: Tensor) -> Float[Tensor, "b 1"]:
    return torch.as_tensor(sigma, device=x.device).double().expand(len(x))[:, None]


def check_shape(x: Tensor, shape: torch.Size) -> None:
    if x.shape[1:] != shape:
        raise ValueError(f"oracle: x must be (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def check_label(label: Tensor | None, num_classes: int) -> None:
    """Every label in 0..num_classes. An oracle without classes ignores labels, as an unconditional network does."""
    if num_classes and label is not None and not ((label >= 0) & (label <= num_classes)).all():
        raise ValueError(
            f"oracle: labels must be in 0..{num_classes} ({num_classes} means none), got {label.min()}..{label.max()}"
        )


def home(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def randn(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=home(generator)).to(device)
