"""Lightning's Trainer on the pretend device: `trainer.accelerator=pretend trainer.strategy=pretend`, and the waits of each step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from pretend_device import NAME, Waits, pretend

CHOSEN = (f"trainer.accelerator={NAME}", f"trainer.strategy={NAME}")


class PretendAccelerator(Accelerator):
    def setup_device(self, device: torch.device) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class PretendStrategy(SingleDeviceStrategy):
    def __init__(self, **parts: Any):
        super().__init__(torch.device(NAME, 0), **parts)

    @property
    def precision_plugin(self) -> Precision:
        plugin: Precision = super().precision_plugin
        if isinstance(plugin, MixedPrecision):  # Lightning thinks that what is no CPU is CUDA
            plugin.device = NAME
        return plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = plugin


class StepMarks(Callback):
    """Calls the present by the number of the step under way, from when its batch is on the device to when the next one's is."""

    def __init__(self, waits: Waits):
        self.waits = waits

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.waits.step = trainer.global_step + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits.step = "end"


@contextmanager
def pretend_trainer() -> Iterator[Waits]:
    """The device and Lightning's names for it."""
    if NAME not in AcceleratorRegistry:
        AcceleratorRegistry.register(NAME, PretendAccelerator)
        StrategyRegistry.register(NAME, PretendStrategy)
    with pretend() as waits:
        yield waits
