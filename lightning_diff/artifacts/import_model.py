"""Models of other code bases written as ours, and copies of them that hold their weights."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..condition import NullCondition
from ..foundation.atomic import replacing, sha256
from ..foundation.errors import UserError
from ..nets.diffusers import FAMILIES
from . import edm_pickle, record
from .model import EDM_AVERAGE, FORMAT, RECORD, WEIGHTS, ModelRecord, load_denoiser, read_record, save_denoiser
from .pipeline import Pipeline, load_pipeline
from .pipeline.load import PREFIX
from .safetensors_files import Reference


def import_edm_pickle(path: Path | str, folder: Path | str) -> Path:
    """Write the network of an EDM pickle as a model, into a folder that holds no other; returns the path of the weights.

    UserError where the pickle cannot be read (see `load_edm_pickle`), or the folder holds another model or a run.
    """
    path, folder = Path(path), Path(folder)
    snapshot = edm_pickle.read_snapshot(path)
    _refuse_a_run(folder)
    if (folder / RECORD).exists() and not _is_alike(folder, snapshot.denoiser.net):
        raise _other(folder)
    return save_denoiser(
        folder,
        snapshot.denoiser,
        snapshot.net,
        shape=snapshot.net["shape"],
        num_classes=snapshot.net["num_classes"],
        ema=EDM_AVERAGE,
        trained_with=snapshot.trained_with,
    )


def import_pipeline(source: Path | str, folder: Path | str, *, size: int | None = None) -> Path:
    """Write a model that refers to the weights of a diffusers folder where they lie; returns the path of its own.

    Its own are the null condition alone, the empty prompt's embedding, for which the text encoders are loaded once. Names and
    shapes of the weights are held against the network's before, and their files are hashed.

    Args:
        source: the folder, or its name on the hub.
        folder: to write to; it holds no other model and no run.
        size: see `load_pipeline`.

    Raises:
        UserError: the folder is refused (see `load_pipeline`), has other weights than its network, or `folder` is taken.
    """
    folder = Path(folder)
    _refuse_a_run(folder)
    pipeline = load_pipeline(source, size=size)
    pipeline.refuse_other_weights()
    references = [Reference.to(file, folder, PREFIX) for file in pipeline.files]
    if (folder / RECORD).exists() and not _refers_to(folder, references):
        raise _other(folder)
    digest = _save(_own_weights(pipeline), folder / WEIGHTS)
    described = _described(pipeline, folder, references, digest)
    record.write(folder / RECORD, asdict(described), FORMAT)
    return folder / WEIGHTS


def copy_whole(path: Path | str, folder: Path | str) -> Path:
    """Write a model with all its weights in one file, wherever they lie now; returns the path of the weights.

    Args:
        path: as for `load_denoiser`.
        folder: to write to; it holds no run, and no other model.

    Raises:
        UserError: the model cannot be loaded, or `folder` is taken.
    """
    path, folder = Path(path), Path(folder)
    _refuse_a_run(folder)
    described, net = read_record(path), load_denoiser(path).net
    if (folder / RECORD).exists() and not _is_alike(folder, net):
        raise _other(folder)
    digest = _save(net.state_dict(), folder / WEIGHTS)
    record.write(folder / RECORD, asdict(replace(described, sha256=digest, weights=())), FORMAT)
    return folder / WEIGHTS


def _save(state: Mapping[str, torch.Tensor], file: Path) -> str:
    """The hash of what was written."""
    tensors = {name: each.contiguous() for name, each in state.items()}
    try:
        with replacing(file) as temporary:
            save_file(tensors, temporary)
            return sha256(temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be written: {error}") from error


def _own_weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    """What the network's state has beside the weights in the files: its null condition, where it has one."""
    if not (shapes := pipeline.condition_shapes):
        return {}
    null = NullCondition(shapes)
    if pipeline.text is not None:
        null.keep(pipeline.text.null())
        pipeline.text.release()
    return {f"null.{name}": each for name, each in null.state_dict().items()}


def _described(pipeline: Pipeline, folder: Path, references: list[Reference], digest: str) -> ModelRecord:
    blank, classes = pipeline.blank, int(getattr(pipeline.blank.net, "num_classes", 0))
    family = FAMILIES[pipeline.contents.network_class]
    has_none = not classes or family.null_class(pipeline.config, classes) is not None
    return ModelRecord(
        net=pipeline.node,
        label_dropout=None if has_none else 0.0,  # without an embedding for no class there is nothing to be guided by
        sigma_data=blank.sigma_data,
        time=blank.time,
        kind=blank.kind,
        prediction=blank.prediction,
        shape=pipeline.shape,
        num_classes=classes,
        class_names=pipeline.class_names,
        levels={steps: levels for steps, levels in pipeline.sampling.levels.items() if levels},
        ema="none",
        images=0,
        sha256=digest,
        sampling=pipeline.sampling.record(),
        weights=tuple(each.record() for each in references),
        autoencoder=pipeline.autoencoder_node,
        text=None if pipeline.text is None else pipeline.text.node(),
    )


def _refuse_a_run(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, and a model is a folder; choose another place with --out")
    if (folder / "recipe.yaml").exists():
        raise UserError(f"{folder}: is a run folder, whose model is its own; choose another place with --out")


def _other(folder: Path) -> UserError:
    return UserError(f"{folder}: holds another model; choose another place with --out, or remove it")


def _is_alike(folder: Path, net: nn.Module) -> bool:
    """Whether the model in a folder, if it is whole, has these weights."""
    try:
        there, here = load_denoiser(folder).net.state_dict(), net.state_dict()
    except UserError:
        return False
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def _refers_to(folder: Path, references: list[Reference]) -> bool:
    """Whether the model in a folder has these weights."""
    try:
        there = read_record(folder).references
    except (UserError, TypeError):
        return False
    return [each.sha256 for each in there] == [each.sha256 for each in references]
