"""Image files in a folder or a zip: their names, their labels, their pixels."""

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".npy")
LABEL_FILE = "dataset.json"
GREY_MODES = ("1", "L", "LA")
CHUNK = 64  # images per task of the thread pool


class ImageFiles:
    """The images of a folder or zip, at any depth, sorted by name; hidden files and other kinds are passed over.

    Args:
        path: the folder or zip.

    Raises:
        UserError: nothing there, neither folder nor zip, unreadable, or no image in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.zip: zipfile.ZipFile | None = None
        try:
            if self.path.is_dir():
                every = _walk(self.path)
            else:
                self.zip = zipfile.ZipFile(self.path)
                every = self.zip.namelist()
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such folder or zip (looked for it in {Path.cwd()})") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as a folder or a zip of images: {error}") from None
        self.names = sorted(name for name in every if name.lower().endswith(SUFFIXES) and not _hidden(name))
        self.has_label_file = LABEL_FILE in every
        if not self.names:
            raise UserError(f"{self.path}: holds no images ({', '.join(SUFFIXES)})")

    def bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes() if self.zip is None else self.zip.read(name)

    def labels(self) -> tuple[Int64[Tensor, " n"], int] | None:
        """The class of each image from `dataset.json`, and the number of classes; None if there are no labels."""
        if not self.has_label_file:
            return None
        where = f"{self.path}: {LABEL_FILE}"
        try:
            entries = json.loads(self.bytes(LABEL_FILE))["labels"]
            pairs = {str(name).replace("\\", "/"): label for name, label in entries or []}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{where} is not of the form {{"labels": [[name, class], ...]}}: {error!r}') from None
        if entries is None:
            return None
        if missing := [name for name in self.names if name not in pairs]:
            raise UserError(f"{where} has no label for {_some(missing)} (of {len(self.names)} images)")
        if wrong := [name for name in self.names if not _is_class(pairs[name])]:
            named = [f"{name} ({pairs[name]!r})" for name in wrong]
            raise UserError(f"{where} has labels that are no whole numbers >= 0: {_some(named)}")
        labels = torch.tensor([pairs[name] for name in self.names])
        return labels, int(labels.max()) + 1

    def folders(self) -> list[str] | None:
        """The folder of each image, below what all share; None unless there are several and each image lies in one."""
        if all(re.fullmatch(r"\d{5}/img\d{8}\.\w+", name) for name in self.names):
            return None  # EDM's numbered folders are no classes
        parents = [name.split("/")[:-1] for name in self.names]
        shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False)))
        if any(len(parent) == shared for parent in parents):
            return None
        return [parent[shared] for parent in parents]

    def channels(self) -> int:
        """1 if every image is grey, else 3. Stops at the first that is not."""
        return 1 if all(self._is_grey(name) for name in self.names) else 3

    def pixels(self, indices: Iterable[int], channels: int, size: int | None = None) -> UInt8[Tensor, "n c h w"]:
        """Decode these images, on threads, with a progress bar on a terminal if there are many.

        Args:
            indices: of `names`.
            channels: 1 or 3.
            size: crop to the central square and average down to size x size; None: as they are.

        Raises:
            UserError: images that cannot be decoded, or sizes that differ; names the first five and counts the rest.
        """
        names = [self.names[i] for i in indices]
        out: UInt8[np.ndarray, "n c h w"] | None = None
        broken: list[str] = []
        sizes: Counter[tuple[int, ...]] = Counter()
        example: dict[tuple[int, ...], str] = {}
        bar = tqdm(total=len(names), desc=self.path.name, unit=" images", disable=None if len(names) > 1000 else True)
        with bar, ThreadPoolExecutor() as pool:
            chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
            decoded = pool.map(lambda chunk: [self._decode(name, channels, size) for name in chunk], chunks)
            for i, (name, image) in enumerate(zip(names, chain.from_iterable(decoded), strict=True)):
                bar.update()
                if isinstance(image, str):
                    broken.append(f"{name} ({image})")
                    continue
                sizes[image.shape] += 1
                example.setdefault(image.shape, name)
                if out is None:
                    out = np.empty((len(names), *image.shape), np.uint8)
                if len(sizes) == 1:
                    out[i] = image
        if broken:
            raise UserError(f"{self.path}: {len(broken)} of {len(names)} images cannot be read: {_some(broken)}")
        if len(sizes) > 1:
            kinds = [f"{count} of {w}x{h} such as {example[c, h, w]}" for (c, h, w), count in sizes.most_common()]
            raise UserError(
                f"{self.path}: the images differ in size (width x height): {_some(kinds)}; "
                "remove the odd ones, or set size to crop and shrink all to one"
            )
        assert out is not None
        return torch.from_numpy(out)

    def _is_grey(self, name: str) -> bool:
        try:
            return _open(name, self.bytes(name)).mode in GREY_MODES
        except Exception:  # reported by `pixels`, with all others
            return True

    def _decode(self, name: str, channels: int, size: int | None) -> UInt8[np.ndarray, "c h w"] | str:
        """Pixels, or what is wrong."""
        try:
            image = _open(name, self.bytes(name))
            if "exif" in image.info:
                image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = _shrink(image, size)
            pixels = np.asarray(image).reshape(image.height, image.width, channels)
        except Exception as error:  # decoders raise all kinds
            return str(error).split("\n")[0] or type(error).__name__
        return pixels.transpose(2, 0, 1)


def _open(name: str, content: bytes) -> Image.Image:
    if not name.lower().endswith(".npy"):
        image = Image.open(BytesIO(content))
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}: more than 8 bits per channel")
        return image
    array = np.load(BytesIO(content), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"{array.dtype} array of shape {array.shape}: expected uint8 (H, W), (H, W, C) or (C, H, W)")
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _shrink(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    if side < size:
        raise ValueError(f"{image.width}x{image.height} is smaller than size={size}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))


def _walk(root: Path) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    return [
        (Path(folder) / file).relative_to(root).as_posix()
        for folder, _, files in os.walk(root, onerror=fail, followlinks=True)
        for file in files
    ]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


def _some(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    rest = len(names) - 5
    return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")
