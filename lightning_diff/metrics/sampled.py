"""Draw from a denoiser and measure what was drawn: what the command line and the callback share."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from .. import schedules
from ..data import Data
from ..generate import generate
from ..pictures import to_uint8
from ..samplers import nfe
from .evaluate import Protocol, Reference, Row, evaluate, rank_and_world


def evaluate_denoiser(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    solver: str = "heun",
    steps: int = 18,
    grid: str = "karras",
    guidance: float = 1.0,
    seed: int = 0,
    ema: str | None = None,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> list[Row]:
    """n samples, and every metric of them with its protocol and floor (see `evaluate`).

    Sample i is asked for the label of held-out image i, so that samples and floor have the same classes. Under a
    process group every process calls this, draws its share, and gets the figures of all.

    Args:
        denoiser: the model.
        reference: what to measure against.
        n: samples; None for as many as there are held-out images, which puts figures and floors at the same n.
        solver, steps, grid, guidance, seed, batch, device, progress: see `generate`.
        ema: name of the weight average in place, for the protocol.
    """
    data = reference.data
    if n is None:
        n = len(data.test if data.test is not None else data.train)
    sigmas = schedules.GRIDS[grid](steps)
    rank, world = rank_and_world()
    most = -(-n // world)
    labels = requested_labels(data, most * world)
    my_labels = None if labels is None else labels[rank::world]
    # All processes draw equally many, because a sharded network runs on all or none; what is beyond n is dropped below.
    images = generate(
        denoiser,
        data.shape,
        range(rank, most * world, world),
        my_labels,
        sigmas=sigmas,
        solver=solver,
        guidance=guidance,
        seed=seed,
        batch=batch,
        device=device,
        progress=progress,
    )
    mine = len(range(rank, n, world))
    images, my_labels = images[:mine], None if my_labels is None else my_labels[:mine]
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        images = to_uint8(images).float() / 127.5 - 1  # pictures: as they would be saved, and as the real ones were
    calls = nfe(solver, sigmas) * (1 if guidance == 1 else 2)
    name = solver if grid == "karras" else f"{solver}/{grid}"
    protocol = Protocol(seed=seed, solver=name, steps=steps, nfe=calls, ema=ema)
    return evaluate(images, reference, my_labels, protocol)


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
