"""The autoencoder of a latent model as a component of a pipeline, which decodes by two numbers of its configuration."""

import json
import shutil
from pathlib import Path

from ...autoencoders import Autoencoder, Diffusers
from ...foundation.errors import UserError
from .families import FLUX, SD3, Stock

CONFIG = "config.json"
SHIFTED = (SD3, FLUX)  # the pipelines that read shift_factor; the others decode latents / scaling_factor


def refuse(autoencoder: Autoencoder | None, stock: Stock) -> None:
    """UserError for an autoencoder that is none of the library's, or whose latents the pipeline would decode as others."""
    if autoencoder is None:
        return
    if not isinstance(autoencoder, Diffusers):
        raise UserError(
            f"export: --to diffusers: {autoencoder.name} is no autoencoder of the diffusers library; --to onnx and --to pt2 write "
            "the denoiser of its latents"
        )
    scale, shift = autoencoder.normalisation.scale, autoencoder.normalisation.shift
    is_plain = isinstance(scale, int | float) and isinstance(shift, int | float)
    if not is_plain or (shift and stock not in SHIFTED):
        what = "one scale and one shift" if stock in SHIFTED else "one scale alone"
        raise UserError(
            f"export: {stock.pipeline} decodes latents by {what}, and {autoencoder.name} has scale {scale} and shift {shift}; "
            "--to onnx and --to pt2 write the denoiser of its latents"
        )


def write(autoencoder: Autoencoder | None, folder: Path) -> tuple[str | None, str | None]:
    """Copy its files, with scale and shift as in training; returns its library and class, (None, None) for none."""
    if autoencoder is None:
        return None, None
    assert isinstance(autoencoder, Diffusers)  # see `refuse`
    folder.mkdir()
    for path in sorted(autoencoder.folder.iterdir()):
        if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, folder / path.name)
    known = autoencoder.normalisation
    config = {name: value for name, value in autoencoder.config.items() if name != "_name_or_path"}
    if config["_class_name"] == "AutoencoderKL":
        config |= {"shift_factor": known.shift, "latents_mean": None, "latents_std": None}
    config["scaling_factor"] = known.scale
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return "diffusers", str(config["_class_name"])
