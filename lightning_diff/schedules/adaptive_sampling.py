"""Adaptive-step sampling: a policy chooses each sample's own noise levels, from the noise that `generate` would draw it from."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..foundation import rng, stopping
from ..foundation.devices import moved
from ..foundation.progress import stage
from ..samplers.generate import check_request, device_of, evaluating
from ..samplers.guidance import guided
from . import StepPolicy


class PolicySampling(NamedTuple):
    """A step policy, where a `Sampling` could stand.

    Args:
        policy: the policy.
        name: solver and gamma for a protocol: heun/policy_0.97.
    """

    policy: StepPolicy
    name: str

    @property
    def solver(self) -> str:
        return self.policy.solver

    @property
    def steps(self) -> int:
        """At most."""
        return self.policy.max_steps


@torch.no_grad()
def sample_with_policy(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    seeds: rng.Positions,
    labels: Int64[Tensor, " n"] | None = None,
    *,
    policy: StepPolicy,
    seed: int = 0,
    guidance: float = 1.0,
    guide: Callable[..., Tensor] | None = None,
    interval: tuple[float, float] = (0.0, math.inf),
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"]]:
    """One sample for each number in `seeds`, by the policy's most likely choices, and the steps that each took.

    Args:
        policy: moved to where it is computed.
        denoiser, shape, seeds, labels, seed, guidance, guide, interval, batch, device: see `generate.generate`.
        progress: show a bar on a terminal, in samples.

    A sample that has ended is not computed any further, so that the model is called as often as the policy's `evaluations` says.
    Not for a sharded network, which has to be called by all processes alike.

    Returns:
        Both on the CPU in the order of `seeds`.
    """
    check_request("sample_with_policy", seeds, labels, batch)
    device = device_of(denoiser) if device is None else torch.device(device)
    samples, steps = torch.empty(len(seeds), *shape), torch.empty(len(seeds), dtype=torch.int64)
    with evaluating(denoiser, guide), stage("sampling", len(seeds), "sample", shown=progress) as bar:
        for start in range(0, len(seeds), batch):
            stopping.check("batch")
            numbers = seeds[start : start + batch]
            stop = start + len(numbers)

            def called(x: Tensor, sigma: Tensor, label: Tensor | None, stop: int = stop) -> Tensor:
                stopping.check()
                bar.reach(stop - len(x))  # the others have ended
                return guided(denoiser, label, scale=guidance, guide=guide, interval=interval)(x, sigma)

            eps = rng.normal(seed, "sample", numbers, shape)
            eps = moved(eps, device)
            label = None if labels is None else moved(labels[start:stop], device)
            drawn = policy.to(device).sample(called, eps, label)
            samples[start:stop], steps[start:stop] = drawn.x.to("cpu", torch.float32), drawn.steps.cpu()
    return samples, steps
