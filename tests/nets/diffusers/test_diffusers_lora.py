"""Our adapters reach the library's layers, and are peft's under its names."""

import copy

import pytest
import torch
from diffusers_models import conditioned, make

from lightning_diff.nets.lora import LoRA, adapters, merged
from lightning_diff.precision import quantized_copy, refresh

peft = pytest.importorskip("peft")


def called(net, x):
    return net(x, torch.full((2,), 0.5), conditioned(net))


@pytest.mark.parametrize("name", ["sd3", "sd15", "flux"])
def test_adapters_are_pefts_under_its_names(name):
    net = make(name)
    x, other = torch.randn(2, *net.shape), copy.deepcopy(net)
    LoRA(rank=2, alpha=6.0).adapt(net)
    found = [layer for layer, module in other.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    for weight in net.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2)
    told = list(adapters(net.state_dict()))
    assert [each.name.removesuffix(".weight") for each in told] == [layer for layer in found]
    targets = [layer.removeprefix("model.") for layer in found]
    other.model.add_adapter(peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets))
    for layer, A, B, scale in told:
        theirs = other.get_submodule(layer.removesuffix(".weight"))
        theirs.lora_A["default"].weight.data.copy_(A)
        theirs.lora_B["default"].weight.data.copy_(B)
        assert scale == theirs.scaling["default"]
    torch.testing.assert_close(called(net, x), called(other, x), rtol=1e-4, atol=1e-4)
    plain = make(name)
    plain.load_state_dict(merged(net.state_dict()))
    torch.testing.assert_close(called(net, x), called(plain, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "sd15", "dit", "pixart", "sd3", "flux", "sana"])
def test_low_precision_copies_explore_with_each_class(name):
    net = make(name)
    x = torch.randn(2, *net.shape)
    full = called(net, x)
    for kind in ("bf16", "int8"):
        low = quantized_copy(net, kind, smallest=8)
        refresh(low, net)
        error = float((called(low, x) - full).norm() / full.norm())
        assert 0 < error < 0.2, (kind, error)
