"""Samples and figures of several processes are those of one, and the first process alone writes and prints."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import two_processes as two_processes

from lightning_diff.artifacts import pictures
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.against import Against
from lightning_diff.runs.evaluate import evaluate
from lightning_diff.runs.evaluate_images import evaluate_images
from lightning_diff.runs.process_group import joined
from lightning_diff.runs.sample import sample
from lightning_diff.runs.sampler_settings import SamplerSettings

DIGITS = "data={_target_: lightning_diff.data.Digits, batch_size: 64}"
HOW = SamplerSettings(steps=2, batch=16, device="cpu")
PIXELS = Against(feature="pixels")


@pytest.fixture
def run(train) -> Path:
    return train("one", DIGITS, "trainer.max_steps=1")


def figures(evaluation) -> dict[str, float]:
    return {row.metric: row.value for row in evaluation.rows}


def test_two_processes_measure_what_one_does_and_write_once(run, two_processes):
    pictures.save_npz("some.npz", torch.rand(81, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    of_images = Against(feature="pixels", data="one")
    alone = figures(evaluate(run, HOW, 83, against=PIXELS)), figures(evaluate_images(Path("some.npz"), of_images))
    tables = [run / "metrics.csv", Path("some.metrics.csv")]
    lines = [len(table.read_text().splitlines()) for table in tables]
    tables[1].unlink()

    def measure(rank: int) -> tuple[dict[str, float], dict[str, float]]:
        return figures(evaluate(run, HOW, 83, against=PIXELS)), figures(evaluate_images(Path("some.npz"), of_images))

    before = tables[0].read_text()
    for found in two_processes(measure):
        for one, both in zip(alone, found, strict=True):
            assert one.keys() == both.keys()
            for metric, value in one.items():
                assert both[metric] == pytest.approx(value, rel=1e-6, abs=1e-7), metric
    added = tables[0].read_text().removeprefix(before).splitlines()
    assert len(added) == len(alone[0])
    assert len(tables[1].read_text().splitlines()) == lines[1]


@pytest.mark.parametrize("n", [1, 5])
def test_two_processes_draw_what_one_does(run, two_processes, n):
    """Uneven shares, and fewer samples than processes."""
    sample(run, HOW, n, out=Path("one.npz"))

    def draw(rank: int) -> bool:
        sample(run, HOW, n, out=Path("two.npz"))
        return rank == 0

    two_processes(draw)
    one, two = np.load("one.npz"), np.load("two.npz")
    assert all(np.array_equal(one[name], two[name]) for name in ("arr_0", "arr_1"))
    assert len(two["arr_0"]) == n


@pytest.mark.whole
def test_processes_that_torchrun_starts(run):
    """By the variables that it sets; the first process alone prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    facts = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["-m", "lightning_diff", "sample", "one", "-n", "3", "--steps", "2", "--out", "two.npz", "--device", "cpu"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, *words], env=os.environ | facts | {"RANK": rank}, **how)
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert said == [("3 samples in two.npz\n", ""), ("", "")]
    sample(run, HOW, 3, out=Path("one.npz"))
    assert np.array_equal(np.load("one.npz")["arr_0"], np.load("two.npz")["arr_0"])


def test_alone_nothing_changes_and_a_wrong_environment_is_told(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined("auto") as device:
        assert device == "auto"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "left over")
    with joined("cpu") as device:
        assert device == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK"), joined("cpu"):
        pass


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    from lightning_diff.runs import process_group

    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_group._own_device("auto") == process_group._own_device("cuda") == "cuda:1"
    assert chosen == [1, 1]
    assert process_group._own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="2 GPU"):
        process_group._own_device("auto")
