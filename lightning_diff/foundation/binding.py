"""From a recipe's nodes to objects: `_target_` nodes are bound against the signature of what they name, then called.

A *node* is a mapping with `_target_`, the import path of a class or function; its other keys are that target's keyword
arguments, values or further nodes. `_partial_: true` leaves the call to whoever receives it (functools.partial).
Binding imports and checks everything and calls nothing, so that a mistake anywhere is found before any work is done.
Every message starts with the dotted key.
"""

import collections.abc
import importlib
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import UserError
from .moved import current

# What a constructor may raise because of its arguments, as opposed to because of its code.
USERS_FAULT = (UserError, ValueError, ImportError, OSError)

LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Mismatch(UserError):
    """A value that does not fit its annotation."""


@dataclass(frozen=True)
class Bound:
    """A node whose target was imported and whose arguments fit the target's signature."""

    key: str
    target: Callable[..., Any]
    arguments: dict[str, Any]
    is_partial: bool


def is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def construct(value: Any) -> Any:
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
        raise UserError(f"{value.key}: {' '.join(str(error).split())}") from error


def bind(value: Any, hint: Any, key: str, later: Collection[str] = ()) -> Any:
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
    alternatives = _of_its_shape(value, _alternatives(hint))
    if len(alternatives) == 1:
        try:
            return _fit(value, alternatives[0], key, later)
        except Mismatch as error:
            raise _mismatch(value, hint, key) if str(error).startswith(f"{key}: expected") else error from None
    for fit_exactly in (True, False):  # 3 stays an integer where `int | float` is asked for
        for alternative in alternatives:
            try:
                fitted = _fit(value, alternative, key, later)
            except Mismatch:
                continue
            if not fit_exactly or type(fitted) is type(value):
                return fitted
    raise _mismatch(value, hint, key)


def _bind_node(node: dict[str, Any], hint: Any, key: str, later: Collection[str]) -> Bound:
    name = node["_target_"]
    target = locate(name, f"{key}._target_")
    is_partial = node.get("_partial_", False)
    if not isinstance(is_partial, bool):
        raise Mismatch(f"{key}._partial_: expected true or false, got {_show(is_partial)}")
    _check_product(target, is_partial, hint, key, name)
    given = {argument: value for argument, value in node.items() if argument not in ("_target_", "_partial_")}
    parameters = signature(target)
    if parameters is None:
        return Bound(
            key, target, {name: bind(value, Any, f"{key}.{name}") for name, value in given.items()}, is_partial
        )
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    arguments = {}
    for argument, value in given.items():
        place = f"{key}.{argument}"
        if argument not in named and not (takes_any and isinstance(argument, str)):
            raise UserError(f"{place}: unknown key of {name}; {nearest(str(argument), named, 'it takes')}")
        parameter = named.get(argument)
        if parameter is None or (value is parameter.default and value is None):
            arguments[argument] = bind(value, Any, place, later)
        else:
            arguments[argument] = bind(value, parameter.annotation, place, later)
    for argument, parameter in named.items():
        if not (is_partial or argument in given or argument in later or parameter.default is not parameter.empty):
            raise UserError(f"{key}.{argument}: missing; {name} needs it")
    return Bound(key, target, arguments, is_partial)


def locate(name: Any, key: str) -> Callable[..., Any]:
    """Import the class or function with this dotted path; UserError with the nearest path that exists."""
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{key}: expected the import path of a class or function, got {_show(name)}")
    parts = current(name).split(".")
    found: Any = None
    for i, part in enumerate(parts):
        here = ".".join(parts[: i + 1])
        if found is not None and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = _import(here, found, key)
        except ModuleNotFoundError:
            rest = parts[i + 1 :]
            guesses = [".".join([*parts[:i], guess, *rest]) for guess in get_close_matches(part, _names_in(found), n=1)]
            hint = (
                f"did you mean {guesses[0]}?"
                if guesses
                else "it must be importable from the recipe's or the working folder"
            )
            raise UserError(f"{key}: cannot import {name}; {hint}") from None
    if not callable(found):
        raise UserError(f"{key}: {name} is a {type(found).__name__}; expected a class or function")
    return found


def _import(name: str, parent: Any, key: str) -> Any:
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


def _names_in(parent: Any) -> set[str]:
    if parent is None:
        return {*sys.modules, *(module.name for module in pkgutil.iter_modules())}
    modules = pkgutil.iter_modules(parent.__path__) if hasattr(parent, "__path__") else ()
    return {name for name in dir(parent) if not name.startswith("_")} | {module.name for module in modules}


def signature(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Parameters by name, annotations evaluated (Any where there is none); None if the target does not tell them."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    annotated = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(annotated, include_extras=True)
    except Exception:  # names that exist for type checkers alone
        hints = {}
    evaluated = {}
    for name, parameter in parameters.items():
        hint = hints.get(name, parameter.annotation)
        evaluated[name] = parameter.replace(
            annotation=Any if isinstance(hint, str) or hint is parameter.empty else hint
        )
    return evaluated


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean ...?`, or all the names if none is near: the end of a sentence."""
    known = list(known)
    folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), folded, n=1)
    return f"did you mean {folded[matches[0]]}?" if matches else f"{otherwise} {', '.join(known) or 'nothing'}"


def _alternatives(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [inner for part in get_args(hint) for inner in _alternatives(part)]
    if isinstance(hint, TypeVar):
        return _alternatives(hint.__bound__) if hint.__bound__ else [Any]
    return [type(None) if hint is None else hint]


def _of_its_shape(value: Any, alternatives: list[Any]) -> list[Any]:
    """The alternatives that are containers like the value, or all but None, so that messages name the wrong entry."""
    for kind, origins in ((list, LISTS), (dict, MAPPINGS)):
        if isinstance(value, kind) and (containers := [a for a in alternatives if (get_origin(a) or a) in origins]):
            return containers
    return [a for a in alternatives if value is None or a is not type(None)] or alternatives


def _fit(value: Any, hint: Any, key: str, later: Collection[str]) -> Any:
    """`bind` for a value that is no node and a hint that is no union."""
    origin, arguments = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        return _checked(bind(value, arguments[0], key, later), hint, key)
    if isinstance(value, list):
        if hint is Any or (kind in LISTS and kind is not tuple):
            element = arguments[0] if arguments else Any
            return [bind(item, element, f"{key}.{i}", later) for i, item in enumerate(value)]
        if kind is tuple:
            return _fit_tuple(value, hint, key, later)
    if isinstance(value, dict):
        if hint is Any or kind in MAPPINGS:
            name_hint, element = arguments or (Any, Any)
            for name in value:
                _checked(name, name_hint, f"{key}.{name}")
            return {name: bind(item, element, f"{key}.{name}", later) for name, item in value.items()}
        if not is_node(value) and (likely := get_close_matches("_target_", map(str, value), n=1)):
            raise Mismatch(f"{key}.{likely[0]}: unknown key; did you mean _target_?")
    if hint in (int, float, complex) and isinstance(value, bool):
        raise _mismatch(value, hint, key)
    if hint is float and isinstance(value, int):
        return float(value)
    if isinstance(value, str) and hint is Path:
        return Path(value)
    return _checked(value, hint, key)


def _fit_tuple(value: list[Any], hint: Any, key: str, later: Collection[str]) -> tuple[Any, ...]:
    elements = get_args(hint)
    if not elements or elements[-1] is Ellipsis:
        elements = (elements[0] if elements else Any,) * len(value)
    if len(elements) != len(value):
        raise _mismatch(value, hint, key)
    return tuple(
        bind(item, element, f"{key}.{i}", later) for i, (item, element) in enumerate(zip(value, elements, strict=True))
    )


def _checked(value: Any, hint: Any, key: str) -> Any:
    from beartype.door import is_bearable  # 0.2 s
    from beartype.roar import BeartypeException

    try:
        fits = hint is Any or is_bearable(value, hint)
    except BeartypeException:  # an annotation that cannot be checked at run time
        fits = True
    if not fits:
        raise _mismatch(value, hint, key)
    return value


def _mismatch(value: Any, hint: Any, key: str) -> Mismatch:
    choices = [choice for part in _alternatives(hint) if get_origin(part) is Literal for choice in get_args(part)]
    if choices and isinstance(value, str):
        strings = [choice for choice in choices if isinstance(choice, str)]
        close = get_close_matches(value, strings, n=1)
        ending = f"; did you mean {close[0]}?" if close else ""
        listed = ", ".join(dict.fromkeys(map(str, choices)))
        return Mismatch(f"{key}: {_show(value)} is not one of {listed}{ending}")
    if isinstance(value, dict):
        return Mismatch(f"{key}: expected {describe(hint)}, got a mapping without _target_")
    return Mismatch(f"{key}: expected {describe(hint)}, got {_show(value)}")


def describe(hint: Any) -> str:
    """An annotation as a person would write it."""
    alternatives = _alternatives(hint)
    if len(alternatives) > 1:
        return " or ".join(describe(alternative) for alternative in alternatives)
    hint = alternatives[0]
    if hint is type(None):
        return "null"
    if get_origin(hint) is Annotated:
        return f"{describe(get_args(hint)[0])} within the limits of its annotation"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (collections.abc.Sequence, list, tuple) and get_args(hint):
        elements = [describe(element) for element in get_args(hint) if element is not Ellipsis]
        return f"a list of {', '.join(elements)}"
    return getattr(get_origin(hint) or hint, "__name__", str(hint))


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_product(target: Any, is_partial: bool, hint: Any, key: str, name: str) -> None:
    """Refuse a node whose product cannot be what the annotation asks for; accept where that is not known yet."""
    product: Any = Callable if is_partial else target if inspect.isclass(target) else None
    if product is None:
        try:
            returned = typing.get_type_hints(target).get("return")
        except Exception:
            returned = None
        if not inspect.isclass(returned):
            return
        product = returned
    alternatives = [alternative for alternative in _alternatives(hint) if alternative is not type(None)]
    reasons = [_unlike(product, alternative) for alternative in alternatives]
    if reasons and all(reasons):
        lacking = "" if len(reasons) > 1 else reasons[0]
        raise Mismatch(f"{key}: expected {describe(hint)}, got {name}{lacking}")


def _unlike(product: Any, hint: Any) -> str | None:
    """Why `product` (a class, or Callable for any function) is not of type `hint`; None if it is, or may be."""
    kind = getattr(hint, "array_type", None) or get_origin(hint) or hint  # jaxtyping's arrays name their class
    if kind is Annotated:
        return _unlike(product, get_args(hint)[0])
    if kind is collections.abc.Callable or hint is Callable:
        needs_call = product is not Callable and "__call__" not in dir(product)
        return "; add _partial_: true, so that it is called later" if needs_call else None
    if kind in (Any, object) or not inspect.isclass(kind):
        return None
    if product is Callable:
        is_call = kind is partial or (_is_protocol(kind) and not _missing_members(partial, kind))
        return None if is_call else "; remove _partial_"
    if _is_protocol(kind):
        missing = _missing_members(product, kind)
        return f", which has no {missing[0]}" if missing else None
    try:
        return None if issubclass(product, kind) else ", which is not one"
    except TypeError:
        return None


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _missing_members(product: type, protocol: type) -> list[str]:
    methods = [name for name in dir(protocol) if not name.startswith("_") and callable(getattr(protocol, name))]
    if "__call__" in dir(protocol):
        methods.append("__call__")
    return [name for name in methods if name not in dir(product)]
