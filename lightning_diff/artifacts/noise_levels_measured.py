"""The report of noise levels from what a training measured."""

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from ..noise import log_snr_to_sigma
from ..noise.moments import NoiseLevelMoments
from .noise_levels import COLUMNS, NoiseReport


def report(
    name: str,
    levels: Float[Tensor, " bins"],
    sigma_data: float,
    moments: NoiseLevelMoments,
    weight: Float[Tensor, " bins"],
    gradient_square: Float[Tensor, " bins"],
    images: list[int],
    history: Float[Tensor, "windows 3 bins"],
    since: int,
    details: dict[str, Float[Tensor, " bins"]] | None = None,
) -> NoiseReport:
    """All columns from what was measured.

    Args:
        levels: log-SNR at the middle of each bin.
        moments: of the unweighted loss.
        weight: mean weight of the samples in each bin, NaN where none fell.
        gradient_square: mean over samples of |grad loss|^2, unweighted, NaN where not measured.
        name, sigma_data, images, history, since, details: see `NoiseReport`.
    """
    density = moments.count / moments.count.sum() / (levels[1] - levels[0])
    effective = density * weight
    square = weight**2 * gradient_square
    power = moments.count * square
    columns: tuple[Tensor, ...] = (
        levels,
        log_snr_to_sigma(levels, sigma_data),
        moments.count,
        moments.mean,
        moments.standard_error,
        moments.variance,
        moments.coefficient_of_variation,
        density,
        weight,
        effective / (effective.nansum() * (levels[1] - levels[0])),
        square.sqrt(),
        power / power.nansum(),
    )
    return NoiseReport(
        name,
        {name: _array(column) for name, column in zip(COLUMNS, columns, strict=True)},
        images,
        _array(history),
        since,
        {name: _array(column) for name, column in (details or {}).items()},
    )


def _array(values: Tensor) -> Float64[np.ndarray, "*shape"]:
    return values.double().numpy()
