"""The default target: model.safetensors and model.json, from which this project builds the denoiser again."""

from pathlib import Path

from ...artifacts import RECORD, save_denoiser
from ...artifacts.import_model import copy_whole
from ...foundation.errors import UserError
from .. import recipe
from ..named import home
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
        folder: of the run: recipe.yaml, checkpoints/, and ema/ for `sigma_rel`; or of a model that was imported, or its file.
        out: folder to write to; the run's own by default, where it replaces the model. Of an imported model all weights are
            written there.
        profile, sigma_rel, images: the average, see `checkpoint.restored`.

    Returns:
        The path of the weights.

    Raises:
        UserError: there is no usable checkpoint, no such average, or the checkpoint is of another network; an imported model and
            no `out`.
    """
    path, folder = Path(folder), home(Path(folder))
    if not (folder / recipe.SAVED).exists() and (path.is_file() or (folder / RECORD).is_file()):
        if profile is not None or sigma_rel is not None:
            raise UserError(
                f"{path}: is a model without a run, and has no other average; leave --ema and --sigma-rel out"
            )
        if out is None:
            raise UserError(f"{path}: is a model already; --out FOLDER writes a copy of it, all weights in it")
        return copy_whole(path, out)
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
