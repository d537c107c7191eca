"""The guidance scale as a network's input: nothing at the start, learnable, right in forward mode, refused where there is none."""

import pytest
import torch

from lightning_diff import tangent
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP, DiT, UNet

NETS = {
    "unet": lambda **more: UNet((1, 8, 8), 3, channels=8, channel_mult=(1, 2), num_blocks=1, attention=(8,), **more),
    "dit": lambda **more: DiT((1, 8, 8), 3, width=16, depth=2, heads=2, **more),
    "mlp": lambda **more: MLP((2,), 3, width=16, depth=2, **more),
}


@pytest.fixture(params=NETS)
def make(request):
    return NETS[request.param]


def inputs(net):
    return torch.randn(3, *net.shape), torch.randn(3), torch.tensor([0, 2, 3])


def test_a_network_with_the_input_starts_as_the_one_without(make):
    plain, guided = make(), make(guided=True)
    missing = guided.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["conditioning.guidance.linear.weight"]
    x, c_noise, label = inputs(plain)
    for scale in (None, torch.tensor([1.0, 1.5, 2.0])):
        assert torch.equal(guided(x, c_noise, label, guidance=scale), plain(x, c_noise, label))


def test_it_can_learn_from_the_scale_and_takes_none_for_one(make):
    net = make(guided=True)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, c_noise, label = inputs(net)
    scales = torch.tensor([1.0, 1.5, 2.0])
    output = net(x, c_noise, label, guidance=scales)
    one = net(x, c_noise, label)
    assert torch.equal(net(x, c_noise, label, guidance=torch.ones(3)), one)
    assert torch.allclose(output[0], one[0])
    assert ((output - one).flatten(1).norm(dim=1)[1:] > 1e-2).all()
    output.sum().backward()
    assert net.conditioning.guidance.linear.weight.grad.norm() > 0


def test_forward_mode_passes_by_it(make):
    net = make(guided=True).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, c_noise, label = inputs(net)
    primals, scale = (x.double(), c_noise.double()), torch.tensor([1.0, 1.5, 2.0]).double()
    directions = tuple(torch.randn_like(each) for each in primals)

    def fn(x, c_noise):
        return net(x, c_noise, label, guidance=scale)

    h = 1e-5
    with torch.no_grad():
        ahead = fn(*(p + h * d for p, d in zip(primals, directions, strict=True)))
        behind = fn(*(p - h * d for p, d in zip(primals, directions, strict=True)))
    expected = (ahead - behind) / (2 * h)
    for one in (tangent.jvp(fn, primals, directions)[1], torch.func.jvp(fn, primals, directions)[1]):
        assert (one - expected).norm() < 1e-7 * expected.norm()


def test_a_denoiser_hands_it_on_and_one_without_it_says_so(make):
    x, c_noise, label = inputs(make())
    scale = torch.full((3,), 1.5)
    assert Denoiser(make(guided=True))(x, c_noise.exp(), label, guidance=scale).isfinite().all()
    with pytest.raises(ValueError, match=r"guidance scale.*guided=True"):
        Denoiser(make())(x, c_noise.exp(), label, guidance=scale)
