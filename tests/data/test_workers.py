"""However batches come from worker processes they are the same, and none is waited for in silence."""

import errno
import multiprocessing
import os
import time
from collections import namedtuple
from dataclasses import dataclass
from itertools import islice

import pytest
import torch

from lightning_diff.data import Augment, Data, Digits, ImageSet, loader, workers
from lightning_diff.foundation.errors import UserError

Room = namedtuple("Room", "total used free")


def batches(count: int = 0, n: int = 4):
    return list(islice(loader(Digits(16, augment=Augment(), workers=count), seed=1), n))


def same(one, two) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


def full(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_batches_come_through_pipes_where_shared_memory_is_full(monkeypatch):
    """As in a container of 64 MB (pytorch#5040)."""
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert same(batches(2), batches())


def test_little_shared_memory_is_left_to_others_and_that_is_said(monkeypatch):
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: Room(2**20, 0, 10_000))
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: os.abort())
    with pytest.warns(UserWarning, match="data.workers: .*shm.*2 workers.*pipes"):
        assert same(batches(2), batches())


def test_without_means_for_processes_batches_are_read_in_this_one(monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(torch.multiprocessing, "Queue", refused)
    with pytest.warns(UserWarning, match="data.workers: .*Function not implemented"):
        assert same(batches(2), batches())


class Stuck(ImageSet):
    def take(self, indices):
        if multiprocessing.parent_process():
            time.sleep(60)
        return super().take(indices)


@dataclass(eq=False)
class Stalls(Data):
    def load(self):
        return Stuck(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), "stuck"), None


def test_a_disk_that_does_not_answer_ends_in_a_sentence(monkeypatch):
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(workers, "WORD_SECONDS", 0.1)
    monkeypatch.setattr(workers, "LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # torch waits so long for it, twice
    with (
        pytest.warns(UserWarning, match="data: no batch.*1 worker"),
        pytest.raises(UserError, match=r"no batch.*disk.*data.workers=0"),
    ):
        next(iter(loader(Stalls(4, workers=1), seed=1)))
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


class Broken(ImageSet):
    def take(self, indices):
        if multiprocessing.parent_process():
            raise ValueError("image 3 is broken")
        return super().take(indices)


@dataclass(eq=False)
class Breaks(Data):
    def load(self):
        return Broken(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), "broken"), None


def test_after_an_error_no_worker_is_left():
    batches = iter(loader(Breaks(4, workers=1), seed=1))
    with pytest.raises(ValueError, match="image 3 is broken"):
        next(batches)
    assert not multiprocessing.active_children()
