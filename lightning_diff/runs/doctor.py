"""Report on a run folder: its files, what is broken, and what `resume=auto` would do."""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..artifacts import RECORD, WEIGHTS, ModelRecord, checkpoints, ema_snapshots, metrics_rows, read_record
from ..artifacts.safetensors_files import BAR_FROM, Reference, digest
from ..foundation.errors import UserError
from ..foundation.progress import each
from . import lock, recipe
from .finished import is_finished
from .folder import holds_a_run

MARKS = {"ok": "  ", "note": "- ", "broken": "! "}


class Finding(NamedTuple):
    """About one file or the whole run: ok, note or broken."""

    kind: str
    what: str
    text: str


def examine(folder: Path) -> list[Finding]:
    """Look at everything in a run folder and change nothing.

    Raises:
        UserError: it is no run folder.
    """
    if not folder.is_dir() or not any((folder / name).exists() for name in ("recipe.yaml", "checkpoints", WEIGHTS)):
        raise UserError(f"{folder}: is no run folder: it has neither a recipe, nor checkpoints, nor a model")
    if (who := lock.holder(folder)) is not None:  # its files come and go
        return [Finding("ok", folder.name, f"is being trained by {who}; look again when that has stopped")]
    if _is_model_alone(folder):
        findings = [*_model(folder, None), *(_metrics(folder) if (folder / "metrics.csv").exists() else [])]
        return [_alone(folder, findings), *findings, *_left_over(folder)]
    findings = list(_checkpoints(folder / "checkpoints"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are named above
        newest = checkpoints.newest(folder / "checkpoints")
    state = _state(newest)
    findings += [*_data(state), _recipe(folder, state), *_model(folder, state), *_metrics(folder), *_snapshots(folder)]
    findings += _room(folder, newest)
    findings += _left_over(folder)
    return [_whole(folder, newest, state), *findings]


def _left_over(folder: Path) -> Iterator[Finding]:
    """Files that no resume reads and that may be deleted."""
    for path in sorted((folder / "checkpoints").glob("*.ckpt.aside*")):
        text = "a checkpoint later than the one that training was resumed from; delete it if you do not need it"
        yield Finding("note", path.name, text)
    for path in sorted(folder.rglob(".*.tmp*")):
        text = "left by a process that was killed while writing; may be deleted"
        yield Finding("note", path.relative_to(folder).as_posix(), text)


def as_text(findings: list[Finding]) -> str:
    width = max(len(finding.what) for finding in findings)
    return "\n".join(f"{MARKS[kind]}{what:<{width}}  {text}" for kind, what, text in findings)


def _is_model_alone(folder: Path) -> bool:
    """Whether this is a model that was imported or exported, and never a training's folder."""
    return not any((folder / name).exists() for name in (recipe.SAVED, "checkpoints"))


def _alone(folder: Path, findings: Sequence[Finding]) -> Finding:
    """What kind of model it is, and whether it can be loaded."""
    faults = sum(kind == "broken" for kind, *_ in findings)
    try:
        record = read_record(folder)
    except UserError:
        return Finding("broken", folder.name, "a model without a run, and what describes it cannot be read")
    network = record.net.get("class_name") or str(record.net["_target_"]).rpartition(".")[2]
    what = f"{'an imported model' if record.weights else 'a model without a run'}, {network} of {_sides(record)}"
    if faults:
        return Finding("broken", folder.name, f"{what}; it cannot be used as it is: see below")
    return Finding("ok", folder.name, f"{what}; commands and recipes take it as a run, and there is nothing to resume")


def _sides(record: ModelRecord) -> str:
    return "x".join(map(str, record.shape))


def _whole(folder: Path, newest: Path | None, state: checkpoints.Checkpoint | None) -> Finding:
    """Where the run stands, and what resuming it would do."""
    if newest is None:
        if holds_a_run(folder):
            return Finding(
                "broken",
                folder.name,
                "no checkpoint is usable; resume=auto would move this folder aside and start anew",
            )
        return Finding("note", folder.name, "no checkpoint yet; resume=auto would start at step 0")
    if state is None:
        return Finding("broken", folder.name, f"{newest.name} cannot be used; resume=auto would refuse")
    step, wanted = state["global_step"], _last_step(folder, state)
    where = f"step {step:,}" + (f" of {wanted:,}" if wanted else "") + f", {state['images_seen']:,} images"
    if wanted is not None and step >= wanted:
        if is_finished(folder, step):
            return Finding("ok", folder.name, f"finished at {where}; resume=auto would do nothing")
        return Finding(
            "note", folder.name, f"trained to {where}, but not finished; resume=auto would write what is missing"
        )
    return Finding("ok", folder.name, f"stopped at {where}; resume=auto would continue from {newest.name}")


def _last_step(folder: Path, state: checkpoints.Checkpoint) -> int | None:
    """The number of the last step by the run's recipe, which may have changed since the checkpoint; by the checkpoint's else."""
    try:
        settings = recipe.read_yaml(folder / recipe.SAVED, "trainer")
    except UserError:
        settings = state["recipe"] or {}  # type: ignore[assignment]
    wanted: int | None = (settings.get("trainer") or {}).get("max_steps")
    return wanted


def _checkpoints(folder: Path) -> Iterator[Finding]:
    paths = sorted(folder.glob(checkpoints.PATTERN), reverse=True)
    for path in each(paths, "checking checksums", len(paths), "checkpoint", shown=_is_long(paths)):
        if (problem := checkpoints.fault(path)) is not None:
            yield Finding("broken", path.name, f"damaged: {problem}")
            continue
        try:
            state = checkpoints.read(path)
        except UserError as error:
            yield Finding("broken", path.name, str(error).removeprefix(f"{path}: "))
            continue
        yield Finding(
            "ok",
            path.name,
            f"step {state['global_step']:,}, {state['images_seen']:,} images, {_bytes(_size(path))}, checksum right",
        )
    for path in sorted(folder.glob("step_*.json")):
        if not path.with_suffix(".ckpt").exists():
            yield Finding("note", path.name, "belongs to no checkpoint")


def _is_long(paths: Sequence[Path]) -> bool:
    """Whether hashing these takes so long that somebody wants to see how far it is."""
    with suppress(OSError):  # which `checkpoints.fault` tells of
        return sum(map(_size, paths)) > BAR_FROM
    return False


def _state(path: Path | None) -> checkpoints.Checkpoint | None:
    try:
        return None if path is None else checkpoints.read(path)
    except UserError:
        return None


def _data(state: checkpoints.Checkpoint | None) -> Iterator[Finding]:
    """What it was trained on, as far as the newest checkpoint says."""
    if state is not None and "summary" in (of_data := state.get("TrainingData", {})):
        yield Finding("ok", "data", str(of_data["summary"]))


def _recipe(folder: Path, state: checkpoints.Checkpoint | None) -> Finding:
    path = folder / "recipe.yaml"
    stored = state["recipe"] if state else None
    lost = "lightning-diff resume writes it again, from the newest checkpoint" if stored else "it is lost"
    if not path.is_file():
        return Finding("broken", path.name, f"missing; {lost}")
    try:
        settings = recipe.read_yaml(path, "model", "data")
    except UserError as error:
        return Finding("broken", path.name, f"{str(error).removeprefix(str(path)).lstrip(': ')}; {lost}")
    if stored and (changes := recipe.changes(stored, settings)):
        return Finding("note", path.name, f"differs from the newest checkpoint's: {'; '.join(map(str, changes))}")
    return Finding("ok", path.name, f"hash {checkpoints.recipe_hash(settings)}")


def _model(folder: Path, state: checkpoints.Checkpoint | None) -> Iterator[Finding]:
    """Of a run's model, or a model alone: its two files, and those elsewhere that it refers to."""
    weights, record = folder / WEIGHTS, folder / RECORD
    again = "; lightning-diff export writes both again" if state else ""
    if not weights.exists() and not record.exists():
        return
    try:
        found = read_record(folder)
    except UserError as error:
        yield Finding("broken", RECORD, f"{str(error).removeprefix(str(record)).lstrip(': ')}{again}")
        return
    if found.weights:
        again = "; import the model again"
    if not weights.is_file():
        yield Finding("broken", WEIGHTS, f"missing{again}")
    elif digest(weights) != found.sha256:
        yield Finding("broken", WEIGHTS, f"its checksum is wrong{again}")
    elif found.weights:
        yield Finding(
            "ok", WEIGHTS, f"what the files elsewhere do not hold, {_bytes(weights.stat().st_size)}, checksum right"
        )
    else:
        size = _bytes(weights.stat().st_size)
        which = "weights of the last step" if found.ema == "none" else f"averaged weights ({found.ema})"
        yield Finding("ok", WEIGHTS, f"{found.images:,} images, {which}, {size}, checksum right")
    yield from _elsewhere(found.references, folder)
    for part, node in (("autoencoder", found.autoencoder), ("text", found.text)):
        if node is not None and isinstance(place := node.get("folder"), str):
            yield _part(part, Path(place))


def _part(name: str, place: Path) -> Finding:
    """A folder that a model's record names."""
    if place.is_dir():
        return Finding("ok", name, str(place))
    return Finding("broken", name, f"{place}: is not there; put it back, or import the model again")


def _elsewhere(references: Sequence[Reference], folder: Path) -> Iterator[Finding]:
    """Files that an imported model refers to."""
    for reference in references:
        try:
            file = reference.checked(folder)
            yield Finding("ok", file.name, f"{file}, {_bytes(file.stat().st_size)}, checksum right")
        except UserError as error:
            yield Finding("broken", Path(reference.path).name, str(error))


def _metrics(folder: Path) -> Iterator[Finding]:
    path = folder / "metrics.csv"
    if not path.exists():
        yield Finding("note", path.name, "not there")
        return
    try:
        rows = metrics_rows.read(path)
    except UserError as error:
        yield Finding("broken", path.name, str(error).removeprefix(f"{path}: "))
        return
    yield Finding(
        "ok", path.name, f"{len(rows):,} rows" + (f", the last at {rows[-1]['images']} images" if rows else "")
    )


def _snapshots(folder: Path) -> Iterator[Finding]:
    if (folder / "ema").is_dir():
        try:
            found = ema_snapshots.load_snapshots(folder / "ema")
            yield Finding("ok", "ema", f"{len(found)} snapshots, the last at {found[-1].images:,} images")
        except (ValueError, UserError) as error:
            yield Finding("broken", "ema", str(error).splitlines()[0])


def _room(folder: Path, newest: Path | None) -> Iterator[Finding]:
    if newest is not None:
        free, needed = shutil.disk_usage(folder).free, _size(newest)
        text, enough = f"{_bytes(free)} free; a checkpoint takes {_bytes(needed)}", free > 2 * needed
        yield Finding("ok" if enough else "broken", "disk", text if enough else f"{text}: make room before you resume")


def _size(checkpoint: Path) -> int:
    return sum(file.stat().st_size for file in ([checkpoint] if checkpoint.is_file() else checkpoint.iterdir()))


def _bytes(size: int) -> str:
    number = float(size)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
