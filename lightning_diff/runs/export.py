"""A model from a run's newest checkpoint, with the weight average of one's choice."""

from pathlib import Path
from typing import Any

import torch

from ..artifacts import checkpoints, ema_snapshots, load_weights, save_denoiser
from ..artifacts.checkpoints import sharded
from ..foundation.binding import nearest
from ..foundation.errors import UserError
from . import recipe

NETWORK = "denoiser.net."  # where a training module's state has the network
EMA_STATE = "lightning_diff.EMA"  # callbacks.EMA.state_key


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
        profile: name of a tracked average, "none" for the last step's own weights; the first average by default.
        sigma_rel: relative width of a power-function average to reconstruct from the stored snapshots instead (EDM2,
            arXiv 2312.02696, section 3.2).
        images: the moment to reconstruct it at; the last snapshot's by default.

    Returns:
        The path of the weights.

    Raises:
        UserError: there is no usable checkpoint, no such average, or the checkpoint is of another network.
    """
    folder = Path(folder)
    if profile is not None and sigma_rel is not None:
        raise UserError("export: give an average's name or sigma_rel, not both")
    if images is not None and sigma_rel is None:
        raise UserError("export: images chooses the moment of a reconstructed average; give sigma_rel too")
    settings = recipe.read_yaml(folder / "recipe.yaml", "model", "data")
    path = checkpoints.newest(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder / 'checkpoints'}: has no usable checkpoint")
    checkpoint = checkpoints.read(path)
    if sigma_rel is not None:
        name, average = f"sigma_rel={sigma_rel:g}", _reconstructed(folder / "ema", sigma_rel, images)
        seen = ema_snapshots.load_snapshots(folder / "ema")[-1].images if images is None else images
    else:
        name, average = _tracked(checkpoint, profile, path)
        seen = checkpoint["images_seen"]
    if path.is_dir():  # its tensors are only described so far; of those in shards, read what the model is made of
        own, averaged = f"state_dict.{NETWORK}", f"callbacks.{EMA_STATE}.averages.{name}."
        checkpoint = sharded.filled(
            checkpoint,
            path,
            wanted=lambda key: (
                key.startswith(averaged) or (key.startswith(own) and key.removeprefix(own) not in average)
            ),
        )
        average = average if sigma_rel is not None else _tracked(checkpoint, name, path)[1]
    state = checkpoint["state_dict"]
    weights = {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}
    module = recipe.build(settings["model"], "model", folder / "recipe.yaml")
    load_weights(module.denoiser.net, weights | average, path)
    shape, num_classes = _facts(settings, folder / "recipe.yaml")
    return save_denoiser(
        folder if out is None else out,
        module.denoiser,
        settings["model"]["net"],
        shape=shape,
        num_classes=num_classes,
        ema=name,
        images=seen,
    )


def _tracked(checkpoint: dict[str, Any], profile: str | None, path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Name and weights of an average that training kept."""
    averages = checkpoint["callbacks"].get(EMA_STATE, {}).get("averages", {})
    if profile is None:
        profile = next(iter(averages), "none")
    if profile == "none":
        return profile, {}
    if profile not in averages:
        raise UserError(f"{path}: has no average {profile!r}; {nearest(profile, [*averages, 'none'], 'it has')}")
    return profile, averages[profile]


def _reconstructed(folder: Path, sigma_rel: float, images: int | None) -> dict[str, torch.Tensor]:
    try:
        return ema_snapshots.reconstruct_from_folder(folder, sigma_rel, images)
    except ValueError as error:
        raise UserError(f"export: {error}") from error


def _facts(settings: recipe.Recipe, source: Path) -> tuple[list[int], int]:
    """Shape of an example and number of classes: from the network's node, or from the data if that has none."""
    net = settings["model"]["net"]
    if "shape" in net and "num_classes" in net:
        return net["shape"], net["num_classes"]
    data = recipe.build(settings["data"], "data", source)
    data.setup()
    return list(data.shape), data.num_classes
