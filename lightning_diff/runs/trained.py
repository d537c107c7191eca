"""A trained model by the name that a person gives it: a run folder, the name of one in runs/, or a model file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..artifacts import ModelRecord, load_denoiser, read_record, user_code
from ..denoiser import Denoiser
from ..foundation.binding import nearest
from ..foundation.errors import UserError


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
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        denoiser = load_denoiser(self.path)
        try:
            return denoiser.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device: {device} cannot be used: {str(error).splitlines()[0]}") from error

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


def find(run: Path) -> Path:
    """The folder or model file that a person means; what modules it notes become importable.

    UserError with the nearest name in runs/ if there is none.
    """
    for path in (run, Path("runs") / run):
        if path.exists():
            user_code.make_importable(home(path))
            return path
    known = sorted(path.name for path in Path("runs").glob("*") if path.is_dir())
    raise UserError(f"{run}: no such run; {nearest(run.name, known, 'runs holds')}")


def home(path: Path) -> Path:
    """The run folder of a folder or model file."""
    return path if path.is_dir() else path.parent


def model(run: Path) -> Trained:
    """The model that a person means, by its record."""
    path = find(run)
    return Trained(path, read_record(path))
