"""EDM snapshots, fabricated in their layout: persistent objects whose source text would end the process if it ran."""

import pickle
import sys
import types

import numpy as np
import torch

from lightning_diff.nets import UNet

POISON = "import os; os._exit(66)"
KWARGS = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 4,
    "augment_dim": 5,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "embedding_type": "positional",
    "resample_filter": [1, 1],
}


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called the file's own function")


class EasyDict(dict):
    pass


EasyDict.__module__ = "dnnlib.util"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


def edm_modules(monkeypatch):
    """Modules of EDM's names, so that pickle writes what EDM writes."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules["dnnlib.util"].EasyDict = EasyDict


class Persistent(torch.nn.Module):
    """A module that pickles as EDM's persistent classes do: class name, source text, state."""

    def __init__(self, class_name, **attributes):
        super().__init__()
        self.class_name = class_name
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "class_name"}
        meta = {"type": "class", "version": 6, "module_src": POISON, "class_name": self.class_name, "state": state}
        return _reconstruct_persistent_obj, (meta,)


def parameter(tensor):
    return torch.nn.Parameter(tensor.detach().clone(), requires_grad=False)


def layer(ours, kernel=False):
    bias = None if ours.bias is None else parameter(ours.bias)
    weight = ours.weight[..., None, None] if kernel else ours.weight
    return Persistent(type(ours).__name__, weight=parameter(weight), bias=bias)


def block(ours):
    layers = {name: layer(getattr(ours, name)) for name in ("norm0", "conv0", "affine", "norm1", "conv1")}
    layers["skip"] = None if ours.skip is None else layer(ours.skip)
    if ours.attends:
        qkv = layer(ours.attention.qkv, kernel=True)
        for each in (qkv.weight, qkv.bias):  # q, k, v side by side within a channel
            each.data = torch.stack(each.data.chunk(3), dim=1).flatten(0, 1)
        layers |= {"norm2": layer(ours.norm2), "qkv": qkv, "proj": layer(ours.attention.proj, kernel=True)}
    heads = int(ours.attends)
    return Persistent("UNetBlock", num_heads=heads, skip_scale=np.sqrt(0.5), dropout=0.1, **layers)


def snapshot(net, model_class="SongUNet", precond_class="EDMPrecond", **changes):
    """A dict as EDM saves it, of our network's weights in EDM's names and order."""
    encoder = {"conv": layer(net.input)} | {f"block{i}": block(each) for i, each in enumerate(net.down)}
    decoder = {f"block{i}": block(each) for i, each in enumerate([*net.middle, *net.up])}
    decoder |= {"aux_norm": layer(net.output_norm), "aux_conv": layer(net.output)}
    conditioning = net.conditioning
    model = Persistent(
        model_class,
        map_noise=Persistent("PositionalEmbedding"),
        map_label=layer(conditioning.label),
        map_augment=layer(conditioning.augment),
        map_layer0=layer(conditioning.layer0),
        map_layer1=layer(conditioning.layer1),
        enc=torch.nn.ModuleDict(encoder),
        dec=torch.nn.ModuleDict(decoder),
        _init_args=(),
        _init_kwargs=KWARGS | changes,
    )
    ema = Persistent(precond_class, model=model, sigma_data=0.6, use_fp16=True)
    return {"ema": ema, "loss_fn": Persistent("EDMLoss"), "dataset_kwargs": EasyDict(path="x.zip", flags={"a"})}


def network():
    net = UNet((3, 8, 8), 4, 5, channels=8, channel_mult=(1, 2), num_blocks=1, attention=(8,), dropout=0.1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path
