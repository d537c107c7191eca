"""Choice of the kernel that computes a kind of product on a device, with software where there is none."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch

from ..foundation.devices import capability
from ..foundation.errors import UserError
from ..foundation.extras import is_installed, required
from . import formats
from .products import Emulated, Float8, Int8, Product, TorchAO

Kind = Literal["nvfp4", "fp8", "int8", "bf16"]
Kernel = Literal["auto", "emulated", "torch", "torchao"]

_ROUND: dict[str, Callable[..., torch.Tensor]] = {
    "nvfp4": formats.nvfp4_round,
    "fp8": formats.fp8_round,
    "int8": formats.int8_round,
}
HARDWARE = {
    "nvfp4": "NVIDIA Blackwell and later, by torchao",
    "fp8": "NVIDIA GPUs of compute capability 8.9 and later, by torch._scaled_mm or torchao",
    "int8": "CPUs and NVIDIA GPUs, by torch._int_mm or torchao",
}
NEEDS = {"nvfp4": (10, 0), "fp8": (8, 9), "int8": (8, 0)}  # compute capability


def choose(kind: Kind, kernel: Kernel, device: torch.device) -> tuple[Callable[..., Product], str]:
    """What makes the products of this kind (a callable of shape, padding and device), and its name for the report.

    Args:
        kind: "nvfp4", "fp8" or "int8".
        kernel: "auto" takes the fastest that is there, or software; any other name is that one or an error.
        device: where the products are computed.

    Raises:
        UserError: a kernel that this kind, this device or this installation does not have.
    """
    if kernel not in get_args(Kernel):
        raise UserError(f"kernel: there is no {kernel!r}; choose one of {', '.join(get_args(Kernel))}.")
    if kernel == "auto":
        kernel = _fastest(kind, device)
    if kernel == "emulated":
        return partial(Emulated, round_to=_ROUND[kind]), "emulated"
    if kernel == "torch" and kind == "nvfp4":
        raise UserError("nvfp4 has no kernel in torch itself: take torchao or emulated.")
    if kind != "int8" or device.type != "cpu":  # int8 runs on CPUs too
        _require(kind, kernel, device)
    if kernel == "torchao":
        return partial(TorchAO, configuration=_torchao(kind)), "torchao"
    return (Float8, "torch._scaled_mm") if kind == "fp8" else (Int8, "torch._int_mm")


def _fastest(kind: Kind, device: torch.device) -> Kernel:
    if kind == "int8" and device.type == "cpu":
        return "torch"
    if not _capable(kind, device):
        return "emulated"
    if kind != "nvfp4":
        return "torch"
    return "torchao" if is_installed("torchao") else "emulated"


def _capable(kind: Kind, device: torch.device) -> bool:
    has = capability(device)
    return has is not None and has >= NEEDS[kind]


def _require(kind: Kind, kernel: Kernel, device: torch.device) -> None:
    if not _capable(kind, device):
        major, minor = NEEDS[kind]
        raise UserError(
            f"{kind} by {kernel} needs an NVIDIA GPU of compute capability {major}.{minor} or later, and the network is on "
            f"{device}: take the kernel auto or emulated."
        )


_KERNEL = ("the kernel torchao", ", or take the kernel auto")


def _torchao(kind: Kind) -> object:
    """The configuration that `torchao.quantization.quantize_` takes."""
    quantization = required("torchao.quantization", *_KERNEL)
    if kind == "int8":
        return quantization.Int8DynamicActivationInt8WeightConfig()
    if kind == "fp8":
        return quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    formats = required("torchao.prototype.mx_formats", *_KERNEL)
    return formats.NVFP4DynamicActivationNVFP4WeightConfig(use_triton_kernel=is_installed("mslk"))
