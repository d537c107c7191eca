"""Sharded checkpoints: a folder in which each process writes the rows of every tensor that it holds.

`.metadata` and `*.distcp` are torch.distributed.checkpoint's; `meta.pt` holds all the rest of the checkpoint, in which a tensor
on the meta device stands for one in shards. Any number of processes reads what any other number wrote; without a process group,
so does one process, whole tensors or some of them. Nothing in a folder is run.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import empty as empty_shards

from ...foundation.errors import UserError
from .format import META

State = TypeVar("State", bound=Mapping[str, object])

_INDEX = ".metadata"  # torch.distributed.checkpoint's name
# What the index of a checkpoint of tensors is made of.
_ALLOWED = {
    "torch": ("Size", "float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool", "strided"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.metadata": (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
}  # fmt: skip


def save(state: Mapping[str, object], folder: Path, *, is_first: bool) -> None:
    """Write a checkpoint into a folder; every process of the group calls this with its own shards.

    Args:
        state: plain values and tensors in dicts, lists and tuples; each DTensor is written by its shards, the rest by the first
            process alone.
        folder: one that all processes see.
        is_first: whether this is the process of rank 0.

    Raises:
        UserError: the processes do not see the same folder, or one of them cannot write.
    """
    shards: dict[str, DTensor] = {}

    def described(key: str, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        shards[key] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    rest = _mapped(state, described)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        dcp.save(shards, storage_writer=dcp.FileSystemWriter(folder))
        if is_first:
            torch.save(rest, folder / META)
    except (OSError, RuntimeError, dcp.CheckpointException) as error:
        raise _refusal(folder, error) from error
    if is_first:
        stored = {info.relative_path for info in _Reader(folder).read_metadata().storage_data.values()}
        if missing := sorted(name for name in stored if not (folder / name).exists()):
            raise UserError(
                f"{folder / missing[0]}: written by another process, not to be seen here; all nodes must share the run folder"
            )


def _refusal(folder: Path, error: BaseException) -> UserError:
    """What to say of a failure to write; torch's writer knows no more of a full disk than that its position is wrong."""
    failures = [each for each, _ in error.failures.values()] if isinstance(error, dcp.CheckpointException) else [error]
    known = [each for each in failures if isinstance(each, OSError)]
    reason = known[0].strerror if known else str(failures[0]).splitlines()[0]
    return UserError(f"{folder}: cannot be written: {reason}; is there room on the disk?")


def filled(
    state: State,
    folder: Path,
    *,
    mesh: DeviceMesh | None = None,
    wanted: Callable[[str], bool] = lambda key: True,
) -> State:
    """A checkpoint with its tensors in place of what stands for them.

    Args:
        state: what `meta.pt` holds.
        folder: of the checkpoint.
        mesh: of one dimension, over which to shard by rows: each process reads its own. None reads whole tensors, on the CPU.
        wanted: the keys, parts joined by dots, of the tensors to read; the others stay on the meta device.

    Raises:
        UserError: the folder is damaged, or asks for code to be run.
    """
    tensors: dict[str, Tensor] = {}

    def allocated(key: str, value: Tensor) -> Tensor:
        if not value.is_meta or not wanted(key):
            return value
        if mesh is None:
            tensors[key] = torch.empty(value.shape, dtype=value.dtype)
        else:
            tensors[key] = empty_shards(*value.shape, dtype=value.dtype, device_mesh=mesh, placements=[Shard(0)])
        return tensors[key]

    result = cast(State, _mapped(state, allocated))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it takes no part
            reader = _Reader(folder)
            reader.read_metadata()  # torch would wrap what is wrong with it into a page
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{folder}: {error}; nothing in it was run") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, dcp.CheckpointException) as error:
        raise UserError(f"{folder}: is damaged, or no sharded checkpoint ({str(error).splitlines()[0]})") from error
    return result


class _Reader(dcp.FileSystemReader):
    """Reads the index without running what it may ask for, and nothing but tensors inside the folder."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        with (Path(self.path) / _INDEX).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{_INDEX} is no index of tensors")
        if any(isinstance(entry, BytesStorageMetadata) for entry in metadata.state_dict_metadata.values()):
            raise pickle.UnpicklingError(f"{_INDEX} names values other than tensors")
        if any(Path(info.relative_path).name != info.relative_path for info in metadata.storage_data.values()):
            raise pickle.UnpicklingError(f"{_INDEX} names files outside the folder")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath"):
            return PurePath  # where the folder was when it was written, on whatever system
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"{_INDEX} names {module}.{name}, which no index of tensors does")
        return super().find_class(module, name)


def _mapped(value: object, change: Callable[[str, Tensor], Tensor], key: str = "") -> object:
    """A copy of nested dicts, lists and tuples with each tensor changed."""
    if isinstance(value, Tensor):
        return change(key, value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, change, f"{key}.{i}") for i, item in enumerate(value))
    return value
