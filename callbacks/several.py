"""Several callbacks of one kind in a run: which there may be, and what each is called, so that none writes over another."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, Trainer

from ..foundation.errors import UserError
from ..modules.lightning_internals import callbacks


class Named:
    """Beside `StepCallback`, the base of a callback of which there may be several, each with a name of its own."""

    name: str | None = None  # as the recipe gives it


def refuse_clashes(chosen: Iterable[Callback]) -> None:
    """UserError for two callbacks that would write the same files, columns or weights, or that have one name.

    Of which kinds there can be one alone, their attribute ALONE says, with what two of them would do.
    """
    kinds: set[type] = set()
    names: Counter[tuple[str, str]] = Counter()
    for callback in chosen:
        for kind in type(callback).__mro__:
            if not (why := vars(kind).get("ALONE")):
                continue
            if kind in kinds:
                raise UserError(f"callbacks: there are two {kind.__name__}, and both would {why}; leave one out")
            kinds.add(kind)
        if isinstance(callback, Named) and (name := callback.name) is not None:
            names[type(callback).__name__, name] += 1
            if names[type(callback).__name__, name] > 1:
                raise UserError(
                    f"callbacks: two {type(callback).__name__} are called {name!r}; give each a name of its own"
                )


def refuse_no_name(callback: str, name: str | None) -> None:
    """ValueError for a name that is no name of a folder."""
    if name is not None and (Path(name).name != name or name in ("", "..") or name != name.strip()):
        raise ValueError(f"{callback}: name is a part of paths and columns, the name of a folder, and {name!r} is none")


def name_of(callback: Named, kind: type, trainer: Trainer) -> str:
    """Its name; of those of this kind without one, the first has "", the second "2", and so on."""
    if callback.name is not None:
        return callback.name
    same: list[Named] = [each for each in callbacks(trainer) if isinstance(each, kind) and isinstance(each, Named)]
    taken = {each.name for each in same}
    place = [each.name is None for each in same[: same.index(callback)]].count(True)
    free = (number for number in map(str, range(2, len(same) + len(taken) + 2)) if number not in taken)
    return ["", *free][place]
