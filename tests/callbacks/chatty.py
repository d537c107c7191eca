"""A callback that prints in every hook, now to stdout, now to stderr."""

import sys

from lightning.pytorch import Callback


class Chatty(Callback):
    """Each line is `line HOOK NUMBER .`, so that a test sees whether it stands alone."""

    def __init__(self) -> None:
        self.lines = 0

    def say(self, hook: str) -> None:
        self.lines += 1
        print(f"line {hook} {self.lines} .", file=sys.stderr if self.lines % 3 == 0 else sys.stdout)

    def on_train_start(self, trainer, pl_module):
        self.say("on_train_start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.say("on_train_batch_start")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.say("on_before_optimizer_step")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.say("on_train_batch_end")

    def on_train_end(self, trainer, pl_module):
        self.say("on_train_end")

    def teardown(self, trainer, pl_module, stage):
        self.say("teardown")
