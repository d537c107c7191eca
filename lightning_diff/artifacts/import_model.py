"""Models of other code bases written as ours."""

from pathlib import Path

import torch
from torch import nn

from ..foundation.errors import UserError
from . import edm_pickle
from .model import EDM_AVERAGE, RECORD, load_denoiser, save_denoiser


def import_edm_pickle(path: Path | str, folder: Path | str) -> Path:
    """Write the network of an EDM pickle as a model, into a folder that holds no other; returns the path of the weights.

    UserError where the pickle cannot be read (see `load_edm_pickle`), or the folder holds another model or a run.
    """
    path, folder = Path(path), Path(folder)
    snapshot = edm_pickle.read_snapshot(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, and a model is a folder; choose another place with --out")
    if (folder / "recipe.yaml").exists():
        raise UserError(f"{folder}: is a run folder, whose model is its own; choose another place with --out")
    if (folder / RECORD).exists() and not _is_alike(folder, snapshot.denoiser.net):
        raise UserError(f"{folder}: holds another model; choose another place with --out, or remove it")
    return save_denoiser(
        folder,
        snapshot.denoiser,
        snapshot.net,
        shape=snapshot.net["shape"],
        num_classes=snapshot.net["num_classes"],
        ema=EDM_AVERAGE,
        trained_with=snapshot.trained_with,
    )


def _is_alike(folder: Path, net: nn.Module) -> bool:
    """Whether the model in a folder, if it is whole, has these weights."""
    try:
        there, here = load_denoiser(folder).net.state_dict(), net.state_dict()
    except UserError:
        return False
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)
