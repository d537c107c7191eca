"""Annotations checked while tests run, shapes included: the first calls of each test, for all would take as long as the tests.

pytest's option `--jaxtyping-packages` names `first_calls`. Every test begins with a new count (see conftest.py), so that what is
checked depends on no other test.
"""

import functools
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

MOST = 200  # checks of a test: of parameters, and of results

_checks = 0


def first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """The typechecker: beartype, until the test has had its checks. Made at the first call: a function inside another is made anew
    at each call of that, and then hardly ever checked."""
    checked: Callable[..., Any] | None = None

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _checks
        nonlocal checked
        _checks += 1
        if _checks == MOST:
            jaxtyping.config.update("jaxtyping_disable", True)
        checked = checked or beartype.beartype(function)
        return checked(*args, **kwargs)

    return counted


def start_again() -> None:
    """The checks of the next test."""
    global _checks
    _checks = 0
    jaxtyping.config.update("jaxtyping_disable", False)
