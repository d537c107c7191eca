"""A zip of images of one size in the form of EDM's dataset tool, from a folder or a zip of images of any form."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.progress import stage
from .decode import count_channels, decoded_in_order, shown, some
from .image_files import ImageFiles
from .image_labels import labelled
from .listing import LABEL_FILE
from .pixels import Pixels, Reading
from .resize import Framing

PART = 1000  # images in a folder


def prepare(path: Path | str, out: Path, framing: Framing) -> str:
    """Write a zip of PNGs, img00000000.png and so on in the order of the images' names, and a dataset.json with their classes.

    Memory stays flat, whatever the number of images. What has more than 8 bits is rounded to 8, which is said.

    Args:
        path: of the folder or zip.
        out: of the new zip.
        framing: how images come to one size.

    Returns:
        One line about what was written.

    Raises:
        UserError: no images; images that cannot be read or are too small; a file that is there already or cannot be written.
    """
    if out.suffix != ".zip":
        raise UserError(f"{out}: does not end in .zip")
    if out.exists():
        raise UserError(f"{out}: is there already; delete it or give another name")
    files = ImageFiles(path)
    labels = labelled(files, "auto")
    reading = Reading(count_channels(files.names, files.bytes), framing)
    names = [f"{i // PART:05d}/img{i:08d}.png" for i in range(len(files.names))]
    broken: list[str] = []
    rounded = 0
    try:
        with (
            replacing(out) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
            stage("writing", len(names), "image", shown=len(names) > 1000) as bar,
        ):
            for old, new, one in zip(
                files.names, names, decoded_in_order(files.names, files.bytes, reading), strict=True
            ):
                bar.advance()
                if isinstance(one.pixels, str):
                    broken.append(f"{shown(old)} ({one.pixels})")
                elif not broken:
                    rounded += one.pixels.dtype != np.uint8
                    archive.writestr(new, _png(one.pixels))
            if broken:
                raise UserError(f"{files.where}: {len(broken)} of {len(names)} images cannot be used: {some(broken)}")
            pairs = None if labels.classes is None else [list(pair) for pair in zip(names, labels.classes, strict=True)]
            record: dict[str, object] = {"labels": pairs}
            if labels.class_names:
                record["class_names"] = list(labels.class_names)
            archive.writestr(LABEL_FILE, json.dumps(record))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    notes = [f"{rounded:,} of more than 8 bits, rounded to 8"] if rounded else []
    notes += [f"{labels.count} classes by {labels.source}" if labels.classes is not None else "no labels"]
    size = f"{framing.width}x{framing.height}"
    return f"{out}: {len(names):,} images of {size}; {'; '.join([*notes, *files.listing.notes()])}"


def _png(x: Pixels) -> bytes:
    if x.dtype != np.uint8:
        x = ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0))).save(out, "PNG")
    return out.getvalue()
