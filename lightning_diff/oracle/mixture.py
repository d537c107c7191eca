"""Mixtures of Gaussians, and the finite data set, a mixture of points: denoiser, score and likelihood in closed form."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .base import Oracle, Sigma, as_column, check_label, check_shape, home, randn


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
        sigma = as_column(sigma, x)
        weight = self._log_joint(x, sigma, label).softmax(1) / (self.stds**2 + sigma**2)
        return self._average(weight * sigma**2, x, (weight * self.stds**2).sum(1)).to(x.dtype)

    def score(self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None) -> Tensor:
        """Gradient of log_prob with respect to x: sum_k p_k (mu_k - x) / (s_k^2 + sigma^2)."""
        sigma = as_column(sigma, x)
        weight = self._log_joint(x, sigma, label).softmax(1) / (self.stds**2 + sigma**2)
        return self._average(weight, x, -weight.sum(1)).to(x.dtype)

    def log_prob(
        self, x: Float[Tensor, "b ..."], sigma: Sigma, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Log density of x = x0 + sigma eps, given the class if there is a label, in nats."""
        return self._log_joint(x, as_column(sigma, x), label).logsumexp(1).to(x.dtype)

    def sample(
        self, n: int, generator: torch.Generator | None = None, label: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n ..."]:
        """n independent draws of x0, of the given classes if there is a label, in means' dtype and on its device."""
        # Gumbel-max: one uniform for each draw and component picks from every row's own log weights.
        u = torch.rand(n, len(self.means), generator=generator, dtype=torch.float64, device=home(generator))
        log_weights = self._log_weights(n, label)
        k = (log_weights - (-u.clamp(2.0**-53, 1 - 2.0**-53).log()).log().to(log_weights.device)).argmax(1)
        noise = randn((n, *self.means.shape[1:]), generator, self.means.device)
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
        check_shape(x, self.means.shape[1:])
        check_label(label, self.num_classes)
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
