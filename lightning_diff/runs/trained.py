"""A trained model by the name that a person gives it (see `named`), and its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..artifacts import ModelRecord, load_denoiser, read_record
from ..artifacts.autoencoder import autoencoder_of
from ..autoencoders import Autoencoder
from ..denoiser import Denoiser
from ..foundation import devices
from ..foundation.errors import UserError
from .named import find, home


@dataclass(frozen=True)
class Trained:
    """A model on the disk, its weights not yet read.

    Args:
        path: run folder or model file.
        record: what `model.json` says.
    """

    path: Path
    record: ModelRecord

    @property
    def home(self) -> Path:
        """The run folder."""
        return home(self.path)

    def load(self, device: str) -> Denoiser:
        """The denoiser, on the device of that name; "auto" takes a GPU if there is one."""
        denoiser = load_denoiser(self.path)
        return denoiser.to(usable(device))

    def autoencoder(self) -> Autoencoder | None:
        """What makes images of its samples; None where they are what they are. UserError where it is not to be had."""
        return autoencoder_of(self.record, self.path)

    def guide(self, run: Path | None, device: str) -> Denoiser | None:
        """Another model to guide this one by (autoguidance), loaded; None for none. UserError for one that does not go with it."""
        if run is None:
            return None
        guide = model(run)
        own, other = self.record.conditions, guide.record.conditions
        if guide.record.shape != self.record.shape:
            raise UserError(f"--guide: {run} makes samples of another shape than {self.path}")
        if other.num_classes not in (0, own.num_classes):
            raise UserError(f"--guide: {run} has {other.num_classes} classes, {self.path} {own.num_classes}")
        if other.kind != own.kind:
            raise UserError(f"--guide: {run} is a {other.kind} model, {self.path} a {own.kind} model")
        return guide.load(device)


def usable(device: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one. UserError if it cannot be used."""
    if device == "auto":
        device = devices.default()
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: {device} cannot be used: {str(error).splitlines()[0]}") from error


def model(run: Path) -> Trained:
    """The model that a person means, by its record."""
    path = find(run)
    return Trained(path, read_record(path))
