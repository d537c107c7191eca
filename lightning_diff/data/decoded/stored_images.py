"""Images that lie on a disk: decoded once, whoever reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from jaxtyping import Int64
from torch import Tensor

from ..crops import Crops
from ..decode import Decoded
from ..image_set import ImageSet, Origin
from ..image_source import ImageSource
from ..source import Data
from .cache import Cache, DecodedCache
from .entry import Sets
from .mapped import tensor_of
from .stores import MakeStore, Ragged


@dataclass(eq=False, kw_only=True)
class StoredImages(ImageSource):
    """A source whose files are decoded into memory, or once for all into a file of the cache folder; a subclass says how.

    Args:
        cache: "auto" keeps decoded images in the cache folder, from where every process and every later start maps them, if they
            are of 16 MiB or more; "always" smaller ones, too; "never" reads the files at every start.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("cache",)  # the images are the same

    path: str | Path
    cache: Cache = "auto"

    def load(self) -> Sets:
        # How examples are drawn changes nothing about them.
        drawing = {field.name for field in fields(Data)} | {"cache"}
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in drawing}
        key = f"{type(self).__qualname__} {sorted((name, repr(value)) for name, value in options.items())}"
        return DecodedCache(self.name, key, self.files(), self.cache).load(self.decoded)

    def files(self) -> Sequence[Path]:
        """The files and folders that are read."""
        raise NotImplementedError

    def decoded(self, store: Callable[[str], MakeStore]) -> Sets:
        """The training set and the held-out set (None if there is none).

        Args:
            store: where the pixels of a split, "train" or "test", go; training's come first.
        """
        raise NotImplementedError

    def examples(
        self,
        decoded: Decoded,
        labels: Int64[Tensor, " n"] | None,
        name: str,
        num_classes: int,
        origin: Origin,
        class_names: Sequence[str],
        names: Sequence[str] = (),
    ) -> ImageSet | Crops:
        """Images that were decoded, with all that `ImageSet` takes."""
        rest = (labels, name, num_classes, origin, class_names)
        if isinstance(decoded.pixels, Ragged):
            assert self.framing is not None
            return Crops(decoded.pixels, self.framing, *rest, names=names)
        return ImageSet(tensor_of(decoded.pixels), *rest, names=names)
