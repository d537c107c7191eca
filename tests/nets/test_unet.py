import math

import jaxtyping
import pytest
import torch

from lightning_diff.nets import UNet

SMALL = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attention": (8,)}


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers, and they would refuse a wrong name before the network does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_edm_cifar10_networks_have_edm_parameter_counts():
    with torch.device("meta"):
        assert count(UNet((3, 32, 32), augment_dim=9, dropout=0.13)) == 55_733_891
        assert count(UNet((3, 32, 32), num_classes=10, augment_dim=9)) == 55_733_891 + 11 * 128


@pytest.mark.parametrize("norm", ["additive", "adaptive", "double"])
@pytest.mark.parametrize("embedding", ["positional", "fourier"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 8)])
def test_every_variant_keeps_the_shape_and_is_finite_at_init(norm, embedding, shape):
    net = UNet(shape, 3, 5, norm=norm, embedding=embedding, heads=2, qk_norm=True, dropout=0.1, **SMALL)
    x = torch.randn(4, *shape)
    y = net(x, torch.randn(4), torch.tensor([0, 1, 2, 3]), torch.randn(4, 5))
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert 0 < y.abs().max() < 1e-2
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_noise_level_label_and_augmentation_reach_the_output():
    net = UNet((1, 8, 8), 3, 5, **SMALL).double()
    x, c_noise = torch.randn(2, 1, 8, 8).double(), torch.zeros(2).double()
    base = net(x, c_noise)
    for changed in (
        net(x, c_noise + 1),
        net(x, c_noise, torch.tensor([1, 1])),
        net(x, c_noise, None, torch.ones(2, 5).double()),
    ):
        assert not torch.equal(changed, base)
    assert torch.equal(net(x, c_noise, torch.tensor([3, 3])), base)


def test_samples_do_not_see_each_other():
    net = UNet((1, 8, 8), 3, **SMALL).double().eval()
    x, c_noise, label = torch.randn(3, 1, 8, 8).double(), torch.randn(3).double(), torch.tensor([0, 3, 2])
    together = net(x, c_noise, label)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1], c_noise[i : i + 1], label[i : i + 1]), together[i : i + 1])


def test_channels_last_and_autocast_give_the_same_function():
    net = UNet((3, 8, 8), channels=16, channel_mult=(1, 2), num_blocks=1, attention=(8,))
    randomise(net)
    x, c_noise = torch.randn(2, 3, 8, 8), torch.randn(2)
    y = net(x, c_noise)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, c_noise)
    assert narrow.dtype == torch.float32
    assert (narrow - y).norm() < 0.03 * y.norm()
    net = net.to(memory_format=torch.channels_last)
    last = net(x.to(memory_format=torch.channels_last), c_noise)
    assert torch.allclose(last, y, atol=1e-4 * y.abs().max().item())


def test_a_pure_bfloat16_network_runs():
    net = UNet((1, 8, 8), 3, 5, **SMALL).bfloat16()
    augment = torch.randn(2, 5)
    assert net(torch.randn(2, 1, 8, 8).bfloat16(), torch.randn(2), None, augment).dtype == torch.bfloat16


@pytest.mark.usefixtures("without_annotation_checks")
def test_a_compiled_network_is_the_same_function():
    net = UNet((1, 8, 8), 3, **SMALL)
    randomise(net)
    x, c_noise, label = torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([0, 3])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    y = net(x, c_noise, label)
    assert torch.allclose(compiled(x, c_noise, label), y, atol=1e-5 * y.abs().max().item())


def test_a_picture_that_the_resolutions_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"divisible by 4.* 10x8.*channel_mult"):
        UNet((1, 10, 8))


def test_a_shape_that_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="channels, height, width"):
        UNet((2,))


def test_a_batch_of_another_shape_is_refused():
    net = UNet((1, 8, 8), **SMALL)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).* \(2, 3, 8, 8\)"):
        net(torch.randn(2, 3, 8, 8), torch.randn(2))


@pytest.mark.usefixtures("without_annotation_checks")
def test_an_unknown_embedding_is_refused():
    with pytest.raises(ValueError, match=r"positional .*fourier.* 'sine'"):
        UNet((1, 8, 8), embedding="sine", **SMALL)


@pytest.mark.usefixtures("without_annotation_checks")
def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="adaptive or double"):
        UNet((1, 8, 8), norm="batch", **SMALL)


def randomise(net):
    """Weights that keep variance, so that every part of the network counts."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=math.prod(p.shape[1:]) ** -0.5 if p.ndim > 1 else 0.5)
