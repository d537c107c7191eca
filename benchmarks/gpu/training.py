"""Whole runs, of the recipes as they are: images/s, the share of the device's peak, memory, and the time to the first step."""

import copy
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_diff.callbacks.ema import find
from lightning_diff.denoiser import Denoiser
from lightning_diff.objectives import denoising_loss
from lightning_diff.runs import memory, recipe
from lightning_diff.runs import train as run

from .rows import Row, Setting, release, synchronise

PICTURES = (
    "{{_target_: benchmarks.gpu.pictures.Pictures, size: {size}, classes: {classes}, batch_size: {batch}, "
    "workers: {workers}{more}}}"
)
CALLBACKS = (
    "callbacks=[{_target_: lightning_diff.callbacks.EMA}, {_target_: lightning_diff.callbacks.NoiseLevels}, "
    "{_target_: benchmarks.gpu.training.Clock}]"
)
COMPILE = "{{_target_: lightning_diff.modules.Compile, region: {region}, mode: {mode}, backend: {backend}}}"
DIT = (
    "{_target_: lightning_diff.nets.DiT, shape: [3, 64, 64], num_classes: 1000, patch_size: 4, width: 768, depth: 12, "
    "heads: 12, qk_norm: true}"
)
SMALL = {
    "cifar10_edm": ["model.net.channels=8", "model.net.channel_mult=[1,1]", "model.net.num_blocks=1"],
    "DiT-B": ["model.net.width=32", "model.net.depth=2", "model.net.heads=2"],
}
# Workloads: the recipe, and what one device and no data change in it. Then size, classes, images, more of the data.
WORKLOADS: dict[str, tuple[str, list[str], tuple[list[int], int, int, str]]] = {
    "cifar10_edm": (
        "cifar10_edm",
        [],
        ([3, 32, 32], 10, 512, ", augment: {_target_: lightning_diff.data.Augment, probability: 0.12}"),
    ),
    "DiT-B": (
        "imagenet64_dit_1b",
        [f"model.net={DIT}", "trainer.devices=1", "trainer.strategy=auto"],
        ([3, 64, 64], 1000, 512, ", flip: true"),
    ),
}
VARIANTS: dict[str, tuple[str, str | None]] = {  # precision, and (region, mode) of what is compiled
    "fp32": ("32-true", None),
    "bf16": ("bf16-mixed", None),
    "bf16, blocks compiled": ("bf16-mixed", "blocks default"),
    "bf16, network compiled": ("bf16-mixed", "network default"),
    "bf16, blocks compiled, CUDA graphs": ("bf16-mixed", "blocks reduce-overhead"),
}


class Clock(Callback):
    """Images/s after the first steps, the time to the end of the first one, the most memory there was, and what was expected."""

    steps: ClassVar[tuple[int, int]] = (10, 40)  # between which it is measured
    found: ClassVar[dict[str, float]] = {}
    started: ClassVar[float] = 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, *_: object) -> None:
        first, last = self.steps
        if trainer.global_step not in (1, first, last):
            return
        synchronise(module.device)
        now = time.perf_counter()
        if trainer.global_step == 1:
            self.found["first step"] = now - self.started
        if trainer.global_step == first:
            self.since = now
        if trainer.global_step == last:
            self.found["images/s"] = (last - first) * module.batch_size / (now - self.since)
            if module.device.type == "cuda":
                self.found["peak memory"] = torch.cuda.max_memory_allocated() / 1e9
            self.found["estimated memory"] = _estimate(trainer, module) / 1e9
            self.found["work"] = flops_of(module.denoiser.net)


def _estimate(trainer: Any, module: Any) -> int:
    """As `--dry-run` has it."""
    ema = find(trainer)
    return memory.estimate(
        module,
        trainer.datamodule.data.shape,
        module.batch_size // trainer.accumulate_grad_batches,
        precision=torch.bfloat16 if trainer.precision == "bf16-mixed" else None,
        averages=0 if ema is None else len(ema.profiles),
    ).total


def rows(setting: Setting) -> Iterator[Row]:
    Clock.steps = (1, 3) if setting.small else (10, 40)
    for workload in WORKLOADS:
        for variant in VARIANTS:
            case = f"{workload}, {variant}"
            try:
                found = ran(setting, workload, variant)
            except torch.OutOfMemoryError:
                yield Row("training", case, status="skipped", note="does not fit into the device's memory")
                continue
            for quantity, unit in (("images/s", ""), ("first step", "s"), ("peak memory", "GB")):
                if quantity in found:
                    yield Row("training", case, quantity, found[quantity], unit)
            yield _mfu(setting, case, found, variant)


def ran(setting: Setting, workload: str, variant: str) -> Mapping[str, float]:
    """What a run's clock found; OutOfMemoryError where it does not fit."""
    name, changes, (size, classes, batch, more) = WORKLOADS[workload]
    precision, compiled = VARIANTS[variant]
    if setting.small:
        size, batch, changes = (
            [3, 8, 8],
            8,
            [*(c.replace("[3, 64, 64]", "[3, 8, 8]") for c in changes), *SMALL[workload]],
        )
    region, mode = (compiled or "blocks default").split()
    data = PICTURES.format(size=size, classes=classes, batch=batch, workers=0 if setting.small else 8, more=more)
    overrides = [
        *changes,
        f"data={data}",
        f"trainer.max_steps={Clock.steps[1]}",
        f"trainer.precision={precision}",
        f"trainer.accelerator={'gpu' if setting.device.type == 'cuda' else 'cpu'}",
        f"model.compile={COMPILE.format(region=region, mode=mode, backend=setting.backend) if compiled else 'false'}",
        CALLBACKS,
    ]
    release(setting.device)
    Clock.found, Clock.started = {}, time.perf_counter()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run.train(recipe.load(name, overrides), name)
        finally:
            os.chdir(before)
    return Clock.found


def flops_of(net: nn.Module) -> float:
    """Floating-point operations of a forward and a backward pass for one image, a product and a sum counted as two."""
    net = copy.deepcopy(net)
    for part in net.modules():
        if getattr(part, "checkpointing", False):
            part.checkpointing = False  # type: ignore[assignment]  # work that is done twice is no work done
    denoiser = Denoiser(net)
    image = torch.ones(1, *net.shape, device=next(net.parameters()).device)  # type: ignore[misc]
    with FlopCounterMode(display=False) as counter:
        denoising_loss(denoiser, image, image[:, 0, 0, 0], image).mean().backward()
    return float(counter.get_total_flops())


def _mfu(setting: Setting, case: str, found: Mapping[str, float], variant: str) -> Row:
    dtype = torch.bfloat16 if "bf16" in variant else torch.float32
    peak = None if setting.device.type == "cpu" else get_available_flops(setting.device, dtype)
    if peak is None:
        return Row("training", case, "MFU", status="skipped", note="the peak of this device is not known")
    note = f"of {peak / 1e12:.0f} TFLOP/s, {found['work'] / 1e9:.1f} GFLOP for an image"
    return Row("training", case, "MFU", 100 * found["images/s"] * found["work"] / peak, "%", note=note)
