"""Content of a checkpoint, by version, and the migration of older ones."""

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor

from ...foundation.errors import UserError
from ...foundation.formats import refuse_newer
from ...foundation.moved import modern

FORMAT = 4  # raised with each change of what a checkpoint holds; `_MIGRATIONS` says how to read the one before
META = "meta.pt"  # in a sharded checkpoint, which is a folder, the file of all that is not sharded
_KEYS = {"images_seen", "global_step", "callbacks"}


class Checkpoint(TypedDict):
    """Content of a checkpoint, as far as it is read here; Lightning, the module and the callbacks put more into it."""

    format: int
    recipe: dict[str, Any] | None  # None for a training that no recipe describes
    recipe_hash: str | None
    images_seen: int
    global_step: int
    state_dict: dict[str, Tensor]
    optimizer_states: list[dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]  # by the callbacks' state_key
    TrainingData: NotRequired[dict[str, Any]]


def stamp(checkpoint: dict[str, object], settings: Mapping[str, object] | None) -> None:
    """Write version and recipe into a checkpoint; None for a training that no recipe describes."""
    checkpoint["format"] = FORMAT
    checkpoint["recipe"] = settings
    checkpoint["recipe_hash"] = None if settings is None else recipe_hash(settings)


def recipe_hash(settings: Mapping[str, object]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a recipe, in an order that does not depend on how it was written."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _from_1(checkpoint: dict[str, object]) -> None:
    """Format 1 had neither version nor recipe."""
    checkpoint["recipe"], checkpoint["recipe_hash"] = None, None


def _from_2(checkpoint: dict[str, object]) -> None:
    """Until format 2 augmentations had a form of their own, which a recipe names since."""
    data = recipe.get("data") if isinstance(recipe := checkpoint["recipe"], dict) else None
    augment = data.get("augment") if isinstance(data, dict) else None
    if isinstance(augment, dict):
        augment.setdefault("form", "0.1")


def _from_3(checkpoint: dict[str, object]) -> None:
    """Until format 3 the generator of a recipe that names none was the first."""
    recipe, data = checkpoint["recipe"], checkpoint.get("TrainingData")
    generator = 1
    if isinstance(recipe, dict):
        generator = recipe.setdefault("generator", 1)
    if isinstance(data, dict):
        data["generator"] = generator


_MIGRATIONS: dict[int, Callable[[dict[str, object]], None]] = {1: _from_1, 2: _from_2, 3: _from_3}


def migrate(checkpoint: object, path: Path | str) -> Checkpoint:
    """Bring a checkpoint of any earlier format to this one, in place.

    Raises:
        UserError: it was written by a newer lightning_diff, or is no checkpoint of a training.
    """
    if (
        isinstance(checkpoint, dict)
        and "callbacks" not in checkpoint
        and checkpoint.keys() >= {"images_seen", "state_dict"}
    ):
        raise UserError(
            f"{path}: holds weights alone (ModelCheckpoint's save_weights_only), from which no training resumes"
        )
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _KEYS:
        raise UserError(f"{path}: is no checkpoint of a training")
    version = checkpoint.get("format", 1)
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path}: is no checkpoint of a training: its format is {version!r}")
    refuse_newer(path, version, FORMAT)
    while version < FORMAT:
        _MIGRATIONS[version](checkpoint)
        version += 1
    checkpoint["format"] = FORMAT
    checkpoint["recipe"], _ = modern(checkpoint["recipe"])
    return cast(Checkpoint, checkpoint)


def read(path: Path) -> Checkpoint:
    """A checkpoint's content in this format, without the shards of a sharded one. Nothing in the file is run.

    Tensors stay on the disk until they are used.

    Args:
        path: the file, or the folder of a sharded checkpoint.

    Raises:
        UserError: the file is damaged, no checkpoint of a training, of a newer format, or asks for code to be run.
    """
    return migrate(unpickled(path), path)


def unpickled(path: Path) -> object:
    """What a file holds, whoever wrote it; arguments and errors as of `read`, but that its format is not looked at."""
    try:
        file = path / META if path.is_dir() else path
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds more than tensors and plain values; nothing in it was run") from error
    except (OSError, EOFError, RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{path}: is damaged, or no checkpoint of a training") from error
