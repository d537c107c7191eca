"""The trackers of a run's recipe, for what a command draws in the run's folder after the training."""

from pathlib import Path

from ..artifacts import ModelRecord
from ..foundation.errors import UserError
from . import recipe
from .console import say
from .recipe.trackers import check_loggers


def send_picture(home: Path, key: str, picture: Path, record: ModelRecord) -> None:
    """A picture to TensorBoard, W&B and the like, at the step of the model; nothing where the run's recipe names no tracker.

    A tracker that cannot be reached is said: the picture is in the folder in any case. Lightning is imported only for trackers.

    Args:
        home: the run folder.
        key: the same for each picture of the kind.
        picture: its PNG.
        record: of the run's model, which tells the images seen.
    """
    if not (source := home / recipe.SAVED).is_file():
        return
    try:
        settings = recipe.read_yaml(source, "trainer", "data")
        if (choice := settings["trainer"].get("logger")) in (None, True, False):
            return
        _send(home, key, picture, record.images // settings["data"]["batch_size"], record.images, choice)
    except UserError as error:
        say(f"{picture}: not sent to the run's trackers: {error}")


def _send(home: Path, key: str, picture: Path, step: int, images: int, choice: object) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger  # 4 s

    from ..callbacks import trackers
    from .loggers import identify, loggers, refused_by_wandb, release

    check_loggers(choice)
    chosen = list(loggers(recipe.build({"logger": choice}, "trainer", home / recipe.SAVED)["logger"], home))
    identify(chosen, home)
    try:
        trackers.send_picture(chosen, home, key, picture, step=step, images=images)
        release(chosen)
    except Exception as error:
        if (said := refused_by_wandb(error)) is None:
            raise
        raise UserError(said) from error
    for logger in chosen:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.close()
