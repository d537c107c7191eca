"""Samples of a trained model, drawn and written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..artifacts import pictures
from ..denoiser import Denoiser
from ..foundation import garbage
from ..foundation.errors import UserError
from ..samplers.generate import generate
from ..samplers.guidance import takes_scale
from ..schedules.adaptive_sampling import PolicySampling, sample_with_policy
from ..schedules.sampling import Sampling
from . import trained
from .labels import classes_of
from .output import writable
from .sampler_settings import SamplerSettings

MOST_NAMED = 20  # classes that are written over the columns of a picture


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


def sample(run: Path, settings: SamplerSettings, n: int = 64, *, labels: str = "all", out: Path | None = None) -> Drawn:
    """Draw samples and write them: the same ones for the same seed, whatever the batch or device.

    Args:
        run: run folder, name of one in runs/, or model file.
        settings: of the sampler.
        n: how many.
        labels: classes, cycled through: names or numbers with commas, or "all" or "none".
        out: PICTURE.png (a grid), FILE.npz or a folder of PNGs; None for one in the run folder.

    Raises:
        UserError: before any are drawn, for whatever does not go together.
    """
    model = trained.model(run)
    sampling = settings.sampling(model.record)
    target = writable(out, _default_target(model, settings, sampling, labels), model.record.shape)
    made = draw(model, settings, n, labels)
    if target.suffix == ".npz":
        pictures.save_npz(target, made.samples, made.labels)
    elif target.suffix == ".png":
        shown = column_names(made.classes, model.record.class_names)
        pictures.save_grid(target, made.samples, columns=min(len(shown), n) or None, column_names=shown)
    else:
        pictures.save_folder(target, made.samples)
    return Drawn(n, target, made.cost)


@dataclass(frozen=True)
class Made:
    """Samples in memory.

    Args:
        samples: (n, ...) on the CPU.
        labels: (n,), or None.
        classes: those that were cycled through, or None.
        cost: in words, where each sample took steps of its own.
    """

    samples: Float32[Tensor, "n ..."]
    labels: Int64[Tensor, " n"] | None
    classes: Int64[Tensor, " classes"] | None
    cost: str | None


def draw(
    model: trained.Trained, settings: SamplerSettings, n: int, labels: str = "all", *, denoiser: Denoiser | None = None
) -> Made:
    """Samples of a model; arguments as for `sample`.

    Args:
        denoiser: the model's own, where it is loaded already.

    Raises:
        UserError: before any are drawn, for whatever does not go together.
    """
    if n < 1:
        raise UserError(f"--n: expected at least 1, got {n}")
    sampling = settings.sampling(model.record)
    classes = classes_of(labels, model.record.num_classes, model.record.class_names)
    settings.refuse_unfit_guidance(model.record, labelled=classes is not None)
    settings.say_doubt(model.record, labelled=classes is not None)
    denoiser = model.load(settings.device) if denoiser is None else denoiser
    guide = model.guide(settings.guide, settings.device)
    garbage.take_up()
    wanted = None if classes is None else classes[torch.arange(n) % len(classes)]
    samples, cost = _drawn(denoiser, guide, model.record.shape, settings, sampling, n, wanted)
    return Made(samples, wanted, classes, cost)


def column_names(classes: Int64[Tensor, " classes"] | None, names: Sequence[str] = ()) -> list[str]:
    """What stands over the columns of a picture with a column for each class; nothing for too many."""
    few = [] if classes is None or len(classes) > MOST_NAMED else classes.tolist()
    return [pictures.caption(label, names) for label in few]


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
    n: int,
    labels: Int64[Tensor, " n"] | None,
) -> tuple[Float32[Tensor, "n ..."], str | None]:
    """The samples; with a policy, what they cost too."""
    how = _How(
        seed=settings.seed,
        guidance=settings.guidance,
        guide=guide,
        interval=settings.interval,
        batch=settings.batch,
        progress=True,
    )
    if isinstance(sampling, Sampling):
        options: dict[str, Any] = settings.solver_options
        sigmas, solver = sampling.sigmas, sampling.solver
        return generate(denoiser, shape, range(n), labels, sigmas=sigmas, solver=solver, **how, **options), None
    samples, taken = sample_with_policy(denoiser, shape, range(n), labels, policy=sampling.policy, **how)
    calls = sampling.policy.evaluations(taken).double().mean()
    guided = " and the guide's" if settings.guidance != 1 and not takes_scale(denoiser) else ""
    mean = f"{taken.double().mean():.2f} steps and {calls:.2f} evaluations{guided}"
    return samples, f"{sampling.name}: a mean of {mean}, from {taken.min()} to {taken.max()} steps"


def _default_target(
    model: trained.Trained, settings: SamplerSettings, sampling: Sampling | PolicySampling, labels: str
) -> Path:
    """A name that says how the samples were drawn, so that others do not overwrite them; without its suffix."""
    grid = "" if settings.schedule is None else sampling.name.partition("/")[2].replace("@", "_of_") + "_"
    drawn = "".join(f"{each}_" for each in settings.departures)
    drawn += "" if labels == "all" else f"{re.sub(r'[^A-Za-z0-9,.-]+', '-', labels)[:60]}_"
    return model.home / "samples" / f"{sampling.solver}{sampling.steps}_{grid}{drawn}seed{settings.seed}"
