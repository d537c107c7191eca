"""Models as files: weights in `model.safetensors`, how to rebuild the denoiser around them in `model.json` beside it.

Loading builds the network that `model.json` names and nothing else: only classes of networks (nn.Module) may be named,
with plain values as their arguments, and weights are read as tensors. The module that holds the class is imported, from
Python's own path: a file cannot bring code along, but it can name a module that is installed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..denoiser import Denoiser, Time
from ..foundation.atomic import replacing, sha256
from ..foundation.binding import bind, construct, is_node, locate
from ..foundation.errors import UserError
from ..nets import lora
from . import edm_pickle, places, record, user_code
from .conditions import Conditions, TrainedWith
from .safetensors_files import Reference
from .weights import fill, undrawn

FORMAT = 3  # of model.json; raised when a program that knows the old one could not read the new one
SECOND_FORMAT = 2  # of a network that works on its data as they are
FIRST_FORMAT = 1  # still written of a network whose prediction has the name of its time: there were no others
WEIGHTS = "model.safetensors"
RECORD = "model.json"
EDM_AVERAGE = "edm"  # the average of EDM's that its snapshots hold


@dataclass(frozen=True, kw_only=True)
class ModelRecord(TrainedWith):
    """Description of a model, the content of `model.json`: how to rebuild it, and what its weights are.

    Args:
        net: the recipe's node that builds the network.
        sigma_data, time, kind, prediction, bounds: see `Denoiser`; prediction None for that of the same name as time.
        shape: of one example.
        num_classes: 0 for none.
        class_names: in order of label; () where classes have numbers alone.
        levels: noise levels of a consistency model's steps after the first, by number of steps: those that were found best, or that
            it was trained to take.
        starts: likewise that of the first step.
        ema: name of the average that the weights are, "none" for the last step's own.
        images: images seen in training.
        sha256: of the weights' file.
        label_dropout, guidance, augment: see `TrainedWith`.
        text: the recipe's node of what encodes its prompts; None where it is conditioned on no text.
        prompts: texts that samples are drawn for where nobody says.
        prompt_labels: the class of each; () where that is not known.
        autoencoder: the recipe's node of what makes images of its samples; None where they are what they are.
        sampling: solver, grid and the grid's arguments that suit it, as `pipeline.Sampling.record` gives them, or a part of it;
            {} for its kind's.
        weights: files elsewhere that hold the rest of the weights, as `Reference.record` gives them; () for none.
    """

    net: record.Node
    sigma_data: float
    time: str | record.Node
    kind: str = "denoiser"  # missing from files that were written before there were others
    prediction: str | None = None  # likewise
    bounds: tuple[float, float] | None = None
    shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    levels: dict[int, list[float]] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    ema: str
    images: int
    sha256: str
    text: record.Node | None = None
    prompts: tuple[str, ...] = ()
    prompt_labels: tuple[int, ...] = ()
    autoencoder: record.Node | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    weights: tuple[dict[str, str], ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """The files elsewhere. TypeError for one that is described otherwise."""
        return tuple(Reference(**each) for each in self.weights)

    @property
    def identity(self) -> str:
        """What tells its weights from others': the hash of their file, or of the hashes of all their files."""
        if not self.weights:
            return self.sha256
        return hashlib.sha256("".join([self.sha256, *(each.sha256 for each in self.references)]).encode()).hexdigest()

    @property
    def sigma_max(self) -> float | None:
        """Noise level that sampling starts from where nobody says; None for EDM's."""
        found = self.sampling.get("arguments", {}).get("sigma_max")
        return None if found is None else float(found)

    @property
    def conditions(self) -> Conditions:
        """What its samples may be conditioned on."""
        return Conditions(
            kind=self.kind,
            num_classes=int(self.net.get("num_classes", self.num_classes)),
            takes_scale=_takes_scale(self.net),
            takes_condition=bool(self.net.get("condition_shapes")),
            trained_with=self,
        )


def save_denoiser(
    folder: Path | str,
    denoiser: Denoiser,
    net: record.Node,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    shape: tuple[int, ...] | list[int],
    num_classes: int = 0,
    class_names: Sequence[str] = (),
    ema: str = "none",
    images: int = 0,
    trained_with: TrainedWith | None = None,
    text: record.Node | None = None,
    prompts: Sequence[str] = (),
    prompt_labels: Sequence[int] = (),
    autoencoder: record.Node | None = None,
) -> Path:
    """Write `model.safetensors` and `model.json` into a folder, each whole or not at all.

    Args:
        folder: made if missing.
        denoiser: its network's parameters and persistent buffers are written, in their own precision; adapters merged into weights.
        net: the recipe's node that builds the network, facts of the data filled in.
        weights: the network's state, where the network itself has other weights or is sharded.
        shape: of one example.
        num_classes: 0 for none.
        class_names: in order of label; () where classes have numbers alone.
        ema: name of the average that the weights are, "none" for the last step's own.
        images: images seen in training.
        trained_with: what is known of the training; None for nothing.
        text: the recipe's node of what encodes its prompts; None where it is conditioned on no text.
        prompts, prompt_labels: see `ModelRecord`.
        autoencoder: the recipe's node of what makes images of its samples; None where they are what they are.

    Returns:
        The path of the weights.
    """
    folder = Path(folder)
    # Cloned, because the format refuses tensors that share memory and ones that are not laid out in order.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in lora.merged(denoiser.net.state_dict() if weights is None else weights).items()
    }
    try:
        with replacing(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary)
            digest = sha256(temporary)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        raise UserError(f"{folder / WEIGHTS}: cannot be written: {error}") from error
    described = ModelRecord(
        net=net,
        sigma_data=denoiser.sigma_data,
        time=denoiser.time,
        kind=denoiser.kind,
        prediction=denoiser.prediction,
        bounds=denoiser.bounds,
        shape=tuple(shape),
        num_classes=num_classes,
        class_names=tuple(class_names),
        levels={n + 1: list(denoiser.levels[:n]) for n in range(1, len(denoiser.levels) + 1)},
        ema=ema,
        images=images,
        sha256=digest,
        text=text,
        prompts=tuple(prompts),
        prompt_labels=tuple(prompt_labels),
        autoencoder=autoencoder,
        sampling=sampling_of(denoiser),
        **asdict(trained_with or TrainedWith()),
    )
    record.write(folder / RECORD, asdict(described), _format(described))
    return folder / WEIGHTS


def sampling_of(denoiser: Denoiser) -> dict[str, Any]:
    """What the record of a model of ours says of its sampling."""
    return {} if denoiser.sigma_max is None else {"arguments": {"sigma_max": denoiser.sigma_max}}


def _takes_scale(net: record.Node) -> bool:
    """Whether the scale of guidance is an input: of a network of ours by its argument, of diffusers' by its config."""
    config = net.get("config")
    of_config = isinstance(config, dict) and (config.get("guidance_embeds") or config.get("time_cond_proj_dim"))
    return bool(net.get("guided") or of_config)


def _format(described: ModelRecord) -> int:
    if described.autoencoder is not None or described.text is not None or described.weights:
        return FORMAT
    first = described.time in ("edm", "trigflow") and described.prediction in (None, described.time)
    return FIRST_FORMAT if first else SECOND_FORMAT


def load_denoiser(path: Path | str) -> Denoiser:
    """The denoiser that `save_denoiser` wrote, on the CPU and in eval mode.

    Args:
        path: a folder with model.safetensors and model.json (a run folder, for instance), or either of the files; or an EDM
            pickle (.pkl).

    Raises:
        UserError: a file is missing, damaged, of a newer format, names something that is no network, or the weights are
            not those of the network.
    """
    if _is_pickle(Path(path)):
        return edm_pickle.load_edm_pickle(path)
    described = read_record(path)
    weights, source = _files(Path(path))
    if not weights.is_file():
        raise UserError(f"{weights}: no such file")
    if sha256(weights) != described.sha256:
        again = "import the model again" if described.weights else "make both again with export"
        raise UserError(f"{weights}: is damaged or not the file that {source} describes; {again}")
    others = [(each.checked(weights.parent), each.prefix) for each in described.references]
    try:
        user_code.make_importable(weights.parent)
        _refuse_all_but_networks(described.net, "net")
        _refuse_all_but_networks(described.time, "time")
        with undrawn():
            net = construct(bind(described.net, nn.Module, "net"))
        time = bind_time(described.time)
        denoiser = Denoiser(
            net, described.sigma_data, time, described.kind, described.prediction, bounds=described.bounds
        )
    except (UserError, ValueError) as error:
        raise UserError(f"{source}: {error}") from error
    if denoiser.kind == "consistency":
        denoiser.sigma_max = described.sigma_max
    fill(denoiser.net, [(weights, ""), *others])
    return denoiser.eval()


def bind_time(time: str | Mapping[str, object]) -> str | Time:
    """The time that a record or a recipe gives, by name or as a node. UserError for a node that makes something else."""
    if isinstance(time, str):
        return time
    built: object = construct(bind(dict(time), Time, "time"))
    if not isinstance(built, Time):
        raise UserError(f"time: expected a time of lightning_diff.denoiser, got a {type(built).__name__}")
    return built


def read_record(path: Path | str) -> ModelRecord:
    """The content of `model.json`; of an EDM pickle, what it would be.

    Args:
        path: as for `load_denoiser`.
    """
    if _is_pickle(Path(path)):
        return _record_of_pickle(Path(path))
    weights, source = _files(Path(path))
    if not source.is_file():
        raise UserError(
            f"{weights.parent}: has no {source.name}; it is written when training ends, or by lightning-diff export"
        )
    found = record.read(source, ModelRecord, FORMAT, "record of a model")
    if not is_node(found.net):
        raise UserError(f"{source}: net: expected a network's _target_ and arguments")
    return found


def keep_levels(path: Path | str, levels: list[float], start: float | None = None) -> None:
    """Write the best noise levels for len(levels) + 1 steps into `model.json`.

    Args:
        path: as for `load_denoiser`.
        levels: after the first, decreasing.
        start: the first; None leaves it as it is.
    """
    if _is_pickle(Path(path)):
        raise UserError(f"{path}: an EDM pickle is left as it is; make a model of it with lightning-diff import")
    described = read_record(path)
    steps = len(levels) + 1
    kept: dict[str, object] = {"levels": described.levels | ({steps: levels} if levels else {})}
    if start is not None:
        kept["starts"] = described.starts | {steps: start}
    source = _files(Path(path))[1]
    record.write(source, json.loads(source.read_text(encoding="utf-8")) | kept, _format(described))


def _is_pickle(path: Path) -> bool:
    return path.suffix == edm_pickle.SUFFIX and not path.is_dir()


def _record_of_pickle(path: Path) -> ModelRecord:
    snapshot = edm_pickle.read_snapshot(path)
    return ModelRecord(
        net=snapshot.net,
        sigma_data=snapshot.denoiser.sigma_data,
        time=snapshot.denoiser.time,
        prediction=snapshot.denoiser.prediction,
        shape=tuple(snapshot.net["shape"]),
        num_classes=snapshot.net["num_classes"],
        ema=EDM_AVERAGE,
        images=0,
        sha256=sha256(path),
        **asdict(snapshot.trained_with),
    )


def _files(path: Path) -> tuple[Path, Path]:
    """Weights and record of a model."""
    path = places.find(path)
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix(".safetensors"), path.with_suffix(".json")
    return path / WEIGHTS, path / RECORD


def _refuse_all_but_networks(value: object, key: str) -> None:
    """A model's file may come from anywhere: building it must not be able to call anything but networks."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_all_but_networks(item, f"{key}.{i}")
    if not isinstance(value, dict):
        return
    if is_node(value):
        target = locate(value["_target_"], f"{key}._target_")
        if not (isinstance(target, type) and issubclass(target, nn.Module)):
            raise UserError(f"{key}._target_: {value['_target_']} is no network; a model's file may name no other code")
    for name, item in value.items():
        _refuse_all_but_networks(item, f"{key}.{name}")
