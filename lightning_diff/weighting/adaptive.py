"""The weight that a consistency model learns for its own loss."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..noise import log_snr_to_sigma
from .base import Weighting


class AdaptiveWeight(Weighting):
    """e^w loss - w with a learned w(t), t = arctan(sigma / sigma_data) (sCM, arXiv 2410.11081, algorithm 1).

    The optimum is e^w = 1 / E[loss | t], which gives every level the same weight. The paper does not say what computes w: here it
    is a cosine series over [0, pi/2], w = start + b + sum_k a_k cos(2 k t), whose coefficients start at 0 and train under the
    model's optimiser. They have a part in the gradient's norm and are saved with the module, in no average of weights.

    Args:
        shape: of one sample (a fact of the data).
        start: of w. None for ln D, D the sample's number of elements: the optimum for a tangent normalised to L2 norm 1, whose
            squared error, averaged over D dimensions, is about 1 / D. From 0 it would have to climb there.
        terms: cosines, >= 0.
    """

    harmonics: Tensor

    def __init__(self, shape: Sequence[int], start: float | None = None, terms: int = 16):
        super().__init__()
        if terms < 0:
            raise ValueError(f"AdaptiveWeight: terms must not be negative, got {terms}")
        self.start = math.log(math.prod(shape)) if start is None else start
        self.coefficients = nn.Parameter(torch.zeros(terms + 1))
        self.register_buffer("harmonics", 2 * torch.arange(terms + 1), persistent=False)

    def w(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """With its gradient, in float32."""
        t = log_snr_to_sigma(log_snr.float(), 1.0).atan()
        with torch.autocast(log_snr.device.type, enabled=False):  # which would round to 16 bits
            return self.start + (t[:, None] * self.harmonics).cos() @ self.coefficients

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self.w(log_snr).exp().to(loss.dtype)

    def penalty(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What is added to the weighted loss: -w."""
        return -self.w(log_snr).to(loss.dtype)
