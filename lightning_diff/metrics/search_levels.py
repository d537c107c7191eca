"""The noise levels at which a consistency model's samples are best, found by trying."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..condition import Prompts
from ..foundation.errors import UserError
from ..foundation.progress import stage
from ..schedules.sampling import choose
from .evaluate import Reference
from .evaluate_denoiser import evaluate_denoiser

TRIALS = 7 + 2 * 2  # of each level after the first
HALVINGS = 5  # of the largest level, down to which a start is tried: 80 to 2.5


class Drawn(TypedDict, total=False):
    """How the samples of all trials are drawn: see `evaluate_denoiser`."""

    prompts: Prompts | None
    autoencoder: Autoencoder | None
    guidance: float
    interval: tuple[float, float]
    seed: int
    batch: int
    device: torch.device | str | None
    progress: bool


class Trial(NamedTuple):
    """What was measured at a level. Compared first by what recall lacks, then by distance: less is better."""

    shortfall: float
    distance: float


def search_levels(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    steps: int = 2,
    sigma_max: float | None = None,
    min_recall: float = 0.0,
    **drawn: Unpack[Drawn],
) -> list[float]:
    """The noise levels after the first at which a consistency model's samples have the least Fréchet distance.

    The nearest samples need not be the most varied: with `min_recall`, levels at which recall is less are left out.

    One after the other, from the noisiest: with those before it fixed, and as the last, each level is tried at seven even places
    of the angle t between 0 and the level before it, and then twice on both sides of the best, at half and a quarter of the
    distance. All are tried with the same noise. Report figures from another seed than the one searched with.

    Args:
        denoiser, reference, n, drawn: see `evaluate_denoiser`.
        steps: of the sampler, >= 1; there are steps - 1 levels.
        sigma_max: the first level; None for the denoiser's own, or 80.
        min_recall: least recall of a level, in [0, 1); 0 for no limit.

    Raises:
        UserError: no level that was tried has that recall, or the reference has no images, by which it could be measured.
    """
    sigma_data = getattr(denoiser, "sigma_data", 0.5)
    first = _first(denoiser, sigma_max)
    angles: list[float] = []

    above = math.atan(first / sigma_data)
    with stage("searching levels", TRIALS * (steps - 1), "trial", shown=drawn.get("progress", False)) as bar:

        def attempt(angle: float) -> Trial:
            levels = [sigma_data * math.tan(t) for t in (*angles, angle)]
            found = _measured(denoiser, reference, n, first, levels, min_recall, drawn)
            bar.advance()
            return found

        for _ in range(steps - 1):
            gap = above / 8
            tried = {angle: attempt(angle) for angle in (gap * k for k in range(1, 8))}
            for _ in range(2):
                gap, best = gap / 2, min(tried, key=tried.__getitem__)
                tried |= {angle: attempt(angle) for angle in (best - gap, best + gap)}
            above = min(tried, key=tried.__getitem__)
            angles.append(above)
            found = tried[above]
    if steps > 1:
        _refuse_shortfall(found, min_recall)
    return [sigma_data * math.tan(t) for t in angles]


def search_start(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None = None,
    *,
    levels: list[float],
    sigma_max: float | None = None,
    min_recall: float = 0.0,
    **drawn: Unpack[Drawn],
) -> float:
    """The first noise level at which a consistency model's samples have the least Fréchet distance, those after it given.

    Tried are sigma_max, its half, and so on down to 1 / 32 of it, as far as that lies above sigma_data and the next level; then
    twice both sides of the best, at sqrt(2) and 2^(1/4) times and a part of it. All are tried with the same noise.

    Args:
        denoiser, reference, n, drawn: see `evaluate_denoiser`.
        levels: after the first, decreasing; none for one step.
        sigma_max: the largest to be tried; None for the denoiser's own, or 80.
        min_recall: as for `search_levels`, with its errors.
    """
    most = _first(denoiser, sigma_max)
    least = max([getattr(denoiser, "sigma_data", 0.5), *levels[:1]])
    tried: dict[float, Trial] = {}
    starts = [start for k in range(HALVINGS + 1) if (start := most / 2**k) > least]
    with stage("searching the first level", len(starts) + 4, "trial", shown=drawn.get("progress", False)) as bar:

        def attempt(start: float) -> None:
            if least < start <= most and start not in tried:
                tried[start] = _measured(denoiser, reference, n, start, levels, min_recall, drawn)
            bar.advance()

        for start in starts:
            attempt(start)
        for exponent in (0.5, 0.25):
            best = min(tried, key=tried.__getitem__)
            attempt(best * 2**-exponent)
            attempt(best * 2**exponent)
    best = min(tried, key=tried.__getitem__)
    _refuse_shortfall(tried[best], min_recall)
    return best


def _first(denoiser: object, sigma_max: float | None) -> float:
    """The given level, the denoiser's own, or 80."""
    return float(choose(denoiser, "consistency", 1, sigma_max=sigma_max).sigmas[0])


def _measured(
    denoiser: Callable[..., Tensor],
    reference: Reference,
    n: int | None,
    start: float,
    levels: list[float],
    min_recall: float,
    drawn: Drawn,
) -> Trial:
    sampling = choose(denoiser, "consistency", levels=levels, sigma_max=start)
    rows = evaluate_denoiser(denoiser, reference, n, sampling=sampling, **drawn)
    distance, recall = (
        next((row.value for row in rows if row.metric.startswith(name)), None) for name in ("frechet_", "recall_")
    )
    assert distance is not None
    if not min_recall:
        return Trial(0.0, distance)
    if recall is None:
        raise UserError("min_recall: recall compares images, and the reference has moments alone")
    return Trial(max(min_recall - recall, 0.0), distance)


def _refuse_shortfall(best: Trial, min_recall: float) -> None:
    if best.shortfall:
        most = min_recall - best.shortfall
        raise UserError(f"min_recall: no level that was tried has a recall of {min_recall:g}; the most is {most:.3g}")
