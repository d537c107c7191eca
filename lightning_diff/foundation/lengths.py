"""Lengths in images that may be given as parts of a run.

A number between 0 and 1 is that share of the run's images; None, where a length may be None, is all of them; any other number is
images. A class whose arguments are such lengths says so:

    OF_RUN: ClassVar[tuple[str, ...]] = ("total", "warmup")

and recipes then put images in the place of parts before the object is built (`runs.recipe.of_run`).
"""

from collections.abc import Mapping
from typing import TypeAlias

Length: TypeAlias = int | float | None


def is_part(length: object) -> bool:
    """Whether a length is relative to a run."""
    return length is None or (isinstance(length, int | float) and 0 < length < 1)


def refusal(length: object) -> str | None:
    """Why something is no length; None if it is one."""
    if length is None or (isinstance(length, int) and length >= 0) or is_part(length):
        return None
    if isinstance(length, float) and length.is_integer() and length != 1 and length >= 0:  # 2e6, as YAML reads it
        return None
    return f"expected images, a whole number from 0 on, or a share of the run between 0 and 1, got {length!r}"


def refuse(owner: str, **lengths: object) -> None:
    """ValueError for what is no length, images or a part."""
    for name, length in lengths.items():
        if (reason := refusal(length)) is not None:
            raise ValueError(f"{owner}: {name}: {reason}")


def refuse_parts(owner: str, **lengths: object) -> None:
    """ValueError for a length that is still a part of a run: outside recipes, nobody here knows how long that is."""
    for name, length in lengths.items():
        if is_part(length):
            raise ValueError(f"{owner}: {name}: give images; a share of the run ({length!r}) is for recipes")


def in_images(lengths: Mapping[str, Length], run: int) -> dict[str, int]:
    """What the lengths of one object come to in a run of so many images.

    A share is one image at least. None ends with the run, or right after the other lengths where these reach further: a
    cosine has to end after its warm-up, however short the run.
    """
    known = {name: _images(length, run) for name, length in lengths.items() if length is not None}
    end = max(run, max(known.values(), default=0) + 1)
    return {name: known.get(name, end) for name in lengths}


def _images(length: int | float, run: int) -> int:
    return max(1, round(length * run)) if is_part(length) else int(length)
