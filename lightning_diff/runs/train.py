"""One run from a resolved recipe: folder, data, model, Trainer, resume."""

import errno
import json
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import indent
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..artifacts import checkpoints
from ..artifacts.checkpoints.io import CheckpointFiles
from ..artifacts.metrics_table import MetricsTable
from ..callbacks import EMA, Checkpoint, FiniteGuard, Progress, RunRecord, Throughput
from ..callbacks.ema import find as find_ema
from ..data import Data, Positions
from ..foundation import rng
from ..foundation.atomic import replacing, sweep
from ..foundation.errors import SCHEDULER_SIGNALS, Stopped, UserError
from ..modules import TrainingData
from ..modules.sharding import ShardedStrategy
from . import memory, recipe
from .finished import end_again, is_finished, mark_finished, mark_unfinished
from .lock import locked
from .resume import find_start, holds_a_run

DEFAULT_CALLBACKS = (FiniteGuard, Throughput, Progress, Checkpoint)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(settings: dict[str, Any], source: Path | str) -> None:
    """Train what the recipe says, from the newest checkpoint of its run folder if there is one and `resume` allows.

    Args:
        settings: a recipe as `recipe.load` returns it.
        source: the recipe's file, for messages.
    """
    _quieten()
    folder = Path(settings["runs_dir"]) / settings["name"]
    data = build_data(settings, source)
    facts = data.facts()
    settings = recipe.fill_facts(settings, facts)
    module, trainer = _build(settings, facts, folder, source)  # refuses mistakes before the folder is touched
    with _held(folder), _stopping_at_once():
        _train(settings, source, folder, data, module, trainer)


def _train(
    settings: dict[str, Any],
    source: Path | str,
    folder: Path,
    data: Data,
    module: LightningModule,
    trainer: Trainer,
) -> None:
    start = find_start(folder, settings)
    datamodule = TrainingData(data, settings["seed"])
    checkpoint, step = start.checkpoint, start.step
    if checkpoint is not None:
        datamodule.load_state_dict(checkpoints.read(checkpoint).get("TrainingData", {}))  # refuses other images
        if step >= trainer.max_steps:
            if checkpoint.resolve().parent != (folder / "checkpoints").resolve():
                raise UserError(
                    f"resume: {checkpoint} is at step {step}; trainer.max_steps={trainer.max_steps} adds none"
                )
            if is_finished(folder, step):
                _say(f"{folder}: already trained to step {step}; resume=never trains again")
                return
            _say(f"{folder}: trained to step {step}, and killed before all was written; writing it now")
            end_again(trainer)
        else:
            _say("\n".join([f"{folder}: continuing from {checkpoint}, step {step:,}", *start.remarks]))
    _claim(folder, settings["resume"] == "never", checkpoint)
    if _is_first_process():
        if checkpoint is not None:
            for path in checkpoints.set_aside_after(folder / "checkpoints", step):
                _say(f"{path}: ahead of the step that training continues from; it is now {path.name}.aside")
        _write_record(folder, settings)
        _say(_summary(settings, module, trainer, folder))
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"{source}: trainer: {str(error).splitlines()[0]}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{source}: out of memory with {data.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)} "
            "images at a time; trainer.accumulate_grad_batches takes fewer, and trains the same"
        ) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        last = checkpoints.newest(folder / "checkpoints")
        goes_on = f"the same command goes on from {last}" if last else "there is no checkpoint to go on from"
        raise UserError(f"{error.filename or folder}: {error.strerror}; make room, and {goes_on}") from error
    if trainer.is_global_zero:
        mark_finished(folder, trainer.global_step, module.images_seen)  # type: ignore[arg-type]
        _say(f"{folder}: done; {module.product}, metrics.csv and pictures are there")
    trainer.strategy.barrier()  # the next recipe may need what the first process has just written


def describe(settings: dict[str, Any], source: Path | str) -> str:
    """The resolved recipe and what follows from it, without training: what `--dry-run` prints."""
    _quieten()
    facts, lacking = _known_facts(settings, source)
    settings = recipe.fill_facts(settings, facts)
    folder = Path(settings["runs_dir"]) / settings["name"]
    module, trainer = _build(settings, facts, folder, source, on_meta=True)
    told = [_summary(settings, module, trainer, folder), *lacking, _memory(settings, facts["shape"], module, trainer)]
    return f"{recipe.to_yaml(settings)}\n{indent(chr(10).join(told), '# ')}"


def _known_facts(settings: dict[str, Any], source: Path | str) -> tuple[dict[str, Any], list[str]]:
    """The facts of the data; if these are not here, the recipe's own, and the reason, if it gives them."""
    try:
        return build_data(settings, source).facts(), []
    except UserError as error:
        model, net = settings["model"], settings["model"].get("net") or {}
        if not ({"shape", "num_classes"} <= net.keys() and "sigma_data" in model):
            raise UserError(
                f"{error}; with model.net.shape, model.net.num_classes and model.sigma_data it could be told without"
            ) from error
        augment = recipe.build(settings["data"], "data", source).augment
        facts = {"shape": tuple(net["shape"]), "num_classes": net["num_classes"], "sigma_data": model["sigma_data"]}
        return facts | {"augment_dim": augment.dim if augment else 0}, [f"{error}: told from the recipe's own facts"]


def _memory(settings: dict[str, Any], shape: Sequence[int], module: LightningModule, trainer: Trainer) -> str:
    world, ema = trainer.world_size, find_ema(trainer)
    images = settings["data"]["batch_size"] // (world * trainer.accumulate_grad_batches)
    try:
        estimate = memory.estimate(
            module,
            shape,
            images,
            processes=world,
            is_sharded=isinstance(trainer.strategy, ShardedStrategy),
            precision={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(trainer.precision)),
            averages=0 if ema is None else len(ema.profiles),
        )
    except Exception as error:  # whatever a network of the user's does where tensors have no values
        return f"memory: cannot be told without running the network: {' '.join(str(error).split())[:200]}"
    return memory.table(estimate, world, images)


def build_data(settings: dict[str, Any], source: Path | str | None = None) -> Data:
    """The data of a recipe, loaded."""
    data = recipe.build(settings["data"], "data", source)
    try:
        data.setup()
    except UserError as error:
        raise UserError(f"{source}: data: {error}" if source else str(error)) from error
    return data


def build_model(model: dict[str, Any], source: Path | str | None = None, *, on_meta: bool = False) -> LightningModule:
    """The training module of a recipe's `model` node; its network without memory for the weights if `on_meta`."""
    if on_meta and recipe.is_node(model.get("net")):
        # Raised where a network looks at values while it is being built; it is then built with them.
        with suppress(RuntimeError), torch.device("meta"):
            model = model | {"net": recipe.build(model["net"], "model.net", source)}
    return recipe.build(model, "model", source)


def _build(
    settings: dict[str, Any], facts: dict[str, Any], folder: Path, source: Path | str, *, on_meta: bool = False
) -> tuple[LightningModule, Trainer]:
    options = recipe.build(settings["trainer"], "trainer", source)
    if options.get("strategy") == "model_parallel":
        options["strategy"] = ShardedStrategy()
    # The first process's weights are those of a plain run; the others receive their rows of them.
    on_meta = on_meta or (isinstance(options.get("strategy"), ShardedStrategy) and not _is_first_process())
    torch.manual_seed(rng.key(settings["seed"], "init"))
    module = build_model(settings["model"], source, on_meta=on_meta)
    record = RunRecord(settings["model"].get("net"), facts["shape"], facts["num_classes"], settings)
    callbacks = _callbacks(recipe.build(settings["callbacks"], "callbacks", source), record)
    logger = options.pop("logger", None)
    if torch.backends.mps.is_available():  # which has no float64, and noise levels and what learns from losses are that
        if options.get("accelerator") == "mps":
            raise UserError(f"{source}: trainer.accelerator: mps has no float64, which training needs; leave it out")
        if options.get("accelerator") in (None, "auto", "gpu"):
            options["accelerator"] = "cpu"
    try:
        trainer = Trainer(
            max_epochs=-1,
            callbacks=callbacks,
            logger=[MetricsTable(folder / "metrics.csv"), *_loggers(logger, folder)],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:  # Lightning's ways to refuse
        raise UserError(f"{source}: trainer: {str(error).splitlines()[0]}") from error
    trainer.strategy.checkpoint_io = CheckpointFiles()
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = (
            False  # Lightning would save a checkpoint of its own; the exit code asks for the queue
        )
    try:  # before the devices are started
        Positions(
            settings["data"]["batch_size"], world=trainer.world_size, accumulation=trainer.accumulate_grad_batches
        )
    except UserError as error:
        raise UserError(f"{source}: data.{error}") from error
    return module, trainer


def _callbacks(chosen: list[Callback], record: RunRecord) -> list[Callback]:
    """The guard before everything that would take in a bad step, averages before what shows them, then the rest."""
    defaults = [kind() for kind in DEFAULT_CALLBACKS if not any(isinstance(callback, kind) for callback in chosen)]
    everything = [*chosen, record, *defaults]
    return sorted(
        everything, key=lambda callback: (not isinstance(callback, FiniteGuard), not isinstance(callback, EMA))
    )


def _loggers(choice: Any, folder: Path) -> Iterator[Logger]:
    for node in choice if isinstance(choice, list) else [choice]:
        if node == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            yield TensorBoardLogger(folder, name="", version="tensorboard")
        elif node == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            # The run's id is its folder's name, so that a resumed run continues the same curves.
            yield WandbLogger(name=folder.name, id=folder.name, save_dir=folder, resume="allow")
        elif node not in (None, True, False):
            yield node


def _claim(folder: Path, never: bool, checkpoint: Path | None) -> None:
    """Make the run folder; move an earlier run out of the way when it is not continued, never deleting it."""
    if not _is_first_process():
        return
    try:
        if checkpoint is None and (holds_a_run(folder) or (never and folder.exists())):
            number = 1
            while (old := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(old)
            _say(f"{folder}: the earlier run is now {old}")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "samples").mkdir(exist_ok=True)
        with replacing(folder / ".writable") as temporary:
            temporary.touch()
        (folder / ".writable").unlink()
        mark_unfinished(folder)
        sweep(folder)
    except OSError as error:
        raise _not_writable(folder, error) from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The first process holds the run folder for all."""
    with ExitStack() as stack:
        if _is_first_process():
            try:
                stale = stack.enter_context(locked(folder))
            except OSError as error:
                raise _not_writable(folder, error) from error
            if stale:
                _say(stale)
        yield


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: the run folder cannot be written ({error.strerror}); set runs_dir")


@contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Until `Checkpoint` takes them over, the signals of a scheduler end the process with the code that asks for another try."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum, f"stopped by {signal.Signals(signum).name} before the first step")

    before = {signum: signal.signal(signum, stop) for signum in SCHEDULER_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _write_record(folder: Path, settings: dict[str, Any]) -> None:
    recipe.save(settings, folder / "recipe.yaml")
    packages = ("lightning_diff", "torch", "lightning", "torchmetrics", "omegaconf", "numpy", "safetensors")
    record: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform(), "argv": sys.argv}
    for package in packages:
        try:
            record[package] = version(package)
        except PackageNotFoundError:
            record[package] = "not installed"
    if torch.cuda.is_available():
        record["cuda"] = {"version": torch.version.cuda, "device": torch.cuda.get_device_name()}
    with replacing(folder / "versions.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))


def _summary(settings: dict[str, Any], module: LightningModule, trainer: Trainer, folder: Path) -> str:
    batch, accumulation, world = settings["data"]["batch_size"], trainer.accumulate_grad_batches, trainer.world_size
    parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    images = batch * trainer.max_steps
    saver = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoint))  # type: ignore[attr-defined]
    saves = "at the end" if saver.every_images is None else f"{images // saver.every_images} by images"
    if saver.every_minutes is not None:
        saves += f" and every {saver.every_minutes:g} minutes"
    return (
        f"{settings['name']}: {parameters:,} parameters, precision {trainer.precision}, on {trainer.strategy.root_device.type}\n"
        f"{batch} images per step = {world} process{'es' if world > 1 else ''}"
        f" x {batch // (world * accumulation)} images x {accumulation} accumulated\n"
        f"{trainer.max_steps:,} steps = {images:,} images; checkpoints {saves}, the newest {saver.keep} kept in {folder}"
    )


def _is_first_process() -> bool:
    """Before the process group exists: launchers tell each process its place by these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _say(text: str) -> None:
    if _is_first_process():
        print(text, flush=True)


def _quieten() -> None:
    """Keep Lightning's banners and tips out of the way of what the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images in memory are read faster without
        ".*your dataloader is not resumable.*",  # the stream is a function of the position
        ".*FSDP2-wrapped module.*returned a view tensor.*",  # nothing writes into a network's output
        ".*LeafSpec.*",  # Lightning's use of torch
        "GPU available but not used.*",  # trainer.accelerator=cpu means it
    ):
        warnings.filterwarnings("ignore", message)
