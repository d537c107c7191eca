"""What a step of consistency training costs over one of diffusion; see benchmarks/consistency_step.py, whose variants these are."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.consistency_step import variants
from lightning_diff.denoiser import Denoiser
from lightning_diff.noise import LogNormal, stratified

from .rows import Row, Setting, randomised, release, seconds

NAMES = ("diffusion", "sCT", "sCD", "sCT, torch.func.jvp")


def rows(setting: Setting) -> Iterator[Row]:
    student, teacher = (Denoiser(randomised(setting.unet(norm="double")), 0.5, "trigflow") for _ in range(2))
    student.to(setting.device)
    teacher.to(setting.device).eval().requires_grad_(False)
    n = 2 if setting.small else 128
    x0, noise = torch.randn(2, n, *student.net.shape, device=setting.device).unbind(0)  # type: ignore[misc]
    sigma = LogNormal(-1.0, 1.4).icdf(stratified(n)).to(setting.device)
    for compiled in (False, True):
        release(setting.device)
        losses = variants(student, teacher, 0.5 * x0, sigma, noise, compiled, setting.backend)
        times = {name: _step(setting, student, losses[name]) for name in NAMES if name in losses}
        for name, value in times.items():
            case = f"U-Net, bf16{', compiled' if compiled else ''}"
            yield Row(
                "consistency", case, name, 1e3 * value, "ms", note=f"{value / times['diffusion']:.2f} of diffusion"
            )


def _step(setting: Setting, student: Denoiser, loss: Callable[[], Tensor]) -> float:
    def step() -> None:
        student.zero_grad(set_to_none=True)
        with torch.autocast(setting.device.type, torch.bfloat16, cache_enabled=False):
            value = loss()
        value.backward()

    return seconds(step, setting.device, *((1, 1) if setting.small else (20, 3)))
