"""The network of a run's newest checkpoint, with the weight average of one's choice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...artifacts import RECORD, ModelRecord, TrainedWith, checkpoints, ema_snapshots, load_weights, read_record
from ...artifacts.autoencoder import node_in
from ...denoiser import Denoiser
from ...foundation.binding import is_node, nearest
from ...foundation.errors import UserError
from .. import recipe

NETWORK = "denoiser.net."  # where a training module's state has the network
EMA_STATE = "lightning_diff.EMA"  # callbacks.EMA.state_key


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A model as its run's newest checkpoint has it.

    Args:
        denoiser: with the weights asked for; adapters are still beside them.
        facts: what `save_denoiser` takes besides: the network's node as `net`, shape, num_classes, class_names, ema, images,
            trained_with, autoencoder, text, prompts and prompt_labels.
    """

    denoiser: Denoiser
    facts: Mapping[str, Any] = field(default_factory=dict)


def restored(
    folder: Path,
    *,
    profile: str | None = None,
    sigma_rel: float | None = None,
    images: int | None = None,
) -> Restored:
    """The model of a run's newest checkpoint.

    Args:
        folder: of the run: recipe.yaml, checkpoints/, and ema/ for `sigma_rel`.
        profile: name of a tracked average, "none" for the last step's own weights; the first average by default.
        sigma_rel: relative width of a power-function average to reconstruct from the stored snapshots instead (EDM2,
            arXiv 2312.02696, section 3.2).
        images: the moment to reconstruct it at; the last snapshot's by default.

    Raises:
        UserError: there is no usable checkpoint, no such average, or the checkpoint is of another network.
    """
    if profile is not None and sigma_rel is not None:
        raise UserError("export: give an average's name or sigma_rel, not both")
    if images is not None and sigma_rel is None:
        raise UserError("export: images chooses the moment of a reconstructed average; give sigma_rel too")
    settings = recipe.read_yaml(folder / "recipe.yaml", "model", "data")
    path = checkpoints.newest(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder / 'checkpoints'}: has no usable checkpoint")
    checkpoint = checkpoints.read(path)
    ema = folder / "ema"
    average = _reconstructed(ema, sigma_rel, images) if sigma_rel is not None else _tracked(checkpoint, profile, path)
    module = recipe.build(settings["model"], "model", folder / "recipe.yaml")
    load_weights(module.denoiser.net, _weights(checkpoint, average, path), path)
    shape, num_classes = _facts(settings, folder / "recipe.yaml")
    augment = recipe.build(settings["data"].get("augment"), "data.augment", folder / "recipe.yaml")
    trained_with: TrainedWith = module.trained_with(augment)
    return Restored(
        denoiser=module.denoiser,
        facts={
            "net": settings["model"]["net"],
            "shape": shape,
            "num_classes": num_classes,
            "class_names": (checkpoint.get("TrainingData") or {}).get("class_names", ()),
            "ema": average.name,
            "images": average.images,
            "trained_with": trained_with,
            **_noted(folder, settings),
        },
    )


def _noted(folder: Path, settings: recipe.Recipe) -> dict[str, Any]:
    """Autoencoder and text as the run noted them at its end; before that, as the recipe has them."""
    if (folder / RECORD).is_file():
        noted = read_record(folder)
        return {"autoencoder": noted.autoencoder, "text": noted.text, **_prompts(noted)}
    text = settings["data"].get("text")
    return {"autoencoder": node_in(settings["data"]), "text": text if is_node(text) else None}


def _prompts(noted: ModelRecord) -> dict[str, Any]:
    return {"prompts": noted.prompts, "prompt_labels": noted.prompt_labels}


@dataclass(frozen=True)
class _Average:
    """An average of the network's weights.

    Args:
        name: "none" for the last step's own weights.
        images: images seen at its moment.
        weights: by parameter name; for "none" there are none.
        is_tracked: whether the checkpoint holds it; those of a sharded checkpoint are only described until they are read.
    """

    name: str
    images: int
    weights: dict[str, torch.Tensor]
    is_tracked: bool


def _tracked(checkpoint: checkpoints.Checkpoint, profile: str | None, path: Path) -> _Average:
    """One that training kept."""
    averages = _averages(checkpoint)
    if profile is None:
        profile = next(iter(averages), "none")
    if profile != "none" and profile not in averages:
        raise UserError(f"{path}: has no average {profile!r}; {nearest(profile, [*averages, 'none'], 'it has')}")
    weights = {} if profile == "none" else averages[profile]
    return _Average(profile, checkpoint["images_seen"], weights, is_tracked=profile != "none")


def _averages(checkpoint: checkpoints.Checkpoint) -> dict[str, dict[str, torch.Tensor]]:
    averages: dict[str, dict[str, torch.Tensor]] = checkpoint["callbacks"].get(EMA_STATE, {}).get("averages", {})
    return averages


def _reconstructed(folder: Path, sigma_rel: float, images: int | None) -> _Average:
    """One that is made from the stored snapshots."""
    try:
        weights = ema_snapshots.reconstruct_from_folder(folder, sigma_rel, images)
    except ValueError as error:
        raise UserError(f"export: {error}") from error
    if images is None:
        images = ema_snapshots.load_snapshots(folder)[-1].images
    return _Average(f"sigma_rel={sigma_rel:g}", images, weights, is_tracked=False)


def _weights(checkpoint: checkpoints.Checkpoint, average: _Average, path: Path) -> dict[str, torch.Tensor]:
    """The network's state with the average in place of what it averages; of a sharded checkpoint, reads only that."""
    averaged = average.weights
    if path.is_dir():
        from ...artifacts.checkpoints import sharded  # 0.1 s: torch.distributed.checkpoint

        own, of_average = f"state_dict.{NETWORK}", f"callbacks.{EMA_STATE}.averages.{average.name}."

        def is_wanted(key: str) -> bool:
            return key.startswith(of_average) or (key.startswith(own) and key.removeprefix(own) not in averaged)

        checkpoint = sharded.filled(checkpoint, path, wanted=is_wanted)
        if average.is_tracked:
            averaged = _averages(checkpoint)[average.name]
    state = checkpoint["state_dict"]
    return {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)} | averaged


def _facts(settings: recipe.Recipe, source: Path) -> tuple[list[int], int]:
    """Shape of an example and number of classes: from the network's node, or from the data if that has none."""
    net = settings["model"]["net"]
    if "shape" in net and "num_classes" in net:
        return net["shape"], net["num_classes"]
    data = recipe.build(settings["data"], "data", source)
    data.setup()
    return list(data.shape), data.num_classes
