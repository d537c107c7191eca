"""Adapters: they start as nothing, train alone, and become plain weights."""

import copy

import pytest
import torch

from lightning_diff.nets import DiT, UNet
from lightning_diff.nets.lora import LoRA, adapted, adapters, merged

NETS = {
    "unet": lambda: UNet((1, 8, 8), num_classes=3, channels=8, channel_mult=[1], num_blocks=1, attention=[8]),
    "dit": lambda: DiT((1, 8, 8), num_classes=3, patch_size=4, width=16, depth=1, heads=2),
}


@pytest.fixture(params=NETS)
def nets(request):
    plain = NETS[request.param]()
    for weight in plain.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    net = copy.deepcopy(plain)
    LoRA(rank=4, alpha=8.0).adapt(net)
    return plain, net


def output(net):
    generator = torch.Generator().manual_seed(1)
    return net(torch.randn(4, 1, 8, 8, generator=generator), torch.linspace(-1, 1, 4), torch.tensor([0, 1, 2, 0]))


def train(net):
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        output(net).square().mean().backward()
        optimizer.step()


def test_adapters_change_nothing_at_first_and_merge_into_plain_weights_later(nets):
    plain, net = nets
    assert torch.equal(output(net), output(plain))
    train(net)
    assert not torch.allclose(output(net), output(plain), atol=1e-3)
    other = copy.deepcopy(plain)
    other.load_state_dict(merged(net.state_dict()))
    assert torch.allclose(output(net), output(other), atol=1e-5)


def test_only_adapters_train(nets):
    plain, net = nets
    train(net)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert all(name.endswith((".0.A", ".0.B")) for name in trained)
    kept = {
        name.replace(".parametrizations.weight.original", ".weight"): v
        for name, v in net.state_dict().items()
        if name not in trained
    }
    assert all(torch.equal(value, kept[name]) for name, value in plain.state_dict().items())


def test_a_plain_state_finds_its_places(nets):
    plain, net = nets
    other = {name: value + 1 for name, value in plain.state_dict().items()}
    net.load_state_dict(adapted(other, net))
    assert all(torch.equal(value, other[name]) for name, value in merged(net.state_dict()).items())
    assert adapted(other, plain).keys() == other.keys()
    assert merged(other).keys() == other.keys()


def test_layers_are_chosen_by_name():
    net = NETS["dit"]()
    LoRA(rank=2, layers=["*qkv"]).adapt(net)
    assert {
        name.rpartition(".parametrizations")[0].rpartition(".")[2] for name in net.state_dict() if "parametr" in name
    } == {"qkv"}
    with pytest.raises(ValueError, match=r"named like nothing"):
        LoRA(layers=["nothing"]).adapt(NETS["dit"]())


def test_under_autocast_adapters_give_what_the_merged_weights_give(nets):
    """An old policy samples with merged weights and the new one trains with adapters: at equal weights their ratio is one."""
    plain, net = nets
    for name, weight in net.named_parameters():
        if name.endswith((".A", ".B")):
            torch.nn.init.normal_(weight, std=0.3)
    plain.load_state_dict(merged(net.state_dict()))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(output(net), output(plain))


def linear_and_adapted():
    """A layer of torch's own, and the same with an adapter that is not zero, in float64."""
    plain = torch.nn.Sequential(torch.nn.Linear(24, 40).double())
    net = copy.deepcopy(plain)
    LoRA(rank=3, alpha=6.0).adapt(net)
    net.double()
    torch.nn.init.normal_(net[0].parametrizations.weight[0].B)
    return plain, net


def test_torchs_own_layers_have_the_gradients_of_the_sum_of_weights_and_keep_no_sum():
    _, net = linear_and_adapted()
    x = torch.randn(5, 7, 24, dtype=torch.float64, requires_grad=True)
    adapter, kept = net[0].parametrizations.weight[0], []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        output = net(x)
    weights = {id(each.untyped_storage()) for each in net.parameters()}
    assert not [each.shape for each in kept if each.shape == (40, 24) and id(each.untyped_storage()) not in weights]
    inputs = (x, adapter.A, adapter.B)
    found = torch.autograd.grad(output.sin().sum(), inputs)
    total = net[0].parametrizations.weight.original + adapter.scale * adapter.B @ adapter.A
    torch.testing.assert_close(output, torch.nn.functional.linear(x, total, net[0].bias), rtol=0, atol=0)
    expected = torch.autograd.grad(torch.nn.functional.linear(x, total, net[0].bias).sin().sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_torchs_own_layers_have_a_forward_mode_with_an_adapter():
    _, net = linear_and_adapted()
    x, v = torch.randn(5, 24, dtype=torch.float64), torch.randn(5, 24, dtype=torch.float64)
    output, tangent = torch.func.jvp(net, (x,), (v,))
    torch.testing.assert_close(tangent, net(x + v) - net(x))
    torch.testing.assert_close(output, net(x))


def test_adapters_are_told_by_the_weight_they_are_of(nets):
    plain, net = nets
    train(net)
    found, state, own = list(adapters(net.state_dict())), merged(net.state_dict()), plain.state_dict()
    assert len(found) == sum(name.endswith(".original") for name in net.state_dict())
    for name, A, B, scale in found:
        change = scale * torch.einsum("dr...,r...->d...", B.flatten(1), A.flatten(1)).reshape(own[name].shape)
        torch.testing.assert_close(own[name] + change, state[name])
        assert A.shape[1:] == own[name].shape[1:]
        assert B.shape[2:] == (1,) * (own[name].ndim - 2)
    assert not list(adapters(state))
