"""Exact denoisers: data whose posterior mean E[x0 | x0 + sigma eps] has a closed form, to hold everything else against.

    Gaussian(mean, cov)                       full, diagonal or isotropic covariance
    GaussianMixture(weights, means, stds)     isotropic components, with a class each if wanted
    Dataset(images)                           the finite data set: a mixture of points (the denoiser that memorises)

Each is a module called as oracle(x, sigma, label=None) -> x0, and `oracle.denoiser(...)` is the same function as a
network behind EDM's or TrigFlow's preconditioning, usable wherever a trained `Denoiser` is. They have no trainable
parameters.

Shapes: B batch, K components, S the shape of one sample (any number of axes), d its number of elements. They take and
return any floating dtype and compute in float64, in closed forms without cancellation, so that float32 answers are
right to the last digit; reverse- and forward-mode derivatives work. As for networks, labels are 0..num_classes, the
last one meaning "no label", and without classes they are ignored.

The network form. With the angle t = arctan(sigma / sigma_data), EDM's network output F = (D - c_skip x) / c_out is, for
a component N(mu, s^2 I) and x_in = c_in x,

    F = sin t (sigma_data mu + cos t (s^2 - sigma_data^2) x_in) / (s^2 cos^2 t + sigma_data^2 sin^2 t),

finite at both ends of (0, pi/2], and F of a mixture is the posterior average of its components' F, because F is affine
in D.

The consistency function f(x, sigma), the end of the probability-flow ODE through x, is `ode_end`: in closed form for a
Gaussian, by a fine solver for a mixture.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .denoiser import Denoiser

Sigma = Float[Tensor, ""] | Float[Tensor, " b"]
Time = Literal["edm", "trigflow"]


class Oracle(nn.Module):
    """What the exact denoisers share: sigma is () or (B,), labels are checked, and `denoiser` wraps them as a
    network."""

    num_classes: int = 0

    def forward(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """E[x0 | x], in x's dtype. sigma > 0."""
        raise NotImplementedError

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
        return Denoiser(_Network(self, sigma_data, time), sigma_data, time)


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
        sigma = _column(sigma, x)
        z = self._rotate(x.double() - self.mean)
        return (self.mean + self._rotate_back(z * (self.variances / (self.variances + sigma**2)))).to(x.dtype)

    def score(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """Gradient of log_prob with respect to x: -(cov + sigma^2)^-1 (x - mean)."""
        self._check(x, label)
        z = self._rotate(x.double() - self.mean)
        return self._rotate_back(-z / (self.variances + _column(sigma, x) ** 2)).to(x.dtype)

    def log_prob(
        self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Log density of x = x0 + sigma eps, in nats."""
        self._check(x, label)
        z = self._rotate(x.double() - self.mean)
        v = self.variances + _column(sigma, x) ** 2
        return (-0.5 * (z**2 / v + (2 * math.pi * v).log()).sum(1)).to(x.dtype)

    def ode_solution(self, x: Float[Tensor, "b ..."], sigma: Sigma, sigma_next: Sigma) -> Float[Tensor, "b ..."]:
        """Where the probability-flow ODE takes x from sigma to sigma_next, exactly: along each principal axis of
        standard deviation s the distance from the mean scales with sqrt(s^2 + sigma^2)."""
        z = self._rotate(x.double() - self.mean)
        v, v_next = self.variances + _column(sigma, x) ** 2, self.variances + _column(sigma_next, x) ** 2
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
        return Denoiser(_Network(_GaussianConsistency(self), sigma_data, time), sigma_data, time)

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
        z = _randn((n, len(self.variances)), generator, self.mean.device)
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
        _check_shape(x, self.mean.shape)
        _check_label(label, self.num_classes)

    def _rotate(self, x: Tensor) -> Float[Tensor, "b d"]:
        """Coordinates along the principal axes."""
        flat = x.reshape(len(x), -1)
        return flat if self.axes is None else flat @ self.axes

    def _rotate_back(self, z: Float[Tensor, "b d"]) -> Tensor:
        flat = z if self.axes is None else z @ self.axes.T
        return flat.reshape(len(z), *self.mean.shape)


class _GaussianConsistency(nn.Module):
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


class GaussianMixture(Oracle):
    """x0 ~ sum_k weights_k N(means_k, stds_k^2 I).

    Args:
        weights: (K,), >= 0, not all 0; normalised here.
        means: (K, *S).
        stds: (K,), >= 0, or one number for all.
        labels: (K,) classes of the components, 0..num_classes-1, each with a component. The denoiser for a class knows
            of its components alone, with their weights renormalised. None: no classes.
    """

    log_weights: Tensor
    means: Tensor
    stds: Tensor
    labels: Tensor | None

    def __init__(
        self,
        weights: Float[Tensor, " k"],
        means: Float[Tensor, "k *s"],
        stds: Float[Tensor, " k"] | float,
        labels: Int64[Tensor, " k"] | None = None,
    ):
        super().__init__()
        stds = torch.as_tensor(stds, dtype=torch.float64, device=means.device).expand(len(means)).clone()
        if not ((weights >= 0).all() and weights.sum() > 0 and weights.isfinite().all()):
            raise ValueError("GaussianMixture: weights must be finite, not negative and not all 0")
        if not (stds >= 0).all():
            raise ValueError("GaussianMixture: stds must not be negative")
        self.register_buffer("log_weights", weights.double().log().log_softmax(0))
        self.register_buffer("means", means.detach().clone())
        self.register_buffer("stds", stds)
        self.register_buffer("labels", labels)
        if labels is not None:
            self.num_classes = int(labels.max()) + 1
            if int(labels.min()) < 0 or not (torch.bincount(labels, weights) > 0).all():
                raise ValueError(
                    "GaussianMixture: labels must be 0, 1, ... and every class needs a component of weight > 0"
                )

    def forward(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """sum_k p_k (sigma^2 mu_k + s_k^2 x) / (s_k^2 + sigma^2), p_k the posterior probability of component k. sigma >
        0."""
        sigma = _column(sigma, x)
        weight = self._log_joint(x, sigma, label).softmax(1) / (self.stds**2 + sigma**2)
        return self._average(weight * sigma**2, x, (weight * self.stds**2).sum(1)).to(x.dtype)

    def score(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """Gradient of log_prob with respect to x: sum_k p_k (mu_k - x) / (s_k^2 + sigma^2)."""
        sigma = _column(sigma, x)
        weight = self._log_joint(x, sigma, label).softmax(1) / (self.stds**2 + sigma**2)
        return self._average(weight, x, -weight.sum(1)).to(x.dtype)

    def log_prob(
        self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Log density of x = x0 + sigma eps, given the class if there is a label, in nats."""
        return self._log_joint(x, _column(sigma, x), label).logsumexp(1).to(x.dtype)

    def sample(
        self, n: int, generator: torch.Generator | None = None, label: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n ..."]:
        """n independent draws of x0, of the given classes if there is a label, in means' dtype and on its device."""
        # Gumbel-max: one uniform for each draw and component picks from every row's own log weights.
        u = torch.rand(n, len(self.means), generator=generator, dtype=torch.float64, device=_home(generator))
        log_weights = self._log_weights(n, label)
        k = (log_weights - (-u.clamp(2.0**-53, 1 - 2.0**-53).log()).log().to(log_weights.device)).argmax(1)
        noise = _randn((n, *self.means.shape[1:]), generator, self.means.device)
        stds = self.stds[k].reshape(-1, *[1] * (noise.ndim - 1))
        return (self.means[k] + stds * noise).to(self.means.dtype)

    def edm_output(
        self,
        x_in: Float[Tensor, "b ..."],
        cos: Float[Tensor, " b"],
        sin: Float[Tensor, " b"],
        sigma_data: float,
        label: Int64[Tensor, " b"] | None = None,
    ) -> Tensor:
        cos, sin = cos[:, None], sin[:, None]
        below = self.stds**2 * cos**2 + sigma_data**2 * sin**2
        # |x - mu|^2 / (s^2 + sigma^2) with both sides times cos^2: finite at t = pi/2, where sigma is not
        p = self._log_posterior(x_in, sigma_data, cos, below, label).softmax(1)
        scale = p * sin / below
        return self._average(scale * sigma_data, x_in, (scale * cos * (self.stds**2 - sigma_data**2)).sum(1))

    def _log_joint(self, x: Tensor, sigma: Float[Tensor, "#b 1"], label: Tensor | None) -> Float[Tensor, "b k"]:
        """ln (weights_k N(x; mu_k, (s_k^2 + sigma^2) I))."""
        one = torch.ones_like(sigma)
        d = self.means[0].numel()
        return self._log_posterior(x, 1.0, one, self.stds**2 + sigma**2, label) - 0.5 * d * math.log(2 * math.pi)

    def _log_posterior(
        self, x: Tensor, scale: float, shrink: Float[Tensor, "#b 1"], variances: Tensor, label: Tensor | None
    ) -> Float[Tensor, "b k"]:
        """ln weights_k - |scale x - shrink mu_k|^2 / (2 variances_k) - d/2 ln variances_k."""
        _check_shape(x, self.means.shape[1:])
        _check_label(label, self.num_classes)
        # One matrix product gives the distances. Taken from the components' centre and in float64 its rounding,
        # 1e-16 |x|^2, is far below any variance in use.
        means = self.means.double().flatten(1)
        centre = means.mean(0)
        means = means - centre
        x = scale * x.double().flatten(1) - shrink * centre
        square = (x**2).sum(1, keepdim=True) - 2 * shrink * (x @ means.T) + shrink**2 * (means**2).sum(1)
        return self._log_weights(len(x), label) - square / (2 * variances) - 0.5 * means.shape[1] * variances.log()

    def _log_weights(self, n: int, label: Tensor | None) -> Float[Tensor, "n k"]:
        if label is None or self.labels is None:
            return self.log_weights.expand(n, -1)
        known = (self.labels == label[:, None]) | (label == self.num_classes)[:, None]
        return torch.where(known, self.log_weights, -torch.inf).log_softmax(1)

    def _average(self, weights: Float[Tensor, "b k"], x: Tensor, x_weight: Float[Tensor, " b"]) -> Tensor:
        """sum_k weights_k mu_k + x_weight x, in float64."""
        flat = weights @ self.means.double().flatten(1) + x_weight[:, None] * x.double().flatten(1)
        return flat.reshape(x.shape)


class Dataset(GaussianMixture):
    """x0 is one of these images, each equally likely: a mixture with stds 0, whose denoiser reproduces the data set.

    Args:
        images: (N, *S).
        labels: (N,) classes, 0..num_classes-1, or None.
    """

    def __init__(self, images: Float[Tensor, "n *s"], labels: Int64[Tensor, " n"] | None = None):
        super().__init__(torch.ones(len(images), device=images.device), images, 0.0, labels)


class _Network(nn.Module):
    """F(x_in, c_noise, label) of an oracle, with the time conditioning and the sign that `Denoiser` expects of a
    network."""

    def __init__(self, oracle: Oracle | _GaussianConsistency, sigma_data: float, time: Time):
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


def _column(sigma: Tensor, x: Tensor) -> Float[Tensor, "b 1"]:
    return torch.as_tensor(sigma, device=x.device).double().expand(len(x))[:, None]


def _check_shape(x: Tensor, shape: torch.Size) -> None:
    if x.shape[1:] != shape:
        raise ValueError(f"oracle: x must be (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def _check_label(label: Tensor | None, num_classes: int) -> None:
    """Every label in 0..num_classes. An oracle without classes ignores labels, as an unconditional network does."""
    if num_classes and label is not None and not ((label >= 0) & (label <= num_classes)).all():
        raise ValueError(
            f"oracle: labels must be in 0..{num_classes} ({num_classes} means none), got {label.min()}..{label.max()}"
        )


def _home(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _randn(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=_home(generator)).to(device)
