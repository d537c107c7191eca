"""What differs between kinds of devices: every branch that a CPU never takes begins here.

"Device" in these docstrings is what computes, a GPU for instance; "host" is the process and its memory. Everything goes by torch's
own table of device modules (`torch.cuda`, `torch.xpu`, ...), so that no kind is named where any will do. What is of NVIDIA's alone
is which kernels it has, in `precision/kernels.py`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


def is_host(device: torch.device) -> bool:
    """Whether this is the CPU, which computes at once and is never waited for."""
    return device.type == "cpu"


def _copies_from_pinned(device: torch.device) -> bool:
    """Whether a copy from pinned memory spares the host a wait; mps shares its memory with the host, meta has none."""
    return device.type not in ("cpu", "mps", "meta")


def default() -> str:
    """Where to compute if nobody says: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def own() -> str:
    """The same, of several GPUs the one that this process trains on: by LOCAL_RANK, as launchers set it."""
    local, there = os.environ.get("LOCAL_RANK", ""), count()
    return f"cuda:{local}" if local.isdigit() and int(local) < there else default()


def description() -> dict[str, str | None] | None:
    """Version of CUDA and name of the GPU, for a run's record; None without one."""
    if not torch.cuda.is_available():
        return None
    return {"version": torch.version.cuda, "device": torch.cuda.get_device_name()}


def count() -> int:
    """GPUs that there are."""
    return torch.cuda.device_count()


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA GPU; None of anything else."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    return torch.cuda.get_device_capability(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes that tensors have taken at most since the process began; None where that is not counted."""
    measure = None if is_host(device) else getattr(torch.get_device_module(device), "max_memory_allocated", None)
    return None if measure is None else int(measure(device))


# --- to the device and back, without waiting ---


def pinned(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch, its tensors on the host in memory from which `.to(device, non_blocking=True)` does not wait for the device.

    From other memory CUDA first lets the device finish all that it was given. Nothing changes for the host.
    """
    if not _copies_from_pinned(device):
        return dict(batch)
    return {
        name: value.pin_memory()
        if isinstance(value, Tensor) and value.device.type == "cpu" and value.numel()
        else value
        for name, value in batch.items()
    }


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device, without waiting for what the device is doing."""
    if not _copies_from_pinned(device) or tensor.device.type != "cpu" or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """Values on their way to the host: copied without waiting, waited for where they are read.

    Read some steps later they have long been there, so that the device goes on with what it has been given in the meantime.
    """

    def __init__(self, values: Tensor):
        self._values, self._event = values, None
        if not is_host(values.device):
            self._values = values.to("cpu", non_blocking=True)  # into pinned memory
            self._event = torch.get_device_module(values.device).Event()
            self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether they came from the host itself."""
        return self._event is None

    def read(self) -> Tensor:
        """The values, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._values


# --- random numbers ---


def seed(device: torch.device, key: int) -> None:
    """Start a device's own generator; nothing for the host. `key` lies in [0, 2**63)."""
    if not is_host(device):
        torch.get_device_module(device).manual_seed(key)


def own_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn inside, on the host or the device, leaves their generators as they were."""
    if is_host(device):
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[Callable[[], None]]:
    """What is drawn inside is drawn again afterwards, and inside after each call of what this gives: equal dropout masks."""
    module = None if is_host(device) else torch.get_device_module(device)
    host, other = torch.get_rng_state(), None if module is None else module.get_rng_state(device)

    def rewind() -> None:
        torch.set_rng_state(host)
        if module is not None:
            module.set_rng_state(other, device)

    try:
        yield rewind
    finally:
        rewind()
