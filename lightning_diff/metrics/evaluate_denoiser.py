"""Samples of a denoiser and their metrics: what the command line and the callback share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..artifacts.pictures import to_uint8
from ..autoencoders import Autoencoder, as_images
from ..condition import Prompts
from ..foundation.processes import rank_and_world, rows_of_all
from ..samplers.generate import device_of, generate
from ..samplers.guidance import takes_scale
from ..schedules.adaptive_sampling import PolicySampling, sample_with_policy
from ..schedules.sampling import Sampling, choose
from .evaluate import FLOOR, Reference, Row, evaluate
from .protocol import EVERYWHERE, Drawing, protocol
from .requested import requested, texts_hash, told


def evaluate_denoiser(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    prompts: Prompts | None = None,
    autoencoder: Autoencoder | None = None,
    sampling: Sampling | PolicySampling | None = None,
    guidance: float = 1.0,
    guide: Callable[..., Tensor] | None = None,
    interval: tuple[float, float] = EVERYWHERE,
    seed: int = 0,
    ema: str | None = None,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
    per_class: bool = False,
    **solver_options: float,
) -> list[Row]:
    """n samples, and every metric of them with its protocol and floor (see `evaluate`).

    Sample i is conditioned on the label of held-out image i, so that samples and floor have the same classes; of a
    text-conditional model on a prompt of that class, or where the prompts have none, on the prompts in turn. Under a
    process group every process calls this, draws its share, and gets the figures of all.

    Args:
        denoiser: the model.
        reference: what to measure against.
        n: samples; None for as many as there are held-out images, which puts figures and floors at the same n.
        prompts: of a text-conditional model; None for those of the reference's data.
        autoencoder: of a model of latents: what is measured are decoded samples, against the reference's images.
        sampling: solver and noise levels; None for what suits the model (see `schedules.sampling.choose`). A step policy
            instead adds the figures steps_mean and steps_std; nfe is then the mean over the samples, where they are guided in an
            interval at most that.
        guidance, guide, interval, seed, batch, device, progress, solver_options: see `generate`.
        ema: name of the weight average in place, for the protocol.
        per_class: see `evaluate`.
    """
    data = reference.data
    device = device_of(denoiser) if device is None else torch.device(device)
    prompts = data.prompts if prompts is None else prompts
    denoiser, guide = told(denoiser, prompts, device), guide and told(guide, prompts, device)
    drawing = Drawing(
        sampling=choose(denoiser) if sampling is None else sampling,
        seed=seed,
        guidance=guidance,
        guide=guide,
        interval=interval,
        options=solver_options,
    )
    if n is None:
        n = len(data.test if data.test is not None else data.train)
    rank, world = rank_and_world()
    # All processes draw equally many, because a sharded network runs on all or none; what is beyond n is dropped.
    most = -(-n // world)
    wanted = requested(denoiser, data, prompts, most * world)
    labels = wanted.given
    numbers, own = range(rank, most * world, world), None if labels is None else labels[rank::world]
    shape = data.shape if autoencoder is None else autoencoder.latent_shape(data.shape)
    samples, taken = _samples(drawing, denoiser, shape, numbers, own, batch=batch, device=device, progress=progress)
    images = _as_saved(as_images(samples, autoencoder, device, progress=progress))
    mine = range(rank, n, world)
    measured = replace(protocol(drawing, denoiser, None if labels is None else labels[:n], device), ema=ema)
    if wanted.texts is not None:
        measured = replace(measured, labels=texts_hash(wanted.texts[:n]))
    figures: dict[str, float] = {}
    if taken is not None:
        steps, calls = (rows_of_all(each[: len(mine)], mine, n, reference.device).double() for each in taken)
        figures = {"steps_mean": steps.mean().item(), "steps_std": steps.std(correction=0).item()}
        measured = replace(measured, nfe=calls.mean().item())
    own = None if wanted.classes is None else wanted.classes[rank:n:world]
    rows = evaluate(images[: len(mine)], reference, own, measured, per_class=per_class)
    return rows + [Row(metric, value, rows[0].protocol) for metric, value in figures.items()]


def _samples(
    drawing: Drawing,
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    numbers: range,
    labels: Int64[Tensor, " n"] | None,
    *,
    batch: int,
    device: torch.device,
    progress: bool,
) -> tuple[Float[Tensor, "n ..."], tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]] | None]:
    """This process's samples, and the steps and evaluations that each took, where a policy chose them."""
    taken, sampling = None, drawing.sampling
    how = _How(
        seed=drawing.seed,
        guidance=drawing.guidance,
        guide=drawing.guide,
        interval=drawing.interval,
        batch=batch,
        device=device,
        progress=progress,
    )
    if isinstance(sampling, PolicySampling):
        images, steps = sample_with_policy(denoiser, shape, numbers, labels, policy=sampling.policy, **how)
        passes = 1 if drawing.guidance == 1 or takes_scale(denoiser) else 2
        taken = steps, passes * sampling.policy.evaluations(steps)
    else:
        options: dict[str, Any] = dict(drawing.options)
        sigmas, solver = sampling.sigmas, sampling.solver
        images = generate(denoiser, shape, numbers, labels, sigmas=sigmas, solver=solver, **how, **options)
    return images, taken


def _as_saved(images: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
    """Pictures as they would be saved, and as the real ones were; anything else as it is."""
    is_picture = images.ndim == 4 and images.shape[1] in (1, 3)
    return to_uint8(images).float() / 127.5 - 1 if is_picture else images


class _How(TypedDict):
    """What both ways to sample take."""

    seed: int
    guidance: float
    guide: Callable[..., Tensor] | None
    interval: tuple[float, float]
    batch: int
    device: torch.device
    progress: bool


def table(rows: Sequence[Row]) -> str:
    """The rows as text: each figure beside its floor; figures by class in a table of their own."""
    return "\n".join(part for part in (_table([row for row in rows if "/" not in row.metric]), _by_class(rows)) if part)


def _table(rows: Sequence[Row]) -> str:
    floors = _floors(rows)
    lines = [f"{'metric':<26}{'value':>12}{'floor (held-out real)':>24}"]
    for row in rows:
        if not row.metric.endswith(FLOOR):
            floor = f"{floors[row.metric]:.4g}" if row.metric in floors else ""
            lines.append(f"{row.metric:<26}{row.value:>12.4g}{floor:>24}")
    return "\n".join(lines)


def _by_class(rows: Sequence[Row]) -> str:
    """A line for each class, a column for each figure and each floor; empty without any."""
    values = {
        row.metric.partition("/")[::2]: row.value
        for row in rows
        if "/" in row.metric and not row.metric.endswith(FLOOR)
    }
    if not values:
        return ""
    floors = {tuple(name.split("/", 1)): value for name, value in _floors(rows).items() if "/" in name}
    metrics, classes = (list(dict.fromkeys(key[i] for key in values)) for i in (0, 1))
    width = max(len("class"), *(min(len(name), 40) for name in classes)) + 2
    lines = ["class".ljust(width) + "".join(f"{metric:>18}{'floor':>10}" for metric in metrics)]
    for name in classes:
        cells = [
            (found.get((metric, name)), space) for metric in metrics for found, space in ((values, 18), (floors, 10))
        ]
        numbers = "".join(("" if value is None else f"{value:.4g}").rjust(space) for value, space in cells)
        lines.append(f"{name[:40]:<{width}}{numbers}".rstrip())
    return "\n".join(lines)


def _floors(rows: Sequence[Row]) -> dict[str, float]:
    """By the metric that each is the floor of."""
    return {row.metric.removesuffix(FLOOR): row.value for row in rows if row.metric.endswith(FLOOR)}
