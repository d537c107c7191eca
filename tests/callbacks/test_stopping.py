"""A signal ends every phase of a run; what it cut off is done by the run that resumes, which is then the run without a signal."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_diff.artifacts import checkpoints
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks import checkpoint
from lightning_diff.callbacks.base import PeriodicCallback
from lightning_diff.data.stream import Stream
from lightning_diff.foundation import stopping
from lightning_diff.foundation.errors import Stopped

ACTS = "{_target_: test_stopping.Acts, every: 40, %s}"
OTHER = "{_target_: test_stopping.Other, every: 40}"
LOGS = "{_target_: test_run_record.Logs}"


class Acts(PeriodicCallback):
    """At three places a signal could end it; at the second of them, after some images, comes one, or an error."""

    def __init__(self, every: int, at: int = -1, signum: int = signal.SIGTERM):
        super().__init__(every)
        self.at, self.signum = at, signum

    def act(self, trainer, module):
        for place in range(3):
            stopping.check("batch")
            if place == 1 and module.images_seen == self.at:
                if not self.signum:
                    raise ZeroDivisionError
                signal.raise_signal(self.signum)
        self.log_row(trainer, module, {"acted": module.images_seen})


class Other(PeriodicCallback):
    def act(self, trainer, module):
        self.log_row(trainer, module, {"other": module.images_seen})


class AtStart(Callback):
    def on_train_start(self, trainer, pl_module):
        signal.raise_signal(signal.SIGTERM)


class Twice(Callback):
    """Two signals a while apart, in a step that does not end."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.02)
            signal.raise_signal(signal.SIGTERM)


def rows(folder):
    return [row for row in read(folder / "metrics.csv") if row["metric"] not in ("images_per_second", "train/seconds")]


def saved(folder) -> list[int]:
    return sorted(checkpoints.read(path)["global_step"] for path in (folder / "checkpoints").glob(checkpoints.PATTERN))


def same(one, two) -> bool:
    return all(torch.equal(one["state_dict"][name], value) for name, value in two["state_dict"].items())


@pytest.mark.whole
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("order", [(ACTS, OTHER), (OTHER, ACTS)])
def test_a_signal_in_the_middle_of_figures_saves_first_and_they_are_made_again(train, state, order, accumulation):
    options = [f"trainer.accumulate_grad_batches={accumulation}", "trainer.log_every_n_steps=3"]

    def callbacks(at: int) -> str:
        return f"callbacks=[{', '.join(kind % f'at: {at}' if kind == ACTS else kind for kind in order)}, {LOGS}]"

    whole = train("whole", callbacks(-1), *options)
    with pytest.raises(Stopped, match=r"after saving .*step_00000005") as stopped:
        train("parts", callbacks(80), *options)
    assert stopped.value.exit_code == 75
    parts = train("parts", callbacks(-1), *options)
    assert sorted(map(str, rows(parts))) == sorted(map(str, rows(whole)))
    assert [row["images"] for row in rows(parts) if row["metric"] == "acted"] == ["48", "80", "128"]
    assert same(state(parts), state(whole))


def test_what_is_killed_in_the_middle_of_figures_has_been_saved_first(train, state, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_FIRST_SECONDS", 0.0)
    whole = train("whole", f"callbacks=[{ACTS % ''}]")
    with pytest.raises(ZeroDivisionError):
        train("parts", f"callbacks=[{ACTS % 'at: 80, signum: 0'}]")
    assert saved(Path("runs/parts")) == [3, 5]
    parts = train("parts", f"callbacks=[{ACTS % ''}]")
    assert [row["images"] for row in rows(parts) if row["metric"] == "acted"] == ["48", "80", "128"]
    assert same(state(parts), state(whole))
    assert not checkpoints.read(checkpoints.newest(parts / "checkpoints"))["callbacks"].get("Checkpoint")


def test_a_signal_in_the_figures_at_the_end_leaves_them_to_the_next_start(train, state):
    with pytest.raises(Stopped, match=r"after saving .*step_00000008"):
        train("parts", f"callbacks=[{ACTS % 'at: 128'}]")
    assert (train("parts", f"callbacks=[{ACTS % ''}]") / "finished.json").exists()


@pytest.mark.whole
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("micro", [0, 1])
def test_a_signal_while_examples_are_read_saves_the_step_before(train, state, monkeypatch, accumulation, micro):
    options = [f"trainer.accumulate_grad_batches={accumulation}", f"callbacks=[{LOGS}]", "trainer.log_every_n_steps=3"]
    whole = train("whole", *options)
    plain, asked = Stream.__getitems__, []

    def interrupted(self, positions):
        asked.append(positions)
        if len(asked) == 4 * accumulation + micro + 1:
            signal.raise_signal(signal.SIGINT)
        return plain(self, positions)

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "__getitems__", interrupted)
        with pytest.raises(Stopped) as stopped:
            train("parts", *options)
    # In the middle of a step of several micro-batches that step is finished.
    step = 4 + (accumulation == 1 and micro) + (accumulation == 2 and micro)
    assert f"after saving runs/parts/checkpoints/step_{step:08d}.ckpt" in str(stopped.value)
    parts = train("parts", *options)
    assert rows(parts) == rows(whole)
    assert same(state(parts), state(whole))


def test_a_signal_before_the_first_step_ends_at_once(train):
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Stopped, match="SIGTERM before the first step"):
        train("run", "callbacks=[{_target_: test_stopping.AtStart}]")
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_second_signal_ends_a_step_that_does_not(train, monkeypatch):
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 0.01)
    with pytest.raises(Stopped, match="second SIGTERM"):
        train("run", "callbacks=[{_target_: test_stopping.Twice}]")
    assert not list(train("run", "trainer.max_steps=3").glob("checkpoints/.*"))


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stopping.listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_obeys_signals_as_if_nobody_listened():
    with stopping.listening():
        child = os.fork()
        if not child:
            os._exit(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_program_that_does_not_come_back_from_a_library_is_ended(monkeypatch):
    """As the main thread in a collective that waits for a process that is gone."""
    ended = threading.Event()
    monkeypatch.setattr(stopping, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(stopping, "_give_up", lambda signum, reason: ended.set())
    with stopping.listening():
        stopping.defer()
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(10)


@pytest.mark.parametrize("together", [False, True])
def test_processes_agree_only_in_what_all_of_them_do_alike(together):
    """A callback that draws on the first process alone would wait for the others for ever."""
    asked = []

    class Draws(PeriodicCallback):
        pass

    Draws.together = together
    stopping.defer(agree=lambda signum: asked.append(signum) or 0, is_alone=False)
    try:
        with stopping.listening(), stopping.whole(Draws()._place):
            stopping.check("batch")
    finally:
        stopping.obey()
    assert len(asked) == together
