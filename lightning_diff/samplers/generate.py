"""Draw images: each starts from its own number's noise, so that it depends on no batch and no process."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from ..foundation import rng, stopping
from ..foundation.devices import moved
from ..foundation.progress import Stage, stage
from . import Denoise, Sampler, named, nfe, pure_noise
from .guidance import guided


@torch.no_grad()
def generate(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    seeds: rng.Positions,
    labels: Int64[Tensor, " n"] | None = None,
    *,
    sigmas: Float[Tensor, " nodes"],
    solver: str | Sampler = "heun",
    seed: int = 0,
    guidance: float = 1.0,
    guide: Callable[..., Tensor] | None = None,
    interval: tuple[float, float] = (0.0, math.inf),
    batch: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
    **solver_options: Any,
) -> Float32[Tensor, "n ..."]:
    """One sample for each number in `seeds`: on the CPU in their order, neither clipped nor rounded.

    Sample i starts at x_T = sigmas[0] * rng.normal(seed, "sample", [i], shape), and a stochastic solver's fresh noise
    at step k is rng.normal(seed, f"churn {k}", [i], shape). Both are the same bits in any batch on any number of
    processes (give each process its part of `seeds`), so the samples agree up to the network's order of summation.

    Args:
        denoiser: callable (x, sigma, label) -> x0, usually a `Denoiser`. Modules are put into eval mode and given back
            as they were.
        shape: of one sample, (C, H, W) for images.
        seeds: n whole numbers, the samples' own; any order, repetitions allowed.
        labels: one class, or number of a prompt (see `Denoiser.told`), for each sample, or None.
        sigmas: grid of noise levels that ends in 0 (see `schedules`). The first may be infinity, pure noise, for a denoiser that
            knows it (see `Denoiser.from_noise`); x_T is then the normal numbers themselves.
        solver: a name in `samplers.SOLVERS` or a function with their signature.
        seed: of the whole set: another one gives other samples for the same numbers.
        guidance, guide, interval: scale, guiding denoiser and noise levels (see `guidance.guided`).
        batch: samples at a time, >= 1; memory grows with it.
        device: where to compute. None: where the denoiser's weights are, or the CPU if it has none. The denoiser is not
            moved.
        dtype: of x while it is being solved for; float32 suffices for a float32 network (see `samplers`).
        progress: show a bar on a terminal, in denoiser calls.
        solver_options: for the solver, S_churn for instance.
    """
    check_request("generate", seeds, labels, batch)
    for model in (denoiser, guide):
        pure_noise.refuse_endless(model, sigmas)
    solve = named(solver)
    device = device_of(denoiser) if device is None else torch.device(device)
    samples = torch.empty(len(seeds), *shape)
    batches = range(0, len(seeds), batch)
    calls = len(batches) * nfe(solve, sigmas, **solver_options)
    with evaluating(denoiser, guide), stage("sampling", calls, "call", shown=progress) as bar:
        for start in batches:
            stopping.check("batch")
            numbers = seeds[start : start + batch]
            label = None if labels is None else moved(labels[start : start + batch], device)
            denoise = _counted(guided(denoiser, label, scale=guidance, guide=guide, interval=interval), bar)
            first = None
            if pure_noise.starts_endless(sigmas):
                end, guide_end = pure_noise.AtPureNoise(denoiser), guide and pure_noise.AtPureNoise(guide)
                first = _counted(guided(end, label, scale=guidance, guide=guide_end, interval=interval), bar)
            eps = moved(rng.normal(seed, "sample", numbers, shape), device).to(dtype)
            churn = _noise_of(seed, numbers, shape)
            x = pure_noise.solve(solve, denoise, eps, sigmas, from_noise=first, generator=churn, **solver_options)
            samples[start : start + batch] = x.to("cpu", torch.float32)
    return samples


def check_request(name: str, seeds: rng.Positions, labels: Tensor | None, batch: int) -> None:
    """ValueError unless there is a label for each sample, or none, and a batch size."""
    if batch < 1:
        raise ValueError(f"{name}: batch must be at least 1, got {batch}")
    if labels is not None and len(labels) != len(seeds):
        raise ValueError(f"{name}: need one label for each sample, got {len(labels)} for {len(seeds)} seeds")


def _counted(denoise: Denoise, bar: Stage) -> Denoise:
    """The same denoiser, every call shown on the bar."""

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        stopping.check()
        bar.advance()
        return denoise(x, sigma)

    return counted


def _noise_of(seed: int, numbers: rng.Positions, shape: Sequence[int]) -> Callable[[Tensor, int], Tensor]:
    """Fresh noise of these samples, by the number of the step."""

    def churn(x: Tensor, step: int) -> Tensor:
        return moved(rng.normal(seed, f"churn {step}", numbers, shape), x.device).to(x.dtype)

    return churn


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in, a frozen one inside a training one too."""
    modules = [module for model in models if isinstance(model, nn.Module) for module in model.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def device_of(model: object) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")
