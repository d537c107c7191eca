"""Weights in safetensors files that lie elsewhere: whole or in shards, referred to by path and hash, never copied."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..foundation.errors import UserError
from ..foundation.progress import stage

CHUNK = 1 << 24  # bytes hashed at a time
BAR_FROM = 1 << 28  # bytes; a smaller file is hashed in less than a second
SHORT = 12  # letters of a hash in a message
# Of networks from before diffusers' attention had its names of today; these are in files on the hub.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Reference:
    """A safetensors file whose tensors are part of a model.

    Args:
        path: absolute, or relative to the folder of the model that refers to it.
        sha256: of the file.
        prefix: before the names in the file, to make them the network's.
    """

    path: str
    sha256: str
    prefix: str = ""

    @classmethod
    def to(cls, file: Path, folder: Path, prefix: str) -> "Reference":
        """From a model's folder to a file, which is hashed: relative where it lies beside or below, so that both may be moved."""
        return cls(stored(file, folder), digest(file), prefix)

    def file(self, folder: Path) -> Path:
        """Where it lies, for a model in this folder."""
        return Path(os.path.normpath(folder / self.path))

    def checked(self, folder: Path) -> Path:
        """The same, unless it is gone or changed. UserError then."""
        file = self.file(folder)
        if not file.is_file():
            raise UserError(f"{file}: is not there, and {folder} refers to it; put it back, or import the model again")
        if (found := digest(file)) != self.sha256:
            raise UserError(
                f"{file}: has changed since it was imported: its sha256 is {found[:SHORT]}, {folder} refers to "
                f"{self.sha256[:SHORT]}; put the old file back, or import the model again into another folder"
            )
        return file

    def record(self) -> dict[str, str]:
        """As `model.json` holds it."""
        return asdict(self)


def stored(path: Path, folder: Path) -> str:
    """A path as a model in this folder keeps it: relative if it lies in the folder's parent, absolute else."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return os.path.relpath(path, folder) if path.is_relative_to(folder.parent) else str(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, with a bar for gigabytes. UserError where it cannot be read."""
    try:
        sha, size = hashlib.sha256(), path.stat().st_size
        with path.open("rb") as file, stage(f"hashing {path.name}", size, "byte", shown=size > BAR_FROM) as bar:
            while chunk := file.read(CHUNK):
                sha.update(chunk)
                bar.advance(len(chunk))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return sha.hexdigest()


def find(folder: Path, stem: str = "diffusion_pytorch_model") -> tuple[Path, ...]:
    """The safetensors of a network's folder: one file, or the shards that its index names.

    Raises:
        UserError: there are none, or an index names what is not there.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return (whole,)
    if index.is_file():
        return _shards(index)
    variants = sorted(
        folder.glob(f"{stem}.*.safetensors")
    )  # of half precision; an average comes before what it averages
    if variants and not any("-of-" in path.name for path in variants):
        return (variants[0],)
    others = sorted([*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt"), *folder.glob("*.msgpack")])
    if others:
        raise UserError(
            f"{others[0]}: is pickled, which can run code, and {whole.name} is missing; save the model again with "
            "safe_serialization=True"
        )
    raise UserError(f"{whole}: is missing, and so is {index.name}; download the folder again, weights included")


def shapes(files: Iterable[Path], prefix: str = "", own: Mapping[str, object] | None = None) -> dict[str, Tensor]:
    """Names and shapes of the tensors in these files, as tensors without content.

    Args:
        files: of safetensors.
        prefix: before their names.
        own: names of a network, which takes tensors of names that diffusers had before by those of today.

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    shape = file.get_slice(name).get_shape()
                    found[_modern(prefix + name, own or {})] = torch.empty(shape, device="meta")
        except (SafetensorError, OSError) as error:
            raise unreadable(path, error) from error
    return found


def tensors(path: Path, prefix: str = "", own: Mapping[str, object] | None = None) -> dict[str, Tensor]:
    """The tensors of a file, mapped rather than read; for arguments and errors see `shapes`."""
    try:
        return {_modern(prefix + name, own or {}): each for name, each in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """Of a file that is cut short, or no safetensors."""
    reason = " ".join(str(error).split())
    return UserError(
        f"{path}: cannot be read as safetensors ({reason}); it may be cut short: download or write it again"
    )


def _modern(name: str, own: Mapping[str, object]) -> str:
    """The name of today, where the network has that and not the old one."""
    parent, _, kind = name.rpartition(".")
    module, _, last = parent.rpartition(".")
    if name in own or last not in OLD_NAMES:
        return name
    new = f"{module}.{OLD_NAMES[last]}.{kind}"
    return new if new in own else name


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(file) for file in names.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{index}: is no index of shards ({type(error).__name__}: {error}); download it again"
        ) from error
    if outside := [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]:
        raise UserError(f"{index}: names {outside[0]!r}, which is no safetensors file beside it")
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise UserError(
            f"{index.parent / missing[0]}: is missing, one of {len(files)} shards that {index.name} names; download it again"
        )
    return tuple(index.parent / name for name in files)
