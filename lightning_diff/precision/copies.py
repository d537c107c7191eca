"""Low-precision copies of a network, whose weights are replaced in place: built once, compiled once, refreshed often."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatch
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..nets import layers
from .kernels import Kernel, Kind, choose
from .products import Product

Weights = nn.Module | Mapping[str, Tensor]
Rest = Literal["auto", "bf16", "fp16"]
_PLAIN = (nn.Linear, nn.Conv2d, layers.Linear, layers.Conv)  # not their subclasses, which may compute something else


def quantized_copy(
    net: nn.Module,
    kind: Kind = "nvfp4",
    *,
    kernel: Kernel = "auto",
    smallest: int = 32,
    keep: Sequence[str] = (),
    rest: Rest | torch.dtype | None = "auto",
) -> nn.Module:
    """A copy of a network that computes its matrix products and convolutions in low precision, for inference.

    Left as they are, by rule: the first and the last such layer and everything inside `layers.Conditioning`; layers with fewer than
    `smallest` inputs or outputs, or with numbers of them that 16 does not divide; convolutions with strides, dilation or groups;
    subclasses of torch's layers. "bf16" leaves only `Conditioning` and `keep`, and is autocast with weights that are cast once.

    Args:
        net: a network, or a `Denoiser`, whose network is then copied.
        kind: "nvfp4" (W4A4), "fp8" (row-wise E4M3), "int8" (row-wise, symmetric) or "bf16" (autocast).
        kernel: "auto" takes the fastest that this device has, and software where there is none; "emulated" is software
            everywhere; "torch" and "torchao" are that kernel or an error (see `report`).
        smallest: number of inputs and outputs from which a layer is quantised.
        keep: names of layers that are left as they are, as in `named_modules`, with * and ? for any part.
        rest: autocast everything else to this dtype. None: as the caller has it. "auto": bfloat16 for nvfp4 and fp8 on NVIDIA GPUs,
            whose kernels give it; else as the caller has it.

    Returns:
        A `LowPrecision` network, or a `Denoiser` with one. It starts with net's weights; `refresh(copy, net)` renews them.

    Raises:
        UserError: a kernel that is not there; no layer to quantise.
    """
    if isinstance(net, Denoiser):
        low = quantized_copy(net.net, kind, kernel=kernel, smallest=smallest, keep=keep, rest=rest)
        return net.around(low).eval()
    return LowPrecision(net, kind, kernel, smallest, keep, rest)


def refresh(copy: nn.Module, net: Weights) -> None:
    """Overwrite the copy's weights with net's, in place: nothing is built or compiled anew.

    Args:
        copy: of `quantized_copy`.
        net: the network that it was made from or one like it; or names and tensors, as of its `state_dict()`: merged weights, say.

    Raises:
        ValueError: names or shapes other than the copy's.
    """
    if isinstance(copy, Denoiser):
        copy, net = copy.net, net.net if isinstance(net, Denoiser) else net
    if not isinstance(copy, LowPrecision):
        raise ValueError(f"refresh: needs what quantized_copy returned, got {type(copy).__name__}")
    copy.refresh(net)


class LowPrecision(nn.Module):
    """A network with low-precision layers; see `quantized_copy`. It has the network's attributes and signature."""

    def __init__(
        self,
        net: nn.Module,
        kind: Kind,
        kernel: Kernel,
        smallest: int,
        keep: Sequence[str],
        rest: Rest | torch.dtype | None,
    ):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"quantized_copy: kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        self.precision = kind
        self.rest = rest_dtype(kind, rest, next(net.parameters()).device)
        self.left = _left_alone(net, kind, smallest, keep)
        self.names = frozenset(net.state_dict())
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        names = [name for name in weight_layers(net) if name not in self.left]
        if not names:
            raise ValueError(
                f"quantized_copy: no layer of {type(net).__name__} is to be quantised; lower smallest={smallest}"
            )
        self.device = next(net.parameters()).device
        self.low: dict[str, nn.Module]
        if kind == "bf16":
            self.kernel = "autocast"
            self.low = {name: self.net.get_submodule(name).to(torch.bfloat16) for name in names}
        else:
            build, self.kernel = choose(kind, kernel, self.device)
            self.low = {name: LowLayer(self.net.get_submodule(name), build, self.device) for name in names}
            self.net = _replaced(self.net, self.low)
        self.refresh(net)

    def forward(self, *inputs: object, **conditioning: object) -> Tensor:
        with nullcontext() if self.rest is None else torch.autocast(self.device.type, self.rest):
            output: Tensor = self.net(*inputs, **conditioning)
            return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "net":
                raise
            return getattr(super().__getattr__("net"), name)

    @torch.no_grad()
    def refresh(self, net: Weights) -> None:
        """See `refresh`."""
        given = dict(net.state_dict()) if isinstance(net, nn.Module) else dict(net)
        if given.keys() != self.names:
            odd = sorted(self.names ^ given.keys())
            what = "missing" if odd[0] in self.names else "not one of the copy's"
            raise ValueError(
                f"refresh: {odd[0]} is {what} ({len(odd)} such names); give the weights of a network like the copied one"
            )
        for name, layer in self.low.items():
            parts = {part: given.pop(f"{name}.{part}") for part in ("weight", "bias") if _has(layer, part)}
            if isinstance(layer, LowLayer):
                layer.set_weights(name, **parts)
            else:
                for part, tensor in parts.items():
                    _overwrite(f"{name}.{part}", getattr(layer, part), tensor)
        own = self.net.state_dict()
        for name in given.keys() & own.keys():  # what is only given is a quantised layer's second name
            _overwrite(name, own[name], given[name])


class LowLayer(nn.Module):
    """In place of a linear layer or a convolution."""

    bias: Tensor | None

    def __init__(self, layer: nn.Module, build: Callable[..., Product], device: torch.device):
        super().__init__()
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.convolution = isinstance(layer, nn.Conv2d)
        n, c = layer.weight.shape[:2]
        kernel = layer.weight.shape[2:] if self.convolution else (1, 1)
        self.padding = int(layer.padding[0]) if isinstance(layer, nn.Conv2d) else 0
        self.weight_shape = layer.weight.shape
        self.product = build(shape=(n, *kernel, c), padding=self.padding, device=device)
        bias = None if layer.bias is None else torch.zeros(n, dtype=torch.float32, device=device)
        self.register_buffer("bias", bias, persistent=False)

    def set_weights(self, name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        if weight.shape != self.weight_shape:
            raise ValueError(f"refresh: {name}.weight is {tuple(weight.shape)}, in the copy {tuple(self.weight_shape)}")
        self.product.set_weight(weight.reshape(*weight.shape[:2], *self.product.shape[1:3]).permute(0, 2, 3, 1))
        if bias is not None and self.bias is not None:
            _overwrite(f"{name}.bias", self.bias, bias)

    def forward(self, x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *d"]:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):  # the product chooses its own precision
            if not self.convolution:
                return self._shifted(self.product.rows(x)).to(dtype)
            pixels = x.permute(0, 2, 3, 1)
            windowed = self.product.shape[1:3] != (1, 1) or self.padding > 0
            y = self.product.windows(pixels) if windowed else self.product.rows(pixels)
            return self._shifted(y).to(dtype).permute(0, 3, 1, 2)

    def _shifted(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias


def weight_layers(net: nn.Module) -> dict[str, nn.Module]:
    """Everything that multiplies by a matrix of weights, in the order in which it was registered."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}


def _left_alone(net: nn.Module, kind: Kind, smallest: int, keep: Sequence[str]) -> dict[str, str]:
    """Name of each layer that is not quantised, and why."""
    embedders = [name for name, module in net.named_modules() if isinstance(module, layers.Conditioning)]
    found = weight_layers(net)
    inside = [name for name in found if any(name.startswith(f"{embedder}.") for embedder in embedders)]
    middle = [name for name in found if name not in inside]
    reasons = dict.fromkeys(inside, "embeds the noise level or the label")
    if kind != "bf16" and middle:
        reasons |= {middle[0]: "the first layer", middle[-1]: "the last layer"}
    for name in middle:
        if any(fnmatch(name, pattern) for pattern in keep):
            reasons[name] = "kept on request"
        elif name not in reasons:
            why = _unfit(found[name], kind, smallest)
            if why:
                reasons[name] = why
    return reasons


def _unfit(layer: nn.Module, kind: Kind, smallest: int) -> str | None:
    if type(layer) not in _PLAIN:
        return f"a {type(layer).__name__}, which may compute something else"
    if kind == "bf16":
        return None
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if isinstance(layer, nn.Conv2d):
        simple = {*layer.stride, *layer.dilation, layer.groups} == {1} and layer.padding_mode == "zeros"
        if not simple or isinstance(layer.padding, str) or len(set(layer.padding)) > 1:
            return "a convolution with strides, dilation, groups or odd padding"
    outputs, inputs = layer.weight.shape[:2]
    if min(inputs, outputs) < smallest:
        return f"small: {inputs} inputs, {outputs} outputs"
    if inputs % 16 or outputs % 16:
        return f"{inputs} inputs and {outputs} outputs, not divisible by 16"
    return None


def _replaced(net: nn.Module, low: Mapping[str, nn.Module]) -> nn.Module:
    """net with these layers in place of its own, wherever they are used; a network that is one layer is replaced itself."""
    if "" in low:
        return low[""]
    new = {id(net.get_submodule(name)): layer for name, layer in low.items()}
    for module in list(net.modules()):
        for child, layer in list(module._modules.items()):
            if id(layer) in new:
                module._modules[child] = new[id(layer)]
    return net


def rest_dtype(kind: Kind, rest: Rest | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """What everything that is not quantised is autocast to, if to anything; see `quantized_copy`."""
    if kind == "bf16":
        return torch.bfloat16
    if rest == "auto":
        return torch.bfloat16 if device.type == "cuda" and kind in ("nvfp4", "fp8") else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(rest, rest)  # type: ignore[arg-type]


def _has(layer: nn.Module, part: str) -> bool:
    return part == "weight" or getattr(layer, part, None) is not None


def _overwrite(name: str, own: Tensor, given: Tensor) -> None:
    if own.shape != given.shape:
        raise ValueError(f"refresh: {name} is {tuple(given.shape)}, in the copy {tuple(own.shape)}")
    own.copy_(given)
