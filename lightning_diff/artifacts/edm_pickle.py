"""NVlabs' EDM networks (github.com/NVlabs/edm) read from their pickles, without running what the pickles contain.

Such a pickle carries the networks' Python source, and `pickle.load` executes it. Here an unpickler that knows a dozen names
builds tensors, numbers and plain containers; a name outside its list ends the reading. The source text stays text.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..foundation.errors import UserError
from ..nets import UNet


def load_edm_pickle(path: str | Path) -> Denoiser:
    """The EMA network of an EDM snapshot, in evaluation mode: `EDMPrecond` over `SongUNet` in its DDPM++ form.

    Its outputs are EDM's to float32 rounding. Labels become integers: EDM's one-hot row k is label k, its row of zeros is
    num_classes.

    Raises:
        UserError: no such file, not an EDM snapshot, another architecture, or a file that asks for more than data.
    """
    try:
        with open(path, "rb") as file:
            snapshot = _DataUnpickler(file).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of an EDM network pickle") from error
    except _Refused as error:
        raise UserError(
            f"{path}: asks for {error}, which an EDM network does not need; nothing of it was run"
        ) from error
    except Exception as error:  # a broken stream of opcodes may fail in any way
        raise UserError(f"{path}: is not a readable EDM network pickle ({type(error).__name__}: {error})") from error
    try:
        return _denoiser(snapshot)
    except _Unsupported as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: is not laid out as an EDM snapshot ({type(error).__name__}: {reason})") from error


class _Refused(pickle.UnpicklingError):
    """A name outside the list."""


class _Unsupported(Exception):
    """A sound file of a network that we do not have."""


class _Module:
    """A module of the file: the name of its class, and its attributes; the last five are those of some classes only."""

    class_name: str
    _parameters: dict[str, Tensor | None]
    _modules: dict[str, object]
    _init_args: Sequence[object]
    _init_kwargs: dict[str, Any]
    sigma_data: float
    skip_scale: float
    num_heads: int


class _DataUnpickler(pickle.Unpickler):
    """Reads tensors, numbers, containers and modules; calls nothing else.

    A pickle can set attributes on any class it can name, so the classes are made anew for each file.
    """

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)

        class Module(_Module):
            """A module of this file alone."""

        class Dict(dict):
            """dnnlib's EasyDict, as a dictionary."""

        class Dtype:
            """NumPy's, of plain numbers; its state (byte order and so on) has no effect here."""

            def __init__(self, name: str, *_: object):
                if not re.fullmatch("[fiub][1248]", name):
                    raise _Refused(f"numpy.dtype({name!r})")
                self.name = name

            def __setstate__(self, state: object) -> None: ...

        def scalar(dtype: Dtype, data: bytes) -> int | float | bool:
            number: int | float | bool = np.frombuffer(data, "<" + dtype.name)[0].item()
            return number

        def persistent(meta: dict[str, Any]) -> Module:
            module = Module()
            module.__dict__.update(meta["state"])
            module.__dict__["class_name"] = meta["class_name"]
            return module

        def storage(data: bytes) -> torch.TypedStorage:
            found: torch.TypedStorage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return found

        def tensor(
            data: torch.TypedStorage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object
        ) -> Tensor:
            flat = torch.empty(0, dtype=data.dtype).set_(data._untyped_storage)
            if math.prod(size) > len(flat):
                raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} over {len(flat)} numbers")
            return flat.as_strided(size, stride, offset).clone()  # as_strided checks the bounds

        def parameter(data: Tensor, *_: object) -> Tensor:
            return data

        self.known: dict[str, Callable[..., object]] = {
            "torch_utils.persistence._reconstruct_persistent_obj": persistent,
            "torch.nn.modules.container.ModuleDict": Module,
            "torch.storage._load_from_bytes": storage,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_parameter": parameter,
            "dnnlib.util.EasyDict": Dict,
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "numpy.dtype": Dtype,
            "numpy.core.multiarray.scalar": scalar,
            "numpy._core.multiarray.scalar": scalar,
        }

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if f"{module}.{name}" not in self.known:
            raise _Refused(f"{module}.{name}")
        return self.known[f"{module}.{name}"]


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
    def of(cls, model: _Module) -> "_SongUNet":
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

    def build(self) -> UNet:
        """Our network of the same shape."""
        return UNet(
            shape=(self.in_channels, self.img_resolution, self.img_resolution),
            num_classes=self.label_dim,
            augment_dim=self.augment_dim,
            channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_blocks=self.num_blocks,
            attention=self.attn_resolutions,
            dropout=self.dropout,
        )


DDPMPP = ("channel_mult_emb", "embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter")


def _denoiser(snapshot: object) -> Denoiser:
    if not isinstance(snapshot, Mapping):
        raise TypeError(f"holds a {type(snapshot).__name__}")
    precond = _module(snapshot["ema"])
    if precond.class_name != "EDMPrecond":
        raise _Unsupported(f"holds the preconditioning {precond.class_name}; only EDMPrecond's is a denoiser of ours")
    model = _module(precond._modules["model"])
    if model.class_name != "SongUNet":
        raise _Unsupported(f"holds the architecture {model.class_name}; only SongUNet (DDPM++) can be loaded")
    net = _SongUNet.of(model).build()
    weights = dict(_weights(model, net))
    theirs = sum(1 for _ in _tensors(model))
    if len(weights) != theirs:
        raise _Unsupported(f"holds {theirs} weight tensors where a DDPM++ of its size has {len(weights)}")
    net.load_state_dict(weights)
    return Denoiser(net, sigma_data=precond.sigma_data).eval()


def _module(value: object) -> _Module:
    if not isinstance(value, _Module):
        raise TypeError(f"expected a module, got a {type(value).__name__}")
    return value


def _tensors(module: _Module) -> Iterator[Tensor]:
    yield from (tensor for tensor in module._parameters.values() if tensor is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _tensors(_module(child))


def _weights(model: _Module, net: UNet) -> Iterator[tuple[str, Tensor]]:
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


def _layer(name: str, module: _Module) -> Iterator[tuple[str, Tensor]]:
    for kind, tensor in module._parameters.items():
        if tensor is not None:
            yield f"{name}.{kind}", tensor


def _block(name: str, block: _Module) -> Iterator[tuple[str, Tensor]]:
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
