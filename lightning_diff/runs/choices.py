"""The names that options take, read from the registries' source files: help, completion and refusals need no torch for them."""

import ast
from collections.abc import Collection, Iterable
from functools import cache
from typing import NamedTuple

from ..foundation.binding import nearest
from ..foundation.errors import UserError
from ..foundation.sources import constant, named_strings

PACKAGE = __name__.partition(".")[0]


class SolverNames(NamedTuple):
    """The solvers of `samplers.SOLVERS`: all, those of the ODE, and those with EDM's churn."""

    all: list[str]
    ode: list[str]
    churned: list[str]


@cache
def solvers() -> SolverNames:
    """In the order of the registry."""
    names = SolverNames([], [], [])
    table = constant(f"{PACKAGE}.samplers.SOLVERS")
    assert isinstance(table, ast.DictComp)
    listed = table.generators[0].iter
    assert isinstance(listed, ast.Tuple)
    for element in listed.elts:
        call = constant(f"{PACKAGE}.samplers.{ast.unparse(element)}")
        assert isinstance(call, ast.Call)
        name = ast.literal_eval(call.args[0])
        names.all.append(name)
        if ast.unparse(call.func) == "OdeSolver":
            names.ode.append(name)
        if any(keyword.arg == "takes_churn" and ast.literal_eval(keyword.value) for keyword in call.keywords):
            names.churned.append(name)
    return names


@cache
def grids() -> list[str]:
    """Of `schedules.GRIDS`."""
    return named_strings(f"{PACKAGE}.schedules.grids.GRIDS")


@cache
def methods() -> list[str]:
    """Of `schedules.search.METHODS` and, trained by a run of their own, `find_schedule.TRAINED`."""
    return [
        *named_strings(f"{PACKAGE}.schedules.search.METHODS"),
        *named_strings(f"{PACKAGE}.runs.find_schedule.TRAINED"),
    ]


@cache
def features() -> list[str]:
    """Of `metrics.features.FeatureName`, without its old name."""
    return [name for name in named_strings(f"{PACKAGE}.metrics.features.FeatureName") if name != "inception"]


@cache
def targets() -> list[str]:
    """Of `export.targets.TARGETS`."""
    return named_strings(f"{PACKAGE}.runs.export.targets.TARGETS")


def either(names: Iterable[str]) -> str:
    """Names for a sentence: "one, two or three"."""
    *some, last = names
    return f"{', '.join(some)} or {last}" if some else last


def refuse_unknown(option: str, name: str, choices: Collection[str]) -> None:
    """UserError for a name that is not among the choices."""
    if name not in choices:
        raise UserError(f"{option}: no {name!r}; {nearest(name, choices, 'choose one of')}")
