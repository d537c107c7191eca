"""What a low-precision copy quantised, how, with what error, and why it left the rest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from .copies import LowLayer, LowPrecision, weight_layers
from .kernels import HARDWARE


class LayerReport(NamedTuple):
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


class Report(NamedTuple):
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
def report(copy: nn.Module, net: nn.Module, *inputs: Any, **conditioning: Any) -> Report:
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
    return Report(_headline(inner, rows), rows)


def _headline(copy: LowPrecision, rows: list[LayerReport]) -> str:
    done = [row for row in rows if row.precision]
    share = sum(row.weights for row in done) / sum(row.weights for row in rows)
    start = f"{copy.precision}: {len(done)} of {len(rows)} layers, {share:.0%} of their weights, "
    if copy.kernel == "emulated":
        return (
            f"{start}emulated in software: the format's numbers, no gain in speed. Kernels: {HARDWARE[copy.precision]}."
        )
    return f"{start}by {copy.kernel}."


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
    copy: LowPrecision, net: nn.Module, source: nn.Module, inputs: tuple[Any, ...], conditioning: dict[str, Any]
) -> dict[str, float]:
    errors: dict[str, float] = {}
    hooks = []
    for name, low in copy.low.items():

        def compare(
            layer: nn.Module, args: tuple[Any, ...], output: Tensor, name: str = name, low: nn.Module = low
        ) -> None:
            with torch.autocast(output.device.type, copy.rest or torch.bfloat16, enabled=copy.precision == "bf16"):
                errors[name] = _relative(low(*args), output)

        hooks.append(source.get_submodule(name).register_forward_hook(compare))
    try:
        net(*inputs, **conditioning)
    finally:
        for hook in hooks:
            hook.remove()
    return errors


def _relative(rounded: Tensor, exact: Tensor) -> float:
    size = exact.double().norm()
    return ((rounded.double() - exact.double()).norm() / size).item() if size > 0 else 0.0
