"""Samples as files: a grid for people, a folder of PNGs or one npz for programs. Each file is whole or not there."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.extras import file_of

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SEPARATOR = (70, 100, 150)  # blue, so that a white stroke at the edge of a grey image does not run into the next one

WIDEST = 160  # pixels, of a row's name
WIDTH_WITH_CAPTION = 96  # pixels, of an image with a caption, at least
LINE_HEIGHT, MOST_LINES = 12, 4  # of a caption


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] to 0..255 with EDM's rounding, clip(127.5 x + 128): the inverse of uint8 / 127.5 - 1. Beyond the range is
    clipped.

    Raises UserError for NaN, which no byte stands for.
    """
    if images.isnan().any():
        raise UserError(
            "The images contain NaN: the model has diverged or was not loaded right; look at the training loss."
        )
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def save_grid(
    path: Path | str,
    images: Float[Tensor, "n c h w"],
    columns: int | None = None,
    scale: int | None = None,
    *,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> None:
    """All images in one PNG, row by row, a thin line between them.

    Args:
        path: of the PNG; folders are made.
        images: n >= 1, in [-1, 1], grey (c = 1) or RGB (c = 3).
        columns: images in a row. None: about as many as rows.
        scale: every pixel becomes scale x scale pixels, without smoothing. None: the smallest that makes an image 64
            pixels wide.
        row_names, column_names: captions to the left and above, from the first on; may be fewer than rows or
            columns. What is wider than its place is cut.
        captions: a text for each image, to stand below it in up to four lines; where all of a column have the same, once below the
            column.
    """
    canvas = grid(images, columns, scale, row_names=row_names, column_names=column_names, captions=captions)
    with _writing(path) as temporary:
        canvas.save(temporary, "PNG")


def grid(
    images: Float[Tensor, "n c h w"],
    columns: int | None = None,
    scale: int | None = None,
    *,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> Image.Image:
    """The picture that `save_grid` writes; arguments as there."""
    n, _, h, w = images.shape
    if n == 0:
        raise ValueError("save_grid: there is no image to show")
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    scale = math.ceil((WIDTH_WITH_CAPTION if captions else 64) / w) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"save_grid: columns and scale must be at least 1, got {columns} and {scale}")
    rows = math.ceil(n / columns)
    line = max(1, w * scale // 16)
    step_y, step_x = h * scale + line, w * scale + line

    font = _font([*row_names, *column_names, *captions]) or _plain_font()
    below = [wrapped(text, font, w * scale - 6) for text in captions]
    room = LINE_HEIGHT * max(map(len, below), default=0) + (6 if below else 0)  # for captions
    once = bool(below) and all(below[i] == below[i % columns] for i in range(n))
    step_y += 0 if once else room
    row_names = [_shortened(name, font, WIDEST) for name in row_names]
    column_names = [_shortened(name, font, step_x - 2) for name in column_names]
    text_width = max((math.ceil(font.getlength(name)) for name in row_names), default=-6) + 6
    text_height = 16 if column_names else 0
    canvas = Image.new(
        "RGB", (text_width + columns * step_x + line, text_height + rows * step_y + line + room * once), SEPARATOR
    )
    draw = ImageDraw.Draw(canvas)
    if row_names:
        draw.rectangle((0, 0, text_width - 1, canvas.height), fill="white")
    if column_names:
        draw.rectangle((0, 0, canvas.width, text_height - 1), fill="white")
    for row, name in enumerate(row_names[:rows]):
        draw.text((3, text_height + line + row * step_y + h * scale // 2), name, "black", font, anchor="lm")
    for column, name in enumerate(column_names[:columns]):
        draw.text(
            (text_width + line + column * step_x + w * scale // 2, text_height // 2), name, "black", font, anchor="mm"
        )
    for i, picture in enumerate(_pictures(images)):
        place = (text_width + line + i % columns * step_x, text_height + line + i // columns * step_y)
        canvas.paste(picture.resize((w * scale, h * scale), Image.Resampling.NEAREST), place)
    for i, lines in enumerate(below[: columns if once else n]):
        left, top = text_width + line + i % columns * step_x, text_height + line + h * scale + i // columns * step_y
        _write_below(draw, lines, font, (left, top + (rows - 1) * step_y * once, w * scale, room))
    return canvas


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, `MOST_LINES` of them; what does not fit is cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < MOST_LINES:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        if len(lines) == MOST_LINES - 1:
            count = len(words)
        lines.append(_shortened(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines


def _write_below(draw: ImageDraw.ImageDraw, lines: Sequence[str], font: Font, place: tuple[int, int, int, int]) -> None:
    """Lines in the middle of a white field, given by left, top, width and height."""
    left, top, width, height = place
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill="white")
    for number, text in enumerate(lines):
        middle = (left + width // 2, top + 3 + LINE_HEIGHT * number + LINE_HEIGHT // 2)
        draw.text(middle, text, "black", font, anchor="mm")


def caption(label: int, names: Sequence[str]) -> str:
    """What to write beside the samples of a class: its name, where there is one that can be drawn, else its number."""
    name = names[label] if label < len(names) else ""
    return name if name and _font([name]) is not None else str(label)


@cache
def _plain_font() -> Font:
    """Pillow's own, which has few letters beyond English ones."""
    return ImageFont.load_default()


@cache
def _large_font() -> Font:
    """matplotlib's, read from its file: matplotlib itself takes 0.15 s to import. Pillow's own where that is not there."""
    file = file_of("matplotlib", "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
    if file is not None:
        with suppress(OSError):
            return ImageFont.truetype(file, 10)
    return _plain_font()


def _font(names: Sequence[str]) -> Font | None:
    """The first font that has every letter; None if none has."""
    letters = set("".join(names)) - {" "}
    for font in (_plain_font, _large_font):
        if all(_has(font(), letter) for letter in letters):
            return font()
    return None


def _has(font: Font, letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable()
    try:
        return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))  # the sign for a letter that it has not
    except (OSError, UnicodeError):
        return False


def _shortened(name: str, font: Font, width: int) -> str:
    """The name, cut where it is wider than `width` pixels."""
    if font.getlength(name) <= width:
        return name
    while len(name) > 1 and font.getlength(f"{name}..") > width:
        name = name[:-1]
    return f"{name.rstrip()}.."


def save_folder(folder: Path | str, images: Float[Tensor, "n c h w"], numbers: Sequence[int] | None = None) -> None:
    """One PNG for each image, named by its number with six digits or more: 000000.png, 000001.png, ... (EDM's
    names)."""
    numbers = range(len(images)) if numbers is None else numbers
    for number, picture in zip(numbers, _pictures(images), strict=True):
        with _writing(Path(folder) / f"{number:06d}.png") as temporary:
            picture.save(temporary, "PNG")


def save_npz(path: Path | str, samples: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"] | None = None) -> None:
    """All samples in one npz in the layout that guided-diffusion's evaluation and its successors read: `arr_0`, uint8
    (n, h, w, c), and `arr_1`, the labels. Samples that are no grey or RGB images (points, latents) stay float32 in
    their own shape."""
    if samples.ndim == 4 and samples.shape[1] in (1, 3):
        arrays = [to_uint8(samples).permute(0, 2, 3, 1).numpy()]
    else:
        arrays = [samples.float().numpy()]
    if labels is not None:
        arrays.append(labels.numpy())
    with _writing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, *arrays)


def _pictures(images: Float[Tensor, "n c h w"]) -> list[Image.Image]:
    if images.shape[1] not in (1, 3):
        raise ValueError(f"pictures: images must be grey (1 channel) or RGB (3), got {images.shape[1]} channels")
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in pixels]


@contextmanager
def _writing(path: Path | str) -> Iterator[Path]:
    """`replacing`, with a one-line error where the folder cannot be written to."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Choose another place or make room."
        ) from error
