"""The classes of image files: from dataset.json, else from their folders, else none."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from ..foundation.errors import UserError
from .classes import counted, gaps, relabelled
from .decode import shown
from .image_files import ImageFiles
from .label_file import LabelFile
from .label_values import Classes, Labels, numbered
from .listing import LABEL_FILE

# Folders of splits and of kinds of files, as they are downloaded; path is one level too high.
NO_CLASS = re.compile(
    r"(train|test|val|valid|validation|dev|eval)(ing|ation)?([_-]?(set|images?|data|\d+))?"
    r"|(in-the-wild-)?(images?|thumbnails?|masks?|labels?|annotations?)([_-]?\d+(x\d+)?)?"
)

Where = Literal["auto", "file", "folders"]


@dataclass(frozen=True)
class Labelled:
    """The class of each file (None: unlabelled), and how that is known.

    Args:
        classes: of the files, in their order.
        count: how many classes there are.
        source: where they come from, in words.
        names: of the folders that are the classes, in their order.
        class_names: of the label file, or as the folders.
        occurring: the labels of the file that became 0, 1, ...
        by_name: whether the file's labels are names.
        notes: what else there is to say.
    """

    classes: list[int] | None = None
    count: int = 0
    source: str = ""
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    occurring: tuple[int, ...] = ()
    by_name: bool = False
    notes: tuple[str, ...] = ()


def labelled(
    files: ImageFiles, where: Where, classes: int = 0, *, relabel: bool = False, training: Labelled | None = None
) -> Labelled:
    """The classes of all the files; of held-out ones in the terms of the training set's.

    Raises:
        UserError: labels that are none, or that training lacks.
    """
    file = None if where == "folders" else files.label_file()
    if file is not None:
        labels = file.labels(files.names, files.depth)
        if labels is None:
            return Labelled(source=file.name)
        return _by_file(file, labels, classes, relabel=relabel, training=training)
    if where == "file":
        raise UserError(f"{files.where}: has no {LABEL_FILE}, which labels=file asks for")
    known = frozenset(training.names if training else ())
    folders = files.folders(known, shards=where == "folders")
    if folders is not None:
        if where == "auto" and not training and all(NO_CLASS.fullmatch(folder.lower()) for folder in folders):
            names = sorted(set(folders))
            raise UserError(
                f"{files.where}: folders {', '.join(map(shown, names))} hold parts of a data set, no classes; set path to one "
                "of them (and test_path to another), or labels to folders"
            )
        return _by_folder(files, folders, classes, training)
    if where == "folders":
        raise UserError(f"{files.where}: its folders are no classes: there is one alone, or images lie beside folders")
    if shards := files.folders(shards=True):
        return Labelled(notes=(f"folders {min(shards)} to {max(shards)} are taken for numbered parts, no classes",))
    return Labelled()


def _by_file(file: LabelFile, labels: Labels, classes: int, *, relabel: bool, training: Labelled | None) -> Labelled:
    """From the numbers or the names of a label file."""
    trained = None if training is None else Classes(training.class_names, training.by_name)
    numbers, names, by_name = numbered(file.where, labels, file.class_names, trained)
    if training and by_name:  # places among training's names
        relabel = False
    named = len(names) if by_name and not relabel else 0
    found = _numbered(file.where, numbers, classes, file.name, relabel=relabel, training=training, named=named)
    unused = (f"{file.unused:,} labels of files that are not there",) if file.unused else ()
    by_place = tuple(names[i] if i < len(names) else str(i) for i in found.occurring) if names else ()
    return replace(found, class_names=by_place or names, by_name=by_name, notes=(*found.notes, *unused))


def _numbered(
    where: str,
    labels: list[int],
    classes: int,
    source: str,
    *,
    relabel: bool,
    training: Labelled | None,
    named: int = 0,
) -> Labelled:
    """From the numbers of a label file; `named` is how many names they are places among, 0 for none."""
    occurring: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    if relabel:
        occurring = training.occurring if training else tuple(sorted(set(labels)))
        if occurring != tuple(range(len(occurring))):
            notes = (f"labels {occurring[0]:,} to {occurring[-1]:,} are numbered 0 to {len(occurring) - 1}",)
        labels = relabelled(where, labels, occurring)
    count = counted(where, labels, training.count if training else classes or named)
    if training is None and not classes:
        notes += gaps(where, labels, count, by_name=named > 0)
    return Labelled(labels, count, source, occurring=occurring, notes=notes)


def _by_folder(files: ImageFiles, folders: list[str], classes: int, training: Labelled | None) -> Labelled:
    names = training.names if training else tuple(sorted(set(folders)))
    if unknown := sorted(set(folders) - set(names)):
        there = ", ".join(map(shown, names)) or "none"
        raise UserError(f"{files.where}: the training images have no class {shown(unknown[0])!r}; they have {there}")
    places = {name: place for place, name in enumerate(names)}
    labels = [places[folder] for folder in folders]
    count = counted(files.where, labels, classes or len(names))
    return Labelled(labels, count, "its folders", names, class_names=names)
