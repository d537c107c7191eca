"""NVlabs' EDM and EDM2 networks (github.com/NVlabs/edm, edm2) read from their pickles, without running what the pickles contain.

Such a pickle carries the networks' Python source, and `pickle.load` executes it. Here an unpickler that knows a dozen names
builds tensors, numbers and plain containers; a name outside its list ends the reading. The source text stays text.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..denoiser import Denoiser
from ..foundation.errors import UserError
from ..nets import UNet
from . import edm2_pickle
from .conditions import TrainedWith
from .edm_unpickler import DataUnpickler, Refused, SavedModule

SUFFIX = ".pkl"


@dataclass(frozen=True)
class Snapshot:
    """What an EDM snapshot holds.

    Args:
        denoiser: its EMA network, in evaluation mode.
        net: the node that builds that network.
        trained_with: what the file tells of the training.
    """

    denoiser: Denoiser
    net: dict[str, Any]
    trained_with: TrainedWith


def load_edm_pickle(path: str | Path) -> Denoiser:
    """The EMA network of a snapshot, in evaluation mode: EDM's `EDMPrecond` over DDPM++'s `SongUNet`, or EDM2's `Precond`.

    Its outputs are EDM's to float32 rounding. Labels become integers: EDM's one-hot row k is label k, its row of zeros is
    num_classes.

    Raises:
        UserError: no such file, not an EDM snapshot, another architecture, or a file that asks for more than data.
    """
    return read_snapshot(path).denoiser


def read_snapshot(path: str | Path) -> Snapshot:
    """The denoiser of an EDM snapshot, and how to build its network; for errors see `load_edm_pickle`."""
    try:
        with open(path, "rb") as file:
            snapshot = DataUnpickler(file).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of an EDM network pickle") from error
    except Refused as error:
        raise UserError(
            f"{path}: asks for {error}, which an EDM network does not need; nothing of it was run"
        ) from error
    except Exception as error:  # a broken stream of opcodes may fail in any way
        raise UserError(f"{path}: is not a readable EDM network pickle ({type(error).__name__}: {error})") from error
    try:
        return _snapshot(snapshot)
    except _Unsupported as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: is not laid out as an EDM snapshot ({type(error).__name__}: {reason})") from error


class _Unsupported(Exception):
    """A sound file of a network that we do not have."""


@dataclass(frozen=True)
class _SongUNet:
    """Arguments of EDM's SongUNet, with its defaults: a snapshot records only what its constructor was given."""

    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    dropout: float = 0.10
    label_dropout: float = 0
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: Sequence[int] = (1, 1)

    @classmethod
    def of(cls, model: SavedModule) -> "_SongUNet":
        """As a snapshot records them. _Unsupported for another network than DDPM++."""
        if model._init_args:
            raise _Unsupported("records positional arguments of SongUNet, which EDM's own training never does")
        known = {field.name for field in fields(cls)}
        given = cls(**{name: value for name, value in model._init_kwargs.items() if name in known})
        for name in DDPMPP:
            own, theirs = getattr(cls, name), getattr(given, name)
            if list(np.atleast_1d(theirs)) != list(np.atleast_1d(own)):
                raise _Unsupported(f"holds a SongUNet with {name}={theirs!r}; only DDPM++, {own!r}, can be loaded")
        if given.in_channels != given.out_channels:
            raise _Unsupported("holds a SongUNet with more outputs than inputs; a denoiser has as many")
        return given

    def arguments(self) -> dict[str, Any]:
        """Of our network of the same shape, as a recipe writes them."""
        return {
            "shape": [int(size) for size in (self.in_channels, self.img_resolution, self.img_resolution)],
            "num_classes": int(self.label_dim),
            "augment_dim": int(self.augment_dim),
            "channels": int(self.model_channels),
            "channel_mult": [int(factor) for factor in self.channel_mult],
            "num_blocks": int(self.num_blocks),
            "attention": [int(resolution) for resolution in self.attn_resolutions],
            "dropout": float(self.dropout),
        }


DDPMPP = ("channel_mult_emb", "embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter")


def _snapshot(snapshot: object) -> Snapshot:
    if not isinstance(snapshot, Mapping):
        raise TypeError(f"holds a {type(snapshot).__name__}")
    precond = _module(snapshot["ema"])
    if precond.class_name == "Precond":
        edm2, arguments = edm2_pickle.network(precond)
        return Snapshot(
            Denoiser(edm2, sigma_data=float(precond.sigma_data)).eval(),
            {"_target_": "lightning_diff.nets.EDM2", **arguments},
            TrainedWith(augment=False),
        )
    if precond.class_name != "EDMPrecond":
        raise _Unsupported(f"holds the preconditioning {precond.class_name}; only EDMPrecond's is a denoiser of ours")
    model = _module(precond._modules["model"])
    if model.class_name != "SongUNet":
        raise _Unsupported(f"holds the architecture {model.class_name}; only SongUNet (DDPM++) can be loaded")
    described = _SongUNet.of(model)
    arguments = described.arguments()
    net = UNet(**arguments)
    weights = dict(_weights(model, net))
    theirs = sum(1 for _ in _tensors(model))
    if len(weights) != theirs:
        raise _Unsupported(f"holds {theirs} weight tensors where a DDPM++ of its size has {len(weights)}")
    net.load_state_dict(weights)
    return Snapshot(
        Denoiser(net, sigma_data=float(precond.sigma_data)).eval(),
        {"_target_": "lightning_diff.nets.UNet", **arguments},
        TrainedWith(label_dropout=float(described.label_dropout), augment=described.augment_dim > 0),
    )


def _module(value: object) -> SavedModule:
    if not isinstance(value, SavedModule):
        raise TypeError(f"expected a module, got a {type(value).__name__}")
    return value


def _tensors(module: SavedModule) -> Iterator[Tensor]:
    yield from (tensor for tensor in module._parameters.values() if tensor is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _tensors(_module(child))


def _weights(model: SavedModule, net: UNet) -> Iterator[tuple[str, Tensor]]:
    """Our names with EDM's tensors, block by block in the order of the forward pass."""
    top = model._modules
    for name, theirs in {
        "layer0": "map_layer0",
        "layer1": "map_layer1",
        "label": "map_label",
        "augment": "map_augment",
    }.items():
        if top.get(theirs) is not None:
            yield from _layer(f"conditioning.{name}", _module(top[theirs]))
    encoder = [_module(layer) for layer in _module(top["enc"])._modules.values()]
    yield from _layer("input", encoder[0])
    for i, block in enumerate(encoder[1:]):
        yield from _block(f"down.{i}", block)
    decoder = [(name, _module(layer)) for name, layer in _module(top["dec"])._modules.items()]
    blocks = [block for name, block in decoder if "aux" not in name]
    for i, block in enumerate(blocks[: len(net.middle)]):
        yield from _block(f"middle.{i}", block)
    for i, block in enumerate(blocks[len(net.middle) :]):
        yield from _block(f"up.{i}", block)
    output_norm, output = (layer for name, layer in decoder if "aux" in name)
    yield from _layer("output_norm", output_norm)
    yield from _layer("output", output)


def _layer(name: str, module: SavedModule) -> Iterator[tuple[str, Tensor]]:
    for kind, tensor in module._parameters.items():
        if tensor is not None:
            yield f"{name}.{kind}", tensor


def _block(name: str, block: SavedModule) -> Iterator[tuple[str, Tensor]]:
    layers = {layer: _module(value) for layer, value in block._modules.items() if value is not None}
    if not math.isclose(float(block.skip_scale), math.sqrt(0.5)):
        raise _Unsupported(f"holds blocks with skip_scale {block.skip_scale}; DDPM++ has sqrt(1/2)")
    for layer in ("norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2"):
        if layer in layers:
            yield from _layer(f"{name}.{layer}", layers[layer])
    if "qkv" in layers:
        for kind, tensor in _layer(f"{name}.attention.qkv", layers["qkv"]):
            # theirs counts q, k, v within each channel of a head; ours q, then k, then v
            by_channel = tensor.reshape(block.num_heads, -1, 3, *tensor.shape[1:2])
            yield kind, by_channel.movedim(2, 0).reshape(tensor.shape[:2])
        for kind, tensor in _layer(f"{name}.attention.proj", layers["proj"]):
            yield kind, tensor.reshape(tensor.shape[:2])
