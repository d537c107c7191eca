"""Low-precision kernels: their numbers against the emulation's, which has the format's own, and their speed against bfloat16."""

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from lightning_diff.foundation.errors import UserError
from lightning_diff.precision import Kind, quantized_copy

from .rows import Row, Setting, checked, randomised, relative, seconds

BOUND = 0.02  # relative difference of outputs: sums in another order move single values to a neighbour on the grid


def rows(setting: Setting) -> Iterator[Row]:
    net = randomised(setting.dit()).to(setting.device).eval()
    n = 4 if setting.small else 256
    x, c_noise = torch.randn(n, *net.shape, device=setting.device), torch.linspace(-1, 1, n, device=setting.device)  # type: ignore[misc]
    rounds = 1 if setting.small else 20
    plain = quantized_copy(net, "bf16")

    def of(copy: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = copy(x, c_noise)
        return output

    bf16 = seconds(lambda: of(plain), setting.device, rounds)
    yield Row("precision", "bf16", "forward pass", 1e3 * bf16, "ms")
    for kind in (kind for kind in get_args(Kind) if kind != "bf16"):
        emulated = of(quantized_copy(net, kind, kernel="emulated"))
        yield Row("precision", f"{kind}, emulated", "relative error", relative(emulated, of(net)))
        for kernel in ("torch", "torchao"):
            case = f"{kind}, {kernel}"
            try:
                copy = quantized_copy(net, kind, kernel=kernel)  # type: ignore[arg-type]
                output = of(copy)
            except UserError as reason:
                yield Row("precision", case, status="skipped", note=str(reason))
                continue
            yield checked(
                "precision", case, "relative difference from the emulation", relative(output, emulated), BOUND
            )
            yield Row(
                "precision",
                case,
                "speed",
                bf16 / seconds(lambda copy=copy: of(copy), setting.device, rounds),
                "of bf16",
            )
