"""What `fit` of a Trainer of one's own may be given, made into examples by position: a `Data`, a plain loader, a datamodule."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ..condition import AnyCondition, Condition, TakesCondition, into_batch, refuse_unlike, takes_condition
from ..data import Data, drawn
from ..foundation.devices import pinned
from ..foundation.errors import UserError
from . import lightning_internals as internals
from .training_data import TrainingData, module_of

IMAGE = ("image", "images", "img", "pixel_values", "x")  # keys of a batch, the first that is there
LABEL = ("label", "labels", "fine_label", "class", "y")
CONDITION = "condition"


def adopt(trainer: Trainer, module: LightningModule) -> None:
    """Let the trainer train on examples by position, whatever `fit` was given.

    A `Data` is streamed as a recipe's is. The batches of anything else get noise by position, see `LoaderData`. The seed is that of
    `lightning.seed_everything`, 0 without.
    """
    given, datamodule = internals.given(trainer), getattr(trainer, "datamodule", None)
    source = datamodule if isinstance(datamodule, Data) else given
    if trainer.state.fn != TrainerFn.FITTING or isinstance(source, TrainingData | LoaderData):
        return
    if source is module and type(module).train_dataloader is LightningModule.train_dataloader:
        raise UserError(
            "fit: there is nothing to train on; give it a lightning_diff.data.Data, a TrainingData or a loader of (image, label)"
        )
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    if isinstance(source, Data):
        source.setup()
        internals.train_on(trainer, module, TrainingData(source, seed))
    else:
        internals.train_on(trainer, module, LoaderData(source, seed))


class LoaderData(LightningDataModule):
    """Batches of anybody's loader as training examples: noise and noise level are a function of seed and position.

    A batch is (image, label), an image alone, or a mapping with one of the keys in `IMAGE` and perhaps one of those in `LABEL`, or
    `CONDITION` with a mapping of tensors (B, ...), what a network takes beside (embeddings of prompts); images float (B, C, H, W)
    in [-1, 1] or uint8, labels int64 (B,). Positions are counted as the batches come, over all processes,
    which must have equally many. The noise of a resumed training goes on where it was; which images come is the loader's affair,
    so that an exact resume is not promised.

    Args:
        source: a loader, or a module or datamodule with `train_dataloader`.
        seed: of the noise.
    """

    def __init__(self, source: Any, seed: int):
        super().__init__()
        self.source, self.seed = source, seed
        self.batch_size = 0  # of all processes, as the loader tells; 0 if it does not
        self._strata = 0
        self._step = self._taken = -1  # images seen before the step under way, and taken for it by now

    # --- what the source has, which Lightning no longer asks ---

    def prepare_data(self) -> None:
        self._hand_on("prepare_data")

    def setup(self, stage: str) -> None:
        self._hand_on("setup", stage)

    def teardown(self, stage: str) -> None:
        self._hand_on("teardown", stage)

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict() if isinstance(self.source, LightningDataModule) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._hand_on("load_state_dict", state_dict)

    def _hand_on(self, hook: str, *arguments: object) -> None:
        if isinstance(self.source, LightningDataModule):  # the module's own hooks are called as ever
            getattr(self.source, hook)(*arguments)

    def train_dataloader(self) -> Any:
        loader = self.source
        if isinstance(loader, LightningDataModule | LightningModule):
            loader = loader.train_dataloader()
        size = getattr(loader, "batch_size", None) or getattr(
            getattr(loader, "batch_sampler", None), "batch_size", None
        )
        trainer = self._trained_by()
        if isinstance(size, int):
            self.batch_size = self._strata = size * trainer.world_size * trainer.accumulate_grad_batches
            module_of(trainer).batch_size = self.batch_size
        return loader

    # --- batches ---

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = self._trained_by()
        if not trainer.training:
            return batch
        module = module_of(trainer)
        if (
            isinstance(batch, Mapping) and {"image", "noise", "u", "position"} <= batch.keys()
        ):  # of `lightning_diff.data.loader`
            return pinned(module.prepare_batch(dict(batch)), trainer.strategy.root_device)
        image, label = parts(batch)
        given = condition_in(batch, len(image))
        _refuse_unfit(image, label if given is None else given, trainer.lightning_module)
        if module.images_seen != self._step:
            self._step, self._taken = module.images_seen, 0
        first = self._step + self._taken + trainer.global_rank
        p = first + trainer.world_size * np.arange(len(image), dtype=np.int64)
        self._taken += len(image) * trainer.world_size
        module.batch_size = self._taken  # the last batch of an epoch may be smaller
        self._strata = self._strata or self._taken * trainer.accumulate_grad_batches
        made = {"image": image, **drawn(self.seed, p, self._strata, image.shape[1:])}
        batch = module.prepare_batch(made | into_batch(label if given is None else given))
        return pinned(batch, trainer.strategy.root_device)

    def _trained_by(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer


def parts(batch: object) -> tuple[Float32[Tensor, "b ..."], Int64[Tensor, " b"] | None]:
    """Images, float32 in [-1, 1], and labels of a loader's batch.

    Raises:
        UserError: no images in it, or ones in another range; labels that are no whole numbers.
    """
    if isinstance(batch, Mapping):
        image = next((batch[key] for key in IMAGE if key in batch), None)
        label = next((batch[key] for key in LABEL if key in batch), None)
        if image is None:
            raise UserError(f"the loader's batches have no 'image'; their keys are {', '.join(map(str, batch))}")
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
        image, label = batch[0], batch[1] if len(batch) > 1 else None
    else:
        image, label = batch, None
    if not isinstance(image, Tensor) or image.ndim < 2:
        what = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise UserError(
            f"the loader's batches begin with {what}; they should be (image, label) or {{image: ..., label: ...}}, images "
            "(B, C, H, W)"
        )
    return _in_range(image.detach().cpu()), None if label is None else _whole(label, len(image))


def condition_in(batch: object, count: int) -> Condition | None:
    """What a loader's batch of so many images has under `CONDITION`. UserError for what is no mapping of tensors."""
    given = batch.get(CONDITION) if isinstance(batch, Mapping) else None
    if given is None or isinstance(given, Condition):
        return given
    if not isinstance(given, Mapping) or not given or not all(isinstance(each, Tensor) for each in given.values()):
        raise UserError(
            f"the loader's {CONDITION} is a {type(given).__name__}; give tensors by name, {{name: (B, ...)}}"
        )
    if wrong := [name for name, each in given.items() if each.ndim < 1 or len(each) != count]:
        raise UserError(
            f"the loader's {CONDITION}.{wrong[0]} has shape {tuple(given[wrong[0]].shape)} for {count} images"
        )
    return Condition({str(name): each.detach().cpu() for name, each in given.items()})


def _in_range(image: Tensor) -> Float32[Tensor, "b ..."]:
    if image.dtype == torch.uint8:
        return image.float() / 127.5 - 1
    if not image.is_floating_point():
        raise UserError(f"the loader's images are {image.dtype}; give float in [-1, 1], or uint8")
    is_image = image.ndim == 4 and image.shape[1] in (1, 3)
    if is_image and bool((image >= 0).all()) and bool((image > 0).any()):
        raise UserError(
            f"the loader's images lie in [0, {image.max():.3g}], and training takes [-1, 1]; append "
            "transforms.Normalize(0.5, 0.5) to what makes [0, 1], or give uint8"
        )
    return image.float()


def _whole(label: object, count: int) -> Int64[Tensor, " b"]:
    label = torch.as_tensor(label).detach().cpu() if isinstance(label, Tensor | np.ndarray | list | int) else label
    if not isinstance(label, Tensor) or label.shape != (count,) or label.is_floating_point() or bool((label < 0).any()):
        shape = f"{tuple(label.shape)} {label.dtype}" if isinstance(label, Tensor) else type(label).__name__
        raise UserError(f"the loader's labels are {shape}; give one whole number >= 0 for each of {count} images")
    return label.long()


def _refuse_unfit(image: Tensor, label: AnyCondition | None, module: LightningModule) -> None:
    """UserError for a batch that the network is not for."""
    shape = getattr(getattr(getattr(module, "denoiser", None), "net", None), "shape", None)
    if shape is not None and tuple(shape) != tuple(image.shape[1:]):
        raise UserError(f"the network is for {tuple(shape)}, the loader's images are {tuple(image.shape[1:])}")
    net = getattr(getattr(module, "denoiser", None), "net", None)
    if takes_condition(net):
        assert isinstance(net, TakesCondition)
        if not isinstance(label, Condition):
            raise UserError(
                f"the network is conditioned on {', '.join(net.condition_shapes)}, and the loader's batches have no {CONDITION!r}"
            )
        try:
            refuse_unlike(net.condition_shapes, label.shapes, "the network and the loader's condition")
        except ValueError as error:
            raise UserError(str(error)) from error
        return
    if isinstance(label, Condition):
        raise UserError(f"the loader's batches have {CONDITION!r}, and the network takes none")
    classes = getattr(module, "num_classes", 0)
    if classes and label is None:
        raise UserError(f"the module has num_classes={classes}, and the loader's batches have no labels")
    if classes and label is not None and len(label) and int(label.max()) >= classes:
        raise UserError(f"the module has num_classes={classes}, and the loader gives label {int(label.max())}")
