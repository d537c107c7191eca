"""Networks that take other heights and widths than they were built for, as images in buckets have."""

import pytest
import torch

from lightning_diff.nets import EDM2, MLP, DiT, UNet

NETWORKS = {
    "unet": lambda: UNet((3, 16, 16), channels=8, channel_mult=[1, 2], num_blocks=1, attention=[8]),
    "edm2": lambda: EDM2((3, 16, 16), channels=8, channel_mult=[1, 2], num_blocks=1, attention=[8], head_width=8),
    "dit": lambda: DiT((3, 16, 16), width=16, depth=1, heads=2),
}


@pytest.mark.draws
@pytest.mark.parametrize("name", NETWORKS)
def test_any_height_and_width_that_it_divides_give_an_output_like_the_input(name):
    net = NETWORKS[name]()
    for height, width in ((16, 16), (24, 12), (10, 28)):
        x = torch.randn(2, 3, height, width)
        assert net(x, torch.zeros(2)).shape == x.shape
    for shape in ((3, 15, 16), (3, 16, 15), (1, 16, 16), (3, 16)):
        with pytest.raises(ValueError, match="got"):
            net(torch.zeros(2, *shape), torch.zeros(2))


def test_a_perceptron_takes_its_own_shape_alone():
    with pytest.raises(ValueError, match="MLP"):
        MLP((3, 4, 4), width=8, depth=1)(torch.zeros(2, 3, 4, 8), torch.zeros(2))


def test_patches_of_a_transformer_are_placed_from_the_middle():
    net = DiT((3, 16, 16), width=16, depth=1, heads=2)
    own = net._positions(8, 8).unflatten(0, (8, 8))
    assert torch.equal(net._positions(10, 12).unflatten(0, (10, 12))[1:-1, 2:-2], own)
    assert torch.equal(net._positions(6, 10).unflatten(0, (6, 10))[:, 1:-1], own[1:-1])
    halves = net._positions(9, 8).unflatten(0, (9, 8))  # of which a middle row lies between two of the eight
    assert torch.equal(halves[:, :, 8:], own[:1, :, 8:].expand(9, 8, 8))
    assert not (halves[:, None, :, :8] == own[None, :, :, :8]).flatten(2).all(2).any()
