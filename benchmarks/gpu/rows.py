"""One row of the checklist, where it is measured, and how time and memory are."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_diff.nets import DiT, UNet


class Skip(Exception):
    """Why a part does not run here, or not to its end."""


@dataclass(frozen=True)
class Row:
    """One figure, or why there is none.

    `bound` is the largest value at which all is well, where there is one.
    """

    part: str
    case: str
    quantity: str = ""
    value: float | None = None
    unit: str = ""
    bound: float | None = None
    status: Literal["measured", "ok", "off", "skipped", "failed"] = "measured"
    note: str = ""

    def __str__(self) -> str:
        return "  ".join(str(cell) for cell in self.cells() if cell != "")

    def cells(self) -> tuple[str, ...]:
        value = "" if self.value is None else f"{self.value:.4g}{f' {self.unit}' if self.unit else ''}"
        note = f"at most {self.bound:g}" if self.bound is not None and not self.note else self.note
        return self.part, self.case, self.quantity, value, self.status, note


def checked(part: str, case: str, quantity: str, value: float, bound: float, unit: str = "") -> Row:
    """A figure that must not exceed a bound; NaN does."""
    return Row(part, case, quantity, value, unit, bound, "ok" if value <= bound else "off")


def table(about: dict[str, object], rows: Sequence[Row]) -> str:
    """In markdown."""
    head = ", ".join(f"{name} {value}" for name, value in about.items())
    lines = [
        "# GPU checklist",
        "",
        head,
        "",
        "| part | case | quantity | value | status | note |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Setting:
    """Where it is measured, and whether networks are tiny."""

    device: torch.device
    small: bool

    @property
    def backend(self) -> str:
        """Of torch.compile: small networks are traced, and nothing is generated for them."""
        return "aot_eager" if self.small else "inductor"

    def unet(self, **arguments: object) -> UNet:
        """EDM's for CIFAR-10, 55.7 million parameters."""
        sizes = {"channels": 8, "channel_mult": (1, 1), "num_blocks": 1} if self.small else {}
        return UNet(self.image(32), num_classes=10, **{"attention": (16,), **sizes, **arguments})  # type: ignore[arg-type]

    def dit(self, **arguments: object) -> DiT:
        """DiT-B, 64x64 in 256 tokens."""
        sizes = {"width": 32, "depth": 2, "heads": 2} if self.small else {"width": 768, "depth": 12, "heads": 12}
        return DiT(self.image(64), num_classes=10, **{"patch_size": 4, **sizes, **arguments})  # type: ignore[arg-type]

    def image(self, size: int) -> tuple[int, int, int]:
        return (3, 8, 8) if self.small else (3, size, size)


def seconds(run: Callable[[], object], device: torch.device, rounds: int, warm: int = 3) -> float:
    """Median time of a call, the device's work included."""
    times = []
    for i in range(warm + rounds):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        if i >= warm:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Matrix products and convolutions without TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def randomised(net: nn.Module) -> nn.Module:
    """A network whose output says something: some of its layers start at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
            elif "norm" not in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return net


def relative(value: Tensor, reference: Tensor) -> float:
    """|value - reference| / |reference|, over all entries, on the CPU in float64."""
    value, reference = value.detach().cpu().double(), reference.detach().cpu().double()
    return float((value - reference).norm() / reference.norm().clamp(min=1e-30))


def release(device: torch.device) -> None:
    """Compiled code, and the memory that nobody uses."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
