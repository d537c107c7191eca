"""What a classifier takes images for: how many of them it gives the label that they were conditioned on, in all and by class."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from torchmetrics import Metric


class Agreement(Metric):
    """Counts of images, of those that a classifier names right, and of those that it names so, by class; added up over processes.

    Args:
        num_classes: of the classifier; 0 counts images alone.
    """

    is_differentiable = False
    full_state_update = False
    n: Tensor  # ()
    right: Tensor  # (classes,): conditioned on a class, and taken for it
    wanted: Tensor  # (classes,): conditioned on it
    named: Tensor  # (classes,): taken for it

    def __init__(self, num_classes: int = 0, **kwargs: object):
        super().__init__(**kwargs)
        self.add_state("n", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("right", "wanted", "named"):
            self.add_state(name, default=torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, count: int, named: Int64[Tensor, " n"] | None = None, labels: Int64[Tensor, " n"] | None = None
    ) -> None:
        """Count images.

        Args:
            count: how many.
            named: the classes that the classifier takes them for.
            labels: those that they were conditioned on.
        """
        self.n += count
        classes = len(self.named)
        if named is not None:
            named = named.to(self.named.device)
            self.named += torch.bincount(named, minlength=classes)
            if labels is not None:
                labels = labels.to(self.named.device)
                self.wanted += torch.bincount(labels, minlength=classes)
                self.right += torch.bincount(labels[labels == named], minlength=classes)

    def compute(self) -> dict[str, Tensor]:
        """The counts by name."""
        return {name: getattr(self, name) for name in ("n", "right", "wanted", "named")}


def shares(counts: dict[str, Tensor], class_names: Sequence[str] = ()) -> dict[str, float]:
    """From the counts: label_agreement, and for each class label_agreement/CLASS and class_share/CLASS.

    What nothing was counted for is left out: the agreement of images without labels, or of a class that none was conditioned on.

    Args:
        counts: of `Agreement`.
        class_names: in order of label; a class without one goes by its number.
    """
    n, right, wanted, named = (counts[name].double().cpu() for name in ("n", "right", "wanted", "named"))
    values = {"label_agreement": float(right.sum() / wanted.sum())} if wanted.sum() else {}
    names = [class_names[i] if i < len(class_names) else str(i) for i in range(len(named))]
    values |= {f"label_agreement/{names[i]}": float(right[i] / wanted[i]) for i in wanted.nonzero().flatten().tolist()}
    if named.sum():
        values |= {f"class_share/{name}": float(share) for name, share in zip(names, named / n, strict=True)}
    return values
