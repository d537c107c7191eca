"""What a recipe is, once it is composed: its keys and their types."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ...foundation.binding import Node
from ...foundation.errors import UserError

if TYPE_CHECKING:
    from ...foundation.rng import Seed

KEYS = ("name", "seed", "generator", "runs_dir", "resume", "report", "extends", "model", "data", "callbacks", "trainer")
OF_THE_FOLDER = ("name", "runs_dir", "resume", "report")  # keys that change nothing that is learned
NOTES = ("of_run",)  # what a run adds to the recipe that it saves


class Part(TypedDict):
    """A length that was written as a part of the run, and what it came to; see `of_run`."""

    written: float | None
    images: int


class Recipe(TypedDict):
    """A resolved recipe, as its run folder and its checkpoints keep it.

    name        of the run and of its folder below `runs_dir`
    seed        of everything that is random
    generator   of its noise, 1 or 2 (see `rng.Seed`); left out, 2 for a new run and an earlier run's own where it is resumed
    resume      auto, required, force, never or the path of a checkpoint (see `resume.find_start`)
    report      whether report.html is written at the end; left out, it is
    model       the training module
    data        the examples
    callbacks   beside those that every run has
    trainer     arguments of Lightning's Trainer
    of_run      lengths that were written as parts of the run, by dotted key (see `of_run.resolve`)
    """

    name: str
    seed: int
    generator: NotRequired[int]
    runs_dir: str
    resume: str
    report: NotRequired[bool]
    model: Node
    data: Node
    callbacks: list[Node]
    trainer: Node
    of_run: NotRequired[dict[str, Part]]


def seed_of(recipe: Recipe) -> "int | Seed":
    """A run's seed, with its generator if the recipe names one."""
    from ...foundation import rng  # torch, which help and misspelt keys do without

    return rng.Seed(recipe["seed"], recipe["generator"]) if "generator" in recipe else recipe["seed"]


@contextmanager
def naming(source: Path | str | None) -> Iterator[None]:
    """Put the file's name before a message that has none yet."""
    try:
        yield
    except UserError as error:
        if source is None:
            raise
        raise UserError(f"{source}: {error}") from error
