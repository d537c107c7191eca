"""From generated images to rows of figures, each with its protocol and with the floor that real images have."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from ..artifacts.feature_moments import FeatureMoments
from ..data import Data, Examples
from ..foundation import rng, stopping
from ..foundation.processes import from_all, is_first_process, rank_and_world
from ..foundation.progress import each
from .agreement import Agreement, shares
from .classifier import Classifier
from .features import FeatureName, Pixels, feature_extractor
from .frechet import FrechetDistance, Moments
from .kernel import KernelDistance
from .manifold import Manifold
from .memorisation import Memorisation
from .protocol import Protocol

Batch = tuple[Tensor, Tensor | None]  # images (b, ...), labels (b,)
FLOOR = "_floor"  # ends the name of a metric of held-out images


@dataclass(frozen=True)
class Row:
    """One figure."""

    metric: str
    value: float
    protocol: Protocol

    def record(self) -> dict[str, str | int | float | None]:
        """The columns metric, value and those of the protocol (see `Protocol.record`)."""
        return {"metric": self.metric, "value": self.value, **self.protocol.record()}


class Reference:
    """The training split in a feature space: what generated images are measured against. Build it once, use it often.

    It keeps this process's share of the real features in memory, and the floors it has measured. Under a process
    group, build and use it on every process.

    Args:
        data: the source; `train` is the reference, `test` gives the floors (none without it).
        feature: the feature space; None for the best that the data allow (see `feature_extractor`).
        limit: real images at most; a fixed random choice if the training split has more.
        device: where features and distances are computed.
        batch: images at a time through the feature network.

    Raises:
        UserError: see `feature_extractor`.
    """

    def __init__(
        self,
        data: Data,
        feature: FeatureName | None = None,
        limit: int = 50_000,
        device: torch.device | str = "cpu",
        batch: int = 500,
    ):
        self.data, self.device, self.batch = data, torch.device(device), batch
        self.extractor = feature_extractor(feature, data, self.device)
        self.pixels = Pixels(data.shape)
        self.n = min(len(data.train), limit)
        content = f"{data.fingerprint} train {self.n} {self.extractor.name} {self.extractor.hash}"
        self.hash = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._real: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._floors: dict[int, dict[str, float]] = {}

    def measure(
        self, images: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"] | None = None
    ) -> tuple[int, dict[str, float]]:
        """Number of images over all processes, and every metric of them against the training split."""
        n = max(len(images), 1)  # an empty share is one empty batch: torchmetrics warns of a metric without updates
        batches = (
            (images[i : i + self.batch], None if labels is None else labels[i : i + self.batch])
            for i in range(0, n, self.batch)
        )
        return self._measure(self._shown(batches, "measuring images", n))

    def floor(self, n: int) -> tuple[int, dict[str, float]]:
        """The number of held-out images and what they get: `n`, by a fixed random choice, or all if they are fewer.

        The figure that a perfect model would have, at the same n: a Fréchet distance above zero, a precision below one.
        """
        test = self.data.test
        if test is None:
            return 0, {}
        n = min(n, len(test))
        if n not in self._floors:
            index = rng.permutation(0, "floor", 0, len(test))[:n]
            batches = self._batches(test, index, labels=test.labelled)
            here = -(-n // rank_and_world()[1])
            self._floors[n] = self._measure(self._shown(batches, "measuring held-out images", here))[1]
        return n, self._floors[n]

    def moments(self) -> FeatureMoments:
        """Mean and covariance of the features of all training images, however many: what a file of moments holds."""
        sums = Moments(self.extractor.dim).to(self._where)
        batches = self._batches(self.data.train, np.arange(len(self.data.train)), labels=False)
        here = -(-len(self.data.train) // rank_and_world()[1])
        for images, _ in self._shown(batches, "measuring real images", here):
            sums.update(self._features(images).to(self._where))
        mean, covariance = (value.cpu() for value in sums.compute())
        return FeatureMoments(mean, covariance, self.extractor.name, self.extractor.hash, len(self.data.train))

    @torch.no_grad()
    def _measure(self, batches: Iterable[Batch]) -> tuple[int, dict[str, float]]:
        name, dim = self.extractor.name, self.extractor.dim
        frechet, memorisation = FrechetDistance(dim), Memorisation(self.pixels.dim)
        equal_n: list[Metric] = [KernelDistance(dim), Manifold(dim)]
        agreement, generated = self._agreement(), []
        for metric in (frechet, *equal_n, memorisation):
            metric.to(self._where)
        for images, features in self._featured(batches, agreement):
            frechet.update(features, real=False)
            generated.append(features)
            memorisation.update(self.pixels(images).to(self._where), real=False)
        counts = agreement.compute()
        n = int(counts["n"])
        stopping.check("batch")

        features, pixels = (real.to(self._where) for real in self._share())
        frechet.update(features, real=True)
        memorisation.update(pixels, real=True)
        rank, world = rank_and_world()
        some = torch.cat(generated)
        some = some[: _share_of_most(len(some), self.n, self.device)]
        for metric in equal_n:
            metric.update(some, real=False)
            metric.update(features[: len(range(rank, min(n, self.n), world))], real=True)

        stopping.check("batch")
        every = [frechet, *equal_n, memorisation]
        compared = each(every, "comparing with real images", len(every), "figure", shown=is_first_process())
        distance, kernel, manifold, copies = (metric.compute() for metric in compared)
        values = {"frechet": distance, "kernel": kernel, **manifold}
        values = {f"{metric}_{name}": value for metric, value in values.items()} | copies
        return n, {metric: float(value) for metric, value in values.items()} | shares(counts, self.data.class_names)

    def _agreement(self) -> Agreement:
        classifier = self._classifier
        return Agreement(0 if classifier is None else classifier.head.out_features).to(self._where)

    def _featured(self, batches: Iterable[Batch], agreement: Agreement) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and their features, batch by batch, counted on the way."""
        classifier = self._classifier
        for images, labels in batches:
            features = self._features(images)
            named = None if classifier is None else classifier.logits(features).argmax(1)
            agreement.update(len(images), named, labels)
            yield images, features.to(self._where)

    @property
    def _classifier(self) -> Classifier | None:
        """The extractor, if it knows the data's own classes."""
        return (
            self.extractor if isinstance(self.extractor, Classifier) and self.extractor.name == "classifier" else None
        )

    @property
    def _where(self) -> torch.device:
        """Where figures are computed."""
        return torch.device("cpu") if self.device.type == "mps" else self.device  # which has no float64

    def _share(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n pixels"]]:
        """Features and pixels of this process's share of the real images, in a fixed random order; made once."""
        share = rank_and_world()
        if share not in self._real:
            order = rng.permutation(0, "reference", 0, len(self.data.train))[: self.n]
            batches = self._batches(self.data.train, order, labels=False)
            shown = self._shown(batches, "measuring real images", -(-len(order) // share[1]))
            real = [(self._features(x), self.pixels(x)) for x, _ in shown]
            self._real = {share: (torch.cat([f for f, _ in real]), torch.cat([p for _, p in real]))}
        return self._real[share]

    def _shown(self, batches: Iterable[Batch], name: str, count: int) -> Iterator[Batch]:
        """The batches of `count` images, as a stage that is shown on the first process."""
        return each(batches, name, -(-count // self.batch), "batch", shown=is_first_process())

    def _batches(self, images: Examples, index: Int64[np.ndarray, " n"], labels: bool) -> Iterable[Batch]:
        rank, world = rank_and_world()
        mine = index[rank::world]
        for i in range(0, max(len(mine), 1), self.batch):
            stopping.check()
            part = mine[i : i + self.batch]
            yield images.images(part), images.label(part) if labels else None

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.extractor(images.to(self.device, torch.float32))


def _share_of_most(count: int, most: int, device: torch.device) -> int:
    """How many of its `count` this process hands on, so that all together are `most`, or all there are: an equal part of each."""
    rank, world = rank_and_world()
    counts: list[int] = from_all(torch.tensor([count], device=device)).tolist()
    kept = [min(here, len(range(r, most, world))) for r, here in enumerate(counts)]
    for r, here in enumerate(counts):  # of those that have more, where others have less
        kept[r] += min(here - kept[r], most - sum(kept))
    return kept[rank]


def evaluate(
    generated: Float[Tensor, "n ..."],
    reference: Reference,
    labels: Int64[Tensor, " n"] | None = None,
    protocol: Protocol | None = None,
    *,
    per_class: bool = False,
) -> list[Row]:
    """Every metric of the generated images against the training split, then of held-out images (rows named ..._floor).

    With F the feature space: frechet_F, kernel_F, precision_F, recall_F, density_F, coverage_F; memorisation and
    nearest_train (both in pixels); label_agreement, the share of images that the classifier gives the label that they
    were conditioned on (feature space "classifier" only). The Fréchet distance and the two in pixels compare with the whole
    reference; the others with n real images, the same choice every time, as their papers do. Of more images than the reference
    has, they see as many as it has: recall and coverage mean something at equal numbers only.

    Floors are at the same n if there are so many held-out images, else at all of them; their rows say which. They leave
    the sampler's columns empty.

    Under a process group every process calls this with its own share of the images, possibly (0, ...), with labels on
    all or none, and gets the result for all images.

    Args:
        generated: images in [-1, 1].
        reference: what to measure against.
        labels: those that the images were conditioned on.
        protocol: how the images were sampled; n and reference are filled in here.
        per_class: in the feature space "classifier", also label_agreement/CLASS and class_share/CLASS, the share of all images
            that the classifier takes for that class.

    Raises:
        UserError: fewer images than a covariance of the features needs.
    """
    n, values = reference.measure(generated, labels)
    measured = replace(protocol or Protocol(), n=n, reference=reference.hash)
    rows = [Row(metric, value, measured) for metric, value in values.items()]
    n_floor, floors = reference.floor(n)
    held_out = Protocol(n=n_floor, reference=reference.hash)
    rows += [Row(f"{metric}{FLOOR}", value, held_out) for metric, value in floors.items()]
    return [row for row in rows if per_class or "/" not in row.metric]
