"""Samples of a denoiser and their metrics: what the command line and the callback share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..artifacts.pictures import to_uint8
from ..data import Data
from ..foundation.processes import rows_of_all
from ..samplers import nfe
from ..samplers.generate import generate
from ..samplers.guidance import takes_scale
from ..schedules.adaptive_sampling import PolicySampling, sample_with_policy
from ..schedules.sampling import Sampling, choose
from .evaluate import Protocol, Reference, Row, evaluate, rank_and_world


def evaluate_denoiser(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    sampling: Sampling | PolicySampling | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    ema: str | None = None,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> list[Row]:
    """n samples, and every metric of them with its protocol and floor (see `evaluate`).

    Sample i is conditioned on the label of held-out image i, so that samples and floor have the same classes. Under a
    process group every process calls this, draws its share, and gets the figures of all.

    Args:
        denoiser: the model.
        reference: what to measure against.
        n: samples; None for as many as there are held-out images, which puts figures and floors at the same n.
        sampling: solver and noise levels; None for what suits the model (see `schedules.sampling.choose`). A step policy
            instead adds the figures steps_mean and steps_std; nfe is then the mean over the samples.
        guidance, seed, batch, device, progress: see `generate`.
        ema: name of the weight average in place, for the protocol.
    """
    data = reference.data
    if n is None:
        n = len(data.test if data.test is not None else data.train)
    sampling = choose(denoiser) if sampling is None else sampling
    rank, world = rank_and_world()
    # All processes draw equally many, because a sharded network runs on all or none; what is beyond n is dropped.
    most = -(-n // world)
    labels = requested_labels(data, most * world)
    images, steps = _samples(
        denoiser,
        data.shape,
        range(rank, most * world, world),
        None if labels is None else labels[rank::world],
        sampling=sampling,
        guidance=guidance,
        seed=seed,
        batch=batch,
        device=device,
        progress=progress,
    )
    mine = range(rank, n, world)
    passes = 1 if guidance == 1 or takes_scale(denoiser) else 2
    protocol, figures = Protocol(seed=seed, solver=sampling.name, ema=ema), {}
    if isinstance(sampling, PolicySampling):
        assert steps is not None
        taken = rows_of_all(steps[: len(mine)], mine, n, reference.device)
        figures = {"steps_mean": taken.double().mean().item(), "steps_std": taken.double().std(correction=0).item()}
        protocol = replace(protocol, nfe=passes * sampling.policy.evaluations(taken).double().mean().item())
    else:
        protocol = replace(protocol, steps=sampling.steps, nfe=passes * nfe(sampling.solver, sampling.sigmas))
    rows = evaluate(images[: len(mine)], reference, None if labels is None else labels[rank:n:world], protocol)
    return rows + [Row(metric, value, rows[0].protocol) for metric, value in figures.items()]


def _samples(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    seeds: range,
    labels: Int64[Tensor, " n"] | None,
    *,
    sampling: Sampling | PolicySampling,
    guidance: float,
    seed: int,
    batch: int,
    device: torch.device | str | None,
    progress: bool,
) -> tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
    """This process's samples, and the steps that each took, where a policy chose them."""
    steps = None
    if isinstance(sampling, PolicySampling):
        images, steps = sample_with_policy(
            denoiser,
            shape,
            seeds,
            labels,
            policy=sampling.policy,
            guidance=guidance,
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
        )
    else:
        images = generate(
            denoiser,
            shape,
            seeds,
            labels,
            sigmas=sampling.sigmas,
            solver=sampling.solver,
            guidance=guidance,
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
        )
    if len(shape) == 3 and shape[0] in (1, 3):
        images = to_uint8(images).float() / 127.5 - 1  # pictures: as they would be saved, and as the real ones were
    return images, steps


def search_levels(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    steps: int = 2,
    sigma_max: float = 80.0,
    guidance: float = 1.0,
    seed: int = 0,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> list[float]:
    """The noise levels after the first at which a consistency model's samples have the least Fréchet distance.

    One after the other, from the noisiest: with those before it fixed, and as the last, each level is tried at seven even places
    of the angle t between 0 and the level before it, and then twice on both sides of the best, at half and a quarter of the
    distance. All are tried with the same noise. Report figures from another seed than the one searched with.

    Args:
        denoiser, reference, n, guidance, seed, batch, device, progress: see `evaluate_denoiser`.
        steps: of the sampler, >= 1; there are steps - 1 levels.
        sigma_max: the first level.
    """
    sigma_data = getattr(denoiser, "sigma_data", 0.5)
    angles: list[float] = []

    def distance(angle: float) -> float:
        levels = [sigma_data * math.tan(t) for t in (*angles, angle)]
        sampling = choose(denoiser, "consistency", levels=levels, sigma_max=sigma_max)
        rows = evaluate_denoiser(
            denoiser,
            reference,
            n,
            sampling=sampling,
            guidance=guidance,
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
        )
        return next(row.value for row in rows if row.metric.startswith("frechet_"))

    above = math.atan(sigma_max / sigma_data)
    for _ in range(steps - 1):
        gap = above / 8
        tried = {angle: distance(angle) for angle in (gap * k for k in range(1, 8))}
        for _ in range(2):
            gap, best = gap / 2, min(tried, key=tried.__getitem__)
            tried |= {angle: distance(angle) for angle in (best - gap, best + gap)}
        above = min(tried, key=tried.__getitem__)
        angles.append(above)
    return [sigma_data * math.tan(t) for t in angles]


def requested_labels(data: Data, n: int) -> Int64[Tensor, " n"] | None:
    """Label of held-out image i for sample i, over and over; None for unlabelled data."""
    if not data.num_classes:
        return None
    real = data.test if data.test is not None else data.train
    return real.label(torch.arange(n) % len(real))


def table(rows: Sequence[Row]) -> str:
    """The rows as text: each figure beside its floor."""
    floors = {row.metric.removesuffix("_floor"): row.value for row in rows if row.metric.endswith("_floor")}
    lines = [f"{'metric':<26}{'value':>12}{'floor (held-out real)':>24}"]
    for row in rows:
        if not row.metric.endswith("_floor"):
            floor = f"{floors[row.metric]:.4g}" if row.metric in floors else ""
            lines.append(f"{row.metric:<26}{row.value:>12.4g}{floor:>24}")
    return "\n".join(lines)
