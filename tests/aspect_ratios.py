"""A folder of images of five aspect ratios, each with a class of its own, so that a label says which image it is."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = ((40, 20), (34, 24), (30, 30), (24, 34), (20, 40))  # height and width
COUNTS = (11, 8, 14, 9, 7)  # of each
BUCKETS = ((24, 12), (20, 12), (16, 16), (12, 20), (12, 24))  # of size=16, buckets=5, bucket_step=4
OPTIONS = {"size": 16, "buckets": 5, "bucket_step": 4}


def pixels(i: int) -> np.ndarray:
    height, width = SIDES[np.searchsorted(np.cumsum(COUNTS), i, side="right")]
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photographs(folder: Path) -> Path:
    """The folder, with all of them."""
    folder.mkdir()
    names = [f"{i:02d}.png" for i in range(sum(COUNTS))]
    for i, name in enumerate(names):
        Image.fromarray(pixels(i)).save(folder / name)
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, i] for i, name in enumerate(names)]}))
    return folder
