import math

import pytest
import torch

from lightning_diff.metrics import kernel, kernel_distance


def test_it_is_the_u_statistic_of_the_cubic_kernel(monkeypatch):
    a, b = torch.randn(9, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64) + 0.5

    def k(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    expected = (
        sum(k(a[i], a[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
        + sum(k(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
        - 2 * sum(k(x, y) for x in a for y in b) / (9 * 7)
    )
    assert float(kernel_distance(a, b)) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(kernel, "ROWS", 2)
    assert float(kernel_distance(a, b)) == pytest.approx(expected, rel=1e-10)


def test_it_is_unbiased():
    """Equal distributions: zero on average, over independent draws, and not by being small."""
    generator = torch.Generator().manual_seed(4)
    values = torch.stack([kernel_distance(*torch.randn(2, 40, 6, generator=generator).unbind()) for _ in range(400)])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 4 * error
    assert (values < 0).any()
    shifted = kernel_distance(torch.randn(400, 6, generator=generator), torch.randn(400, 6, generator=generator) + 1)
    assert float(shifted) > 100 * error
