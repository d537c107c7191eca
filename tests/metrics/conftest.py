"""Digits, one trained classifier and a pair of processes for the tests of the metrics."""

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from lightning_diff.data import Digits
from lightning_diff.metrics.classifier import Classifier, load_or_train


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of feature networks for this session alone."""
    before = os.environ.get("LIGHTNING_DIFF_CACHE")
    os.environ["LIGHTNING_DIFF_CACHE"] = str(folder := tmp_path_factory.mktemp("features"))
    yield folder
    if before is None:
        del os.environ["LIGHTNING_DIFF_CACHE"]
    else:
        os.environ["LIGHTNING_DIFF_CACHE"] = before


@pytest.fixture(scope="session")
def digits() -> Digits:
    data = Digits(batch_size=64)
    data.setup()
    return data


@pytest.fixture(scope="session")
def classifier(digits: Digits, cache: Path) -> Classifier:
    return load_or_train(digits, "classifier")


def _child(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    warnings.simplefilter("ignore")  # torchmetrics: compute before update, which is what an empty process does
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(function(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Runs function(rank) on two gloo processes and returns what each returned."""

    def run(function: Callable[[int], Any]) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            torch.multiprocessing.start_processes(_child, (function, tmp_path), nprocs=2, start_method="fork")
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    return run
