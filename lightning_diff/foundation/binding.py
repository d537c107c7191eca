"""From a recipe's nodes to objects: `_target_` nodes are bound against the signature of what they name, then called.

A *node* is a mapping with `_target_`, the import path of a class or function; its other keys are that target's keyword
arguments, values or further nodes. `_partial_: true` leaves the call to whoever receives it (functools.partial).
Binding imports and checks everything and calls nothing, so that a mistake anywhere is found before any work is done.
Every message starts with the dotted key.
"""

import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeAlias, TypeGuard, get_args, get_origin

from .annotations import (
    ANYTHING,
    LISTS,
    MAPPINGS,
    Hint,
    Mismatch,
    alternatives,
    mismatch,
    of_its_shape,
    refuse_product,
    refuse_unfit,
    show,
)
from .errors import UserError
from .extras import OFTEN_NAMED, how_to_install, is_installed
from .moved import current

# A mapping of a recipe: plain values, lists and further nodes, whose types its target's signature says.
Node: TypeAlias = dict[str, Any]
Parameters: TypeAlias = dict[str, inspect.Parameter]

# Where modules were that a run folder notes and Python does not find, by the first part of their names (`artifacts.user_code`).
PLACES: dict[str, str] = {}

# What a constructor may raise because of its arguments, as opposed to because of its code.
USERS_FAULT = (UserError, ValueError, ImportError, OSError)


@dataclass(frozen=True)
class Bound:
    """A node whose target was imported and whose arguments fit the target's signature."""

    key: str
    target: Callable[..., object]
    arguments: dict[str, object]
    is_partial: bool


def is_node(value: object) -> TypeGuard[Node]:
    """Whether a value of a recipe is a mapping with `_target_`."""
    return isinstance(value, dict) and "_target_" in value


def construct(value: object) -> Any:
    """Call what `bind` bound, innermost first. A constructor's complaint becomes a UserError with the dotted key."""
    if isinstance(value, list | tuple):
        return type(value)(construct(item) for item in value)
    if isinstance(value, dict):
        return {name: construct(item) for name, item in value.items()}
    if not isinstance(value, Bound):
        return value
    arguments = construct(value.arguments)
    try:
        return partial(value.target, **arguments) if value.is_partial else value.target(**arguments)
    except USERS_FAULT as error:
        text = " ".join(str(error).split())
        is_placed = text.startswith(f"{value.key}.")  # it names the argument by its whole key
        raise UserError(text if is_placed else f"{value.key}: {text}") from error


def bind(value: object, hint: Hint, key: str, later: Collection[str] = ()) -> Any:
    """`value` with every node in it bound, and every value converted to its annotation where that loses nothing.

    Integers pass for floats, lists for tuples, strings for paths.

    Args:
        value: plain values, lists, dicts and nodes.
        hint: the annotation that the value has to fit; Any accepts everything.
        key: dotted place of the value in the recipe.
        later: names of parameters that may be missing, because they will be filled in.
    """
    if is_node(value):
        return _bind_node(value, hint, key, later)
    members = of_its_shape(value, alternatives(hint))
    if len(members) == 1:
        try:
            return _fit(value, members[0], key, later)
        except Mismatch as error:
            raise mismatch(value, hint, key) if str(error).startswith(f"{key}: expected") else error from None
    for fit_exactly in (True, False):  # 3 stays an integer where `int | float` is wanted
        for member in members:
            try:
                fitted = _fit(value, member, key, later)
            except Mismatch:
                continue
            if not fit_exactly or type(fitted) is type(value):
                return fitted
    raise mismatch(value, hint, key)


def _bind_node(node: Node, hint: Hint, key: str, later: Collection[str]) -> Bound:
    name = node["_target_"]
    target = locate(name, f"{key}._target_")
    is_partial = node.get("_partial_", False)
    if not isinstance(is_partial, bool):
        raise Mismatch(f"{key}._partial_: expected true or false, got {show(is_partial)}")
    refuse_product(target, is_partial, hint, key, name)
    given = {argument: value for argument, value in node.items() if argument not in ("_target_", "_partial_")}
    parameters = signature(target)
    if parameters is None:
        free = {argument: bind(value, ANYTHING, f"{key}.{argument}") for argument, value in given.items()}
        return Bound(key, target, free, is_partial)
    named = refuse_unknown_arguments(name, given, parameters, key)
    arguments = {
        argument: bind(value, hint_for(value, named.get(argument)), f"{key}.{argument}", later)
        for argument, value in given.items()
    }
    if not is_partial:
        refuse_missing_arguments(name, {*given, *later}, named, key)
    return Bound(key, target, arguments, is_partial)


def refuse_unknown_arguments(
    name: str, given: Node, parameters: Parameters, key: str, without: Collection[str] = ()
) -> Parameters:
    """The parameters of a target that a recipe can name. UserError for an argument that is none of them.

    Args:
        name: of the target.
        given: arguments.
        parameters: of the target.
        key: dotted place of the target in the recipe.
        without: parameters that no message offers, because they are refused in turn.
    """
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for argument in given:
        if argument not in named and not (takes_any and isinstance(argument, str)):
            offered = [parameter for parameter in named if parameter not in without]
            raise UserError(f"{key}.{argument}: unknown key of {name}; {nearest(str(argument), offered, 'it takes')}")
    return named


def refuse_missing_arguments(name: str, there: Collection[str], named: Parameters, key: str) -> None:
    """UserError for a parameter that has no default and is not there."""
    for argument, parameter in named.items():
        if argument not in there and parameter.default is parameter.empty:
            raise UserError(f"{key}.{argument}: missing; {name} needs it")


def hint_for(value: object, parameter: inspect.Parameter | None) -> Hint:
    """A parameter's annotation; a default of None is always right, whatever the annotation says."""
    if parameter is None or (value is None and parameter.default is None):
        return ANYTHING
    return parameter.annotation


def _fit(value: object, hint: Hint, key: str, later: Collection[str]) -> Any:
    """`bind` for a value that is no node and a hint that is no union."""
    origin, arguments = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        fitted = bind(value, arguments[0], key, later)
        refuse_unfit(fitted, hint, key)
        return fitted
    if isinstance(value, list):
        if hint is ANYTHING or (kind in LISTS and kind is not tuple):
            element = arguments[0] if arguments else ANYTHING
            return [bind(item, element, f"{key}.{i}", later) for i, item in enumerate(value)]
        if kind is tuple:
            return _fit_tuple(value, hint, key, later)
    if isinstance(value, dict):
        if hint is ANYTHING or kind in MAPPINGS:
            name_hint, element = arguments or (ANYTHING, ANYTHING)
            for name in value:
                refuse_unfit(name, name_hint, f"{key}.{name}")
            return {name: bind(item, element, f"{key}.{name}", later) for name, item in value.items()}
        if not is_node(value) and (likely := get_close_matches("_target_", map(str, value), n=1)):
            raise Mismatch(f"{key}.{likely[0]}: unknown key; did you mean _target_?")
    if hint in (int, float, complex) and isinstance(value, bool):
        raise mismatch(value, hint, key)
    if hint is float and isinstance(value, int):
        return float(value)
    if isinstance(value, str) and hint is Path:
        return Path(value)
    refuse_unfit(value, hint, key)
    return value


def _fit_tuple(value: list[object], hint: Hint, key: str, later: Collection[str]) -> tuple[object, ...]:
    elements = get_args(hint)
    if not elements or elements[-1] is Ellipsis:
        elements = (elements[0] if elements else ANYTHING,) * len(value)
    if len(elements) != len(value):
        raise mismatch(value, hint, key)
    return tuple(
        bind(item, element, f"{key}.{i}", later) for i, (item, element) in enumerate(zip(value, elements, strict=True))
    )


def locate(name: object, key: str) -> Callable[..., Any]:
    """Import the class or function with this dotted path; UserError with the nearest path that exists."""
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{key}: expected the import path of a class or function, got {show(name)}")
    parts = current(name).split(".")
    found: object = None
    for i, part in enumerate(parts):
        if found is not None and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = _import(".".join(parts[: i + 1]), found, key)
        except ModuleNotFoundError:
            raise UserError(f"{key}: cannot import {name}; {_advice(parts, i, found)}") from None
    if not callable(found):
        raise UserError(f"{key}: {name} is a {type(found).__name__}; expected a class or function")
    return found


def _advice(parts: list[str], i: int, found: object) -> str:
    """What to do where part i of a dotted path is not there."""
    if found is None and parts[0] in PLACES:
        place = Path(PLACES[parts[0]])
        return f"when it was trained, {parts[0]} was {place}: copy it to the working folder or set PYTHONPATH to its folder"
    if found is None and parts[0] in OFTEN_NAMED and not is_installed(parts[0]):
        return f"{parts[0]} is not installed: {how_to_install(parts[0])}"
    # Of a first part, only what is next to certain: among thousands of modules something always looks alike.
    if guesses := get_close_matches(parts[i], _names_in(found), n=1, cutoff=0.6 if found else 0.85):
        return f"did you mean {'.'.join([*parts[:i], guesses[0], *parts[i + 1 :]])}?"
    if found is None:
        return f"{parts[0]}.py or a package {parts[0]} must be in the recipe's or the working folder, on PYTHONPATH or installed"
    return "it must be importable from the recipe's or the working folder"


def _import(name: str, parent: object, key: str) -> ModuleType:
    if parent is not None and not hasattr(parent, "__path__"):
        raise ModuleNotFoundError(name)  # an attribute that is not there: only packages have modules inside
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise
        raise UserError(f"{key}: importing {name} failed: {error}") from error
    except Exception as error:
        raise UserError(
            f"{key}: importing {name} failed: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _names_in(parent: object) -> set[str]:
    if parent is None:
        return {
            name
            for name in (*sys.modules, *(module.name for module in pkgutil.iter_modules()))
            if "." not in name and name not in sys.stdlib_module_names
        }
    modules = pkgutil.iter_modules(getattr(parent, "__path__", ()))
    return {name for name in dir(parent) if not name.startswith("_")} | {module.name for module in modules}


def signature(target: Callable[..., object]) -> Parameters | None:
    """Parameters by name, annotations evaluated (Any where there is none); None if the target hides them."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    annotated = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(annotated, include_extras=True)
    except Exception:  # names that exist for type checkers alone
        hints = {}

    def evaluated(name: str, parameter: inspect.Parameter) -> inspect.Parameter:
        hint = hints.get(name, parameter.annotation)
        return parameter.replace(annotation=ANYTHING if isinstance(hint, str) or hint is parameter.empty else hint)

    return {name: evaluated(name, parameter) for name, parameter in parameters.items()}


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean ...?`, or all the names if none is near: the end of a message."""
    known = list(known)
    folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), folded, n=1)
    return f"did you mean {folded[matches[0]]}?" if matches else f"{otherwise} {', '.join(known) or 'nothing'}"
