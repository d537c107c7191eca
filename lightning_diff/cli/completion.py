"""What the shell offers after a tab: recipes, runs, and what `describe` knows. No torch: it answers while a person waits."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

RUNS = Path("runs")


def recipes_and_runs(incomplete: str) -> Iterator[str]:
    """For `train`: packaged recipes, the working folder's, and runs to go on with."""
    from ..runs import recipe

    files = [str(path) for path in Path().glob("*.yaml")]
    yield from _beginning([*recipe.packaged(), *files, *(str(RUNS / name) for name in _runs())], incomplete)


def packaged_recipes(incomplete: str) -> Iterator[str]:
    from ..runs import recipe

    yield from _beginning(recipe.packaged(), incomplete)


def runs(incomplete: str) -> Iterator[str]:
    """By name, and by path for who began to write one."""
    yield from _beginning([*_runs(), *(str(RUNS / name) for name in _runs() if "/" in incomplete)], incomplete)


def describable(incomplete: str) -> Iterator[str]:
    from ..runs import catalogue

    yield from _beginning((entry.name for entry in catalogue.entries()), incomplete)


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[str], Iterator[str]]:
    """For an option with choices."""

    def complete(incomplete: str) -> Iterator[str]:
        yield from _beginning(names(), incomplete)

    return complete


def _runs() -> list[str]:
    return sorted(path.name for path in RUNS.glob("*") if path.is_dir() and not path.name.startswith("."))


def _beginning(names: Iterable[str], incomplete: str) -> Iterator[str]:
    yield from (name for name in names if name.startswith(incomplete))
