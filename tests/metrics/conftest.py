"""Digits, one trained classifier and a pair of processes for the tests of the metrics."""

import os
from pathlib import Path

import pytest
from processes import two_processes as two_processes

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
