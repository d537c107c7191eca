"""EDM2's network: magnitudes stay, weights count by direction, forward mode is right, and training normalises."""

import math

import jaxtyping
import pytest
import torch

from lightning_diff import tangent
from lightning_diff.nets import EDM2
from lightning_diff.nets.magnitude import MPConv, MPFourier, MPLinear, mp_cat, mp_silu, mp_sum

SMALL = {"channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "attention": (8,), "head_width": 8}
INPUTS = torch.tensor([-1.0, 0.2, 0.9]).double(), torch.tensor([0, 2, 3])


def small(shape=(2, 8, 8), **changes):
    torch.manual_seed(3)
    net = EDM2(shape, 3, **(SMALL | changes)).double().eval()
    for parameter in net.parameters():
        if parameter.ndim == 0:  # gains start at 0
            torch.nn.init.normal_(parameter)
    return net


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_published_sizes_have_their_parameter_counts():
    """EDM2-XS and -S for ImageNet-512: 124.7 and 280.2 million."""
    with torch.device("meta"):
        counts = [sum(p.numel() for p in EDM2((4, 64, 64), 1000, channels=width).parameters()) for width in (128, 192)]
    assert counts == [124_713_125, 280_212_709]


@pytest.mark.parametrize(
    "made",
    [
        lambda x: MPConv(32, 64)(x),
        lambda x: mp_silu(x),
        lambda x: mp_sum(x, torch.randn_like(x), 0.3),
        lambda x: mp_cat(x, torch.randn_like(x)[:, :8], 0.5),
        lambda x: MPLinear(32, 48)(x.movedim(1, -1)),
        lambda x: MPFourier(512)(torch.randn(64)),
    ],
)
def test_layers_keep_the_magnitude(made):
    with torch.no_grad():
        y = made(torch.randn(8, 32, 16, 16))
    assert math.isclose(float(y.square().mean().sqrt()), 1, abs_tol=0.06)


def test_the_embedding_and_a_network_without_its_last_gain_keep_it_too():
    torch.manual_seed(1)
    net = EDM2((3, 16, 16), 4, channels=64, channel_mult=(1, 2), num_blocks=2, attention=(8,)).eval()
    torch.nn.init.ones_(net.output_gain)
    with torch.no_grad():
        y = net(torch.randn(4, 3, 16, 16), torch.randn(4), torch.arange(4))
    assert 0.7 < float(y.square().mean().sqrt()) < 1.4


def test_a_new_network_returns_zero_and_trains_all_its_weights():
    net = EDM2((3, 8, 8), 3, **SMALL)
    x, c_noise, label = torch.randn(3, 3, 8, 8), torch.randn(3), torch.tensor([0, 1, 3])
    assert not net(x, c_noise, label).any()
    for parameter in net.parameters():
        if parameter.ndim == 0:
            torch.nn.init.ones_(parameter)
    net(x, c_noise, label).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_only_the_direction_of_a_weight_counts_and_its_gradient_is_orthogonal_to_it():
    net, (c_noise, label) = small(), INPUTS
    x = torch.randn(3, 2, 8, 8).double()
    before = net(x, c_noise, label)
    before.square().sum().backward()
    for module in net.modules():
        if isinstance(module, MPConv | MPLinear):
            along = (module.weight * module.weight.grad).flatten(1).sum(1).abs()
            length = module.weight.flatten(1).norm(dim=1) * module.weight.grad.flatten(1).norm(dim=1)
            assert (along <= 1e-3 * length + 1e-12).all()
            module.weight.data *= 3
    torch.testing.assert_close(net(x, c_noise, label), before, rtol=2e-3, atol=2e-3)


def test_after_step_gives_rows_mean_square_one_and_changes_no_frozen_one():
    net = small()
    net.input.weight.requires_grad_(False)
    frozen = net.input.weight.clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.5)
    net.after_step()
    for module in net.modules():
        if isinstance(module, MPConv | MPLinear) and module is not net.input:
            assert torch.allclose(module.weight.square().flatten(1).mean(1), torch.ones(()).double())
    assert torch.equal(net.input.weight, 2.5 * frozen)


@pytest.mark.parametrize("mode", ["ours", "torch"])
def test_forward_mode_is_a_central_difference(mode):
    net, (c_noise, label) = small(guided=True), INPUTS
    guidance = torch.tensor([1.0, 2.0, 1.5]).double()
    x, dx, dc = torch.randn(3, 2, 8, 8).double(), torch.randn(3, 2, 8, 8).double(), torch.randn(3).double()

    def output(x, c):
        return net(x, c, label, guidance)

    y, dy = (tangent.jvp if mode == "ours" else torch.func.jvp)(output, (x, c_noise), (dx, dc))
    h = 1e-5
    with torch.no_grad():
        expected = (output(x + h * dx, c_noise + h * dc) - output(x - h * dx, c_noise - h * dc)) / (2 * h)
    torch.testing.assert_close(y, output(x, c_noise))
    torch.testing.assert_close(dy, expected, rtol=1e-6, atol=1e-8)


def test_the_value_of_forward_mode_keeps_its_graph_and_the_tangent_has_none():
    net, (c_noise, label) = small(), INPUTS
    x = torch.randn(3, 2, 8, 8).double()
    y, dy = tangent.jvp(lambda x: net(x, c_noise, label), (x,), (x,))
    assert not dy.requires_grad
    (ours,) = torch.autograd.grad(y.square().sum(), net.input.weight)
    (plain,) = torch.autograd.grad(net(x, c_noise, label).square().sum(), net.input.weight)
    torch.testing.assert_close(ours, plain)


def test_noise_level_label_and_scale_reach_the_output_and_samples_do_not_see_each_other():
    net, (c_noise, label) = small(guided=True), INPUTS
    x = torch.randn(3, 2, 8, 8).double()
    base = net(x, c_noise, label)
    for other in (net(x, c_noise + 1, label), net(x, c_noise, label.flip(0)), net(x, c_noise, label, 3 + c_noise)):
        assert not torch.allclose(other, base)
    assert torch.equal(net(x, c_noise), net(x, c_noise, torch.full((3,), 3)))
    assert torch.equal(net(x, c_noise, label), net(x, c_noise, label, torch.ones(3).double()))
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(net(x[one], c_noise[one], label[one]), base[one])


def test_activations_are_clipped():
    x = 100 * torch.randn(3, 2, 8, 8).double()
    net = small(clip=0.1)
    largest = []
    for block in net.up:
        block.register_forward_hook(lambda _, __, y: largest.append(float(y.detach().abs().max())))
    net(x, *INPUTS)
    assert max(largest) <= 0.1


def test_bfloat16_is_near_and_channels_last_the_same():
    net, x = small().float(), torch.randn(3, 2, 8, 8)
    c_noise, label = INPUTS[0].float(), INPUTS[1]
    y = net(x, c_noise, label)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, c_noise, label)
    assert narrow.dtype == torch.float32
    assert (narrow - y).norm() < 0.03 * y.norm()
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        net(x.contiguous(memory_format=torch.channels_last), c_noise, label), y, rtol=1e-3, atol=1e-4
    )
    assert net.bfloat16()(x.bfloat16(), c_noise, label).dtype == torch.bfloat16


@pytest.mark.whole
@pytest.mark.usefixtures("without_annotation_checks")
def test_it_compiles_without_a_break():
    net, (c_noise, label) = small(), INPUTS
    x = torch.randn(3, 2, 8, 8).double()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c_noise, label), net(x, c_noise, label))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"shape": (3, 6, 8), "channel_mult": (1, 1, 1)}, "divisible by 4"),
        ({"shape": (2,)}, "channels, height, width"),
        ({"head_width": 7}, "head_width .* 7"),
        ({"num_blocks": 0}, "needs a resolution and a block"),
    ],
)
def test_an_impossible_network_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        small(**arguments)


def test_training_normalises_after_each_step_and_resumes_to_the_last_bit(train, state):
    lines = (
        "model.net={_target_: lightning_diff.nets.EDM2, channels: 8, channel_mult: [1], num_blocks: 1, head_width: 8}",
        "data={_target_: lightning_diff.data.Digits, batch_size: 8}",
        "trainer.max_steps=4",
    )
    whole = state(train("whole", *lines))["state_dict"]
    train("halves", *lines[:2], "trainer.max_steps=2")
    halves = state(train("halves", *lines))["state_dict"]
    for name, weight in whole.items():
        assert torch.equal(weight, halves[name])
        if name.endswith("weight") and "denoiser" in name:
            torch.testing.assert_close(weight.square().flatten(1).mean(1), torch.ones(len(weight)))
