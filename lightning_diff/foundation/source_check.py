"""What of a recipe's mistakes can be told from source files alone: in milliseconds, before anything heavy is imported.

Unknown and missing arguments, and values that do not fit an annotation made of Python's own types, in the words of
`binding.bind`, which says the rest after the imports.
"""

from collections.abc import Collection, Iterator

from .binding import bind, hint_for, is_node, refuse_missing_arguments, refuse_unknown_arguments
from .source_signatures import descends, parameters
from .sources import find


def refuse_by_source(
    value: object, key: str, kind: Collection[str] = (), later: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """UserError for a mistake that `binding.bind` would find in this part of a recipe, if the files say so for certain.

    Args:
        value: plain values, lists, dicts and nodes.
        key: dotted place of the value in the recipe.
        kind: import paths of the class that has to stand here; another one is not looked into, since that is the mistake then.
        later: names of parameters that may be missing, because they will be filled in.
        without: parameters that no message offers.
    """
    if not is_node(value):
        for inner, part in _parts(value):
            refuse_by_source(part, f"{key}.{inner}", kind, later)
        return
    name = value["_target_"]
    defined = find(name) if isinstance(name, str) else None
    if kind and (defined is None or not descends(defined, kind)):
        return
    known = None if defined is None else parameters(defined)
    given = {argument: part for argument, part in value.items() if argument not in ("_target_", "_partial_")}
    named = {} if known is None else refuse_unknown_arguments(name, given, known, key, without)
    for argument, part in given.items():
        if _holds_a_node(part):
            refuse_by_source(part, f"{key}.{argument}")
        elif known is not None:
            bind(part, hint_for(part, named.get(argument)), f"{key}.{argument}")
    if kind and known is not None and "_partial_" not in value:
        refuse_missing_arguments(name, {*given, *later}, named, key)


def _parts(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _holds_a_node(value: object) -> bool:
    return is_node(value) or any(_holds_a_node(part) for _, part in _parts(value))
