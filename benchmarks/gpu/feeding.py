"""Whether a device is fed: what the loader makes, and how long the host is held up by a batch's way to the device."""

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lightning_diff.data import loader

from .pictures import Pictures
from .rows import Row, Setting, seconds, synchronise


def rows(setting: Setting) -> Iterator[Row]:
    batch_size = 16 if setting.small else 512
    for size in (setting.image(32),) if setting.small else ((3, 32, 32), (3, 64, 64), (4, 32, 32)):
        case = "x".join(map(str, size))
        for workers in (0, 2) if setting.small else (0, 2, 8):
            data = Pictures(size=size, batch_size=batch_size, workers=workers)
            data.setup()
            batches = iter(loader(data, seed=0))
            batch = next(batches)
            rounds = 2 if setting.small else 20
            start = time.perf_counter()
            for _ in range(rounds):
                next(batches)
            rate = rounds * batch_size / (time.perf_counter() - start)
            yield Row("feeding", f"{case}, {workers} workers", "images/s", rate)
            batches.close() if hasattr(batches, "close") else None
        yield from _copies(setting, case, {name: value for name, value in batch.items() if isinstance(value, Tensor)})


def _copies(setting: Setting, case: str, batch: dict[str, Tensor]) -> Iterator[Row]:
    bytes_ = sum(value.nbytes for value in batch.values())
    yield Row("feeding", case, "bytes for an image", bytes_ / len(batch["u"]), "B")
    if setting.device.type == "cpu":
        yield Row("feeding", case, "copies", status="skipped", note="a CPU is where the batches are")
        return
    for pinned in (False, True):
        source = [value.pin_memory() if pinned else value for value in batch.values()]
        whole = seconds(partial(_moved, source, setting.device), setting.device, 20)
        how = "pinned" if pinned else "pageable"
        yield Row("feeding", f"{case}, {how}", "a batch's way", bytes_ / whole / 1e9, "GB/s")
        if pinned:
            yield _held_up(setting, case, source, whole)


def _moved(batch: list[Tensor], device: torch.device) -> list[Tensor]:
    return [value.to(device, non_blocking=True) for value in batch]


def _held_up(setting: Setting, case: str, source: list[Tensor], whole: float) -> Row:
    """The host's share of a copy that it need not wait for, while the device is busy; all of it where it waits."""
    busy = torch.randn(4096, 4096, device=setting.device)
    synchronise(setting.device)
    for _ in range(20):
        busy = busy @ busy
    start = time.perf_counter()
    moved = _moved(source, setting.device)
    held_up = time.perf_counter() - start
    synchronise(setting.device)
    note = "the host waits for the device" if held_up > whole else ""
    return Row(
        "feeding",
        f"{case}, pinned",
        "host held up",
        1e6 * held_up / len(moved[0]),
        "us/image",
        status="off" if note else "ok",
        note=note,
    )
