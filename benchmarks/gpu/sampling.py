"""Images/s of samplers, by precision, as it is and compiled."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_diff import schedules
from lightning_diff.denoiser import Denoiser
from lightning_diff.modules import Compile
from lightning_diff.samplers.generate import generate

from .rows import Row, Setting, randomised, release, seconds


def rows(setting: Setting) -> Iterator[Row]:
    n = 4 if setting.small else 512
    for name, make in (("U-Net", setting.unet), ("DiT", setting.dit)):
        for how in ("fp32", "bf16", "bf16, compiled", "bf16, compiled, CUDA graphs"):
            release(setting.device)
            denoiser = Denoiser(randomised(make()).to(setting.device))
            if "compiled" in how:
                mode = "reduce-overhead" if "graphs" in how else "default"
                Compile(mode=mode, backend=setting.backend).network(denoiser.net)  # type: ignore[arg-type]
            for solver, steps in (("heun", 18), ("consistency", 2)):
                time = seconds(
                    _drawn(setting, denoiser, n, solver, steps, "bf16" in how),
                    setting.device,
                    1 if setting.small else 3,
                    1,
                )
                yield Row("sampling", f"{name}, {how}", f"{solver}, {steps} steps", n / time, "images/s")


def _drawn(setting: Setting, denoiser: Denoiser, n: int, solver: str, steps: int, half: bool) -> Callable[[], Tensor]:
    shape = denoiser.net.shape
    sigmas = schedules.karras(2 if setting.small else steps)

    def draw() -> Tensor:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=half):
            return generate(denoiser, shape, range(n), torch.arange(n) % 10, sigmas=sigmas, solver=solver, batch=n)  # type: ignore[arg-type]

    return draw
