"""Report on a low-precision copy: what is quantised, by what kernel, with what error, and why the rest is not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from .copies import LowLayer, LowPrecision, weight_layers
from .kernels import HARDWARE

Args = tuple[Tensor, ...]  # of one call of a layer


@dataclass(frozen=True)
class LayerReport:
    """One layer with a matrix of weights.

    Args:
        name: as in the network's `named_modules`.
        layer: its type and size.
        weights: number of them.
        precision: the kind, or "" where it was left as it is.
        kernel: what computes it: "emulated" is software; "" where it was left.
        why: why it was left; "" where it was not.
        weight_error: |rounded - exact| / |exact| of the weights (Frobenius); None where it was left or cannot be read back.
        output_error: the same of its output, for the inputs that the exact network gives it; None without inputs.
    """

    name: str
    layer: str
    weights: int
    precision: str
    kernel: str
    why: str
    weight_error: float | None
    output_error: float | None


@dataclass(frozen=True)
class Report:
    """Of a whole copy; `str` makes a table of it."""

    headline: str
    layers: list[LayerReport]

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.layers), default=0)
        lines = [self.headline]
        for row in self.layers:
            how = row.why if not row.precision else f"{row.precision}, {row.kernel}"
            errors = [
                f"{e:.1%} {w}"
                for e, w in ((row.weight_error, "weights"), (row.output_error, "output"))
                if e is not None
            ]
            lines.append(
                f"  {row.name:<{width}}  {row.layer:<22}  {how}{', error ' if errors else ''}{', '.join(errors)}"
            )
        return "\n".join(lines)


@torch.no_grad()
def report(copy: nn.Module, net: nn.Module, *inputs: object, **conditioning: object) -> Report:
    """Per layer: quantised or not, by what kernel, with what error.

    Args:
        copy: of `quantized_copy`, refreshed from net.
        net: the exact network.
        inputs, conditioning: what net is called with, to measure the error of each layer's output; none to leave that out.
    """
    inner = copy.net if isinstance(copy, Denoiser) else copy
    if not isinstance(inner, LowPrecision):
        raise ValueError(f"report: needs what quantized_copy returned, got {type(copy).__name__}")
    source = net.net if isinstance(net, Denoiser) else net
    outputs = _output_errors(inner, net, source, inputs, conditioning) if inputs or conditioning else {}
    rows = []
    for name, layer in weight_layers(source).items():
        low, weight = inner.low.get(name), layer.weight
        assert isinstance(weight, Tensor)
        error = None if low is None else _weight_error(low, weight)
        rows.append(
            LayerReport(
                name,
                _described(layer),
                weight.numel(),
                inner.precision if low is not None else "",
                inner.kernel if low is not None else "",
                inner.left.get(name, ""),
                error,
                outputs.get(name),
            )
        )
    return Report(_headline(inner, net, inputs, conditioning, dict(weight_layers(source))), rows)


@torch.no_grad()
def headline(copy: nn.Module, *inputs: object, **conditioning: object) -> str:
    """A line: how many layers, how much of the network, by what kernel or in software.

    Args:
        copy: of `quantized_copy`; not compiled yet, if there are inputs.
        inputs, conditioning: what it is called with, to count multiplications; none to leave that out.
    """
    inner = copy.net if isinstance(copy, Denoiser) else copy
    if not isinstance(inner, LowPrecision):
        raise ValueError(f"headline: needs what quantized_copy returned, got {type(copy).__name__}")
    layers = inner.low | {name: inner.net.get_submodule(name) for name in inner.left}
    return _headline(inner, copy, inputs, conditioning, layers)


def _headline(
    copy: LowPrecision,
    called: nn.Module,
    inputs: tuple[object, ...],
    conditioning: dict[str, object],
    layers: Mapping[str, nn.Module],
) -> str:
    """`called` is the copy or the exact network, `layers` are its own."""
    shares = {"weights": {name: prod(_weight_shape(layer)) for name, layer in layers.items()}}
    if inputs or conditioning:
        shares["multiplications"] = _multiplications(called, inputs, conditioning, layers)
    parts = [
        f"{sum(of[name] for name in copy.low) / sum(of.values()):.0%} of their {what}" for what, of in shares.items()
    ]
    start = f"{copy.precision}: {len(copy.low)} of {len(layers)} layers, {', '.join(parts)}, "
    if copy.kernel == "emulated":
        return (
            f"{start}emulated in software: the format's numbers, no gain in speed. Kernels: {HARDWARE[copy.precision]}."
        )
    return f"{start}by {copy.kernel}."


def _weight_shape(layer: nn.Module) -> torch.Size:
    return layer.weight_shape if isinstance(layer, LowLayer) else layer.weight.shape  # type: ignore[return-value]


def _multiplications(
    called: nn.Module, inputs: tuple[object, ...], conditioning: dict[str, object], layers: Mapping[str, nn.Module]
) -> dict[str, int]:
    """By each layer's weights in one call."""
    counts = dict.fromkeys(layers, 0)

    def count(name: str, layer: nn.Module, args: Args, output: Tensor) -> None:
        shape = _weight_shape(layer)
        # The tensor whose channels are the first of `shape` meets all of them.
        meets_all = args[0] if getattr(layer, "transposed", False) else output
        counts[name] += meets_all.numel() // shape[0] * prod(shape)

    with _watching(layers, count):
        called(*inputs, **conditioning)
    return counts


@contextmanager
def _watching(layers: Mapping[str, nn.Module], watch: Callable[[str, nn.Module, Args, Tensor], None]) -> Iterator[None]:
    """Calls watch(name, layer, inputs, output) after each call of one of the layers."""
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(watch, name)).remove)
        yield


def _described(layer: nn.Module) -> str:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    kernel = f" {'x'.join(map(str, weight.shape[2:]))}" if weight.ndim > 2 else ""
    return f"{type(layer).__name__} {weight.shape[1]} -> {weight.shape[0]}{kernel}"


def _weight_error(low: nn.Module, exact: Tensor) -> float | None:
    if not isinstance(low, LowLayer):
        rounded: Tensor = low.weight.float()  # type: ignore[assignment]
        return _relative(rounded, exact)
    buffers: Mapping[str, Tensor] = dict(low.product.named_buffers())
    matrix = exact.reshape(*exact.shape[:2], *low.product.shape[1:3]).permute(0, 2, 3, 1).flatten(1)
    if "codes" in buffers:
        return _relative(buffers["codes"].float() * buffers["scale"].reshape(-1, 1), matrix)
    return _relative(buffers["weight"].permute(0, 2, 3, 1).flatten(1), matrix) if "weight" in buffers else None


def _output_errors(
    copy: LowPrecision, net: nn.Module, source: nn.Module, inputs: tuple[object, ...], conditioning: dict[str, object]
) -> dict[str, float]:
    errors: dict[str, float] = {}

    def compare(name: str, layer: nn.Module, args: Args, output: Tensor) -> None:
        with torch.autocast(output.device.type, copy.rest or torch.bfloat16, enabled=copy.precision == "bf16"):
            errors[name] = _relative(copy.low[name](*args), output)

    with _watching({name: source.get_submodule(name) for name in copy.low}, compare):
        net(*inputs, **conditioning)
    return errors


def _relative(rounded: Tensor, exact: Tensor) -> float:
    size = exact.double().norm()
    return ((rounded.double() - exact.double()).norm() / size).item() if size > 0 else 0.0
