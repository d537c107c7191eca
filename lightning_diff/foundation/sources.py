"""What source files define, read without importing them: a file costs milliseconds, importing torch or Lightning seconds.

Only what the text says for certain is told; what depends on more than that (a name bound twice, a star import of something
unreadable, a file that is no Python source) is None, and for those who need an answer all the same there is `binding.locate`.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TypeAlias

from .moved import current

Definition: TypeAlias = ast.ClassDef | ast.FunctionDef
# What binds a name in a file: a definition, the right-hand side of an assignment, or the import path that it stands for.
Binding: TypeAlias = Definition | ast.expr | str
REMAKES = (
    "__init__",
    "__new__",
    "__signature__",
)  # a class to which one of these is assigned is not what its text says
MOST_STEPS = 12  # from one file to the next, before a circle is suspected


@dataclass(frozen=True, eq=False)
class Source:
    """A Python source file.

    Args:
        name: import path of its module.
        path: of the file.
    """

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_bytes())

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """What each name at the top of the file is bound to, in the branches of `if` and `try` too; star imports under "*"."""
        found: dict[str, list[Binding]] = {}
        for name, bound in self._bound(self.tree.body):
            found.setdefault(name, []).append(bound)
        return found

    @property
    def exported(self) -> list[str]:
        """`__all__`; empty if there is none, or none that can be read."""
        (value,) = self.bindings.get("__all__", [None])[-1:]
        names = _literal(value) if isinstance(value, ast.expr) else None
        return [str(name) for name in names] if isinstance(names, list | tuple) else []

    def _bound(self, body: Sequence[ast.stmt]) -> Iterator[tuple[str, Binding]]:
        for statement in body:
            if isinstance(statement, ast.ClassDef | ast.FunctionDef):
                yield statement.name, statement
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    bound = target.value if isinstance(target, ast.Attribute) and target.attr in REMAKES else target
                    if isinstance(bound, ast.Name):
                        yield bound.id, statement.value
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
                yield statement.target.id, statement.value
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    yield (
                        alias.asname or alias.name.partition(".")[0],
                        alias.name if alias.asname else alias.name.partition(".")[0],
                    )
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    yield (
                        alias.asname or alias.name,
                        ".".join(filter(None, (self._imported_from(statement), alias.name))),
                    )
            elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
                others = [getattr(statement, name, []) for name in ("orelse", "finalbody")]
                handlers = statement.handlers if isinstance(statement, ast.Try) else []
                for part in (statement.body, *others, *(handler.body for handler in handlers)):
                    yield from self._bound(part)

    def _imported_from(self, statement: ast.ImportFrom) -> str:
        """The module of a `from ... import`, written out."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        up = statement.level - (self.path.name == "__init__.py")
        return ".".join([*parts[: len(parts) - up], *filter(None, [statement.module])])


@dataclass(frozen=True)
class Defined:
    """A class or function, and the file that defines it."""

    source: Source
    node: Definition

    @property
    def path(self) -> str:
        return f"{self.source.name}.{self.node.name}"

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, ast.FunctionDef)

    @property
    def docstring(self) -> str:
        """Of a class without one, its constructor's."""
        inner = [part for part in self.node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        found = [ast.get_docstring(node) for node in (self.node, *([] if self.is_function else inner))]
        return next(filter(None, found), "")


@cache
def source(name: str) -> Source | None:
    """The file of a module, if it is Python source."""
    spec = _spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Source(name, Path(spec.origin))


@cache
def _spec(name: str) -> ModuleSpec | None:
    """As the import system finds it, without importing the packages around it."""
    package, _, _ = name.rpartition(".")
    try:
        if not package:
            return importlib.util.find_spec(name)
        if (around := _spec(package)) is None or around.submodule_search_locations is None:
            return None
        for finder in sys.meta_path:
            if (spec := finder.find_spec(name, around.submodule_search_locations)) is not None:
                return spec
    except (ImportError, ValueError, AttributeError, OSError):  # a finder's complaint, a module without a spec
        pass
    return None


def find(path: str) -> Defined | None:
    """The class or function of an import path, old names included; None if the files do not say for certain."""
    try:
        return _found(current(path), MOST_STEPS)
    except (SyntaxError, UnicodeDecodeError, OSError, RecursionError):
        return None


def _found(path: str, steps: int) -> Defined | None:
    parts = path.split(".")
    if steps < 0 or not all(parts):
        return None
    for length in range(len(parts) - 1, 0, -1):
        here = source(".".join(parts[:length]))
        if here is not None:
            return _bound_to(here, parts[length], steps) if length == len(parts) - 1 else None
    return None


def _bound_to(here: Source, name: str, steps: int) -> Defined | None:
    bound = here.bindings.get(name, [])
    if len(bound) > 1 and all(isinstance(one, ast.FunctionDef) for one in bound):
        overloads = [one for one in bound[:-1] if isinstance(one, ast.FunctionDef) and _is_overload(one)]
        bound = bound[-1:] if len(overloads) == len(bound) - 1 else bound
    if len(bound) != 1:
        stars = [str(module).removesuffix(".*") for module in here.bindings.get("*", [])] if not bound else []
        return next(filter(None, (_found(f"{module}.{name}", steps - 1) for module in reversed(stars))), None)
    (one,) = bound
    if isinstance(one, ast.ClassDef | ast.FunctionDef):
        return Defined(here, one)
    return _found(one, steps - 1) if isinstance(one, str) and one != f"{here.name}.{name}" else None


def written_out(expression: ast.expr, here: Source) -> str | None:
    """The import path that a dotted name in a file stands for; None for another expression."""
    if isinstance(expression, ast.Attribute):
        outer = written_out(expression.value, here)
        return outer and f"{outer}.{expression.attr}"
    if not isinstance(expression, ast.Name):
        return None
    bound = here.bindings.get(expression.id, [])
    if not bound:
        return f"builtins.{expression.id}"
    if len(bound) > 1:
        return None
    return bound[0] if isinstance(bound[0], str) else f"{here.name}.{expression.id}"


def constant(path: str) -> ast.expr | None:
    """The right-hand side of the assignment that an import path leads to."""
    module, _, name = current(path).rpartition(".")
    for _ in range(MOST_STEPS):
        here = source(module)
        bound = here.bindings.get(name, []) if here else []
        if len(bound) != 1:
            return None
        if not isinstance(bound[0], str):
            return bound[0] if isinstance(bound[0], ast.expr) else None
        module, _, name = bound[0].rpartition(".")
    return None


def named_strings(path: str) -> list[str]:
    """The strings of a `Literal` or a tuple, or the keys of a dict, to which an import path leads."""
    value = constant(path)
    if isinstance(value, ast.Dict):
        parts: list[ast.expr | None] = list(value.keys)
    elif isinstance(value, ast.Subscript):
        parts = list(value.slice.elts) if isinstance(value.slice, ast.Tuple) else [value.slice]
    else:
        parts = list(value.elts) if isinstance(value, ast.Tuple | ast.List) else []
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _literal(value: ast.expr) -> object:
    try:
        found: object = ast.literal_eval(value)
    except ValueError:
        return None
    return found


def _is_overload(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).rpartition(".")[2] == "overload" for decorator in function.decorator_list)
