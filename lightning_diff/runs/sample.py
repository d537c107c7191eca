"""Samples of a trained model, drawn and written."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from jaxtyping import Float32, Int64
from torch import Tensor

from ..artifacts import pictures
from ..autoencoders import Autoencoder, as_images
from ..denoiser import Denoiser
from ..foundation import garbage
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process, rank_and_world, rows_of_all
from ..samplers.generate import generate
from ..samplers.guidance import takes_scale
from ..schedules.adaptive_sampling import PolicySampling, sample_with_policy
from ..schedules.sampling import Sampling
from ..text import PromptList
from . import trained
from .output import writable
from .prompts import Asked, asked
from .sampler_settings import SamplerSettings


@dataclass(frozen=True)
class Drawn:
    """Where samples are, and what they took.

    Args:
        n: how many.
        target: picture, .npz or folder.
        cost: in words, where each sample took steps of its own.
    """

    n: int
    target: Path
    cost: str | None = None


def sample(
    run: Path,
    settings: SamplerSettings,
    n: int = 64,
    *,
    labels: str = "all",
    prompts: PromptList | None = None,
    out: Path | None = None,
    latents: bool = False,
    size: tuple[int, int] | None = None,
) -> Drawn:
    """Draw samples and write them: the same ones for the same seed, whatever the batch or device.

    Under a process group every process calls this and draws its share; the first writes.

    Args:
        run: run folder, name of one in runs/, or model file.
        settings: of the sampler.
        n: how many.
        labels: classes, cycled through: names or numbers with commas, or "all" or "none".
        prompts: of a text-conditional model, cycled through; None for those of its record.
        out: PICTURE.png (a grid), FILE.npz or a folder of PNGs; None for one in the run folder.
        latents: keep what a model of latents draws, and decode nothing.
        size: height and width in pixels, of a network that takes others than it was built for; None for the model's own.

    Raises:
        UserError: before any are drawn, for whatever does not go together.
    """
    model = trained.model(run)
    sampling = settings.sampling(model.record)
    autoencoder = None if latents else model.autoencoder()
    shape = shape_of(model, size)
    shape = shape if autoencoder is None else autoencoder.image_shape(shape)
    if latents and model.record.autoencoder is None:
        raise UserError(f"--latents: {run} has no autoencoder: its samples are what they are; leave it out")
    target = writable(out, _default_target(model, settings, sampling, labels, prompts, size, latents=latents), shape)
    made = draw(model, settings, n, labels, prompts, size=size, autoencoder=autoencoder, shared=True)
    if not is_first_process():
        return Drawn(n, target, made.cost)
    if target.suffix == ".npz":
        pictures.save_npz(target, made.samples, made.labels)
    elif target.suffix == ".png":
        pictures.save_grid(target, made.samples, **made.asked.shown(n))
    else:
        pictures.save_folder(target, made.samples)
    return Drawn(n, target, made.cost)


@dataclass(frozen=True)
class Made:
    """Samples in memory.

    Args:
        samples: (n, ...) on the CPU; of a model of latents, decoded if there was an autoencoder for it.
        labels: (n,), or None.
        asked: what was cycled through.
        cost: in words, where each sample took steps of its own.
    """

    samples: Float32[Tensor, "n ..."]
    labels: Int64[Tensor, " n"] | None
    asked: Asked
    cost: str | None


def draw(
    model: trained.Trained,
    settings: SamplerSettings,
    n: int,
    labels: str = "all",
    prompts: PromptList | None = None,
    *,
    size: tuple[int, int] | None = None,
    denoiser: Denoiser | None = None,
    autoencoder: Autoencoder | None = None,
    shared: bool = False,
) -> Made:
    """Samples of a model; arguments as for `sample`.

    Args:
        denoiser: the model's own, where it is loaded already.
        autoencoder: the model's own, to decode with; None for samples as the model draws them.
        shared: under a process group each process, by calling this, draws a share, and gets all; else each draws all of them.

    Raises:
        UserError: before any are drawn, for whatever does not go together.
    """
    if n < 1:
        raise UserError(f"--n: expected at least 1, got {n}")
    sampling = settings.sampling(model.record)
    wish = asked(model, labels, prompts)
    settings.refuse_unfit_guidance(model.record, labelled=wish.numbers is not None)
    settings.say_doubt(model.record, labelled=wish.numbers is not None)
    shape = shape_of(model, size)
    denoiser = model.load(settings.device) if denoiser is None else denoiser
    guide, place = model.guide(settings.guide, settings.device), next(denoiser.parameters()).device
    denoiser, guide = wish.told(denoiser, place), guide and wish.told(guide, place)
    garbage.take_up()
    wanted = wish.of(n)
    rank, world = rank_and_world() if shared else (0, 1)
    mine = range(rank, n, world)
    own = None if wanted is None else wanted[rank::world]
    try:
        samples, steps = _drawn(denoiser, guide, shape, settings, sampling, mine, own)
    except ValueError as error:
        if size is None:
            raise
        raise UserError(f"--size: {error}") from error  # by the network
    samples = as_images(samples, autoencoder, place, progress=is_first_process())
    if world > 1:
        samples = rows_of_all(samples, mine, n, place)
        steps = None if steps is None else rows_of_all(steps, mine, n, place)
    cost = None if steps is None else _cost(denoiser, settings, sampling, steps)
    return Made(samples, wanted, wish, cost)


def shape_of(model: trained.Trained, size: tuple[int, int] | None) -> tuple[int, ...]:
    """Of what a model draws for images of this height and width, those of its record if None. UserError where it cannot."""
    own = tuple(model.record.shape)
    if size is None:
        return own
    if len(own) != 3 or min(size) < 1:
        raise UserError(
            f"--size: expected height and width, at least 1, of a model of images, got {size[0]} {size[1]} for {own}"
        )
    autoencoder = model.autoencoder()
    if autoencoder is None:
        return own[0], *size
    return tuple(autoencoder.latent_shape((autoencoder.image_shape(own)[0], *size)))


class _How(TypedDict):
    """What both ways to sample take."""

    seed: int
    guidance: float
    guide: Denoiser | None
    interval: tuple[float, float]
    batch: int
    progress: bool


def _drawn(
    denoiser: Denoiser,
    guide: Denoiser | None,
    shape: tuple[int, ...],
    settings: SamplerSettings,
    sampling: Sampling | PolicySampling,
    numbers: range,
    labels: Int64[Tensor, " n"] | None,
) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
    """The samples of these numbers; with a policy, the steps that each took, too."""
    how = _How(
        seed=settings.seed,
        guidance=settings.guidance,
        guide=guide,
        interval=settings.interval,
        batch=settings.batch,
        progress=is_first_process(),
    )
    if isinstance(sampling, Sampling):
        options: dict[str, Any] = settings.solver_options
        sigmas, solver = sampling.sigmas, sampling.solver
        return generate(denoiser, shape, numbers, labels, sigmas=sigmas, solver=solver, **how, **options), None
    return sample_with_policy(denoiser, shape, numbers, labels, policy=sampling.policy, **how)


def _cost(
    denoiser: Denoiser,
    settings: SamplerSettings,
    sampling: Sampling | PolicySampling,
    steps: Int64[Tensor, " n"],
) -> str:
    """What samples cost that chose their steps themselves, in words."""
    assert isinstance(sampling, PolicySampling)
    calls = sampling.policy.evaluations(steps).double().mean()
    guided = " and the guide's" if settings.guidance != 1 and not takes_scale(denoiser) else ""
    mean = f"{steps.double().mean():.2f} steps and {calls:.2f} evaluations{guided}"
    return f"{sampling.name}: a mean of {mean}, from {steps.min()} to {steps.max()} steps"


def _default_target(
    model: trained.Trained,
    settings: SamplerSettings,
    sampling: Sampling | PolicySampling,
    labels: str,
    prompts: PromptList | None,
    size: tuple[int, int] | None,
    *,
    latents: bool,
) -> Path:
    """A name that says how the samples were drawn, so that others do not overwrite them; without its suffix."""
    grid = "" if settings.schedule is None else sampling.name.partition("/")[2].replace("@", "_of_") + "_"
    drawn = "".join(f"{each}_" for each in settings.departures)
    told = "" if prompts is None else "_".join(prompts.texts)
    drawn += "".join(
        f"{re.sub(r'[^A-Za-z0-9,.-]+', '-', words)[:60]}_"
        for words in (labels if labels != "all" else "", told)
        if words
    )
    drawn += "latents_" if latents else ""
    drawn += f"{size[1]}x{size[0]}_" if size is not None else ""
    return model.home / "samples" / f"{sampling.solver}{sampling.steps}_{grid}{drawn}seed{settings.seed}"
