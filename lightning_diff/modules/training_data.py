"""The position-addressed stream as Lightning sees it."""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ..data import Data, Positions, Stream


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

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        positions = Positions(
            self.batch_size,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulation=trainer.accumulate_grad_batches,
            start=trainer.lightning_module.images_seen,
        )
        workers = self.data.workers
        return DataLoader(
            Stream(self.data, self.seed),
            batch_sampler=positions,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def _as_it_is(batch: Any) -> Any:
    """The stream returns whole batches already; a named function, so that spawned workers can unpickle it."""
    return batch
