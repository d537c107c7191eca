"""One run from a resolved recipe: folder, data, model, Trainer, resume."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed

from ..artifacts import checkpoints
from ..artifacts.metrics_rows import read as read_metrics
from ..callbacks import TimeLimit
from ..data import Data
from ..foundation import garbage, parent, rng, stopping
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process
from ..modules import TrainingData
from ..modules.lightning_internals import callbacks, early_stop, fit_without_steps, has_early_stopping
from . import recipe
from .build import build, build_data
from .console import quieten, say
from .describe import summary
from .door import refuse_unfit_parts
from .finished import is_finished, is_finished_early, mark_finished
from .folder import claim, folder_of, held, recorded
from .launch import together
from .loggers import identify, log_recipe, refused_by_wandb, release
from .rates import doubts
from .recipe import Recipe
from .report.at_end import REPORT, report_at_end
from .resume import Start, find_start, keep_network, refuse_unfit

GONE = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # what torch.distributed says
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(settings: Recipe, source: Path | str) -> dict[str, float]:
    """Train what the recipe says, from the newest checkpoint of its run folder if there is one and `resume` allows.

    Args:
        settings: a recipe as `recipe.load` returns it.
        source: the recipe's file, for messages.

    Returns:
        The last value of each metric in the run's metrics.csv, by name; of a measured one, that of its last protocol.
    """
    quieten()
    parent.is_started()  # so that it ends with its parent, from here on
    with stopping.listening("before the first step"):
        _train(settings, source)
    return figures(folder_of(settings))


def figures(folder: Path) -> dict[str, float]:
    """The last value of each metric of a run; nothing where it has written none."""
    table = folder / "metrics.csv"
    return {str(row["metric"]): float(row["value"]) for row in read_metrics(table)} if table.exists() else {}


def _train(settings: Recipe, source: Path | str) -> None:
    folder = folder_of(settings)
    data = build_data(settings, source)
    facts = data.facts()
    settings = recipe.fill_facts(keep_network(folder, settings), facts)
    module, trainer = build(settings, facts, source)  # refuses mistakes before the folder is touched
    refuse_unfit_parts(module, trainer, data, source)
    with held(folder), together(trainer):
        start = find_start(folder, settings)
        datamodule = _examples(data, recipe.seed_of(settings), start)
        settings["generator"] = rng.generator_of(datamodule.seed)
        refuse_unfit(module, start, settings, trainer.strategy.root_device)
        warnings = doubts(module, trainer, data.batch_size, start.step)
        if not _has_something_to_do(folder, trainer, start):
            return
        claim(folder, never=settings["resume"] == "never", checkpoint=start.checkpoint)
        if is_first_process():
            _set_aside(folder, start)
            identify(trainer.loggers, folder)
            say("\n".join([data.summary(), summary(settings, module, trainer), *warnings]))
        garbage.take_up()
        with (
            recorded(folder, settings, lambda: trainer.global_step > start.step),
            _explained(source, folder, data, trainer),
        ):
            log_recipe(trainer.loggers, settings)
            trainer.fit(module, datamodule=datamodule, ckpt_path=start.checkpoint, weights_only=True)
        _finish(folder, module, trainer, with_report=settings.get("report", True))
        release(trainer.loggers)


def _examples(data: Data, seed: int, start: Start) -> TrainingData:
    """The stream of examples. UserError where the checkpoint was trained on other images."""
    datamodule = TrainingData(data, seed)
    if start.checkpoint is not None:
        datamodule.load_state_dict(checkpoints.read(start.checkpoint).get("TrainingData", {}))
    return datamodule


def _has_something_to_do(folder: Path, trainer: Trainer, start: Start) -> bool:
    """Whether steps are left, or what comes after the last one; says so."""
    checkpoint, step = start.checkpoint, start.step
    if checkpoint is None:
        return True
    if is_finished_early(folder, step) and has_early_stopping(trainer):
        say(f"{folder}: an EarlyStopping ended it at step {step}; without it, or with more patience, training goes on")
        return False
    if step < trainer.max_steps:
        say("\n".join([f"{folder}: continuing from {checkpoint}, step {step:,}", *start.remarks]))
        return True
    if checkpoint.resolve().parent != (folder / "checkpoints").resolve():
        raise UserError(f"resume: {checkpoint} is at step {step}; trainer.max_steps={trainer.max_steps} adds none")
    if is_finished(folder, step):
        say(f"{folder}: already trained to step {step}; a larger trainer.max_steps goes on, resume=never begins anew")
        return False
    say(f"{folder}: trained to step {step}, and killed before all was written; writing it now")
    fit_without_steps(trainer)  # what comes before and after them
    return True


def _set_aside(folder: Path, start: Start) -> None:
    """Checkpoints of a later step than the one that is resumed from would be taken for this run's."""
    if start.checkpoint is None:
        return
    for path in checkpoints.set_aside_after(folder / "checkpoints", start.step):
        say(f"{path}: ahead of the step that training continues from; it is now {path.name}.aside")


@contextmanager
def _explained(source: Path | str, folder: Path, data: Data, trainer: Trainer) -> Iterator[None]:
    """One-line errors for what fails during training through no fault of the program: settings, memory, disk space."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"{source}: trainer: {str(error).splitlines()[0]}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{source}: out of memory with {data.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)} "
            "images at a time; trainer.accumulate_grad_batches takes fewer, and trains the same"
        ) from error
    except Exception as error:
        if said := refused_by_wandb(error) or (_said(error) if isinstance(error, RuntimeError) else ""):
            raise UserError(f"{source}: {said}") from error
        if not isinstance(error, OSError) or error.errno not in NO_ROOM:
            raise
        last = checkpoints.newest(folder / "checkpoints")
        resumes = f"the same command resumes from {last}" if last else "there is no checkpoint to resume from"
        raise UserError(f"{error.filename or folder}: {error.strerror}; make room, and {resumes}") from error


def _said(error: RuntimeError) -> str:
    """In a sentence, what torch says of a process that is gone; empty for anything else."""
    first = (str(error).splitlines() or [""])[0]
    if first.startswith("DataLoader worker"):
        return f"data.workers: {first.rstrip('. ')}; a killed one may have had too little memory, which fewer workers need less of"
    if isinstance(error, distributed.DistError) or any(word in first for word in GONE):
        return f"another process of this training is gone or does not answer; its own message says why ({first[:120]})"
    return ""


def _early_end(trainer: Trainer) -> str:
    """Where and why a training ended before its last step."""
    limit = next((each for each in callbacks(trainer) if isinstance(each, TimeLimit) and each.is_over), None)
    why = "a callback set trainer.should_stop" if limit is None else f"trainer.max_time ({limit.seconds:g} s) is over"
    return f"stopped at step {trainer.global_step:,} of {trainer.max_steps:,}: {why}"


def _what_is_there(folder: Path, module: LightningModule) -> str:
    """What a person may look for first: the model, the table, pictures; as far as this run wrote them."""
    made = [name for name in (str(module.product), "metrics.csv", REPORT) if (folder / name).exists()]
    made += ["pictures"] if any(folder.rglob("*.png")) else []
    *some, last = made or ["checkpoints"]
    return f"{', '.join(some)} and {last} are there" if some else f"{last} is there"


def _finish(folder: Path, module: LightningModule, trainer: Trainer, *, with_report: bool) -> None:
    """Mark the run as finished if it is, write its report, and say what there is."""
    early, is_short = early_stop(trainer), trainer.global_step < trainer.max_steps
    ended_early = is_short and early is not None and bool(module.images_seen)
    if trainer.is_global_zero:
        if ended_early or not is_short:
            mark_finished(folder, trainer.global_step, module.images_seen, early=ended_early)  # type: ignore[arg-type]
        if with_report:
            report_at_end(folder)
        if ended_early:
            where = f"step {trainer.global_step:,} of {trainer.max_steps:,}"
            say(f"{folder}: done at {where}, {early}; {_what_is_there(folder, module)}")
        elif is_short:
            say(f"{folder}: {_early_end(trainer)}; {module.product} is of that step, and the same command resumes")
        else:
            say(f"{folder}: done; {_what_is_there(folder, module)}")
    trainer.strategy.barrier()  # the next recipe may need what the first process has just written
