"""What one process measures, two processes measure, however unevenly the images lie on them."""

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import (
    DensityCoverage,
    FrechetDistance,
    KernelDistance,
    Manifold,
    Memorisation,
    PrecisionRecall,
)

METRICS = [FrechetDistance, KernelDistance, PrecisionRecall, DensityCoverage, Manifold, Memorisation]


def _values(metric) -> torch.Tensor:
    value = metric.compute()
    return torch.stack(list(value.values())) if isinstance(value, dict) else value[None]


def test_uneven_and_empty_shares(two_processes):
    generator = torch.Generator().manual_seed(7)
    fake, real = torch.randn(60, 5, generator=generator), 1.3 * torch.randn(83, 5, generator=generator)
    alone = []
    for kind in METRICS:
        metric = kind(5)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        alone.append(_values(metric))

    def measure(rank: int) -> list[torch.Tensor]:
        results = []
        for kind in METRICS:
            uneven = kind(5)  # other numbers of updates, and of images in each
            for part in (real[:50].split(50), real[50:].split(10))[rank]:
                uneven.update(part, real=True)
            for part in (fake[:7].split(2), fake[7:].split(53))[rank]:
                uneven.update(part, real=False)
            results.append(_values(uneven))

            halved = kind(5)  # all generated images on one process
            halved.update(real[rank::2], real=True)
            halved.update(fake[: 60 * rank], real=False)
            results.append(_values(halved))

            bare = kind(5)  # everything on one process; the other has not seen an update
            if rank == 1:
                bare.update(real, real=True)
                bare.update(fake, real=False)
            results.append(_values(bare))
        return results

    for results in two_processes(measure):
        for i, value in enumerate(results):
            torch.testing.assert_close(value, alone[i // 3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", METRICS)
def test_no_metric_touches_the_global_generator(kind):
    metric = kind(5)
    metric.update(torch.randn(20, 5), real=True)
    metric.update(torch.randn(20, 5), real=False)
    before = torch.get_rng_state()
    metric.compute()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", METRICS)
def test_no_images_is_an_error_in_words(kind):
    metric = kind(5)
    metric.update(torch.randn(20, 5), real=True)
    with pytest.raises(UserError, match=r"0 generated images.* at least"):
        metric.compute()
