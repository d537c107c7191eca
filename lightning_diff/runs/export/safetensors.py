"""The default target: model.safetensors and model.json, from which this project builds the denoiser again."""

from pathlib import Path

from ...artifacts import save_denoiser
from .checkpoint import restored
from .target import Written


def export(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    profile: str | None = None,
    sigma_rel: float | None = None,
    images: int | None = None,
) -> Path:
    """Write model.safetensors and model.json.

    Args:
        folder: of the run: recipe.yaml, checkpoints/, and ema/ for `sigma_rel`.
        out: folder to write to; the run's own by default, where it replaces the model.
        profile, sigma_rel, images: the average, see `checkpoint.restored`.

    Returns:
        The path of the weights.

    Raises:
        UserError: there is no usable checkpoint, no such average, or the checkpoint is of another network.
    """
    folder = Path(folder)
    found = restored(folder, profile=profile, sigma_rel=sigma_rel, images=images)
    return save_denoiser(folder if out is None else out, found.denoiser, **found.facts)


def loading() -> Written:
    """How the two files are read."""
    return Written(
        library="lightning_diff",
        loading=(
            "import lightning_diff",
            'model = lightning_diff.load(".")  # this folder',
            "samples = model.sample(16)  # (16, ...), images in about [-1, 1]",
            "picture = model.grid()",
        ),
    )
