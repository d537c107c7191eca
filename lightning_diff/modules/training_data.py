"""The position-addressed stream as Lightning sees it."""

from contextlib import nullcontext
from typing import Any, Protocol, cast, runtime_checkable

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Data, loader
from ..foundation import rng, stopping
from ..foundation.devices import is_host, pinned
from ..foundation.errors import UserError
from .lightning_internals import datamodule, is_between_steps


@runtime_checkable
class Counted(Protocol):
    """What a source of examples needs to know of the module that trains on them."""

    seed: int
    batch_size: int
    images_seen: int

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...


class TrainingData(LightningDataModule):
    """Hands each process its share of every global batch, from position `images_seen` on.

    The stream is a function of (seed, position), so the loader has no state of its own: the training module counts images, its
    checkpoint carries the count, and a resumed run continues at that position on any number of processes.

    Args:
        data: a source that has been set up.
        seed: the run's seed. A plain int takes over the generator of the checkpoint that a run resumes from; an `rng.Seed` keeps
            its own.
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
            pin=not is_host(trainer.strategy.root_device),
        )

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        assert self.trainer is not None
        # An epoch's images may be drawn here.
        with stopping.whole("chunk") if is_between_steps(self.trainer) else nullcontext():
            batch = self._module().prepare_batch(batch)
        # Lightning's copy from there does not wait for the device.
        return pinned(batch, self.trainer.strategy.root_device)

    def _module(self) -> Counted:
        assert self.trainer is not None
        return module_of(self.trainer)

    def state_dict(self) -> dict[str, str | int | list[str]]:
        return {
            "fingerprint": self.data.fingerprint,
            "summary": self.data.summary(),
            "class_names": list(self.data.class_names),
            "generator": rng.generator_of(self.seed),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("fingerprint") != self.data.fingerprint:
            then = f" ({state_dict['summary']})" if "summary" in state_dict else ""
            raise UserError(
                f"{self.data.name}: the training images are not those of the checkpoint{then}, but {self.data.summary()}; "
                "choose another name or resume=never"
            )
        if not isinstance(self.seed, rng.Seed):
            self.seed = rng.Seed(self.seed, int(state_dict["generator"]))
            if self.trainer is not None:  # Lightning restores it after the module has asked for the seed
                self._module().seed = self.seed


def module_of(trainer: Trainer) -> Counted:
    """The module that is trained."""
    return cast(Counted, trainer.lightning_module)


def training_data(trainer: Trainer) -> TrainingData:
    """What the trainer trains on. UserError where that is a loader, of which nothing is known but its batches."""
    if not isinstance(source := datamodule(trainer), TrainingData):
        raise UserError(
            "this needs to know the data, and a plain loader only gives batches; train on a lightning_diff.data.Data: "
            "trainer.fit(module, data), or datamodule=TrainingData(data, seed)"
        )
    return source
