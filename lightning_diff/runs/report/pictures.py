"""Pictures of the run folder inside of the page: samples through training, before and after, at most so many and so large."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

MOST_GRIDS = 24  # of a series of samples
MOST_BYTES = 3_000_000  # of all pictures of a page, encoded
LARGEST = 1024  # pixels of the longer side
SMALLEST = 96
NAMED = (("before_after.png", "Samples before and after"), ("reward.png", "Reward against its cost"))


class Picture(NamedTuple):
    """A picture file.

    Args:
        path: of the file.
        label: what stands below it.
    """

    path: Path
    label: str


def series(folder: Path) -> dict[str, list[Picture]]:
    """By the name of its folder in samples/, "" for those without: the grids through training, evenly chosen, the last included."""
    found: dict[str, list[Picture]] = {}
    for path in sorted((folder / "samples").rglob("*.png")):
        if re.fullmatch(r"\d+", path.stem):
            own = path.parent.relative_to(folder / "samples").as_posix()
            found.setdefault("" if own == "." else own, []).append(Picture(path, f"{int(path.stem):,} images"))
    return {name: evenly(each, MOST_GRIDS) for name, each in found.items()}


def of_rewards(folder: Path) -> list[Picture]:
    """What RewardReport draws at the end."""
    return [Picture(folder / name, label) for name, label in NAMED if (folder / name).is_file()]


def evenly(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most so many, evenly spread, first and last among them."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[round(i * (len(pictures) - 1) / (most - 1))] for i in range(most)]


def embedded(path: Path, most: int) -> tuple[str, int, int] | None:
    """A picture as a data URI of at most `most` characters, made smaller until it fits, with its width and height.

    None where it is gone meanwhile, or is no picture.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError):
        return None
    side = min(LARGEST, max(picture.size))
    while True:
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        uri = min((_encoded(small, kind) for kind in ("png", "webp")), key=len)
        if len(uri) <= most or side <= SMALLEST:
            return uri, small.width, small.height
        side = max(int(side * min(0.9, (most / len(uri)) ** 0.5)), SMALLEST)  # a picture grows with its area


def _encoded(picture: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    picture.save(content, kind, **({} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
