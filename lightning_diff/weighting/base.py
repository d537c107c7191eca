"""The base of weightings: what the training step calls, with defaults for one that only weighs."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Weighting(nn.Module):
    """Weights over noise levels: `forward(log_snr (B,), loss (B,)) -> (B,)`, positive, without gradient.

    They multiply the unweighted F-space loss. A subclass gives `forward`; the other methods are there to be overridden.
    """

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        raise NotImplementedError

    def penalty(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """(B,), added to the weighted losses. Weights with a penalty may have a gradient of their own."""
        return torch.zeros_like(loss)

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        """Log-SNR at equally likely draws of the law that training averages over (`TrainingLaw.objective_law`).

        Before training, and again whenever that law has changed. Nothing may depend on how often it is called.
        """

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        """After each optimiser step: its unweighted losses, over all devices, in order of position.

        Losses that are not finite are to be left out. What is learned here depends neither on the number of processes nor on
        accumulation.
        """

    def update_from(
        self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], importance: Float[Tensor, " n"]
    ) -> None:
        """What training calls: `update`, unless averages over levels matter, which count samples by their importance."""
        self.update(log_snr, loss)

    @property
    def learns(self) -> bool:
        """Whether `update` is of any use; if nobody learns from the losses, they are not gathered from the processes."""
        return type(self).update is not Weighting.update

    @property
    def has_penalty(self) -> bool:
        return type(self).penalty is not Weighting.penalty


def as_weighting(module: nn.Module) -> Weighting:
    """A weighting of somebody's own, which may have `forward` alone, as a `Weighting`; a `Weighting` as it is.

    What this gives is for calling, not for registering: the module itself is what has parameters and a place in checkpoints.
    """
    return module if isinstance(module, Weighting) else _Completed(module)


class _Completed(Weighting):
    """A module with the methods of `Weighting` that it lacks."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return cast(Tensor, self.module(log_snr, loss))

    def penalty(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        own = getattr(self.module, "penalty", super().penalty)
        return cast(Tensor, own(log_snr, loss))

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        getattr(self.module, "prepare", super().prepare)(levels)

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        getattr(self.module, "update", super().update)(log_snr, loss)

    @property
    def learns(self) -> bool:
        return hasattr(self.module, "update")

    @property
    def has_penalty(self) -> bool:
        return hasattr(self.module, "penalty")
