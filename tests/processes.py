"""A pair of gloo processes, forked from the test's own, for what several processes do together."""

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import distributed


def _child(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    warnings.simplefilter("ignore")  # torchmetrics: compute before update, which is what an empty process does
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(function(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture
def two_processes(tmp_path_factory) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Runs function(rank) on two gloo processes and returns what each returned."""

    def run(function: Callable[[int], Any]) -> list[Any]:
        folder = tmp_path_factory.mktemp("processes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            torch.multiprocessing.start_processes(_child, (function, folder), nprocs=2, start_method="fork")
        return [torch.load(folder / f"{rank}.pt") for rank in range(2)]

    return run
