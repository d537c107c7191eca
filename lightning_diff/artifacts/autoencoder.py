"""The autoencoder that a model's record names: what makes images of the samples of a latent model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .. import autoencoders
from ..autoencoders import Autoencoder
from ..foundation.binding import Node, bind, construct, is_node, locate
from ..foundation.errors import UserError
from . import places, user_code
from .model import ModelRecord, read_record

FILES = ("folder", "weights")  # arguments that are paths


def load_autoencoder(path: Path | str) -> Autoencoder | None:
    """The autoencoder of a saved model; None for a model whose samples are what they are.

    Args:
        path: as for `load_denoiser`.

    Raises:
        UserError: it is not where it was, is another one, or model.json names something that is no autoencoder.
    """
    return autoencoder_of(read_record(path), path)


def autoencoder_of(described: ModelRecord, path: Path | str) -> Autoencoder | None:
    """The same, of a record that is at hand."""
    if described.autoencoder is None:
        return None
    place = places.find(path)
    source = place if place.suffix == ".json" else (place.parent if place.is_file() else place) / "model.json"
    try:
        user_code.make_importable(source.parent)
        _refuse_all_but_autoencoders(described.autoencoder, "autoencoder", is_outermost=True)
        made: object = construct(bind(described.autoencoder, Autoencoder, "autoencoder"))
        if not isinstance(made, Autoencoder):
            raise UserError(f"autoencoder: {described.autoencoder['_target_']} makes no autoencoder")
        made.image_shape(described.shape)
    except UserError as error:
        raise type(error)(f"{source}: {error}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    return made


def node_in(settings: Mapping[str, Any]) -> Node | None:
    """The node of the autoencoder in a recipe's `data`, or of the model that these are for; None for none.

    Its paths are absolute, so that it is found from any working folder, and wherever the run is moved to.
    """
    found = _find(settings)
    if found is None:
        model = settings.get("model")
        return read_record(model).autoencoder if isinstance(model, str | Path) else None
    there = {name: str(Path(found[name]).expanduser().absolute()) for name in FILES if isinstance(found.get(name), str)}
    return found | there


def _find(value: object) -> Node | None:
    if not isinstance(value, Mapping):
        return None
    own = value.get("autoencoder")
    if is_node(own):
        return own
    return next((found for each in value.values() if (found := _find(each)) is not None), None)


def _refuse_all_but_autoencoders(value: object, key: str, *, is_outermost: bool = False) -> None:
    """A model's file may come from anywhere: it may name autoencoders of ours, and networks."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_all_but_autoencoders(item, f"{key}.{i}")
    if not isinstance(value, dict):
        return
    if is_node(value):
        target = locate(value["_target_"], f"{key}._target_")
        is_network = isinstance(target, type) and issubclass(target, nn.Module)
        is_ours = is_outermost and target in (autoencoders.Diffusers, autoencoders.Pair)
        if not (is_network or is_ours):
            raise UserError(
                f"{key}._target_: {value['_target_']} is no autoencoder of this project and no network; a model's file may name no "
                "other code"
            )
    for name, item in value.items():
        _refuse_all_but_autoencoders(item, f"{key}.{name}")
