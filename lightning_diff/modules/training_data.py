"""The position-addressed stream as Lightning sees it."""

from typing import cast

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Data, loader
from ..foundation.errors import UserError
from .base import CountedModule
from .lightning_internals import datamodule


class TrainingData(LightningDataModule):
    """Hands each process its share of every global batch, from position `images_seen` on.

    The stream is a function of (seed, position), so the loader has no state of its own: the training module counts images, its
    checkpoint carries the count, and a resumed run continues at that position on any number of processes.

    Args:
        data: a source that has been set up.
        seed: the run's seed.
    """

    def __init__(self, data: Data, seed: int):
        super().__init__()
        self.data, self.seed, self.batch_size = data, seed, data.batch_size

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        trainer, module = self.trainer, self._module()
        assert trainer is not None
        return loader(
            self.data,
            self.seed,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulation=trainer.accumulate_grad_batches,
            start=module.images_seen,
        )

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return self._module().prepare_batch(batch)

    def _module(self) -> CountedModule:
        assert self.trainer is not None
        return cast(CountedModule, self.trainer.lightning_module)

    def state_dict(self) -> dict[str, str]:
        return {"fingerprint": self.data.fingerprint, "summary": self.data.summary()}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        if state_dict.get("fingerprint") != self.data.fingerprint:
            then = f" ({state_dict['summary']})" if "summary" in state_dict else ""
            raise UserError(
                f"{self.data.name}: the training images are not those of the checkpoint{then}, but {self.data.summary()}; "
                "choose another name or resume=never"
            )


def training_data(trainer: Trainer) -> TrainingData:
    """What the trainer trains on."""
    return cast(TrainingData, datamodule(trainer))
