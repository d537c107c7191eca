"""The callback: which training example was the hardest. Put what you want to watch in its place."""

from lightning.pytorch import Trainer

from lightning_diff.callbacks.base import StepCallback
from lightning_diff.callbacks.cadence import is_due
from lightning_diff.modules.base import CountedModule, StepOutputs


class Hardest(StepCallback[CountedModule]):
    """Log the largest unweighted loss since the last row, and the position in the stream of the example that had it.

    Of several devices it reads the first one's share of each batch.

    Args:
        every: images between two rows.
    """

    def __init__(self, every: int = 6400):
        self.every = every

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self.found: list[StepOutputs] = []

    def on_micro_batch_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        self.found.append(outputs)  # tensors stay on the device, which nobody waits for until a row is due

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if not is_due(module, self.every):
            return
        pairs = [(each["per_sample_loss"], each["position"]) for each in self.found]
        self.found.clear()
        tops = [(loss.max().item(), position[loss.argmax()].item()) for loss, position in pairs]
        loss, position = max(tops)
        self.log_row(trainer, module, {"hardest/loss": loss, "hardest/position": position})
