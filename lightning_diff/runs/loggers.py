"""The loggers of a recipe, the recipe in them, and a W&B run that is the run folder's own.

trainer: {logger: wandb}
trainer: {logger: [tensorboard, {wandb: {project: digits, group: sweep, tags: [edm, small]}}]}
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from ..artifacts.metrics_table import MetricsTable
from ..foundation.atomic import replacing
from ..foundation.extras import is_installed
from ..foundation.processes import is_first_process
from .recipe import Recipe

WANDB_ID = "wandb_id.txt"


def tensorboard(folder: Path, *, prefix: str = "", flush_secs: int = 120, max_queue: int = 10) -> TensorBoardLogger:
    """TensorBoard's files, in the folder's tensorboard/.

    Args:
        folder: the run's.
        prefix: before the name of each metric.
        flush_secs, max_queue: at most so many seconds and events are kept back from the disk.
    """
    return TensorBoardLogger(
        folder, name="", version="tensorboard", prefix=prefix, flush_secs=flush_secs, max_queue=max_queue
    )


def wandb(
    folder: Path,
    *,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    name: str | None = None,
    notes: str | None = None,
    job_type: str | None = None,
    id: str | None = None,
    mode: Literal["online", "offline", "disabled"] | None = None,
    prefix: str = "",
) -> WandbLogger:
    """A run of Weights & Biases.

    Args:
        folder: the run's.
        project, entity, group, tags, notes, job_type, mode: see `wandb.init`; without a project $WANDB_PROJECT or lightning_logs.
        name: None for the folder's.
        id: None for one that stays in the folder, see `identify`.
        prefix: before the name of each metric.
    """
    return WandbLogger(
        name=name or folder.name,
        save_dir=folder,
        project=project,
        id=id,
        prefix=prefix,
        resume="allow",
        entity=entity,
        group=group,
        tags=tags,
        notes=notes,
        job_type=job_type,
        mode=mode,
    )


BY_NAME: dict[str, Callable[..., Logger]] = {"tensorboard": tensorboard, "wandb": wandb}


def loggers(choice: object, folder: Path) -> Iterator[Logger]:
    """What `trainer.logger` says, by name, with options, or as objects; True, False and None are none beside metrics.csv."""
    for each in choice if isinstance(choice, list) else [choice]:
        if isinstance(each, Logger):
            yield each
        elif isinstance(each, str):
            yield BY_NAME[each](folder)
        elif isinstance(each, dict):
            yield from (BY_NAME[name](folder, **(options or {})) for name, options in each.items())


def log_recipe(chosen: Iterable[Logger], settings: Recipe) -> None:
    """The recipe as hyper-parameters of each logger but metrics.csv, once for each start; the first process does so.

    Its keys are dotted, as on the command line: model.net.channels, callbacks.0.every. Lists of plain values stay whole.
    """
    if not is_first_process():
        return
    flat = dict(_flat(settings, ""))
    for logger in chosen:
        if isinstance(logger, TensorBoardLogger) and is_installed("tensorboard"):
            _log_to_tensorboard(logger, flat)
        elif not isinstance(logger, MetricsTable):
            logger.log_hyperparams(flat)
        if isinstance(logger, WandbLogger):
            _count_images(logger)


def _count_images(logger: WandbLogger) -> None:
    """Draw everything against the training images seen, in place of Lightning's optimiser step, which stays to be chosen.

    Every row has them. Relied on of W&B: of two rules for the same metrics the later one holds.
    """
    images = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}images" if logger._prefix else "images"
    logger.experiment.define_metric(images)
    logger.experiment.define_metric("*", step_metric=images, step_sync=True)


def _log_to_tensorboard(logger: TensorBoardLogger, flat: Mapping[str, object]) -> None:
    """With the loss beside it in the table of runs, where Lightning has a metric of its own making that stays -1.

    Relied on: `log_hyperparams` writes no events where there are no metrics; TensorBoard's table takes the newest value of the
    scalar of that name, not the one given here.
    """
    from torch.utils.tensorboard.summary import hparams

    logger.log_hyperparams(dict(flat), {})  # hparams.yaml
    shown = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in flat.items()}
    for summary in hparams(shown, {"train/loss": 0.0}):
        logger.experiment._get_file_writer().add_summary(summary)


def _flat(value: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        parts = {str(i): item for i, item in enumerate(value)}.items()
    else:
        yield key, value
        return
    for name, item in parts:
        yield from _flat(item, f"{key}.{name}" if key else str(name))


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
