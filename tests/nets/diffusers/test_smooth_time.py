"""The smooth time of `nets.Diffusers`: the same network for the library, with less in its derivative by the time."""

import copy

import pytest
import torch
from diffusers_models import MODELS, conditioned, make

from lightning_diff import tangent
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import Diffusers

NAMES = [name for name in MODELS if name not in ("dit_1000", "lcm")]
RADIANS = 6.0


def inputs(net):
    generator = torch.Generator().manual_seed(3)
    span = net.family.time(net.config)(torch.tensor([torch.inf]).double()).float()
    x = torch.randn(4, *net.shape, generator=generator)
    return x, torch.tensor([0.02, 0.31, 0.67, 1.0]) * span, conditioned(net, 4)


@pytest.mark.parametrize("name", NAMES)
def test_the_library_runs_its_weights_as_they_are(name):
    net, plain = make(name, smooth_time=RADIANS), make(name)
    x, time, label = inputs(net)
    assert not torch.allclose(net(x, time, label), plain(x, time, label), rtol=1e-4)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x, time, label), plain(x, time, label), rtol=0, atol=0)
    net.load_state_dict(make(name).state_dict())  # of a network without
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x, time, label), plain(x, time, label), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_its_derivative_by_the_time_is_small(name):
    def rate(net):
        x, time, label = inputs(net)
        ahead = torch.full_like(time, float(time[-1]))  # by the share of the whole
        return tangent.jvp(lambda t: net(x, t, label), (time,), (ahead,))[1].norm()

    assert rate(make(name, smooth_time=RADIANS)) < 0.1 * rate(make(name))


def test_what_is_left_out_stays_out_in_training():
    net = make("sd3", smooth_time=RADIANS).train()
    x, time, label = inputs(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        net(x, time, label).square().mean().backward()
        optimizer.step()
    plain = make("sd3")
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x, time, label), plain(x, time, label), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(net)(x, time, label), net(x, time, label), rtol=0, atol=0)


def test_frequencies_are_those_of_the_library():
    net = make("sd3", smooth_time=RADIANS)
    embedding = net.model.time_text_embed
    weight = embedding.timestep_embedder.linear_1.weight
    left_out = (weight == 0).all(0)
    assert left_out[:128].equal(left_out[128:])
    angle = embedding.time_proj(torch.tensor([1e-3]))[0, 128:].asin() / 1e-3  # cosines come first
    assert left_out[128:].equal(angle > RADIANS / 1000)
    assert 0 < left_out.sum() < 256


@pytest.mark.parametrize("radians", [0.0, -1.0])
def test_no_radians(radians):
    with pytest.raises(UserError, match="smooth_time"):
        make("sd3", smooth_time=radians)


def test_nothing_left():
    with pytest.raises(UserError, match="smooth_time"):
        make("sd3", smooth_time=0.05)


def test_a_time_in_fourier_features():
    class_name, config, shape = MODELS["unet"]
    with pytest.raises(UserError, match="smooth_time"):
        Diffusers(class_name, {**config, "time_embedding_type": "fourier"}, shape, num_classes=3, smooth_time=RADIANS)
