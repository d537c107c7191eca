"""Samples of a trained model, drawn and written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..artifacts import pictures
from ..denoiser import Denoiser
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
    target = writable(out, _default_target(model, settings, sampling), model.record.shape)
    names = model.record.class_names
    classes = classes_of(labels, model.record.num_classes, names)
    settings.refuse_unfit_guidance(model.record, labelled=classes is not None)
    settings.say_doubt(model.record, labelled=classes is not None)
    denoiser, guide = model.load(settings.device), model.guide(settings.guide, settings.device)
    wanted = None if classes is None else classes[torch.arange(n) % len(classes)]
    samples, cost = _drawn(denoiser, guide, model.record.shape, settings, sampling, n, wanted)
    if target.suffix == ".npz":
        pictures.save_npz(target, samples, wanted)
    elif target.suffix == ".png":
        few = [] if classes is None or len(classes) > MOST_NAMED else classes.tolist()
        shown = [pictures.caption(label, names) for label in few]
        pictures.save_grid(target, samples, columns=min(len(shown), n) or None, column_names=shown)
    else:
        pictures.save_folder(target, samples)
    return Drawn(n, target, cost)


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


def _default_target(model: trained.Trained, settings: SamplerSettings, sampling: Sampling | PolicySampling) -> Path:
    """A name that says how the samples were drawn, without its suffix."""
    grid = "" if settings.schedule is None else sampling.name.partition("/")[2].replace("@", "_of_") + "_"
    return model.home / "samples" / f"{sampling.solver}{sampling.steps}_{grid}seed{settings.seed}"
