"""Signatures of classes and functions, read from their source files: what `binding.signature` says without the imports.

None where the text does not settle it: a metaclass, a decorator that may change the arguments, a base class that cannot be read.
Annotations are evaluated where they are made of Python's own types, and are `Any` otherwise.
"""

import ast
import collections.abc
import inspect
import pathlib
import typing
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .annotations import ANYTHING, Hint
from .sources import Defined, Source, find, written_out

Parameters: typing.TypeAlias = dict[str, inspect.Parameter]

# Decorators that leave a signature as it is, and bases that add nothing to one.
TRANSPARENT = (
    "functools.cache",
    "functools.lru_cache",
    "contextlib.contextmanager",
    "torch.no_grad",
    "torch.inference_mode",
)
PLAIN_BASES = ("abc.ABC", "builtins.object", "typing.Generic")
TAKES_ANYTHING = ("torch.nn.Module", "torch.nn.modules.module.Module")  # for its own __init__(self, *args, **kwargs)
DATACLASS = "dataclasses.dataclass"
EVALUATED = {
    **{f"builtins.{kind.__name__}": kind for kind in (int, float, str, bool, list, tuple, dict)},
    **{f"typing.{name}": getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union")},
    **{
        f"collections.abc.{name}": getattr(collections.abc, name)
        for name in ("Sequence", "Iterable", "Collection", "Mapping")
    },
    "pathlib.Path": pathlib.Path,
}


@dataclass(frozen=True)
class Unevaluated:
    """A default value, as the source file has it."""

    text: str

    def __str__(self) -> str:
        return self.text


class Written(inspect.Parameter):
    """A parameter, with its annotation as the file has it."""

    written = ""

    def noting(self, annotation: ast.expr | None) -> "Written":
        self.written = "" if annotation is None else ast.unparse(annotation)
        return self


def parameters(defined: Defined) -> Parameters | None:
    """By name, without self; a default is its value if that is a literal, else `Unevaluated`."""
    if isinstance(defined.node, ast.FunctionDef):
        return _of_function(defined.node, defined.source) if _is_transparent(defined.node, defined.source) else None
    found = _of_class(defined)
    return None if found is None else {parameter.name: parameter for parameter in _in_order(found)}


def lineage(defined: Defined) -> Iterator[Defined]:
    """A class and those of its bases that can be read, depth first."""
    yield defined
    for base in _bases(defined):
        if (
            base not in (*PLAIN_BASES, *TAKES_ANYTHING)
            and (found := find(base))
            and isinstance(found.node, ast.ClassDef)
        ):
            yield from lineage(found)


def descends(defined: Defined, ancestors: Collection[str]) -> bool:
    """Whether a class is, or the files say that it derives from, one of these import paths."""
    if defined.path in ancestors:
        return True
    if not isinstance(defined.node, ast.ClassDef):
        return False
    return any(
        base in ancestors or ((found := find(base)) is not None and descends(found, ancestors))
        for base in _bases(defined)
    )


def _bases(defined: Defined) -> Iterator[str]:
    assert isinstance(defined.node, ast.ClassDef)
    for base in defined.node.bases:
        bare = base.value if isinstance(base, ast.Subscript) else base
        yield written_out(bare, defined.source) or ""


def _of_class(defined: Defined) -> list[inspect.Parameter] | None:
    node, here = defined.node, defined.source
    assert isinstance(node, ast.ClassDef)
    own = {statement.name: statement for statement in node.body if isinstance(statement, ast.FunctionDef)}
    if node.keywords or "__new__" in own or _says_its_own(node) or not _decorators_are_plain(node, here):
        return None
    if _dataclass(node, here) is not None:
        return _of_dataclass(defined)
    if "__init__" in own:
        init = own["__init__"]
        return list(_of_function(init, here, skip=1).values()) if _is_transparent(init, here) else None
    for base in _bases(defined):
        if base in PLAIN_BASES:
            continue
        if base in TAKES_ANYTHING:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            return [inspect.Parameter(name, kind) for name, kind in zip(("args", "kwargs"), kinds, strict=True)]
        found = find(base)
        return _of_class(found) if found and isinstance(found.node, ast.ClassDef) else None
    return []


def _says_its_own(node: ast.ClassDef) -> bool:
    """Whether a class sets its signature or its constructor by an assignment."""
    targets = [target for statement in node.body if isinstance(statement, ast.Assign) for target in statement.targets]
    return any(isinstance(target, ast.Name) and target.id in ("__signature__", "__init__") for target in targets)


def _of_dataclass(defined: Defined) -> list[inspect.Parameter] | None:
    """The fields of a dataclass, after those of the dataclasses that it derives from."""
    fields: dict[str, inspect.Parameter] = {}
    for base in reversed([*_bases(defined)]):
        if base in (*PLAIN_BASES, *TAKES_ANYTHING):
            continue
        found = find(base)
        if found is None or not isinstance(found.node, ast.ClassDef):
            return None
        inherited = _of_dataclass(found) if _dataclass(found.node, found.source) is not None else []
        if inherited is None:
            return None
        fields |= {parameter.name: parameter for parameter in inherited}
    node, here = defined.node, defined.source
    assert isinstance(node, ast.ClassDef)
    options = _dataclass(node, here) or {}
    if any(isinstance(statement, ast.FunctionDef) and statement.name == "__init__" for statement in node.body):
        return None
    only_named = options.get("kw_only") is True
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if kind.rpartition(".")[2] == "KW_ONLY":
            only_named = True
        elif not kind.rpartition("[")[0].endswith("ClassVar") and "ClassVar" not in kind.partition("[")[0]:
            field = _field(statement, here, only_named)
            if field is None:
                fields.pop(statement.target.id, None)
            else:
                fields[field.name] = field
    return list(fields.values())


def _field(statement: ast.AnnAssign, here: Source, only_named: bool) -> inspect.Parameter | None:
    """One field of a dataclass; None for one that the constructor does not take."""
    assert isinstance(statement.target, ast.Name)
    value = statement.value
    default: object = inspect.Parameter.empty if value is None else _default(value)
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        if isinstance(init := given.get("init"), ast.Constant) and init.value is False:
            return None
        if isinstance(named := given.get("kw_only"), ast.Constant):
            only_named = bool(named.value)
        made = given.get("default", given.get("default_factory"))
        default = inspect.Parameter.empty if made is None else _default(made)
        if "default_factory" in given:
            default = Unevaluated(f"{default}()")
    kind = inspect.Parameter.KEYWORD_ONLY if only_named else inspect.Parameter.POSITIONAL_OR_KEYWORD
    hint = _hint(statement.annotation, here, default)
    return Written(statement.target.id, kind, default=default, annotation=hint).noting(statement.annotation)


def _of_function(node: ast.FunctionDef, here: Source, skip: int = 0) -> Parameters:
    arguments, kinds = node.args, inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    found = [
        _parameter(
            argument,
            kinds.POSITIONAL_ONLY if i < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD,
            value,
            here,
        )
        for i, (argument, value) in enumerate(zip(plain, defaults, strict=True))
    ][skip:]
    if arguments.vararg:
        found.append(_parameter(arguments.vararg, kinds.VAR_POSITIONAL, None, here))
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(_parameter(argument, kinds.KEYWORD_ONLY, value, here))
    if arguments.kwarg:
        found.append(_parameter(arguments.kwarg, kinds.VAR_KEYWORD, None, here))
    return {parameter.name: parameter for parameter in found}


def _parameter(argument: ast.arg, kind: typing.Any, value: ast.expr | None, here: Source) -> inspect.Parameter:
    default: object = inspect.Parameter.empty if value is None else _default(value)
    hint = _hint(argument.annotation, here, default)
    return Written(argument.arg, kind, default=default, annotation=hint).noting(argument.annotation)


def _default(value: ast.expr) -> object:
    try:
        found: object = ast.literal_eval(value)
    except ValueError:
        return Unevaluated(ast.unparse(value))
    return found


def _hint(annotation: ast.expr | None, here: Source, default: object) -> Hint:
    """The annotation, if it is made of Python's own types; where the default is unknown it may be None, which fits anything."""
    if annotation is None or isinstance(default, Unevaluated):
        return ANYTHING
    try:
        return _evaluated(annotation, here)
    except (LookupError, TypeError):
        return ANYTHING


def _evaluated(part: ast.expr, here: Source) -> Hint:
    if isinstance(part, ast.Constant):
        if part.value is None or part.value is Ellipsis:
            return part.value
        if isinstance(part.value, str):
            return _evaluated(ast.parse(part.value, mode="eval").body, here)
        raise LookupError(part.value)
    if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
        return typing.Union[_evaluated(part.left, here), _evaluated(part.right, here)]  # noqa: UP007 (their values)
    if isinstance(part, ast.Subscript):
        outer = _evaluated(part.value, here)
        inner = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
        if outer is typing.Literal:
            return outer[tuple(ast.literal_eval(element) for element in inner)]
        return outer[tuple(_evaluated(element, here) for element in inner)]
    return EVALUATED[written_out(part, here) or ""]


def _is_transparent(node: ast.FunctionDef, here: Source) -> bool:
    """Whether its decorators leave its arguments as they are."""
    for decorator in node.decorator_list:
        bare = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = written_out(bare, here) or ""
        if name not in TRANSPARENT and not ((found := find(name)) and "wraps" in _decorators_inside(found.node)):
            return False
    return True


def _decorators_inside(node: ast.AST) -> set[str]:
    """The names of the decorators on functions inside a function."""
    inner = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)]
    calls = [
        part.func if isinstance(part, ast.Call) else part for function in inner for part in function.decorator_list
    ]
    return {ast.unparse(call).rpartition(".")[2] for call in calls}


def _decorators_are_plain(node: ast.ClassDef, here: Source) -> bool:
    known = ("typing.final", "typing.runtime_checkable", DATACLASS)
    bare = [part.func if isinstance(part, ast.Call) else part for part in node.decorator_list]
    return all((written_out(part, here) or "") in known for part in bare)


def _dataclass(node: ast.ClassDef, here: Source) -> dict[str, object] | None:
    """The options of a dataclass's decorator; None for another class."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        if written_out(call.func if call else decorator, here) == DATACLASS:
            pairs = [(keyword.arg or "", _default(keyword.value)) for keyword in (call.keywords if call else [])]
            return None if ("init", False) in pairs else dict(pairs)
    return None


def _in_order(found: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    return sorted(found, key=lambda parameter: parameter.kind)  # a dataclass's named ones go last
