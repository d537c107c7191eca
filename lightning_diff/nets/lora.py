"""Low-rank adapters: W + (alpha / r) B A, with A and B trained and W frozen (LoRA, arXiv 2106.09685).

Written as a parametrisation of the layer's weight, not as a layer around the layer (peft): networks here have layers of their own,
which read `self.weight`, and all of them, convolutions included, work as they are; the layer keeps its name, so that the adapted
network's state becomes the plain one's by a function of the state alone (`merged`).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import tangent

_ADAPTED: dict[type[nn.Module], type[nn.Module]] = {}  # classes of layers with an adapter
_ORIGINAL, _ADAPTER = ".parametrizations.weight.original", ".parametrizations.weight.0."


@dataclass(frozen=True)
class LoRA:
    """Which layers get adapters, and which ones. The defaults are Sol-RL's, but for the layers, which there are attention's.

    Args:
        rank: r >= 1; at most a layer's smaller side.
        alpha: > 0; the adapter is scaled by alpha / r.
        layers: patterns of names, such as "*.qkv" or "*attention*"; of linear layers and convolutions.
    """

    rank: int = 32
    alpha: float = 64.0
    layers: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"LoRA: need rank >= 1 and alpha > 0, got {self.rank} and {self.alpha}")

    def adapt(self, net: nn.Module, whole: Collection[str] = ()) -> None:
        """Freeze a network and put adapters into it; at first they change nothing. Draws from torch's global generator.

        Args:
            net: the network.
            whole: names of parameters that train themselves, in layers without adapters.
        """
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in whole)
        chosen = [
            layer
            for name, layer in net.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
            and any(fnmatchcase(name, pattern) for pattern in self.layers)
            and f"{name}.weight" not in whole
        ]
        if not chosen:
            raise ValueError(f"LoRA: no linear layer or convolution is named like {', '.join(self.layers)}")
        for layer in chosen:
            kind = type(layer)
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, self.rank, self.alpha))
            # torch makes a class for each layer; of one class, blocks that are alike are compiled once.
            layer.__class__ = _adapted_class(kind, type(layer))  # type: ignore[assignment]


def _adapted_class(kind: type[nn.Module], made: type[nn.Module]) -> type[nn.Module]:
    """The class of all layers of a kind that have an adapter: the first that was made for one."""
    if kind is nn.Linear and kind not in _ADAPTED:
        made.forward = _linear  # type: ignore[method-assign, assignment]
    return made if issubclass(kind, made) else _ADAPTED.setdefault(kind, made)


def _linear(layer: nn.Linear, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
    """forward of torch's own layer with an adapter, where the adapter alone trains and nobody asks for another derivative."""
    weights = layer.parametrizations.weight  # type: ignore[union-attr]
    frozen = not weights.original.requires_grad and (layer.bias is None or not layer.bias.requires_grad)
    if not frozen or not torch.is_grad_enabled() or tangent.mode() != "native":
        return F.linear(x, layer.weight, layer.bias)
    adapter = weights[0]
    output: Tensor = _Linear.apply(x, weights.original, adapter.A, adapter.B, adapter.scale, layer.bias)
    return output


class _Linear(torch.autograd.Function):
    """x (W + scale B A)^T + b, which keeps neither that sum nor its gradient: both are as large as all weights.

    Large networks of others would not fit otherwise. The sum is made again in the backward pass; the gradients of A and B go
    through r numbers for each row of x. The output is the merged layer's, bit for bit.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scale: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, A, B, scale)
        return F.linear(x, _sum(weight, A, B, scale), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, B, scale = ctx.saved_tensors
        (grad,) = grads
        rows, errors = x.flatten(0, -2).to(A.dtype), grad.flatten(0, -2).to(A.dtype)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (grad @ _sum(weight, A, B, scale).to(grad.dtype)).to(x.dtype)
        to_A = scale * (errors @ B).T @ rows
        to_B = scale * errors.T @ (rows @ A.T)
        return to_x, None, to_A, to_B, None, None


class LowRank(nn.Module):
    """W -> W + scale B A, for W as a matrix of outputs by everything else.

    Args:
        weight: W, for its shape.
        rank, alpha: see `LoRA`.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        outputs, inputs = weight.shape[0], math.prod(weight.shape[1:])
        rank = min(rank, outputs, inputs)
        self.A = nn.Parameter(torch.randn(rank, inputs, device=weight.device) / rank)
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))
        self.register_buffer("scale", torch.tensor(alpha / rank))

    def forward(self, weight: Float[Tensor, "d *c"]) -> Float[Tensor, "d *c"]:
        return _sum(weight, self.A, self.B, self.scale)


def _sum(weight: Float[Tensor, "d *c"], A: Tensor, B: Tensor, scale: Tensor) -> Float[Tensor, "d *c"]:
    """W + scale B A, laid out as W; without autocast, whatever surrounds it.

    What samples with merged weights and what trains with adapters have to be one policy in every precision: B A rounded to bfloat16
    in one of the two, or weights in another memory format, for which other kernels sum in another order, make them two.
    """
    with torch.autocast(weight.device.type, enabled=False):
        total = weight + (scale * (B @ A)).reshape(weight.shape).to(weight.dtype)
        if total.stride() == weight.stride():
            return total
        return weight.new_empty_strided(weight.shape, weight.stride()).copy_(total)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapted network's state as the plain network's, in its order, whatever autocast surrounds it; any other state as it is."""
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            A, B, scale = (state[f"{layer}{_ADAPTER}{part}"] for part in ("A", "B", "scale"))
            plain[f"{layer}.weight"] = _sum(value, A, B, scale)
        elif _ADAPTER not in name:
            plain[name] = value
    return plain


class Adapter(NamedTuple):
    """Of one weight: W + scale B A. Of a convolution A has the kernel's shape and B is 1x1, as peft names and shapes them.

    Args:
        name: of the weight in the plain network.
        A: (r, inputs, ...), "lora_A.weight".
        B: (outputs, r, ...), "lora_B.weight".
        scale: alpha / r.
    """

    name: str
    A: Float[Tensor, "r *c"]
    B: Float[Tensor, "d r *one"]
    scale: float


def adapters(state: Mapping[str, Tensor]) -> Iterator[Adapter]:
    """The adapters of an adapted network's state, in its order; none of any other."""
    for name, weight in state.items():
        if not name.endswith(_ORIGINAL):
            continue
        layer = name.removesuffix(_ORIGINAL)
        A, B, scale = (state[f"{layer}{_ADAPTER}{part}"] for part in ("A", "B", "scale"))
        ones = [1] * (weight.ndim - 2)
        yield Adapter(f"{layer}.weight", A.reshape(len(A), *weight.shape[1:]), B.reshape(*B.shape, *ones), float(scale))


def plain_name(name: str) -> str:
    """What a weight of an adapted network is called in the plain one."""
    return f"{name.removesuffix(_ORIGINAL)}.weight" if name.endswith(_ORIGINAL) else name


def adapted(plain: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A plain state with the names that it has in a network, whose adapters stay as they are; for one without any, as it is."""
    own = net.state_dict()
    named = {
        f"{name.removesuffix('.weight')}{_ORIGINAL}"
        if f"{name.removesuffix('.weight')}{_ORIGINAL}" in own
        else name: value
        for name, value in plain.items()
    }
    return {name: value for name, value in own.items() if _ADAPTER in name} | named


class Adapter(NamedTuple):
    """Of one layer: W + scale B A, for W as a matrix of outputs by everything else."""

    A: Float[Tensor, "r n"]
    B: Float[Tensor, "d r"]
    scale: Float[Tensor, ""]
    shape: tuple[int, ...]


def adapters(state: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """The adapters in a network's state by the layer's name, {} where it has none."""
    layers = [name.removesuffix(_ORIGINAL) for name in state if name.endswith(_ORIGINAL)]
    return {
        layer: Adapter(
            *(state[f"{layer}{_ADAPTER}{part}"] for part in ("A", "B", "scale")),
            tuple(state[f"{layer}{_ORIGINAL}"].shape),
        )
        for layer in layers
    }
