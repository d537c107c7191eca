"""Annotations as the law for values that a person wrote: what fits one, what one is called, and why something does not fit."""

import collections.abc
import inspect
import re
import sys
import types
import typing
from abc import ABCMeta
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from .errors import UserError

# What stands after the colon of a parameter: a class, a union, a generic, `Any` itself. `typing` has no one type for them.
Hint: TypeAlias = Any
ANYTHING: Hint = Any  # the annotation that every value fits

LISTS: tuple[Hint, ...] = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS: tuple[Hint, ...] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Mismatch(UserError):
    """A value that does not fit its annotation."""


def alternatives(hint: Hint) -> list[Hint]:
    """The members of a union, of unions in it too; a hint that is none is the only one."""
    if get_origin(hint) in (Union, types.UnionType):
        return [inner for part in get_args(hint) for inner in alternatives(part)]
    if isinstance(hint, TypeVar):
        return alternatives(hint.__bound__) if hint.__bound__ else [ANYTHING]
    return [type(None) if hint is None else hint]


def of_its_shape(value: object, hints: list[Hint]) -> list[Hint]:
    """The hints that are containers like the value, or all but None, so that messages name the wrong entry."""
    for kind, origins in ((list, LISTS), (dict, MAPPINGS)):
        if isinstance(value, kind) and (
            containers := [hint for hint in hints if (get_origin(hint) or hint) in origins]
        ):
            return containers
    return [hint for hint in hints if value is None or hint is not type(None)] or hints


def refuse_unfit(value: object, hint: Hint, key: str) -> None:
    """Mismatch if the value does not fit; an annotation that cannot be checked at run time takes everything."""
    if not fits(value, hint):
        raise mismatch(value, hint, key)


def fits(value: object, hint: Hint) -> bool:
    """Whether a value is what an annotation asks for; what cannot be checked at run time fits."""
    if hint is ANYTHING:
        return True
    if type(hint) in (type, ABCMeta):  # with a metaclass of its own a class may take what is no instance of it
        return isinstance(value, hint)
    origin: Hint = get_origin(hint)
    if origin in (*LISTS, *MAPPINGS) and not isinstance(value, origin):
        return False
    if origin is Literal:
        return any(isinstance(value, type(choice)) and value == choice for choice in get_args(hint))
    from beartype.door import is_bearable  # 0.2 s, which the common cases above save
    from beartype.roar import BeartypeException

    try:
        return bool(is_bearable(value, hint))
    except BeartypeException:
        return True


def mismatch(value: object, hint: Hint, key: str) -> Mismatch:
    """The error for a value that does not fit its annotation."""
    choices = [choice for part in alternatives(hint) if get_origin(part) is Literal for choice in get_args(part)]
    if choices and isinstance(value, str):
        strings = [choice for choice in choices if isinstance(choice, str)]
        close = get_close_matches(value, strings, n=1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        listed = ", ".join(dict.fromkeys(map(str, choices)))
        return Mismatch(f"{key}: {show(value)} is not one of {listed}{suggestion}")
    if isinstance(value, dict):
        return Mismatch(f"{key}: expected {describe(hint)}, got a mapping without _target_")
    suggestion = f"; did you mean {node}?" if isinstance(value, str) and (node := _node(value, hint)) else ""
    return Mismatch(f"{key}: expected {describe(hint)}, got {show(value)}{suggestion}")


def _node(name: str, hint: Hint) -> str | None:
    """The node for a class of that name, or import path, which fits where the name alone does not; None if there is none."""
    wanted = [member for member in alternatives(hint) if member is not type(None)]
    path, _, last = name.rpartition(".")
    package = __name__.partition(".")[0]
    rooms = (
        [path] if path else sorted(room for room in sys.modules if re.fullmatch(rf"{package}\.\w+|torch\.optim", room))
    )
    for room in rooms:
        for there, found in sorted(vars(sys.modules[room]).items()) if room in sys.modules else ():
            if there.casefold() != last.casefold() or not inspect.isclass(found) or there.startswith("_"):
                continue
            reasons = [_unlike(found, member) for member in wanted]
            if None in reasons:
                return f"{{_target_: {room}.{there}}}"
            if any(reason and "add _partial_" in reason for reason in reasons):
                return f"{{_target_: {room}.{there}, _partial_: true}}"
    return None


def describe(hint: Hint) -> str:
    """An annotation as a person would write it."""
    members = alternatives(hint)
    if len(members) > 1:
        return " or ".join(describe(member) for member in members)
    hint = members[0]
    if hint is type(None):
        return "null"
    if get_origin(hint) is Annotated:
        return f"{describe(get_args(hint)[0])} within the limits of its annotation"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (collections.abc.Sequence, list, tuple) and get_args(hint):
        elements = [describe(element) for element in get_args(hint) if element is not Ellipsis]
        return f"a list of {', '.join(elements)}"
    return str(getattr(get_origin(hint) or hint, "__name__", hint))


def show(value: object) -> str:
    """A value as YAML would have it, cut to 60 characters."""
    for constant, word in ((None, "null"), (True, "true"), (False, "false")):
        if value is constant:
            return word
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse_product(target: Callable[..., object], is_partial: bool, hint: Hint, key: str, name: str) -> None:
    """Refuse a node whose product cannot be what the annotation asks for; accept where that is not known yet."""
    product = _product(target, is_partial)
    if product is None:
        return
    wanted = [member for member in alternatives(hint) if member is not type(None)]
    reasons = [_unlike(product, member) for member in wanted]
    if reasons and all(reasons):
        lacking = "" if len(reasons) > 1 else reasons[0]
        raise Mismatch(f"{key}: expected {describe(hint)}, got {name}{lacking}")


def _product(target: Callable[..., object], is_partial: bool) -> Hint:
    """The class that calling the target makes, Callable if that is left to somebody else; None if it is not known."""
    if is_partial:
        return Callable
    if inspect.isclass(target):
        return target
    try:
        returned = typing.get_type_hints(target).get("return")
    except Exception:  # names that exist for type checkers alone
        return None
    return returned if inspect.isclass(returned) else None


def _unlike(product: Hint, hint: Hint) -> str | None:
    """Why `product` (a class, or Callable for any function) is not of type `hint`; None if it is, or may be."""
    kind = getattr(hint, "array_type", None) or get_origin(hint) or hint  # jaxtyping's arrays name their class
    if kind is Annotated:
        return _unlike(product, get_args(hint)[0])
    if kind is collections.abc.Callable or hint is Callable:
        needs_call = product is not Callable and "__call__" not in dir(product)
        return "; add _partial_: true, so that it is called later" if needs_call else None
    if kind in (ANYTHING, object) or not inspect.isclass(kind):
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
