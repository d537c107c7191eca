"""A callback that sends its own process a signal: what `kill` and Ctrl-C do, at a moment that a test can choose."""

import resource
import signal

from lightning.pytorch import Callback


class Interrupt(Callback):
    """Args: batch: index of the micro-batch at whose start the signal comes; signum; times."""

    def __init__(self, batch: int, signum: int = signal.SIGINT, times: int = 1):
        self.batch, self.signum, self.times = batch, signum, times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            for _ in range(self.times):
                signal.raise_signal(self.signum)


class NoRoom(Callback):
    """From one step on, no file of this process may grow beyond some bytes: what a full disk or a quota does to a large file."""

    def __init__(self, step: int, size: int):
        self.step, self.size = step, size

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
