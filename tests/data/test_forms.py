"""Every row of the tables in docs/data.md: a form in which images are held, and its pixels in every source."""

import re
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lightning_diff.data import HuggingFace, Images, MapDataset
from lightning_diff.foundation.errors import UserError

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
GREY[0, :2] = 0, 255
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
ALPHA[0, :2] = 0, 255
GREY16 = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
GREY16[0, :2] = 0, 65535
RGB16 = RNG.integers(0, 65536, (6, 8, 3), dtype=np.uint16)
ALPHA16 = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
UNIT = RNG.uniform(-1, 1, (6, 8, 3)).astype(np.float32)
UNIT[0, 0] = -1, 0, 1
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)


def in_bytes(x):
    """uint8 (H, W) or (H, W, 3) as values (C, H, W)."""
    x = np.asarray(x, np.float64) / 127.5 - 1
    return x[None] if x.ndim == 2 else x.transpose(2, 0, 1)


def in_words(x):
    return in_bytes(np.asarray(x, np.float64) / 257)


def on_white(colour, alpha):
    """Values (C, H, W) over white, alpha in [0, 1]."""
    return colour * alpha + (1 - alpha)


def saved(image, form, **options):
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(lines, width, depth, kind, height=None):
    """A PNG of these lines of bytes; kind 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height or len(lines), depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png16(x, kind):
    return png([row.astype(">u2").tobytes() for row in x], x.shape[1], 16, kind)


def npy(x):
    out = BytesIO()
    np.save(out, x)
    return out.getvalue()


def rotated():
    """Stored on its side, with the EXIF note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(np.rot90(RGB, 1).copy()), exif


def indexed(**options):
    image = Image.fromarray(GREY, "P")
    image.putpalette(PALETTE.tobytes())
    return saved(image, "PNG", **options)


def parquet(path, contents):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table({"image": [{"bytes": content, "path": None} for content in contents]}), path)
    return path


class Listed:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Opened(Listed):
    """As a dataset does that opens its files and leaves the rest to whoever wants the pixels."""

    def __getitem__(self, i):
        return Image.open(BytesIO(self.items[i]))


def frames(form):
    return saved(
        Image.fromarray(RGB), form, save_all=True, append_images=[Image.fromarray(255 - RGB)], **LOSSLESS.get(form, {})
    )


LOSSLESS = {"WEBP": {"lossless": True}}
TURNED, EXIF = rotated()
LAYERS = np.dstack([RGB, ALPHA])
GREY_LAYERS = np.dstack([GREY, ALPHA])
RGB_ON_WHITE = np.asarray(
    Image.alpha_composite(Image.new("RGBA", (8, 6), "white"), Image.fromarray(LAYERS)).convert("RGB")
)
GREY_ON_WHITE = np.asarray(
    Image.alpha_composite(Image.new("RGBA", (8, 6), "white"), Image.fromarray(GREY_LAYERS).convert("RGBA")).convert("L")
)
CMYK, YCBCR, HSV = (Image.fromarray(RGB).convert(mode) for mode in ("CMYK", "YCbCr", "HSV"))
JPEG = saved(Image.fromarray(RGB), "JPEG")

# Files: by row of the page, (suffix, content, values).
FILES = {
    "grey, 8 bits": (".png", saved(Image.fromarray(GREY), "PNG"), in_bytes(GREY)),
    "grey, 1 bit": (".png", saved(Image.fromarray(GREY > 127), "PNG"), in_bytes((GREY > 127) * 255)),
    "grey, 2 or 4 bits": (
        ".png",
        png([bytes(row[0::2] // 16 * 16 + row[1::2] // 16) for row in GREY], 8, 4, 0),
        in_bytes(GREY // 16 * 17),
    ),
    "grey, 16 bits": (".png", png16(GREY16, 0), in_words(GREY16)),
    "grey, 16 bits, with a transparent value": (
        ".png",
        saved(Image.fromarray(GREY16), "PNG", transparency=int(GREY16[2, 3])),
        in_words(np.where(GREY16[2, 3] == GREY16, 65535, GREY16)),
    ),
    "grey, 16 bits, TIFF": (".tif", saved(Image.fromarray(GREY16), "TIFF"), in_words(GREY16)),
    "PGM, 16 bits": (".pgm", b"P5 8 6 65535\n" + GREY16.astype(">u2").tobytes(), in_words(GREY16)),
    "PPM": (".ppm", b"P6 8 6 255\n" + RGB.tobytes(), in_bytes(RGB)),
    "grey with alpha": (".png", saved(Image.fromarray(GREY_LAYERS), "PNG"), in_bytes(GREY_ON_WHITE)),
    "RGB, 8 bits": (".bmp", saved(Image.fromarray(RGB), "BMP"), in_bytes(RGB)),
    "RGB, 16 bits, PNG": (".png", png16(RGB16, 2), in_words(RGB16)),
    "grey with alpha, 16 bits, PNG": (
        ".png",
        png16(np.dstack([GREY16, ALPHA16]), 4),
        on_white(in_words(GREY16), ALPHA16 / 65535),
    ),
    "RGBA, 16 bits, PNG": (".png", png16(np.dstack([RGB16, ALPHA16]), 6), on_white(in_words(RGB16), ALPHA16 / 65535)),
    "RGBA": (".png", saved(Image.fromarray(LAYERS), "PNG"), in_bytes(RGB_ON_WHITE)),
    "palette": (".png", indexed(), in_bytes(PALETTE[GREY])),
    "palette with a transparent colour": (
        ".png",
        indexed(transparency=int(GREY[1, 1])),
        in_bytes(np.where((GREY[1, 1] == GREY)[..., None], 255, PALETTE[GREY])),
    ),
    "CMYK": (".tiff", saved(CMYK, "TIFF"), in_bytes(CMYK.convert("RGB"))),
    "float TIFF": (".tif", saved(Image.fromarray(UNIT[..., 0]), "TIFF"), UNIT[None, ..., 0]),
    "with a damaged EXIF block": (".png", saved(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0MM\0*\0\0"), in_bytes(RGB)),
    "with an EXIF orientation": (".png", saved(TURNED, "PNG", exif=EXIF), in_bytes(RGB)),
    "with an EXIF orientation, TIFF": (".tif", saved(TURNED, "TIFF", exif=EXIF), in_bytes(RGB)),
    "animated WebP": (".webp", frames("WEBP"), in_bytes(RGB)),
    "GIF": (".gif", saved(Image.fromarray(GREY), "GIF"), in_bytes(np.dstack([GREY] * 3))),
    "TIFF of several pages": (".tif", frames("TIFF"), in_bytes(RGB)),
    "JPEG": (".jfif", JPEG, in_bytes(Image.open(BytesIO(JPEG)))),
    "JPEG, CMYK": (".jpg", saved(CMYK, "JPEG"), in_bytes(Image.open(BytesIO(saved(CMYK, "JPEG"))).convert("RGB"))),
    "WebP": (".webp", saved(Image.fromarray(RGB), "WEBP", lossless=True), in_bytes(RGB)),
    ".npy, uint8 (H, W, 3)": (".npy", npy(RGB), in_bytes(RGB)),
    ".npy, float (3, H, W)": (".npy", npy(UNIT.transpose(2, 0, 1)), UNIT.transpose(2, 0, 1)),
    ".npy, uint16 (H, W)": (".npy", npy(GREY16), in_words(GREY16)),
}

ITEMS = {
    "PIL 1": (Image.fromarray(GREY > 127), in_bytes((GREY > 127) * 255)),
    "PIL L": (Image.fromarray(GREY), in_bytes(GREY)),
    "PIL LA": (Image.fromarray(GREY_LAYERS), in_bytes(GREY_ON_WHITE)),
    "PIL P": (Image.open(BytesIO(indexed())), in_bytes(PALETTE[GREY])),
    "PIL RGB": (Image.fromarray(RGB), in_bytes(RGB)),
    "PIL RGBA": (Image.fromarray(LAYERS), in_bytes(RGB_ON_WHITE)),
    "PIL RGBX": (Image.frombytes("RGBX", (8, 6), LAYERS.tobytes()), in_bytes(RGB)),
    "PIL CMYK": (CMYK, in_bytes(CMYK.convert("RGB"))),
    "PIL YCbCr": (YCBCR, in_bytes(YCBCR.convert("RGB"))),
    "PIL HSV": (HSV, in_bytes(HSV.convert("RGB"))),
    "PIL LAB": (Image.new("LAB", (8, 6), (255, 128, 128)), in_bytes(np.full((6, 8, 3), 255))),
    "PIL I;16": (Image.fromarray(GREY16), in_words(GREY16)),
    "PIL I;16B": (Image.frombytes("I;16B", (8, 6), GREY16.astype(">u2").tobytes()), in_words(GREY16)),
    "PIL F": (Image.fromarray(UNIT[..., 0]), UNIT[None, ..., 0]),
    "PIL with an EXIF orientation": (Image.open(BytesIO(saved(TURNED, "PNG", exif=EXIF))), in_bytes(RGB)),
    "uint8 (H, W)": (GREY, in_bytes(GREY)),
    "uint8 (H, W, 1)": (GREY[..., None], in_bytes(GREY)),
    "uint8 (H, W, 3)": (RGB, in_bytes(RGB)),
    "uint8 (3, H, W)": (torch.from_numpy(RGB).permute(2, 0, 1), in_bytes(RGB)),
    "uint8 (H, W, 2)": (GREY_LAYERS, in_bytes(GREY_ON_WHITE)),
    "uint8 (H, W, 4)": (LAYERS, in_bytes(RGB_ON_WHITE)),
    "uint8 (4, H, W)": (LAYERS.transpose(2, 0, 1), in_bytes(LAYERS)),
    "bool": (torch.from_numpy(GREY > 127), in_bytes((GREY > 127) * 255)),
    "uint16": (RGB16, in_words(RGB16)),
    "uint16, big-endian": (RGB16.astype(">u2"), in_words(RGB16)),
    "uint16 (H, W, 4)": (np.dstack([RGB16, ALPHA16]), on_white(in_words(RGB16), ALPHA16 / 65535)),
    "float16, bfloat16": (torch.from_numpy(UNIT).bfloat16(), UNIT.transpose(2, 0, 1)),
    "float32": (torch.from_numpy(UNIT).permute(2, 0, 1), UNIT.transpose(2, 0, 1)),
    "float64": (UNIT.astype(np.float64), UNIT.transpose(2, 0, 1)),
    "bytes of a file": (saved(Image.fromarray(RGB), "PNG"), in_bytes(RGB)),
    "a mapping with bytes": ({"image": {"bytes": saved(Image.fromarray(RGB), "PNG"), "path": None}}, in_bytes(RGB)),
}

REFUSED = {
    "PIL I": (Image.fromarray(GREY.astype(np.int32)), "white"),
    "int32, int64": (torch.from_numpy(GREY).long(), "white"),
    "complex": (GREY + 1j, "complex128"),
    "(3, H, 3)": (RGB[:3, :3], "layout"),
    "float (H, W, 4)": (np.zeros((8, 8, 4), np.float32), "layout"),
    "not finite": (np.full((6, 8), np.nan), "NaN"),
    "floats outside value_range": (UNIT * 2, "value_range"),
    "a path": ("a.png", "str"),
    "no pixels": (np.zeros((0, 8), np.uint8), r"\(0, 8\)"),
    "None": (None, "NoneType"),
    "RGB, 16 bits, TIFF or PPM": (b"P6 8 6 65535\n" + RGB16.astype(">u2").tobytes(), "PPM"),
    "TIFF, 16 bits, white is 0": (saved(Image.fromarray(GREY16), "TIFF", tiffinfo={262: 0}), "white"),
    "empty": (b"", "empty"),
    "truncated": (saved(Image.fromarray(RGB), "PNG")[:-40], "truncated"),
    "something else": (b"<html>", "unknown kind"),
    "a decompression bomb": (png([bytes(10)], 20000, 8, 0, height=20000), "400000000 pixels"),
}

TWELVE = GREY16 // 16
LUMA = RGB @ np.array([0.299, 0.587, 0.114])
OPTIONS = {
    "white=4095": (TWELVE, {"white": 4095}, TWELVE[None] / 2047.5 - 1),
    "white=255": (torch.from_numpy(GREY).long(), {"white": 255}, in_bytes(GREY)),
    "value_range=(0, 1)": (UNIT / 2 + 0.5, {"value_range": (0, 1)}, UNIT.transpose(2, 0, 1)),
    "value_range=null": (UNIT * 5, {"value_range": None}, UNIT.transpose(2, 0, 1) * 5),
    "channels=3": (GREY, {"channels": 3}, np.repeat(in_bytes(GREY), 3, 0)),
    "channels=1": (RGB, {"channels": 1}, in_bytes(LUMA)),
    "layout=HWC": (RGB[:3, :3], {"layout": "HWC"}, in_bytes(RGB[:3, :3])),
    "layout=CHW": (
        GREY16[:3, :3, None].repeat(3, 2),
        {"layout": "CHW"},
        in_words(GREY16[:3, :3, None].repeat(3, 2)).transpose(1, 2, 0),
    ),
}


def close(found, values, atol):
    assert found.shape == values.shape
    assert np.abs(found.numpy() - values).max() <= atol


@pytest.mark.parametrize("form", FILES)
@pytest.mark.filterwarnings("error")
def test_a_file_is_the_same_image_in_every_source(form, tmp_path):
    suffix, content, values = FILES[form]
    other = png16(GREY16, 0) if len(values) == 1 else png16(RGB16, 2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / f"a{suffix}").write_bytes(content)
    (tmp_path / "set/b.png").write_bytes(other)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").iterdir():
            archive.write(file, f"inner/{file.name}")
    sources = [Images(2, path=tmp_path / "set"), Images(2, path=tmp_path / "set.zip")]
    if suffix != ".npy":
        sources.append(HuggingFace(2, path=parquet(tmp_path / "set.parquet", [content, other]), label_column=None))
        sources.append(MapDataset(2, dataset=Listed([content, other])))
        sources.append(MapDataset(2, dataset=Opened([content, other])))
    for source in sources:
        close(source.train.images(np.array([0]))[0], values, 1e-6)


@pytest.mark.parametrize("form", ITEMS)
@pytest.mark.filterwarnings("error")
def test_an_item_is_its_values(form):
    item, values = ITEMS[form]
    atol = 4e-3 if "bfloat16" in form else 1e-2 if "LAB" in form else 1e-6
    other = UNIT.transpose(2, 0, 1) if len(values) > 1 else UNIT[..., 0]
    items = [item] if len(values) == 4 else [item, other]
    data = MapDataset(1, dataset=Listed(items))
    close(data.train.images(np.array([0]))[0], values, atol)


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_read_without_guessing_is_refused(form):
    item, word = REFUSED[form]
    with pytest.raises(UserError, match=rf"Listed: image 1 .*{word}"):
        MapDataset(1, dataset=Listed([GREY, item])).setup()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_undone_as_by_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(BytesIO(saved(Image.fromarray(RGB), "JPEG", exif=exif)))
    upright = in_bytes(np.asarray(ImageOps.exif_transpose(image)))
    close(MapDataset(1, dataset=Listed([image])).train.images(np.array([0]))[0], upright, 1e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_say_what_cannot_be_seen(option):
    item, options, values = OPTIONS[option]
    data = MapDataset(1, dataset=Listed([item]), **options)
    close(data.train.images(np.array([0]))[0], values, 1 / 255 if option == "channels=1" else 2e-6)


@pytest.mark.parametrize("known", [FILES, ITEMS, REFUSED, OPTIONS], ids=["files", "items", "refused", "options"])
def test_the_page_lists_every_form(known):
    buckets = re.search(r"^#+ Buckets of aspect ratios$.*?(?=^#|\Z)", PAGE, re.M | re.S)
    assert buckets is not None
    rows = re.findall(r"^\| ([^|]+?) +\| ", PAGE.replace(buckets[0], ""), re.M)
    assert set(known) <= set(rows)
    assert set(rows) - {"file", "item", "refused", "option"} <= {*FILES, *ITEMS, *REFUSED, *OPTIONS}
