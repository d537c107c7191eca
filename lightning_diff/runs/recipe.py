"""Recipes: load, compose, check and build.

A recipe is a YAML file with the top-level keys of `KEYS`. OmegaConf reads it and resolves `${...}`; from here on it is
plain dicts and lists. `extends:` names one recipe to start from. Mappings merge key by key, lists and values are
replaced, and a node whose `_target_` changes is replaced whole, because the other keys belonged to the old target.
`key=value` overrides come last. Every message is one line: `FILE: dotted.key: what is wrong; what to do`.
"""

import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..foundation.atomic import replacing
from ..foundation.binding import bind, construct, is_node, locate, nearest, signature
from ..foundation.errors import UserError
from ..foundation.moved import modern

KEYS = ("name", "seed", "runs_dir", "resume", "extends", "model", "data", "callbacks", "trainer")
FACTS = ("shape", "num_classes", "sigma_data", "augment_dim")
LEFT_OUT = object()
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=", re.ASCII)

_STEPS = "training is counted in optimiser steps; set trainer.max_steps"
_STREAM = "the stream of examples is addressed by position and does not change"
MANAGED = {
    "callbacks": "callbacks are listed under the recipe's own key callbacks",
    "default_root_dir": "the run folder is runs_dir/name",
    "enable_checkpointing": "checkpoints are written by lightning_diff.callbacks.Checkpoint",
    "enable_progress_bar": "progress is shown by lightning_diff.callbacks.Progress",
    "enable_model_summary": "the number of parameters is printed in any case",
    "max_epochs": _STEPS,
    "min_epochs": _STEPS,
    "limit_train_batches": _STEPS,
    "fast_dev_run": "a quick try is trainer.max_steps=3",
    "barebones": "it would switch off the callbacks that a run needs",
    "num_sanity_val_steps": "there is no validation loop to try",
    "use_distributed_sampler": _STREAM,
    "overfit_batches": _STREAM,
    "reload_dataloaders_every_n_epochs": _STREAM,
}


def is_override(argument: str) -> bool:
    """Whether a word of the command line is `dotted.key=value` rather than a recipe."""
    return OVERRIDE.match(argument) is not None


def load(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose a recipe and check all of it; nothing is built, no data are touched.

    Args:
        path: a file, or the name of a packaged recipe.
        overrides: `dotted.key=value`, where the value is YAML and list entries are named by number; later ones win.

    Raises:
        UserError: the recipe, or something in it, is not right.
    """
    recipe = compose(path, overrides)
    check(recipe, find(path))
    return recipe


def compose(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe with what it extends, all overrides, interpolations and top-level defaults; unchecked below that.

    Puts the working folder and the recipe's on Python's path.
    """
    source = find(path)
    make_importable(source.parent, Path.cwd())
    recipe, remarks = modern(_read(source))  # before overrides: one in new names belongs on top of a file in old ones
    if (base := recipe.pop("extends", None)) is not None:
        with _naming(f"{source}: extends"):
            base_source = find(str(base), source.parent)
        base_recipe, old = modern(_read(base_source))
        remarks += old
        if "extends" in base_recipe:
            raise UserError(
                f"{source}: extends: {base_source} itself extends {base_recipe['extends']}; one level is the limit"
            )
        base_recipe.pop("name", None)  # or both would train in one folder
        recipe = merge(base_recipe, recipe)
    # A changed target drops the old target's keys, so it has to come before the overrides that set the new one's.
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith("._target_")):
        recipe = _override(recipe, text)
    with _naming(source):
        for key in recipe:
            if key == "extends":
                raise UserError("extends: is written in the file, not on the command line")
            if key not in KEYS:
                raise UserError(f"{key}: unknown key of a recipe; {nearest(str(key), KEYS, 'a recipe has')}")
    defaults = {"name": source.stem, "seed": 0, "runs_dir": "runs", "resume": "auto", "model": None, "data": None}
    recipe = defaults | recipe
    for key, empty in (("callbacks", []), ("trainer", {})):
        recipe[key] = recipe.get(key) or empty
    recipe, old = modern({key: recipe[key] for key in KEYS if key in recipe})
    for remark in [*remarks, *old]:
        warnings.warn(f"{source}: {remark}", FutureWarning, stacklevel=2)
    return _resolve(recipe, source)


def check(recipe: dict[str, Any], source: Path | str) -> None:
    """Import and bind every node; see `binding.bind`. UserError with file, dotted key and the nearest valid name."""
    from lightning.pytorch import Callback, LightningModule, Trainer  # 4 s
    from lightning.pytorch.loggers import Logger

    from ..data import Data

    with _naming(source):
        for key, hint in {"name": str, "seed": int, "runs_dir": str, "resume": str}.items():
            bind(recipe[key], hint, key)
        if Path(recipe["name"]).name != recipe["name"] or recipe["name"] in ("", ".."):
            raise UserError(f"name: {recipe['name']!r} is not the name of a folder")
        if recipe["seed"] < 0:
            raise UserError(f"seed: expected a number of at least 0, got {recipe['seed']}")
        for key in ("model", "data"):
            if recipe[key] is None:
                raise UserError(f"{key}: missing; a recipe needs it")
        bind(recipe["data"], Data, "data")
        bind(recipe["model"], LightningModule, "model", FACTS)
        bind(recipe["callbacks"], list[Callback], "callbacks")
        trainer = bind(recipe["trainer"], dict[str, Any], "trainer")
        for name, reason in MANAGED.items():
            if name in trainer:
                raise UserError(f"trainer.{name}: not for a recipe to set: {reason}")
        name_of = Literal["tensorboard", "wandb"]
        logger = bind(
            recipe["trainer"].get("logger"), name_of | Logger | bool | list[name_of | Logger] | None, "trainer.logger"
        )
        for name in logger if isinstance(logger, list) else [logger]:
            if isinstance(name, str) and importlib.util.find_spec(name) is None:
                raise UserError(f"trainer.logger: {name} is not installed; pip install 'lightning_diff[{name}]'")
        options = {name: value for name, value in recipe["trainer"].items() if name != "logger"}
        bind({"_target_": "lightning.Trainer", **options}, Trainer, "trainer")
        if not isinstance(options.get("max_steps"), int) or options["max_steps"] < 1:
            raise UserError("trainer.max_steps: the number of optimiser steps, a positive integer, is missing")
        for name in ("accumulate_grad_batches", "log_every_n_steps"):
            if (number := options.get(name)) is not None and number < 1:
                raise UserError(f"trainer.{name}: expected at least 1, got {number}")
        if (limit := options.get("gradient_clip_val")) is not None and limit < 0:  # it would turn the gradient round
            raise UserError(f"trainer.gradient_clip_val: expected at least 0, got {limit}")


def build(value: Any, key: str, source: Path | str | None = None) -> Any:
    """The object that a node describes, built from the inside out; lists and dicts of nodes likewise.

    Args:
        value: a part of a recipe.
        key: its dotted key, for messages.
        source: the recipe's file, for messages.

    Raises:
        UserError: an argument does not fit its annotation, or a constructor refused it.
    """
    with _naming(source):
        return construct(bind(value, Any, key))


def fill_facts(recipe: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which each node under `model` has the facts of the data that its target takes and that are left out.

    Before them come the arguments that the model's target knows from somewhere else: if it has a function `recipe_facts`, that
    takes the node and returns them.

    Args:
        recipe: as `load` returns it.
        facts: `Data.facts()`: shape, num_classes, sigma_data, augment_dim.
    """

    def filled(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [filled(item, f"{key}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        node = {name: filled(item, f"{key}.{name}") for name, item in value.items()}
        takes = signature(locate(node["_target_"], f"{key}._target_")) or {} if is_node(node) else {}
        return node | {name: fact for name, fact in plain.items() if name in takes and name not in node}

    plain = {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}
    model = recipe["model"]
    if is_node(model) and (own := getattr(locate(model["_target_"], "model._target_"), "recipe_facts", None)):
        model = model | own(model)
    return recipe | {"model": filled(model, "model")}


def to_yaml(recipe: dict[str, Any]) -> str:
    from omegaconf import OmegaConf  # 0.1 s

    return OmegaConf.to_yaml(OmegaConf.create(recipe))


def save(recipe: dict[str, Any], path: Path | str) -> None:
    """Write a resolved recipe; `load` gives back the same."""
    with replacing(path) as temporary:
        temporary.write_text(to_yaml(recipe), encoding="utf-8")


def read_yaml(path: Path | str, *needed: str) -> dict[str, Any]:
    """A saved recipe in the names of today, unchecked. UserError if the file is missing, not YAML or lacks a key that is needed."""
    recipe, _ = modern(_resolve(_read(Path(path)), path))
    for key in needed:
        if key not in recipe:
            raise UserError(f"{path}: {key}: missing; this is not the recipe that the run saved")
    return recipe


class Change(NamedTuple):
    """A dotted key at which two recipes differ; a value that one of them leaves out is LEFT_OUT."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is LEFT_OUT:
            return f"{self.key} was left out, is {self.after!r}"
        if self.after is LEFT_OUT:
            return f"{self.key} was {self.before!r}, is left out"
        return f"{self.key} was {self.before!r}, is {self.after!r}"


def changes(before: Any, after: Any, key: str = "") -> list[Change]:
    """Every dotted key at which two recipes, or parts of recipes, differ; a node of another target is one change."""
    if isinstance(before, dict) and isinstance(after, dict) and before.get("_target_") == after.get("_target_"):
        names = [*before, *(name for name in after if name not in before)]
        parts = [
            changes(before.get(name, LEFT_OUT), after.get(name, LEFT_OUT), f"{key}.{name}" if key else name)
            for name in names
        ]
        return [change for part in parts for change in part]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [change for i, (old, new) in pairs for change in changes(old, new, f"{key}.{i}")]
    return [] if before == after else [Change(key, _name(before), _name(after))]


def _name(value: Any) -> Any:
    """A node's target in its place, which is what changed."""
    return value["_target_"] if is_node(value) else value


def find(path: Path | str, folder: Path | None = None) -> Path:
    """The recipe's file: a path (from `folder`), or the name of a packaged recipe."""
    file = Path(path) if folder is None else folder / path
    if file.is_file():
        return file
    packaged = {entry.name.removesuffix(".yaml"): entry for entry in files("lightning_diff.recipes").iterdir()}
    names = sorted(name for name, entry in packaged.items() if entry.name.endswith(".yaml"))
    name = str(path).removesuffix(".yaml")
    if name in names:
        return Path(str(packaged[name]))
    if file.is_dir():
        raise UserError(f"{file}: is a folder, not a recipe")
    raise UserError(f"{file}: no such recipe; {nearest(Path(name).name, names, 'packaged ones are')}")


def make_importable(*folders: Path) -> None:
    """Put folders at the front of Python's path, as Python does with a script's."""
    for folder in folders:
        if (entry := str(folder.resolve())) not in sys.path:
            sys.path.insert(0, entry)


def merge(base: Any, over: Any) -> Any:
    """`over` on top of `base`: mappings by key; all else, and nodes whose `_target_` changes, replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "_target_" in over and over["_target_"] != base.get("_target_"):
        return over
    return base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}


def _read(path: Path) -> dict[Any, Any]:
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
    return OmegaConf.to_container(loaded, resolve=False)  # type: ignore[return-value]


def _resolve(recipe: dict[str, Any], source: Path | str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(recipe), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UserError(f"{source}: {error.full_key}: left open (???); give it as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{source}: {place}{str(error).splitlines()[0]}") from error


def _override(recipe: dict[str, Any], text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"command line: {text}: expected dotted.key=value")
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=False)["value"]  # type: ignore[index,call-overload]
    except YAMLError as error:
        raise UserError(f"command line: {text}: the value is not YAML; quote it") from error
    return _replaced(recipe, key.split("."), parsed, key)


def _replaced(tree: Any, path: list[str], value: Any, key: str) -> Any:
    """A copy of `tree` with the value merged in at the path."""
    name, *rest = path
    done = ".".join(key.split(".")[: -len(path)])
    if isinstance(tree, list):
        if not name.isdigit() or int(name) > len(tree):
            raise UserError(f"command line: {key}: {done} has {len(tree)} entries, numbered from 0; no entry {name}")
        position = int(name)
        old = tree[position] if position < len(tree) else None
        new = _replaced(old, rest, value, key) if rest else merge(old, value)
        return [*tree[:position], new, *tree[position + 1 :]]
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"command line: {key}: {done} is {tree!r}, which has no keys")
    tree = tree or {}
    return tree | {name: _replaced(tree.get(name), rest, value, key)} if rest else merge(tree, {name: value})


@contextmanager
def _naming(source: Path | str | None) -> Iterator[None]:
    """Put the file's name before a message that has none yet."""
    try:
        yield
    except UserError as error:
        if source is None:
            raise
        raise UserError(f"{source}: {error}") from error
