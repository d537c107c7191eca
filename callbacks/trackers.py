"""What goes to TensorBoard, W&B and other trackers, beside the files and the metrics.csv of the run folder.

The first process logs, for all. Every row has the step as its axis and, as the scalar `images`, the training images seen, which
W&B can take for an axis, too.
"""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from ..artifacts.metrics_table import MetricsTable
from ..modules.base import CountedModule

LOGGED = "pictures_logged.csv"  # in the run folder: tracker, key, step and hash of each picture that trackers have


@runtime_checkable
class LogsImages(Protocol):
    """A logger that takes pictures as W&B's does."""

    def log_image(self, key: str, images: list[str | UInt8[np.ndarray, "h w 3"]], step: int | None = None) -> None: ...


def trackers(trainer: Trainer) -> list[Logger]:
    """The loggers beside metrics.csv; on the first process only."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if not isinstance(logger, MetricsTable)]


def log_values(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Numbers to every tracker and not to metrics.csv."""
    for logger in trackers(trainer):
        logger.log_metrics({"images": images_seen(trainer), **values}, step=trainer.global_step)


def log_picture(trainer: Trainer, key: str, picture: Path | UInt8[np.ndarray, "h w 3"]) -> None:
    """A picture to every tracker that takes some: TensorBoard, W&B, any logger with a `log_image` like W&B's.

    A picture that a tracker has already, from before a run was interrupted, is not sent to it again.

    Args:
        key: the same at every step.
        picture: a PNG file, or RGB values.
    """
    place = Path(trainer.default_root_dir)
    send_picture(trackers(trainer), place, key, picture, step=trainer.global_step, images=images_seen(trainer))


def send_picture(
    chosen: Iterable[Logger],
    folder: Path,
    key: str,
    picture: Path | UInt8[np.ndarray, "h w 3"],
    *,
    step: int,
    images: int,
) -> None:
    """`log_picture` where there is no Trainer.

    Args:
        chosen: the trackers.
        folder: the run's, which remembers what was sent.
        key, picture: see `log_picture`.
        step, images: that the picture is of.
    """
    for logger in chosen:
        if not isinstance(logger, TensorBoardLogger | LogsImages):
            continue
        content = picture.read_bytes() if isinstance(picture, Path) else np.ascontiguousarray(picture).tobytes()
        tracker = f"{type(logger).__name__} {logger.name} {logger.version}"
        entry = (tracker, key, str(step), hashlib.sha256(content).hexdigest()[:16])
        if entry in _logged(folder):
            continue
        _send(logger, key, picture, step, images)
        with (folder / LOGGED).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(entry)


def images_seen(trainer: Trainer) -> int:
    """Training images that the module has seen."""
    return cast(CountedModule, trainer.lightning_module).images_seen


def _send(logger: Logger, key: str, picture: Path | UInt8[np.ndarray, "h w 3"], step: int, images: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        pixels = _pixels(picture) if isinstance(picture, Path) else picture
        logger.experiment.add_image(key, pixels, global_step=step, dataformats="HWC")
        logger.experiment.flush()  # so that a crash loses no picture that `LOGGED` has
        return
    shown = str(picture) if isinstance(picture, Path) else picture
    if isinstance(logger, WandbLogger):
        import wandb

        # Not by `WandbLogger.log_image`: an axis of W&B's has to stand in the row that it is the axis of.
        row = {key: [wandb.Image(shown, caption=f"{images:,} images")], "images": images}
        logger.log_metrics(cast(dict[str, float], row), step)
    elif isinstance(logger, LogsImages):
        logger.log_image(key=key, images=[shown], step=step)


def _pixels(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _logged(folder: Path) -> set[tuple[str, ...]]:
    try:
        with (folder / LOGGED).open(newline="", encoding="utf-8") as file:
            return {tuple(row) for row in csv.reader(file)}
    except FileNotFoundError:
        return set()
