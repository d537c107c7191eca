"""What figures are measured against: a run's own data, those of a recipe, a folder of images, or a file of moments."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch

from ..artifacts.feature_moments import FeatureMoments, load_moments, refuse_suffix, save_moments
from ..data import Data, Images
from ..data.given_images import GivenImages, read_images
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process
from ..metrics import MomentsReference, Reference
from ..metrics.features import FeatureName, dim, refuse_unfit
from . import recipe
from .build import build_images
from .choices import refuse_unknown
from .console import say
from .output import refuse_unwritable

EDM_SPACE: FeatureName = "fid_inception"  # of an .npz that does not say so


@dataclass(frozen=True, kw_only=True)
class Against:
    """What figures are measured against, as it was typed.

    Args:
        data: a recipe, a run, or images (a folder, a zip or an .npz); None for the data of the run that is measured.
        moments: a file of moments in place of the data's training images.
        feature: a `FeatureName`; None for what suits the data, or what the file of moments is of.
        write: where to write the moments of the data's training images.
    """

    data: str | None = None
    moments: Path | None = None
    feature: str | None = None
    write: Path | None = None

    def check(self) -> None:
        """UserError for what is not right whatever the data are."""
        if self.feature is not None:
            refuse_unknown("--feature", self.feature, get_args(FeatureName))
        if self.moments is not None and self.write is not None:
            raise UserError("--write-reference: writes the moments of images, and --reference has moments alone")
        if self.write is not None:
            refuse_suffix(self.write)
            refuse_unwritable(self.write)

    def open(self, data: Data, n: int | None, *, measured: str = "samples", measures: bool = True) -> "Chosen":
        """The feature space and the moments, if a file has them; everything that can be refused before work, is.

        Args:
            data: the source.
            n: samples.
            measured: what they are called in messages.
            measures: False for the moments of the reference alone.
        """
        feature, moments = cast(FeatureName | None, self.feature), None
        if self.moments is not None:
            feature, moments = _of_file(self.moments, feature)
            if isinstance(data, GivenImages) and feature in ("classifier", "rotation"):
                raise UserError(f"--feature: {feature} is trained on the reference's own images; give them, by --data")
        refuse_unfit("evaluate", feature, data, n, measured=measured, reference=moments is None, measures=measures)
        if moments is not None:
            space, size = dim(feature, data)
            if moments.dim != size:
                raise UserError(f"{self.moments}: is of {moments.dim} features, and {space} of these images has {size}")
        return Chosen(self, data, feature, moments)


@dataclass(frozen=True)
class Chosen:
    """`Against`, checked.

    Args:
        asked: what was typed.
        data: the source.
        feature: the feature space; None for what suits the data.
        moments: of the file.
    """

    asked: Against
    data: Data
    feature: FeatureName | None
    moments: FeatureMoments | None

    def reference(self, device: torch.device | str) -> Reference:
        """Built, and its moments written where that was asked for."""
        if self.moments is not None:
            assert self.asked.moments is not None
            assert self.feature is not None
            return MomentsReference(self.moments, self.asked.moments, self.data, self.feature, device)
        reference = Reference(self.data, self.feature, device=device)
        if (target := self.asked.write) is not None:
            moments = reference.moments()
            if is_first_process():
                save_moments(target, moments)
            say(f"{target}: moments of {moments.n:,} images, {moments.dim} features ({moments.space})")
        return reference

    @property
    def remark(self) -> str:
        """What is to be said of figures that are missing."""
        if self.moments is None:
            return ""
        return (
            f"{self.asked.moments} has moments alone: kernel distance, precision, recall, density, coverage and memorisation need "
            "the features of single images (without --reference, by --data)"
        )


def data_of(where: str) -> Data:
    """The data that a person means: of a recipe or run, or images that lie on the disk.

    Raises:
        UserError: there is nothing of that name, or it cannot be read.
    """
    path = Path(where).expanduser()
    is_recipe = path.suffix in (".yaml", ".yml") or (path.is_dir() and (path / recipe.SAVED).is_file())
    if path.exists() and not is_recipe:
        data: Data = GivenImages(read_images(path)) if path.suffix == ".npz" else Images(batch_size=1, path=where)
        data.setup()
        return data
    try:
        source = recipe.find(where)
    except UserError as error:
        raise UserError(f"--data: {error}; or give a folder or zip of images") from error
    if recipe.run_folder(source) is not None:
        return build_images(recipe.read_yaml(source, "data"), source)
    return build_images(recipe.load(where), source)


def _of_file(path: Path, feature: FeatureName | None) -> tuple[FeatureName, FeatureMoments]:
    """The moments of the feature space that was asked for, or of the one that the file has first."""
    found = load_moments(path)
    if feature == "inception":
        feature = EDM_SPACE
    known = [space for space in found if space in get_args(FeatureName)]
    if feature is None and known:
        feature = cast(FeatureName, known[0])
    if feature is not None:
        moments = found.get(feature) or found.get("")
        if moments is None:
            raise UserError(f"{path}: has moments of {', '.join(found)}, not of {feature}")
        return feature, moments
    if "" in found and found[""].dim == 2048:
        return EDM_SPACE, found[""]
    there = ", ".join(space for space in found if space) or f"{next(iter(found.values())).dim} features"
    raise UserError(f"{path}: has moments of {there}; say by --feature which space that is")
