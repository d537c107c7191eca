"""What the first picture or figure of a run would fail at, refused before its folder is touched and before anything is trained."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from ..callbacks.base import StepCallback, refuse_others
from ..data import Data
from ..modules import TrainingModule
from ..modules.lightning_internals import callbacks
from . import recipe


def refuse_unfit_parts(module: LightningModule, trainer: Trainer, data: Data, source: Path | str) -> None:
    """UserError for a network that is not told what the data have, and for a callback that cannot do what it is there for.

    Args:
        module, trainer: of the run.
        data: of the run, set up.
        source: the recipe's file, for messages.
    """
    with recipe.naming(source):
        if isinstance(module, TrainingModule):
            module.refuse_unfit_data(data)
        for callback in callbacks(trainer):
            if isinstance(callback, StepCallback):
                refuse_others(callback, module)
                callback.refuse_unfit(module, data)
