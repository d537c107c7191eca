"""The base of callbacks: hooks for micro-batches and optimiser steps, whatever the accumulation and however often interrupted."""

import pytest

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks.base import PeriodicCallback, StepCallback
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import AlignmentModule

WATCH = "callbacks=[{_target_: test_base.Watch}, {_target_: test_base.Every, every: 48}]"
calls = []


class Watch(StepCallback):
    def on_run_start(self, trainer, module):
        calls.append(("start", self.finished_steps))

    def on_micro_batch_end(self, trainer, module, outputs):
        calls.append(("micro", self.finished_steps + 1, len(outputs["position"])))

    def on_step_end(self, trainer, module, outputs):
        calls.append(("step", self.finished_steps, module.images_seen, self.is_window_end(trainer)))
        if self.is_window_end(trainer):
            self.log_row(trainer, module, {"seen": float(module.images_seen)})

    def on_run_end(self, trainer, module):
        calls.append(("end", self.finished_steps))


class Every(PeriodicCallback):
    def act(self, trainer, module):
        calls.append(("act", module.images_seen))


class OfRewards(StepCallback):
    watches = AlignmentModule


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    from test_base import calls  # the module that the recipe names

    calls.clear()


def heard(kind):
    from test_base import calls  # the module that the recipe names

    return [entry[1:] for entry in calls if entry[0] == kind]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_step_is_told_once_and_each_micro_batch_belongs_to_one(train, accumulation):
    train("run", WATCH, f"trainer.accumulate_grad_batches={accumulation}", "trainer.log_every_n_steps=3")
    assert heard("start") == [(0,)]
    assert heard("micro") == [(step, 16 // accumulation) for step in range(1, 9) for _ in range(accumulation)]
    assert heard("step") == [(step, 16 * step, step in (3, 6, 8)) for step in range(1, 9)]
    assert heard("end") == [(8,)]
    rows = read("runs/run/metrics.csv")
    assert [(int(row["step"]), int(row["images"])) for row in rows if row["metric"] == "seen"] == [
        (3, 48), (6, 96), (8, 128),
    ]  # fmt: skip


def test_a_periodic_one_acts_by_images_and_once_at_the_end(train):
    train("run", WATCH)
    assert heard("act") == [(48,), (96,), (128,)]
    train("even", WATCH, "trainer.max_steps=6")
    assert heard("act")[3:] == [(48,), (96,)]  # the last step's is the end's


def test_steps_count_on_after_an_interruption(train):
    train("run", WATCH, "trainer.max_steps=3")
    train("run", WATCH)
    assert heard("start") == [(0,), (3,)]
    assert [step for step, *_ in heard("step")] == list(range(1, 9))


def test_what_it_cannot_watch_is_refused(train):
    with pytest.raises(UserError, match="OfRewards"):
        train("run", "callbacks=[{_target_: test_base.OfRewards}]")
