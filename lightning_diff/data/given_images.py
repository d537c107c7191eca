"""Images that lie on a disk, made by anything, read as the images are that they are to be compared with."""

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from ..foundation.errors import UserError
from .decode import count_channels, decode
from .image_files import ImageFiles
from .image_labels import Labelled, labelled
from .image_set import ImageSet, Origin
from .pixels import Reading
from .source import Data, kind_of_images

COLOURS = (1, 3)


class GivenImages(Data):
    """Images in memory where a source of examples is wanted; none are held out.

    Args:
        images: the images.
    """

    def __init__(self, images: ImageSet):
        super().__init__(batch_size=1)
        self.images = images

    @property
    def name(self) -> str:
        return self.images.name

    def load(self) -> tuple[ImageSet, None]:
        return self.images, None


def read_images(path: Path | str, like: Data | None = None) -> ImageSet:
    """The images of a folder, a zip, or an .npz as `lightning-diff sample` and guided-diffusion write it.

    Grey images become RGB where those that they are compared with are, and RGB ones whose channels are all equal become grey.
    Labels come from `arr_1` of an .npz, a dataset.json, or folders whose names are the classes or their numbers; they are left out
    where the others have none.

    Args:
        path: folder, zip or .npz.
        like: what they are to be compared with; None for nothing.

    Raises:
        UserError: no images, images that cannot be read, or of another shape.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such folder, zip or .npz (looked for it in {Path.cwd()})")
    found = _of_npz(path) if path.suffix == ".npz" else _of_files(path, like)
    if like is None:
        return found
    return _labelled_as(_shaped_as(found, like), like)


def _of_files(path: Path, like: Data | None) -> ImageSet:
    files = ImageFiles(path)
    pixels, notes = decode(files.where, files.names, files.bytes, Reading(count_channels(files.names, files.bytes)))
    labels = _labels(files, like)
    classes = None if labels.classes is None else torch.tensor(labels.classes)
    files.listing.passed_over[".csv"] -= (path / "metrics.csv").is_file()  # of an earlier measurement
    files.listing.passed_over += Counter()
    origin = Origin(files.where, labels.source, (*labels.notes, *notes, *files.listing.notes()))
    return ImageSet(torch.from_numpy(pixels), classes, str(path), labels.count, origin, labels.class_names)


def _labels(files: ImageFiles, like: Data | None) -> Labelled:
    """The classes of the files, in the numbers of those that they are compared with."""
    if like is None or not like.train.labelled:
        return Labelled()
    if files.label_file() is not None:
        return labelled(files, "auto", like.train.num_classes)
    names, count = tuple(like.class_names), like.train.num_classes
    folders = files.folders(frozenset(names))
    if folders is None:
        return Labelled()
    if set(folders) <= set(names):
        return Labelled([names.index(folder) for folder in folders], count, "its folders", class_names=names)
    if all(re.fullmatch(r"\d{1,9}", folder) and int(folder) < count for folder in folders):
        return Labelled([int(folder) for folder in folders], count, "its folders", class_names=names)
    return Labelled(notes=("its folders are no classes of the reference",))


def _of_npz(path: Path) -> ImageSet:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is no .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = _arrays(path, file.files, file)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as an .npz of images ({str(error).splitlines()[0][:200]})") from error
    if labels is not None and labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(1)  # one-hot, as EDM has them
    if labels is not None and (labels.size != len(images) or labels.dtype.kind not in "iu"):
        raise UserError(f"{path}: {len(images)} images, and labels of shape {labels.shape} and type {labels.dtype}")
    return ImageSet(
        torch.from_numpy(_channels_first(path, images)),
        None if labels is None else torch.from_numpy(labels.reshape(-1).astype(np.int64)),
        str(path),
        origin=Origin(str(path), "arr_1" if labels is not None else ""),
    )


def _arrays(
    path: Path, names: Sequence[str], file: "np.lib.npyio.NpzFile"
) -> tuple[Shaped[np.ndarray, "*images"], Shaped[np.ndarray, "*labels"] | None]:
    """The images and their labels. UserError where it is not known which array holds the images."""
    if "arr_0" in names:
        return file["arr_0"], file["arr_1"] if "arr_1" in names else None
    if len(names) == 1 and "mu" not in names:
        return file[names[0]], None
    there = ", ".join(names[:6]) or "nothing"
    moments = "; moments are given by --reference" if {"mu", "sigma"} <= set(names) else ""
    raise UserError(
        f"{path}: has no images: expected arr_0 (n, h, w, c), and perhaps arr_1, labels; it has {there}{moments}"
    )


def _channels_first(path: Path, x: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
    """uint8 (n, c, h, w), or float32 of any shape."""
    if x.ndim < 2 or not len(x):
        raise UserError(f"{path}: holds no images: its array has shape {x.shape}")
    if x.dtype == np.uint8:
        if x.ndim == 3:
            return x[:, None]
        if x.ndim != 4 or not {x.shape[1], x.shape[3]} & set(COLOURS):
            raise UserError(f"{path}: bytes of shape {x.shape}; expected (n, h, w, c) with 1 or 3 channels")
        return np.ascontiguousarray(np.moveaxis(x, 3, 1) if x.shape[3] in COLOURS else x)
    if x.dtype.kind != "f":
        raise UserError(f"{path}: holds {x.dtype}; expected uint8, or floats with black -1 and white 1")
    x = x.astype(np.float32)
    if x.ndim == 4 and x.shape[1] not in COLOURS and x.shape[3] in COLOURS:
        x = np.ascontiguousarray(np.moveaxis(x, 3, 1))
    if x.ndim == 4 and x.shape[1] in COLOURS and x.size and x.min() >= 0:
        raise UserError(
            f"{path}: pictures as floats from {x.min():g} to {x.max():g}; expected black -1 and white 1, or bytes (uint8)"
        )
    return x


def _shaped_as(images: ImageSet, like: Data) -> ImageSet:
    """UserError for another shape than that of the images that these are compared with."""
    pixels, shape = images.pixels, tuple(like.shape)
    if len(shape) == 3 and images.shape[1:] == shape[1:]:
        if (images.shape[0], shape[0]) == (1, 3):
            pixels = pixels.expand(-1, 3, -1, -1)
        elif (images.shape[0], shape[0]) == (3, 1) and bool((pixels == pixels[:, :1]).all()):
            pixels = pixels[:, :1]
    if tuple(pixels.shape[1:]) != shape:
        raise UserError(
            f"{images.name}: {kind_of_images(images.shape)}, and {like.name} has {kind_of_images(shape)}; give images of one "
            "size and as many channels"
        )
    return ImageSet(pixels, images.labels, images.name, images.num_classes, images.origin, images.class_names)


def _labelled_as(images: ImageSet, like: Data) -> ImageSet:
    """Without labels where the others have none. UserError for a label that they lack."""
    labels, classes = images.labels, like.train.num_classes
    if labels is None or not classes:
        return ImageSet(images.pixels, None, images.name, origin=images.origin._replace(labels=""))
    if images.num_classes > classes:
        raise UserError(
            f"{images.name}: has a label {int(labels.max())}, and {like.name} has classes 0 to {classes - 1}"
        )
    return ImageSet(images.pixels, labels, images.name, classes, images.origin, like.class_names)
