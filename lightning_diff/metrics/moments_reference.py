"""Images measured against the mean and covariance in a file, as EDM and EDM2 exchange them: the Fréchet distance, and no more."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from ..artifacts.feature_moments import FeatureMoments
from ..data import Data
from ..foundation.errors import UserError
from .agreement import shares
from .evaluate import Batch, Reference
from .features import FeatureName
from .frechet import Moments, frechet_distance


class MomentsReference(Reference):
    """The moments of a reference's features. Its floors are those of the data's held-out images, if there are any.

    Args:
        moments: of the features.
        source: the file, for messages.
        data: the source of shape, labels and held-out images.
        feature: the feature space that the moments are of.
        device, batch: see `Reference`.

    Raises:
        UserError: moments of other features; see `feature_extractor`, too.
    """

    def __init__(
        self,
        moments: FeatureMoments,
        source: Path | str,
        data: Data,
        feature: FeatureName,
        device: torch.device | str = "cpu",
        batch: int = 500,
    ):
        super().__init__(data, feature, device=device, batch=batch)
        if moments.network not in (None, self.extractor.hash):
            raise UserError(
                f"{source}: its features are of the network {moments.network}, these are of {self.extractor.hash}: other weights, "
                "or a network trained on other images; write the file again with --write-reference"
            )
        self._moments = moments
        digest = hashlib.sha256(f"moments {self.extractor.name} {self.extractor.hash}".encode())
        for value in (moments.mean, moments.covariance):
            digest.update(value.contiguous().numpy().data.cast("B"))
        self.hash = digest.hexdigest()[:12]

    @torch.no_grad()
    def _measure(self, batches: Iterable[Batch]) -> tuple[int, dict[str, float]]:
        sums, agreement = Moments(self.extractor.dim).to(self._where), self._agreement()
        for _, features in self._featured(batches, agreement):
            sums.update(features)
        counts = agreement.compute()
        mean, covariance = sums.compute()
        reference = (value.to(mean) for value in (self._moments.mean, self._moments.covariance))
        values = {f"frechet_{self.extractor.name}": frechet_distance(mean, covariance, *reference)}
        return int(counts["n"]), values | shares(counts, self.data.class_names)
