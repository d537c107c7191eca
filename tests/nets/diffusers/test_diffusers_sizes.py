"""The library's networks on examples of other heights and widths than they were built for, as images in buckets have."""

import pytest
import torch
from diffusers_models import MODELS, conditioned, make
from messages import tells

from lightning_diff.foundation.errors import UserError


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("dit")])
def test_the_output_is_like_an_input_of_any_size_that_divides(name):
    net = make(name)
    time, label = net.family.time(net.config)(torch.tensor([0.5, 2.0])), conditioned(net)
    with torch.no_grad():
        for height, width in ((8, 12), (12, 4)):
            x = torch.randn(2, net.shape[0], height, width)
            assert net(x, time, label).shape == x.shape
        with pytest.raises(ValueError, match="was built for samples"):
            net(torch.zeros(2, net.shape[0] + 1, 8, 12), time, label)


def test_a_dit_is_for_squares_of_one_size():
    net = make("dit")
    with pytest.raises(UserError) as error:
        net(torch.zeros(2, 4, 8, 12), torch.zeros(2), conditioned(net))
    assert tells(str(error.value), "nets.Diffusers: DiTTransformer2DModel: ... 8x12 ... sample_size is 8 ...")
