"""Processors that this process may use, and more workers than those."""

import os

import pytest
import torch
from torch.utils.data import Dataset, Sampler

from lightning_diff.data.processors import allowed
from lightning_diff.data.workers import WorkerLoader


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 6),
        ({"cpu.max": "nonsense"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 6),
    ],
)
def test_the_system_and_the_containers_quota_both_count(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert allowed(tmp_path) == expected


def test_more_workers_than_processors_are_a_line_and_no_warning(one, capsys):
    class Squares(Dataset):
        def __getitems__(self, positions):
            return {"x": torch.tensor(positions) ** 2}

    class Fixed(Sampler):
        def __iter__(self):
            return iter([[1, 2], [3]])

        def __len__(self):
            return 2

    batches = WorkerLoader(Squares(), Fixed(), workers=2)
    assert [batch["x"].tolist() for batch in batches] == [[1, 4], [9]]
    assert capsys.readouterr().err.count("data.workers: 2 on 1 processor;") == 1
    assert list(WorkerLoader(Squares(), Fixed(), workers=0))
    assert not capsys.readouterr().err


def test_a_run_on_one_processor_trains_with_workers(one, train, capfd):
    train("workers", "data.workers=2", "trainer.max_steps=2")
    assert "data.workers: 2 on 1 processor;" in capfd.readouterr().err
