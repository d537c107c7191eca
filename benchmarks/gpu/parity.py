"""The device gives what a CPU gives: outputs, gradients, and the tangents of consistency training."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_diff.denoiser import Denoiser
from lightning_diff.noise import LogNormal, stratified
from lightning_diff.objectives import consistency_loss, denoising_loss

from .rows import Row, Setting, checked, exact_float32, randomised, relative

# Relative errors above which a part is off: of float32 sums in another order, and of bfloat16. Chosen, not measured on a GPU.
FLOAT32 = {"loss": 1e-4, "gradient": 1e-3, "tangent": 1e-3}
BFLOAT16 = {"loss": 0.05, "gradient": 0.1, "tangent": 0.15}
Found = dict[str, Tensor]


def rows(setting: Setting) -> Iterator[Row]:
    for name, net in (("U-Net", setting.unet(norm="double", qk_norm=True)), ("DiT", setting.dit(qk_norm=True))):
        denoiser = Denoiser(randomised(net), 0.5, "trigflow").eval()
        batch = _batch(denoiser.net, 4 if setting.small else 8)
        reference = _found(denoiser, batch, None)
        there = copy.deepcopy(denoiser).to(setting.device)
        moved = [value.to(setting.device) for value in batch]
        for precision, bounds in ((None, FLOAT32), (torch.bfloat16, BFLOAT16)):
            found = _found(there, moved, precision)
            for quantity, bound in bounds.items():
                error = relative(found[quantity], reference[quantity])
                yield checked(
                    "parity", f"{name} {'bf16' if precision else 'fp32'}", f"relative error, {quantity}", error, bound
                )


def _batch(net: nn.Module, n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, n, *net.shape, generator=generator).unbind(0)  # type: ignore[misc]
    sigma = LogNormal(-1.0, 1.4).icdf(stratified(n, generator))
    return [0.5 * x0, sigma, noise, torch.arange(n) % 10]


def _found(denoiser: Denoiser, batch: list[Tensor], precision: torch.dtype | None) -> Found:
    x0, sigma, noise, label = batch
    with exact_float32(), torch.autocast(x0.device.type, precision or torch.bfloat16, enabled=precision is not None):
        loss = denoising_loss(denoiser, x0, sigma, noise, label)
        consistent = consistency_loss(denoiser, x0, sigma, noise, label)
    with exact_float32():
        gradients = torch.autograd.grad(loss.mean(), list(denoiser.parameters()), allow_unused=True)
    gradient = torch.cat([each.flatten() for each in gradients if each is not None])
    return {"loss": loss, "gradient": gradient, "tangent": consistent.tangent}
