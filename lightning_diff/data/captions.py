"""Captions for the images of any source, and what a text encoder makes of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..condition import Condition, Prompts
from ..foundation import rng
from ..foundation.errors import UserError
from ..text import MAX_GIB, Embedded, OnTheFly, PromptList, TextEncoder, class_of, embedded, read_prompts
from . import caption_texts
from .augment import Augment
from .buckets import Buckets
from .caption_texts import BESIDE, Wordings
from .image_set import NOWHERE, Examples, Indices, Origin
from .source import Data
from .stream import taken

MOST_PROMPTS = 64  # of those that are made of captions


class Captions(Data):
    """Images of a source, conditioned on what a text encoder makes of their captions; labels stay, for rewards and figures.

    Of several wordings for an image one is chosen at each showing, by (seed, position). Every distinct text is encoded once, into a
    cache (see `text.embedded`), before training begins.

    Args:
        batch_size: images per optimiser step; that of the source counts for nothing, as do its workers and its flip.
        source: the images.
        captions: one wording or several for each class, by name or number; or templates with {class}; or a .jsonl with
            "file_name", "index" or "label" and "text" on each line, looked for in the source's folder too; or "txt" for a .txt
            beside each image, in a folder, zip or tar, a wording on each line; or the name of a column of the data, or of a key of
            a tar's .json.
        text: encodes them.
        prompts: what samples are drawn for where nobody says: a file (see `text.read_prompts`) or a list; None for `held_out`, or
            without it up to 64 captions.
        held_out: wordings by class, as `captions`, that training never sees.
        encode: "cache" encodes every distinct text once, before training; "fly" those of each batch when it is read, in the
            training process or its workers, for more captions than a disk has room for.
        max_gib: largest size of the embeddings of all captions, GiB.
        flip, augment, workers, conditional: see `Data`.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        "prompts",
        "held_out",
        "source.workers",
        "source.batch_size",
        "text.device",
        "max_gib",
    )

    def __init__(
        self,
        batch_size: int,
        *,
        source: Data,
        captions: Mapping[str | int, str | Sequence[str]] | Sequence[str] | str,
        text: TextEncoder,
        prompts: str | Path | Sequence[str] | None = None,
        held_out: Mapping[str | int, str | Sequence[str]] | Sequence[str] | None = None,
        flip: bool = False,
        augment: Augment | None = None,
        workers: int = 0,
        conditional: bool = True,
        encode: Literal["cache", "fly"] = "cache",
        max_gib: int | float = MAX_GIB,
    ):
        super().__init__(batch_size, flip=flip, augment=augment, workers=workers, conditional=conditional)
        self.source, self.captions, self.held_out = source, captions, held_out
        self.text: TextEncoder = text  # type: ignore[misc]  # of the class it is None
        self.autoencoder = source.autoencoder  # type: ignore[misc]  # likewise
        self._asked, self.encode, self.max_gib = prompts, encode, max_gib
        self.file: Path | None = None  # of the captions' embeddings, once they are there
        if encode not in ("cache", "fly"):
            raise ValueError(f"{self.name}: encode must be cache or fly, got {encode!r}")

    def load(self) -> tuple["CaptionedImages", Examples | None]:
        wordings = self._wordings(self.source.train)
        every = {text for texts in wordings for text in texts}
        if told := sorted(every & {text for texts in self._held_out or () for text in texts}):
            raise UserError(f"{self.name}: held_out: {told[0]!r} is a caption that training sees")
        if self.encode == "fly":
            flying = OnTheFly(self.text, sorted(every))
            return CaptionedImages(self.source.train, wordings, flying, self.text.fingerprint()), self.source.test
        made = embedded(self.text, sorted(every), max_gib=self.max_gib)
        self.file = made.file
        return CaptionedImages(self.source.train, wordings, made, self.text.fingerprint()), self.source.test

    @property
    def pictured(self) -> Data:
        """The captioned images that the source's latents are of; these data themselves where it has none."""
        images = self.source.pictured
        if images is self.source:
            return self
        return Captions(
            self.batch_size,
            source=images,
            captions=self.captions,
            text=self.text,
            prompts=self._asked,
            held_out=self.held_out,
            conditional=self.conditional,
            encode=self.encode,
            max_gib=self.max_gib,
        )

    @cached_property
    def prompts(self) -> Prompts | None:
        """Those asked for, or of held-out wordings, or of captions, with the class of each where all are known."""
        found = self._prompts()
        made = embedded(self.text, found.texts)
        labels = None if found.labels is None else [self._class_of(label, found.source) for label in found.labels]
        return Prompts(found.texts, made.condition(made.numbers(found.texts)), labels)

    def _prompts(self) -> PromptList:
        if isinstance(self._asked, str | Path):
            return self._labelled(read_prompts(self._asked))
        if self._asked is not None:
            if not self._asked:
                raise UserError(f"{self.name}: prompts: there are none; leave it out for those of the captions")
            return self._labelled(PromptList(tuple(self._asked), source=f"{self.name}: prompts"))
        wordings = self._held_out or self._by_class or self._wordings(self.source.train)
        texts = caption_texts.distinct(wordings)[:MOST_PROMPTS]
        return self._labelled(PromptList(tuple(texts), source=self.name))

    def _labelled(self, given: PromptList) -> PromptList:
        """With the classes that wordings by class tell of them, where each is one of those."""
        if given.labels is not None:
            return given
        known = {
            text: label
            for wordings in (self._by_class, self._held_out)
            for label, texts in enumerate(wordings or ())
            for text in texts
        }
        labels = [known[text] for text in given.texts if text in known]
        return given._replace(labels=tuple(labels)) if len(labels) == len(given.texts) else given

    def _class_of(self, label: int | str, where: str) -> int:
        return class_of(label, self._called, where)

    @property
    def _called(self) -> list[str]:
        """The classes, by number where they have no names."""
        names, count = self.source.class_names, self.source.num_classes
        return [names[i] if i < len(names) else str(i) for i in range(count)]

    @cached_property
    def _by_class(self) -> Wordings | None:
        """The wordings of each class; None where captions are not by class."""
        if isinstance(self.captions, str | Path):
            return None
        return caption_texts.by_class(
            self.captions, self.source.class_names, self.source.num_classes, f"{self.name}: captions"
        )

    @cached_property
    def _held_out(self) -> Wordings | None:
        if self.held_out is None:
            return None
        return caption_texts.by_class(
            self.held_out, self.source.class_names, self.source.num_classes, f"{self.name}: held_out"
        )

    def _wordings(self, examples: Examples) -> Wordings:
        """Of each image."""
        count, files = len(examples), getattr(examples, "names", ())
        folder = Path(str(getattr(self.source.pictured, "path", "."))).expanduser()  # or zip, of the images
        if self._by_class is not None:
            return caption_texts.of_classes(self._by_class, examples.label(np.arange(count)))
        if self.captions == BESIDE and files:
            return caption_texts.beside(folder, files)
        path = Path(str(self.captions)).expanduser()
        if not path.suffix:
            return caption_texts.of_data(examples, str(self.captions))
        path = folder / path if (folder / path).is_file() and not path.exists() else path
        labels = examples.label(np.arange(count)).tolist() if examples.labelled else None
        return caption_texts.of_file(path, files, labels, self._called, count)


class CaptionedImages:
    """Examples with embeddings of captions in place of labels.

    Args:
        images: the examples.
        wordings: of each.
        made: their embeddings.
        encoder: fingerprint of what made them.
    """

    def __init__(self, images: Examples, wordings: Wordings, made: Embedded | OnTheFly, encoder: str):
        self._images, self._made, self._encoder = images, made, encoder
        self.name, self.shape, self.labelled, self.num_classes = (
            images.name,
            images.shape,
            images.labelled,
            images.num_classes,
        )
        self.class_names: Sequence[str] = getattr(images, "class_names", ())
        self.mirrors: bool = getattr(images, "mirrors", False)
        self.buckets: Buckets | None = getattr(images, "buckets", None)
        origin: Origin = getattr(images, "origin", NOWHERE)
        self._counts = np.array([len(texts) for texts in wordings])
        self._starts = self._counts.cumsum() - self._counts  # of each image's wordings among all
        self._rows = made.numbers([text for texts in wordings for text in texts]).numpy()
        empty = sum("" in texts for texts in wordings)
        notes = [f"{len(made.rows):,} captions", *([f"{empty:,} images with an empty one"] if empty else [])]
        self.origin = origin._replace(notes=(*origin.notes, *notes))
        self.condition_shapes = made.shapes if isinstance(made, OnTheFly) else made.stored.shapes
        self.null_condition = made.null

    def __len__(self) -> int:
        return len(self._images)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], Condition]:
        """Images, and each one's first wording."""
        return self.images(indices), self._condition(indices, np.zeros(len(indices), np.int64))

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n ..."], Condition]:
        """Images, and of each one a wording that its position chooses."""
        images, _ = taken(self._images, np.asarray(indices), seed, positions)
        share = rng.uniform(seed, "caption", positions)
        return images, self._condition(indices, (share * self._counts[np.asarray(indices)]).astype(np.int64))

    def _condition(self, indices: Indices, choice: Int64[np.ndarray, " n"]) -> Condition:
        return self._made.condition(torch.from_numpy(self._rows[self._starts[np.asarray(indices)] + choice]))

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return self._images.images(indices)

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        return self._images.label(indices)

    def std(self) -> float:
        return self._images.std()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._images.fingerprint()} {self._encoder}".encode())
        digest.update(json.dumps(list(self._made.rows)).encode())
        for each in (self._counts, self._rows):
            digest.update(each.astype(np.int64).tobytes())
        return digest.hexdigest()
