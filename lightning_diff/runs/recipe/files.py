"""Recipes on the disk: found by path or packaged name, read, saved."""

from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias, cast

from ...artifacts import places
from ...foundation.atomic import replacing
from ...foundation.binding import Node, nearest
from ...foundation.errors import UserError
from ...foundation.moved import modern
from .record import Recipe

Raw: TypeAlias = dict[Any, Any]  # as YAML has it: a key may be a number


SAVED = "recipe.yaml"  # a run's, in its folder


def packaged() -> dict[str, Path]:
    """The packaged recipes by name, sorted."""
    entries = sorted(files("lightning_diff.recipes").iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): Path(str(entry)) for entry in entries if entry.name.endswith(".yaml")}


def find(path: Path | str, folder: Path | None = None) -> Path:
    """The recipe's file that a person means.

    First what lies at that path (from `folder`): a file, or a run folder's recipe. Then the packaged recipe of that name, which
    goes on in the run of its name; then any other run of that name in runs/. Where a name means two things, the first is taken,
    and a warning says so.
    """
    file = Path(path) if folder is None else folder / path
    if file.is_file():
        return file
    shelf, name, run = packaged(), str(path).removesuffix(".yaml"), places.RUNS / file / SAVED
    runs = [run] if folder is None and not file.is_absolute() and run.is_file() else []
    known = [file / SAVED] if (file / SAVED).is_file() else []
    known += [shelf[name]] if name in shelf else runs
    if not known:
        if file.is_dir():
            raise UserError(f"{file}: is a folder, not a recipe, and no run's: it has no {SAVED}")
        beside = [f"{file}.yaml"] if Path(f"{file}.yaml").is_file() else []
        raise UserError(f"{file}: no such recipe; {nearest(name, beside or shelf, 'packaged ones are')}")
    if len(known) > 1 and known[0].resolve() != known[1].resolve():
        places.say_taken(path, known[0], known[1])
    return known[0]


def run_folder(source: Path) -> Path | None:
    """The run folder that this file is the saved recipe of; None for any other recipe."""
    folder = source.parent
    if source.name != SAVED or not ((folder / "checkpoints").is_dir() or (folder / "versions.json").is_file()):
        return None
    return folder if folder.name not in ("", "..") else folder.resolve()


def in_its_folder(recipe: Raw, source: Path) -> Raw:
    """A run's saved recipe goes on in the folder that it lies in, wherever that was moved; any other recipe is left as it is.

    How the run began (`resume=never`, or from a checkpoint of another run) has been done.
    """
    if (folder := run_folder(source)) is None:
        return recipe
    recipe = recipe | {"resume": "auto"}
    recorded = Path(str(recipe.get("runs_dir", "runs")), str(recipe.get("name", "")))
    if recorded.resolve() == folder.resolve():
        return recipe
    return recipe | {"name": folder.name, "runs_dir": str(folder.parent)}


def read(path: Path) -> Raw:
    """A YAML mapping with its interpolations still in it."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

    try:
        loaded = OmegaConf.load(path)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML: {error.problem}") from error
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'a recipe is a YAML mapping'}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: a recipe is a YAML mapping, this is a list")
    return cast(Raw, OmegaConf.to_container(loaded, resolve=False))


def resolved(recipe: Raw, source: Path | str) -> Node:
    """A recipe with its interpolations replaced by what they name."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        return cast(Node, OmegaConf.to_container(OmegaConf.create(recipe), resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise UserError(f"{source}: {error.full_key}: left open (???); give it as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{source}: {place}{str(error).splitlines()[0]}") from error


def to_yaml(recipe: Recipe) -> str:
    """A resolved recipe as the text of a file."""
    from omegaconf import OmegaConf  # 0.1 s

    return str(OmegaConf.to_yaml(OmegaConf.create(dict(recipe))))


def save(recipe: Recipe, path: Path | str) -> None:
    """Write a resolved recipe; `load` gives back the same."""
    with replacing(path) as temporary:
        temporary.write_text(to_yaml(recipe), encoding="utf-8")


def read_yaml(path: Path | str, *needed: str) -> Recipe:
    """A saved recipe in the names of today, unchecked. UserError if the file is missing, not YAML or lacks a key that is needed."""
    recipe, _ = modern(resolved(read(Path(path)), path))
    for key in needed:
        if key not in recipe:
            raise UserError(f"{path}: {key}: missing; this is not the recipe that the run saved")
    return cast(Recipe, recipe)
