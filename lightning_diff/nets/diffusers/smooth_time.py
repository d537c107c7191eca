"""A smooth embedding of the time, for consistency models, in weights that the library runs as they are.

The networks of the library embed a time from 0 to 1,000 by sinusoids of 1 down to 1e-4 radians per unit. The fastest of them turn
160 times along one trajectory, and what they do to the network is in dF/dt, hence in the tangent of consistency training, where it
drowns the rest (sCM, arXiv 2410.11081, section 4.1; Sana-Sprint, arXiv 2503.09641, section 3.2, trains a network over to a time
between 0 and 1 first). Leaving out the fast sinusoids has the same effect, and needs no other time: with columns of zeros in the
first layer after them it is the same network in every pipeline.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .family import Config, Family
from .guidance import EMBEDDERS

SPAN = 1000.0  # of the time that is embedded, from no noise to pure noise
PERIOD = 10_000.0  # between the fastest and the slowest sinusoid, in the library


class SmoothTime:
    """Keeps the sinusoids of a time below a frequency.

    Args:
        family, config: of the network.
        model: of the library, which is changed in place; no name of its weights is.
        radians: > 0; a sinusoid that turns by more between no noise and pure noise is left out.

    Raises:
        UserError: a time that is not embedded by sinusoids, or nothing left of it.
    """

    def __init__(self, family: Family, config: Config, model: nn.Module, radians: float):
        if not radians > 0:
            raise family.wrong(f"smooth_time must be positive, got {radians:g}")
        limit = radians / (SPAN * config.get("timestep_scale", 1.0))
        self._without: list[tuple[str, int]] = []  # the first layer after the sinusoids, how many of them are left out
        for name, sinusoids, layer in _embeddings(model):
            if (count := getattr(sinusoids, "num_channels", None)) is None:
                raise family.wrong(
                    "smooth_time: this configuration embeds its time by other functions than sinusoids; leave it out"
                )
            frequencies = _frequencies(sinusoids, count // 2)
            if (fast := sum(each > limit for each in frequencies)) == len(frequencies):
                slowest = frequencies[-1] / limit * radians
                raise family.wrong(
                    f"smooth_time {radians:g}: its slowest sinusoid turns by {slowest:.3g} radians; give more"
                )
            self._without.append((name, fast))
            layer.register_forward_pre_hook(_Without(fast))
        self._clear(model)

    def __call__(self, net: nn.Module, keys: object) -> None:
        """A hook of `Diffusers`, after its state was loaded."""
        self._clear(net.model)  # type: ignore[arg-type]  # a module

    @torch.no_grad()
    def _clear(self, model: nn.Module) -> None:
        """Set to zero the weights that nothing reaches."""
        for name, fast in self._without:
            layer = model.get_submodule(name)
            for parameter, weight in layer.named_parameters():
                if parameter == "weight" or parameter.endswith("weight.original"):  # that of a layer with an adapter
                    weight.masked_fill_(~_kept(weight, fast), 0.0)


class _Without:
    """A hook that is copied with the network it is in."""

    def __init__(self, fast: int):
        self.fast = fast

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] * _kept(inputs[0], self.fast).to(inputs[0].dtype)


def _embeddings(model: nn.Module) -> Iterator[tuple[str, Any, nn.Module]]:
    """Of each embedding of the time: name of the first layer after its sinusoids, these, the layer."""
    for name, module in model.named_modules():
        parent, _, own = name.rpartition(".")
        if own in EMBEDDERS:
            yield f"{name}.linear_1", model.get_submodule(parent).time_proj, module.linear_1


def _frequencies(sinusoids: Any, half: int) -> list[float]:
    """Radians per unit, falling, as `diffusers.models.embeddings.get_timestep_embedding` takes them."""
    rate = math.log(PERIOD) / (half - sinusoids.downscale_freq_shift)
    return [sinusoids.scale * math.exp(-rate * k) for k in range(half)]


def _kept(like: Tensor, fast: int) -> Tensor:
    """(channels,) boolean: which channels are slow, of sines and then cosines, or the other way about."""
    half = like.shape[-1] // 2
    return torch.arange(like.shape[-1], device=like.device) % half >= fast
