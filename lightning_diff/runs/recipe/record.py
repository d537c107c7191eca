"""What a recipe is, once it is composed: its keys and their types."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from ...foundation.binding import Node
from ...foundation.errors import UserError

KEYS = ("name", "seed", "runs_dir", "resume", "extends", "model", "data", "callbacks", "trainer")


class Recipe(TypedDict):
    """A resolved recipe, as its run folder and its checkpoints keep it.

    name        of the run and of its folder below `runs_dir`
    seed        of everything that is random
    resume      auto, required, force, never or the path of a checkpoint (see `resume.find_start`)
    model       the training module
    data        the examples
    callbacks   beside those that every run has
    trainer     arguments of Lightning's Trainer
    """

    name: str
    seed: int
    runs_dir: str
    resume: str
    model: Node
    data: Node
    callbacks: list[Node]
    trainer: Node


@contextmanager
def naming(source: Path | str | None) -> Iterator[None]:
    """Put the file's name before a message that has none yet."""
    try:
        yield
    except UserError as error:
        if source is None:
            raise
        raise UserError(f"{source}: {error}") from error
