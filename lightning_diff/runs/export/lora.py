"""--to lora: the adapters of a network of the diffusers library, in the names that its pipelines read.

Of a layer with weight W + scale B A, peft's names are PREFIX.LAYER.lora_A.weight, (r, inputs), and PREFIX.LAYER.lora_B.weight,
(outputs, r). What it multiplies them by is alpha / r, and 1 where the file says no alpha, which only some pipelines read: so the
scale is multiplied into B.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...foundation.errors import UserError
from ...nets.lora import Adapter, adapters
from .families import stock
from .source import Source
from .target import Written

NAME = "pytorch_lora_weights.safetensors"  # that load_lora_weights looks for in a folder
OURS = "model."  # before the library's own names in a state of `nets.Diffusers`


def refuse(source: Source) -> None:
    """UserError without adapters, or for a network that no pipeline of the library has."""
    found = adapters(source.state)
    if not found:
        raise UserError(
            f"export: --to lora: {source.folder} has no adapters (it was trained whole); --to safetensors and --to diffusers "
            "write its weights"
        )
    stock(source)


def write(source: Source, folder: Path) -> Written:
    """Write the adapters; none of the network's own weights."""
    prefix = stock(source).network
    found = adapters(source.state)
    save_file(named(found, prefix), folder / NAME, metadata={"format": "pt"})
    pipeline = stock(source).pipeline
    ranks = sorted({len(each.A) for each in found.values()})
    return Written(
        said=f"{len(found)} layers, rank {', '.join(map(str, ranks))}",
        facts={"layers": len(found), "ranks": ranks},
        library="diffusers",
        loading=(
            f"from diffusers import {pipeline}",
            f'pipeline = {pipeline}.from_pretrained("BASE")  # the model that these adapters were trained on',
            'pipeline.load_lora_weights(".")  # this folder',
        ),
        notes=("Adapters alone: they change the model that they were trained on, and no other.",),
    )


def named(found: Mapping[str, Adapter], prefix: str) -> dict[str, torch.Tensor]:
    """The adapters of these layers in peft's names.

    Args:
        found: by the layer's name in the network.
        prefix: "transformer" or "unet".
    """
    tensors = {}
    for layer, (A, B, scale, shape) in found.items():
        name = f"{prefix}.{layer.removeprefix(OURS)}"
        rank = len(A)
        kernel = shape[2:]  # of a convolution: A sees what the layer sees, B is one pixel wide
        tensors[f"{name}.lora_A.weight"] = A.reshape(rank, *shape[1:]).detach().cpu().clone()
        tensors[f"{name}.lora_B.weight"] = (
            (scale * B).reshape(shape[0], rank, *[1] * len(kernel)).detach().cpu().clone()
        )
    return tensors
