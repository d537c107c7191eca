"""EDM2's networks (github.com/NVlabs/edm2) from what `edm_unpickler` made of their pickles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

from ..nets import EDM2
from .edm_unpickler import SavedModule


@dataclass(frozen=True)
class _Unet:
    """Arguments of EDM2's UNet and its blocks, with their defaults: a snapshot records only what the constructor was given."""

    img_resolution: int
    img_channels: int
    label_dim: int
    model_channels: int = 192
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (16, 8)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    resample_filter: Sequence[int] = (1, 1)
    channels_per_head: int = 64
    dropout: float = 0.0
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256

    @classmethod
    def of(cls, unet: SavedModule) -> "_Unet":
        known = {field.name for field in fields(cls)}
        if unet._init_args or (other := [name for name in unet._init_kwargs if name not in known]):
            raise ValueError(f"an EDM2 network with arguments that are not known: {unet._init_args or other}")
        found = cls(**unet._init_kwargs)
        if list(np.atleast_1d(found.resample_filter)) != [1, 1]:
            raise ValueError(
                f"an EDM2 network with resample_filter={found.resample_filter!r}; only [1, 1] can be loaded"
            )
        return found

    def arguments(self) -> dict[str, Any]:
        """Of our network of the same shape, as a recipe writes them."""
        return {
            "shape": [int(size) for size in (self.img_channels, self.img_resolution, self.img_resolution)],
            "num_classes": int(self.label_dim),
            "channels": int(self.model_channels),
            "channel_mult": [int(factor) for factor in self.channel_mult],
            "noise_mult": None if self.channel_mult_noise is None else int(self.channel_mult_noise),
            "embedding_mult": None if self.channel_mult_emb is None else int(self.channel_mult_emb),
            "num_blocks": int(self.num_blocks),
            "attention": [int(resolution) for resolution in self.attn_resolutions],
            "head_width": int(self.channels_per_head),
            "dropout": float(self.dropout),
            "label_balance": float(self.label_balance),
            "concat_balance": float(self.concat_balance),
            "residual_balance": float(self.res_balance),
            "attention_balance": float(self.attn_balance),
            "clip": None if self.clip_act is None else float(self.clip_act),
        }


def network(precond: SavedModule) -> tuple[EDM2, dict[str, Any]]:
    """The network of an EDM2 `Precond` with its weights, and its arguments.

    The head that estimates the loss's logarithm (`logvar`) belongs to the training and is left out.
    """
    unet = _saved(precond._modules["unet"])
    arguments = _Unet.of(unet).arguments()
    net = EDM2(**arguments)
    net.load_state_dict(dict(_weights(unet, net)))
    return net, arguments


def _weights(unet: SavedModule, net: EDM2) -> Iterator[tuple[str, Tensor]]:
    """Our names with EDM2's tensors, block by block in the order of the forward pass."""
    top = unet._modules
    yield "output_gain", _tensor(unet, "out_gain")
    fourier = _saved(top["emb_fourier"])._buffers
    yield from ((f"fourier.{name}", fourier[name]) for name in ("freqs", "phases"))
    yield "noise.weight", _tensor(top["emb_noise"], "weight")
    if net.label is not None:
        yield "label.weight", _tensor(top["emb_label"], "weight")
    first, *down = _saved(top["enc"])._modules.values()
    blocks = list(_saved(top["dec"])._modules.values())
    yield "input.weight", _tensor(first, "weight")
    yield "output.weight", _tensor(top["out_conv"], "weight")
    middle, up = blocks[: len(net.middle)], blocks[len(net.middle) :]
    for name, saved in (("down", down), ("middle", middle), ("up", up)):
        for i, block in enumerate(saved):
            yield from _block(f"{name}.{i}", block)


def _block(name: str, saved: object) -> Iterator[tuple[str, Tensor]]:
    block = _saved(saved)
    yield f"{name}.embedding_gain", _tensor(block, "emb_gain")
    ours = {
        "conv_res0": "conv0",
        "emb_linear": "embedding",
        "conv_res1": "conv1",
        "conv_skip": "skip",
        "attn_proj": "proj",
    }
    for theirs, own in ours.items():
        if (layer := block._modules.get(theirs)) is not None:
            yield f"{name}.{own}.weight", _tensor(layer, "weight")
    if (qkv := block._modules.get("attn_qkv")) is not None:
        weight = _tensor(qkv, "weight")
        # theirs counts q, k, v within each channel of a head; ours q, then k, then v
        by_channel = weight.reshape(block.num_heads, -1, 3, *weight.shape[1:])
        yield f"{name}.qkv.weight", by_channel.movedim(2, 0).reshape(weight.shape)


def _saved(value: object) -> SavedModule:
    if not isinstance(value, SavedModule):
        raise TypeError(f"expected a module, got a {type(value).__name__}")
    return value


def _tensor(module: object, name: str) -> Tensor:
    found = _saved(module)._parameters[name]
    if not isinstance(found, Tensor):
        raise TypeError(f"{name}: expected a tensor, got a {type(found).__name__}")
    return found
