"""The loggers of a recipe, and a W&B run that is the run folder's own."""

import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from ..foundation.atomic import replacing
from ..foundation.processes import is_first_process

WANDB_ID = "wandb_id.txt"


def loggers(choice: object, folder: Path) -> Iterator[Logger]:
    """What `trainer.logger` says, by name or as objects; True, False and None are none beside metrics.csv."""
    for each in choice if isinstance(choice, list) else [choice]:
        if each == "tensorboard":
            yield TensorBoardLogger(folder, name="", version="tensorboard")
        elif each == "wandb":
            yield WandbLogger(name=folder.name, save_dir=folder, resume="allow")
        elif isinstance(each, Logger):
            yield each


def identify(chosen: Iterable[Logger], folder: Path) -> None:
    """Give W&B loggers that were not given an id the run folder's, so that a resumed run continues its own curves, and no other's.

    To be called when the folder is this run's and before anything is logged. Relied on of Lightning: `_wandb_init`, the arguments
    that `wandb.init` will get, `_id`, and `_experiment`, None until something is logged.
    """
    for logger in chosen:
        if isinstance(logger, WandbLogger) and logger._id is None and is_first_process():
            logger._id = logger._wandb_init["id"] = _id(folder)
            logger._wandb_init["resume"] = "allow"


def release(chosen: Iterable[Logger]) -> None:
    """End W&B runs, which the next training of the same process would continue to write into."""
    for logger in chosen:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger._experiment.finish()


def refused_by_wandb(error: Exception) -> str | None:
    """What W&B has against starting a run (no login, no network), in a line; None for other errors."""
    if not type(error).__module__.startswith("wandb."):
        return None
    said = " ".join(str(error).split())
    return f"trainer.logger: wandb: {said}; WANDB_MODE=offline keeps its curves in the run folder"


def _id(folder: Path) -> str:
    """The one in the folder; a new one in a new folder. Version 0.1 took the folder's name, which its files still bear."""
    file = folder / WANDB_ID
    if file.is_file() and (kept := file.read_text(encoding="utf-8").strip()):
        return kept
    has_curves = any(path.name.endswith(f"-{folder.name}") for path in (folder / "wandb").glob("*run-*"))
    new = folder.name if has_curves else secrets.token_hex(4)
    with replacing(file) as temporary:
        temporary.write_text(new + "\n", encoding="utf-8")
    return new
