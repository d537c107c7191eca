"""The unweighted loss of chosen images at fixed noise levels and with fixed noise: what a validation compares through training."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..condition import Condition
from ..data.buckets import of_one_shape
from ..data.image_set import Examples
from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.devices import moved
from ..foundation.processes import rank_and_world, rows_of_all
from ..noise import NoiseLaw, log_snr_to_sigma
from ..objectives import denoising_loss
from ..samplers.generate import evaluating


class Probes(NamedTuple):
    """Examples to come, m of them, each an image of the chosen ones at one noise level with noise of its own number.

    Args:
        image: which of the chosen images.
        sigma: noise levels, > 0.
    """

    image: Int64[Tensor, " m"]
    sigma: Float64[Tensor, " m"]


def chosen(count: int, n: int, seed: int) -> Int64[Tensor, " n"]:
    """n of `count` images, the same ones for a seed; n <= count."""
    return torch.from_numpy(rng.permutation(seed, "validation image", 0, count)[:n])


def of_law(law: NoiseLaw, n: int, draws: int, seed: int) -> Probes:
    """Each of n images `draws` times, at levels of a law, one in each of n * draws strata of equal probability."""
    return Probes(torch.arange(n * draws) % n, law.icdf(_strata(n * draws, seed, "validation level")).double())


def over_log_snr(low: float, high: float, sigma_data: float, n: int, draws: int, seed: int) -> Probes:
    """The same at levels that lie evenly in log-SNR, from `low` to `high`."""
    u = _strata(n * draws, seed, "validation log-SNR")
    return Probes(torch.arange(n * draws) % n, log_snr_to_sigma(low + (high - low) * u, sigma_data))


def _strata(m: int, seed: int, purpose: str) -> Float64[Tensor, " m"]:
    """The middles of m strata of (0, 1), in an order that has nothing to do with that of the images."""
    return (torch.from_numpy(rng.permutation(seed, purpose, 0, m)).double() + 0.5) / m


@torch.no_grad()
def losses(
    denoiser: Denoiser,
    examples: Examples,
    images: Int64[Tensor, " n"],
    probes: Probes,
    *,
    seed: int,
    batch: int,
    device: torch.device,
) -> Float64[Tensor, " m"]:
    """The unweighted loss |F - target|^2 of each probe (see `objectives.denoising_loss`), in evaluation mode.

    Noise of probe i is rng.normal(seed, "validation noise", [i], shape); images in buckets are measured in the shape of theirs.
    Under a process group each process, by calling this, takes its share, and gets all. No generator moves, and weights, gradients
    and modes stay as they are.

    Args:
        denoiser: on `device`.
        examples: from which images are read, unflipped, with their labels or conditions.
        images: the chosen ones' indices.
        probes: what is measured.
        seed: of the noise.
        batch: probes at a time on each process.
    """
    rank, world = rank_and_world()
    mine: list[int] = []
    found = [torch.zeros(0, dtype=torch.float64)]
    with evaluating(denoiser):
        for together in of_one_shape(examples, images[probes.image], batch * world):
            own = torch.from_numpy(together)[rank::world]
            numbers = own if len(own) else together[:1]  # of a sharded network every process makes every call
            x0, given = examples.take(images[probes.image[numbers]])
            noise = rng.normal(seed, "validation noise", numbers.tolist(), x0.shape[1:])
            given = given.to(device) if isinstance(given, Condition) else given
            loss = denoising_loss(
                denoiser,
                moved(x0, device),
                moved(probes.sigma[numbers], device).to(x0.dtype),
                moved(noise, device),
                moved(given, device) if isinstance(given, Tensor) else given,
            )
            mine += own.tolist()
            found.append(loss[: len(own)].double().cpu())
    return rows_of_all(torch.cat(found), mine, len(probes.image), device)
