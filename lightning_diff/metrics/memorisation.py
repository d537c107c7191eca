"""Share of generated images that are copies of training images, by nearest neighbours: Fréchet distances hardly see them."""

from jaxtyping import Float
from torch import Tensor

from .neighbours import nearest
from .two_samples import TwoSamples


def memorised(
    generated: Float[Tensor, "n d"], training: Float[Tensor, "m d"], ratio: float = 1 / 3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Share of memorised images in [0, 1], and the mean distance to the nearest training image; m >= 2.

    An image is memorised if its nearest training image is at most `ratio` as far as the second nearest (Yoon et al.
    2023, "Diffusion probabilistic models generalize when they fail to memorize"; Gu et al. 2023, arXiv 2310.02664;
    both with 1/3 in pixels). The mean distance means something beside that of held-out images only:
    smaller is copying (Meehan et al. 2020, arXiv 2004.05675). Copies of a training image that stands twice in
    the set count as memorised: 0 <= ratio * 0.
    """
    first, second = nearest(generated, training, k=2).T
    return (first <= ratio * second).double().mean(), first.mean()


class Memorisation(TwoSamples):
    """Memorisation of the real (training) features by the generated: {"memorisation", "nearest_train"}.

    Args:
        dim: d, the number of features; pixels, in the papers.
        ratio: distance of the nearest over that of the second nearest, below which an image counts as memorised.
    """

    higher_is_better = False

    def __init__(self, dim: int, ratio: float = 1 / 3, **kwargs: object):
        super().__init__(dim, **kwargs)
        self.ratio = ratio

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        share, distance = memorised(*self.samples(least=2), ratio=self.ratio)
        return {"memorisation": share, "nearest_train": distance}
