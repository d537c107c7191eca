"""Two samples, generated and real, gathered whole from every process: what the distance-based metrics stand on."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..foundation.errors import UserError


class TwoSamples(Metric):
    """Collects generated and real features; children compute on all of them.

    Features are kept flat: for a process that saw nothing torchmetrics gathers a one-dimensional empty tensor, which
    has to match what the others send. Lists are concatenated before they are gathered, so the number of updates may
    differ too.

    Args:
        dim: d, the number of features.
    """

    is_differentiable = False
    full_state_update = False
    generated: list[Tensor]
    real: list[Tensor]

    def __init__(self, dim: int, **kwargs: object):
        super().__init__(**kwargs)
        self.dim = dim
        self.add_state("generated", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], real: bool) -> None:
        (self.real if real else self.generated).append(features.detach().float().flatten())

    def samples(self, least: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Generated and real features, float32. UserError with fewer than `least` of either."""
        both = []
        for kind in ("generated", "real"):
            state = getattr(self, kind)
            flat = dim_zero_cat(state) if len(state) else torch.zeros(0, device=self.device)
            both.append(flat.reshape(-1, self.dim))
            if len(both[-1]) < least:
                raise UserError(f"{type(self).__name__}: {len(both[-1])} {kind} images; take at least {least}")
        return both[0], both[1]
