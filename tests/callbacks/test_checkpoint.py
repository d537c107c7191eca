"""A run that gets a signal to stop finishes its step and saves; nothing is lost, and the exit code says why it ended."""

import os
import shutil
import signal
from pathlib import Path

import forked
import pytest
import torch
from lightning.pytorch import Callback

from lightning_diff.artifacts import checkpoints
from lightning_diff.foundation.errors import Stopped

INTERRUPT = "callbacks=[{_target_: interrupting.Interrupt, batch: %d, signum: %d}]"
ANNOUNCE = """
from lightning.pytorch import Callback

class Announce(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 3:
            print("step 3", flush=True)
"""


def saved(folder: Path) -> list[int]:
    return sorted(checkpoints.read(path)["global_step"] for path in (folder / "checkpoints").glob(checkpoints.PATTERN))


@pytest.mark.parametrize(("signum", "accumulation"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_a_signal_lets_the_step_finish_and_the_resumed_run_equals_one_without(train, state, signum, accumulation):
    options = ["callbacks=[]", f"trainer.accumulate_grad_batches={accumulation}"]
    whole = state(train("whole", *options))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match=r"after saving .*step_00000003.ckpt") as stopped:
        train("parts", *options, INTERRUPT % (2 * accumulation, signum))  # at the start of the third step
    assert stopped.value.signum == signum
    assert saved(Path("runs/parts")) == [3]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    parts = state(train("parts", *options))
    assert parts["global_step"] == whole["global_step"] == 8
    assert parts["images_seen"] == whole["images_seen"]
    assert all(torch.equal(parts["state_dict"][name], value) for name, value in whole["state_dict"].items())
    (a,), (b,) = parts["optimizer_states"], whole["optimizer_states"]
    assert all(torch.equal(a["state"][i][name], value) for i in b["state"] for name, value in b["state"][i].items())


def test_checkpoints_come_when_images_cross_a_multiple_and_the_newest_are_kept(train):
    every = "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 40, every_minutes: null, keep: %d}"
    assert saved(train("all", f"callbacks=[{every % 9}]")) == [3, 5, 8]  # 48, 80, 128 images
    folder = train("two", f"callbacks=[{every % 2}]")
    assert saved(folder) == [5, 8]
    assert len(list((folder / "checkpoints").iterdir())) == 4  # each with its record, nothing else left behind


def test_without_an_interval_there_is_one_checkpoint_at_the_end(train):
    folder = train("end", "callbacks=[{_target_: lightning_diff.callbacks.Checkpoint, every_minutes: null}]")
    assert saved(folder) == [8]


def test_a_run_killed_before_old_checkpoints_were_deleted_deletes_them_when_it_ends_again(train):
    every = (
        "callbacks=[{_target_: lightning_diff.callbacks.Checkpoint, every_images: 16, every_minutes: null, keep: %d}]"
    )
    folder = train("run", every % 3)
    assert saved(folder) == [6, 7, 8]
    (folder / "finished.json").unlink()
    assert saved(train("run", every % 2)) == [7, 8]


class Forget(Callback):
    """Deletes the checkpoints before `Checkpoint` ends: to another process, a file still being written looks so."""

    def on_train_end(self, trainer, pl_module):
        shutil.rmtree(Path(trainer.default_root_dir) / "checkpoints")


def test_processes_agree_on_a_checkpoint_at_the_end_without_looking_at_the_disk(train):
    assert saved(train("run", "callbacks=[{_target_: test_checkpoint.Forget}]")) == []


@pytest.mark.whole
def test_signals_end_a_real_run_with_a_checkpoint_and_the_shells_exit_code(tmp_path, train):
    """SIGINT, SIGTERM and SIGUSR1 once; SIGTERM to all its processes; SIGINT twice within a step, which ends the run at once."""
    (tmp_path / "announce.py").write_text(ANNOUNCE)
    (tmp_path / "twice.py").write_text(Path(__file__).with_name("interrupting.py").read_text())
    callbacks = {
        "sigint": "[{_target_: announce.Announce}]",
        "sigterm": "[{_target_: announce.Announce}]",
        "sigusr1": "[{_target_: announce.Announce}]",
        "group": "[{_target_: announce.Announce}]",
        "twice": "[{_target_: twice.Interrupt, batch: 3, times: 2}]",
    }
    train("recipe", "trainer.max_steps=1")  # writes recipe.yaml
    command = ("train", "recipe.yaml", "trainer.max_steps=1_000_000")
    started = {
        name: forked.start(*command, f"name={name}", f"callbacks={callback}", f"data.workers={2 * (name == 'group')}")
        for name, callback in callbacks.items()
    }
    signals = {name: getattr(signal, name.upper(), signal.SIGTERM) for name in callbacks}
    for name, process in started.items():
        if name != "twice":
            assert any(line.startswith("step 3") for line in process.stdout), process.errors()
            send = os.killpg if name == "group" else os.kill
            send(process.pid, signals[name])
    for name, process in started.items():
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        if name == "twice":
            assert process.returncode == -signal.SIGINT
            assert saved(tmp_path / "runs" / name) == []
            continue
        assert process.returncode == (130 if name == "sigint" else 75)
        (path,) = (tmp_path / "runs" / name / "checkpoints").glob(checkpoints.PATTERN)
        assert checkpoints.fault(path) is None
        assert checkpoints.read(path)["global_step"] >= 3
        assert errors.splitlines()[-1] == (
            f"stopped by {signals[name].name} after saving runs/{name}/checkpoints/{path.name}"
        )


@pytest.mark.parametrize("where", ["", ", dirpath: new/kept"])
def test_lightnings_own_callback_saves_in_its_own_folder(train, where):
    own = f"callbacks=[{{_target_: lightning.pytorch.callbacks.ModelCheckpoint, every_n_train_steps: 4, save_top_k: -1{where}}}]"
    train("own", own)
    kept = sorted(Path("new/kept" if where else "runs/own").rglob("*-step=*.ckpt"))
    assert [checkpoints.read(path)["global_step"] for path in kept] == [4, 8]
