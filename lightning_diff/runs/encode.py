"""What training needs of encoders, made ahead of it: latents and embeddings of texts, in the cache that training reads."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..data import Captions, Data, Latents
from ..data.latents.cache import in_units
from ..foundation import parent, shared_work, stopping
from ..foundation.errors import UserError
from ..foundation.processes import take_rank
from ..modules import lightning_internals as internals
from . import recipe
from .build import set_up
from .console import quieten, say
from .recipe import Recipe
from .side_by_side import environment, launched


def encode(settings: Recipe, source: Path | str, words: Sequence[str]) -> None:
    """Encode what a recipe's data has encoded, as far as the cache does not have it.

    Args:
        settings: the recipe.
        source: its file, for messages.
        words: recipe and changes as they were typed, for the processes that help.

    Raises:
        UserError: nothing is encoded, or as the data's `load`.
    """
    quieten()
    is_helping = parent.is_started()
    if is_helping:
        take_rank(1)  # the one that started it speaks
    data: Data = recipe.build(settings["data"], "data", source)
    parts = _cached(data, source)
    processes = 1 if is_helping else _processes(settings, parts, source)
    with (
        stopping.listening("while encoding; the same command goes on where it was"),
        _helpers(words, processes),
    ):
        set_up(data, source)
        _ = data.prompts  # encoded, too, where they are texts
    say("\n".join([data.summary(), *(line for part in parts if (line := _where(part)))]))


def _cached(data: Data, source: Path | str) -> list[Latents | Captions]:
    """The data and what they are made of, as far as a cache keeps it. UserError for nothing."""
    every: list[Data] = [data]
    while isinstance(inner := getattr(every[-1], "source", None), Data):
        every.append(inner)
    if found := [each for each in every if isinstance(each, Captions) or getattr(each, "encode", "") == "cache"]:
        return found  # type: ignore[return-value]
    if any(isinstance(each, Latents) for each in every):
        raise UserError(
            f"{source}: data.encode is fly: each step encodes what it needs, nothing is kept; set it to cache"
        )
    raise UserError(f"{source}: data: {data.name} has nothing to encode; Latents and Captions have")


def _where(part: Latents | Captions) -> str:
    """What was made and how large it is; nothing of what is in memory alone."""
    place = part.folder if isinstance(part, Latents) else part.file
    if place is None:
        return ""
    files = [place] if place.is_file() else list(place.iterdir())
    what = "latents" if isinstance(part, Latents) else "embeddings of captions"
    return f"{what}: {place}, {in_units(sum(file.stat().st_size for file in files))}"


def _processes(settings: Recipe, parts: Sequence[Latents | Captions], source: Path | str) -> int:
    """That share the work on this machine: the trainer's, but one where a launcher starts the others or a device is chosen."""
    chosen = [str(getattr(part if isinstance(part, Latents) else part.text, "device", "")) for part in parts]
    if launched() > 1 or any(":" in device for device in chosen):
        return 1
    here, _ = internals.devices_and_nodes(recipe.build(settings["trainer"], "trainer", source))
    return here


@contextmanager
def _helpers(words: Sequence[str], processes: int) -> Iterator[None]:
    """While the block runs, the others are started once there is something to do; none outlives it, whatever became of it."""
    others: list[subprocess.Popen[bytes]] = []
    threads = torch.get_num_threads()

    def start() -> None:
        if others or processes == 1:
            return
        say(f"{processes} processes share the work, as trainer.devices says")
        torch.set_num_threads(max(threads // processes, 1))
        others.extend(_start(words, slot, processes) for slot in range(1, processes))

    try:
        with shared_work.helped_by(start):
            yield
    finally:
        torch.set_num_threads(threads)
        for number, other in enumerate(others, 2):
            if other.poll():
                say(
                    f"process {number} of {processes} ended with exit code {other.returncode}; the others did its share"
                )
            other.kill()  # what it has written is whole
            other.wait()


def _start(words: Sequence[str], slot: int, processes: int) -> "subprocess.Popen[bytes]":
    own = environment(slot, processes) | {parent.MARK: str(os.getpid())}
    return subprocess.Popen(
        [sys.executable, "-m", __name__.partition(".")[0], "data", "encode", *words],
        stdin=subprocess.DEVNULL,
        env=own,
        process_group=0,  # Ctrl-C is the first one's
    )
