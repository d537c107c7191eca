"""Gaussian data: denoiser, score, likelihood, loss and the whole trajectory in closed form."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..denoiser import Denoiser
from .base import AngleForm, Oracle, OracleNetwork, Sigma, Time, as_column, check_label, check_shape, randn


class Gaussian(Oracle):
    """x0 ~ N(mean, cov).

    Args:
        mean: S.
        cov: (d, d) symmetric positive semi-definite, or the variances of independent elements in the shape of mean, or
            the variance () of all of them.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor | None

    def __init__(self, mean: Float[Tensor, "*s"], cov: Float[Tensor, "..."] | float):
        super().__init__()
        cov = torch.as_tensor(cov, dtype=torch.float64, device=mean.device)
        d = mean.numel()
        if cov.ndim == 0 or cov.shape == mean.shape:
            variances, axes = cov.expand(mean.shape).flatten().clone(), None
        elif cov.shape == (d, d):
            if not torch.allclose(cov, cov.T):
                raise ValueError("Gaussian: cov must be symmetric")
            variances, axes = torch.linalg.eigh(cov)
            variances = torch.where(variances.abs() < d * 1e-15 * variances.abs().max(), 0, variances)
        else:
            raise ValueError(
                f"Gaussian: cov must be (), mean's shape {tuple(mean.shape)} or ({d}, {d}), got {tuple(cov.shape)}"
            )
        if not (variances >= 0).all():
            raise ValueError("Gaussian: cov must be positive semi-definite")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)

    def forward(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """mean + cov (cov + sigma^2)^-1 (x - mean). sigma > 0, or >= 0 if cov is positive definite."""
        self._check(x, label)
        sigma = as_column(sigma, x)
        z = self._rotate(x.double() - self.mean)
        return (self.mean + self._rotate_back(z * (self.variances / (self.variances + sigma**2)))).to(x.dtype)

    def score(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """Gradient of log_prob with respect to x: -(cov + sigma^2)^-1 (x - mean)."""
        self._check(x, label)
        z = self._rotate(x.double() - self.mean)
        return self._rotate_back(-z / (self.variances + as_column(sigma, x) ** 2)).to(x.dtype)

    def log_prob(
        self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Log density of x = x0 + sigma eps, in nats."""
        self._check(x, label)
        z = self._rotate(x.double() - self.mean)
        v = self.variances + as_column(sigma, x) ** 2
        return (-0.5 * (z**2 / v + (2 * math.pi * v).log()).sum(1)).to(x.dtype)

    def ode_solution(self, x: Float[Tensor, "b ..."], sigma: Sigma, sigma_next: Sigma) -> Float[Tensor, "b ..."]:
        """Where the probability-flow ODE takes x from sigma to sigma_next, exactly: along each principal axis of
        standard deviation s the distance from the mean scales with sqrt(s^2 + sigma^2)."""
        z = self._rotate(x.double() - self.mean)
        v, v_next = self.variances + as_column(sigma, x) ** 2, self.variances + as_column(sigma_next, x) ** 2
        return (self.mean + self._rotate_back(z * (v_next / v).sqrt())).to(x.dtype)

    def ode_end(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Sigma,
        label: Int64[Tensor, " b"] | None = None,
        *,
        steps: int = 256,
        sigma_data: float = 0.5,
    ) -> Float[Tensor, "b ..."]:
        """As for every oracle, here in closed form: `steps` and `sigma_data` play no part."""
        self._check(x, label)
        return self.ode_solution(x, sigma, torch.zeros((), device=x.device))

    def consistency_model(self, sigma_data: float = 0.5, time: Time = "edm") -> Denoiser:
        """The exact consistency function as a network inside a `Denoiser` with that preconditioning."""
        return Denoiser(OracleNetwork(_GaussianConsistency(self), sigma_data, time), sigma_data, time)

    def denoising_loss(
        self, sigma: Float[Tensor, " levels"], sigma_data: float = 0.5
    ) -> tuple[Float[Tensor, " levels"], Float[Tensor, " levels"]]:
        """Mean and variance of the exact denoiser's F-space loss |F - target|^2 / d over (x0, eps), at each noise
        level.

        F - target = (D - x0) / c_out, and D - x0 is the posterior's deviation, N(0, s_i^2 sigma^2 / (s_i^2 + sigma^2))
        along axis i whatever x is. Hence the loss is the mean over i of a_i chi^2_1 with
            a_i = s_i^2 (sigma^2 + sigma_data^2) / (sigma_data^2 (s_i^2 + sigma^2)),
        its mean is mean_i a_i and its variance 2 / d mean_i a_i^2. This mean is the smallest that any network can
        reach.
        """
        square = sigma.double()[:, None] ** 2
        a = self.variances * (square + sigma_data**2) / (sigma_data**2 * (self.variances + square))
        return a.mean(1).to(sigma.dtype), (2 * (a**2).mean(1) / a.shape[1]).to(sigma.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n ..."]:
        """n independent draws of x0, in mean's dtype and on its device."""
        z = randn((n, len(self.variances)), generator, self.mean.device)
        return (self.mean + self._rotate_back(z * self.variances.sqrt())).to(self.mean.dtype)

    def edm_output(
        self,
        x_in: Float[Tensor, "b ..."],
        cos: Float[Tensor, " b"],
        sin: Float[Tensor, " b"],
        sigma_data: float,
        label: Int64[Tensor, " b"] | None = None,
    ) -> Tensor:
        self._check(x_in, label)
        cos, sin = cos[:, None], sin[:, None]
        mean, z = self._rotate(self.mean.double()[None]), self._rotate(x_in.double())
        below = self.variances * cos**2 + sigma_data**2 * sin**2
        return self._rotate_back(sin * (sigma_data * mean + cos * (self.variances - sigma_data**2) * z) / below)

    def _check(self, x: Tensor, label: Tensor | None) -> None:
        check_shape(x, self.mean.shape)
        check_label(label, self.num_classes)

    def _rotate(self, x: Tensor) -> Float[Tensor, "b d"]:
        """Coordinates along the principal axes."""
        flat = x.reshape(len(x), -1)
        return flat if self.axes is None else flat @ self.axes

    def _rotate_back(self, z: Float[Tensor, "b d"]) -> Tensor:
        flat = z if self.axes is None else z @ self.axes.T
        return flat.reshape(len(z), *self.mean.shape)


class _GaussianConsistency(AngleForm):
    """F of which cos(t) x_t - sin(t) sigma_data F is the end of the ODE; F solved for, and what is small cancelled by hand."""

    def __init__(self, gaussian: Gaussian):
        super().__init__()
        self.gaussian = gaussian

    def edm_output(
        self,
        x_in: Float[Tensor, "b ..."],
        cos: Float[Tensor, " b"],
        sin: Float[Tensor, " b"],
        sigma_data: float,
        label: Int64[Tensor, " b"] | None = None,
    ) -> Tensor:
        """With s^2 the variance along an axis and h^2 = s^2 cos^2 t + sigma_data^2 sin^2 t, f - mu = (x_t - cos(t) mu) s / h."""
        own = self.gaussian
        own._check(x_in, label)
        cos, sin = cos[:, None], sin[:, None]
        mean, z = own._rotate(own.mean.double()[None]), own._rotate(x_in.double())
        s = own.variances.sqrt()
        h = (own.variances * cos**2 + sigma_data**2 * sin**2).sqrt()
        of_mean = sigma_data / (h * (h + s * cos))
        of_z = (own.variances * (1 + cos**2) - (sigma_data * cos) ** 2) / (h * (s + h * cos))
        return own._rotate_back(sin * (of_mean * mean + of_z * z))
