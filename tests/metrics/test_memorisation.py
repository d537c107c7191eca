import pytest
import torch

from lightning_diff.metrics import memorised


def test_copies_are_found_and_new_images_are_not():
    training, new = torch.randn(300, 64), torch.randn(100, 64)
    share, distance = memorised(torch.cat([training[:25], new[:75]]), training)
    assert float(share) == 0.25
    assert float(memorised(training[:25], training)[1]) == 0  # exactly: no rounding of a matrix product
    assert float(distance) == pytest.approx(0.75 * float(memorised(new[:75], training)[1]))


def test_near_copies_count():
    training = torch.randn(300, 64)
    assert float(memorised(training[:50] + 0.1 * torch.randn(50, 64), training)[0]) == 1


def test_a_copy_of_an_image_that_stands_twice_counts():
    training = torch.randn(20, 8).repeat(2, 1)
    assert float(memorised(training[:3], training)[0]) == 1
