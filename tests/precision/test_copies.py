"""Copies of our networks in every kind: refreshed equals built afresh, bf16 equals autocast, kernels equal the emulation."""

import math
import sys
from types import ModuleType

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import MLP, DiT, UNet
from lightning_diff.nets.layers import Conv, Linear
from lightning_diff.precision import (
    LowPrecision,
    copies,
    formats,
    headline,
    kernels,
    nvfp4_round,
    quantized_copy,
    refresh,
    report,
)
from lightning_diff.precision.products import Emulated, Float8, Int8, unfold

NETS = {
    "unet": lambda: UNet((1, 8, 8), 3, channels=32, channel_mult=[1, 2], num_blocks=1, attention=[8]),
    "dit": lambda: DiT((1, 8, 8), 3, width=32, depth=2, heads=2),
    "mlp": lambda: MLP((1, 8, 8), 3, width=32, depth=2),
}
LOW = ("nvfp4", "fp8", "int8")
CPU = torch.device("cpu")


def randomised(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, math.prod(p.shape[1:]) ** -0.5 if p.ndim > 1 else 0.3, generator=generator)
    return net.eval()


def inputs(n=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.linspace(-1, 0.5, n), torch.arange(n) % 3


@pytest.fixture
def unchecked():
    """Dynamo does not trace the tests' checks of shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("kind", [*LOW, "bf16"])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_refreshed_copy_is_one_built_afresh_bit_for_bit_in_the_same_memory(name, kind):
    net, other = randomised(NETS[name]()), randomised(NETS[name](), 1)
    copy, afresh = quantized_copy(net, kind), quantized_copy(other, kind)
    before = copy(*inputs())
    places = [tensor.data_ptr() for tensor in (*copy.parameters(), *copy.buffers())]
    refresh(copy, other)
    assert torch.equal(copy(*inputs()), afresh(*inputs()))
    assert not torch.equal(copy(*inputs()), before)
    assert [tensor.data_ptr() for tensor in (*copy.parameters(), *copy.buffers())] == places
    refresh(copy, net.state_dict())
    assert torch.equal(copy(*inputs()), before)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_bf16_copy_is_autocast_bit_for_bit(name):
    net = randomised(NETS[name]())
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(*inputs())
    copy = quantized_copy(net, "bf16")
    assert torch.equal(copy(*inputs()), expected)
    assert not torch.equal(expected, net(*inputs()))


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_copy_s_output_is_nearly_the_network_s_and_leaves_that_alone(name, kind):
    net = randomised(NETS[name]())
    exact, weights = net(*inputs()), {key: value.clone() for key, value in net.state_dict().items()}
    low = quantized_copy(net, kind)(*inputs())
    error = ((low - exact).norm() / exact.norm()).item()
    assert 0 < error < {"nvfp4": 0.35, "fp8": 0.06, "int8": 0.03}[kind]
    assert torch.equal(net(*inputs()), exact)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("kind", LOW)
@torch.no_grad()
def test_a_sample_is_rounded_in_a_batch_as_it_is_alone(kind):
    """Next to one a million times its size, whose scale would leave nothing of it."""
    sizes = torch.tensor([1.0, 1e6, 1e-3])
    for layer, x in (
        (nn.Conv2d(32, 32, 3, padding=1), torch.randn(3, 32, 6, 6)),
        (nn.Conv2d(32, 32, 1), torch.randn(3, 32, 6, 6)),
        (nn.Linear(32, 32), torch.randn(3, 5, 32)),
        (nn.Linear(32, 32), torch.randn(3, 32)),
    ):
        low = quantized_copy(nn.Sequential(nn.Linear(32, 32), layer, nn.Linear(32, 32)), kind).net[1]
        low.bias.zero_()
        x = x * sizes.reshape(-1, *[1] * (x.ndim - 1))
        alone = torch.cat([low(x[i : i + 1]) for i in range(3)])
        assert torch.allclose(
            (low(x) - alone).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1), torch.zeros(3), atol=1e-6
        )


@torch.no_grad()
def test_a_layer_multiplies_rounded_weights_by_rounded_activations():
    linear, conv = nn.Linear(48, 32), nn.Conv2d(48, 32, 3, padding=1)
    x = torch.randn(5, 48)
    low = quantized_copy(nn.Sequential(nn.Linear(48, 48), linear, nn.Linear(32, 32)), "nvfp4").net[1]
    expected = nvfp4_round(x, formats.sample_amax(x)) @ nvfp4_round(linear.weight).T + linear.bias
    assert torch.allclose(low(x), expected, atol=1e-5)

    low = quantized_copy(nn.Sequential(nn.Conv2d(8, 48, 1), conv, nn.Conv2d(32, 8, 1)), "nvfp4").net[1]
    x = torch.randn(2, 48, 6, 6)
    windows = unfold(x.permute(0, 2, 3, 1), (32, 3, 3, 48), 1)  # the whole reduction axis, rounded as a matrix
    matrix = nvfp4_round(conv.weight.permute(0, 2, 3, 1).flatten(1))
    y = nvfp4_round(windows, formats.sample_amax(windows)) @ matrix.T + conv.bias
    assert torch.allclose(low(x), y.permute(0, 3, 1, 2), atol=1e-5)


@torch.no_grad()
def test_windows_as_rows_are_the_convolution():
    x, weight = torch.randn(2, 5, 6, 4), torch.randn(7, 3, 3, 4)
    for padding in (0, 1, 2):
        rows = unfold(x, tuple(weight.shape), padding) @ weight.flatten(1).T
        expected = F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), padding=padding).permute(0, 2, 3, 1)
        assert torch.allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "round_to", "tolerance"), [(Int8, "int8_round", 1e-5), (Float8, "fp8_round", 5e-3)])
@torch.no_grad()
def test_the_kernels_compute_what_the_emulation_does(kernel, round_to, tolerance):
    """`torch._scaled_mm` runs on CPUs too, slowly; its output is bfloat16."""
    shape = (32, 3, 3, 16)
    ours, emulated = kernel(shape, 1, CPU), Emulated(shape, 1, CPU, getattr(formats, round_to))
    for product in (ours, emulated):
        product.set_weight(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(3, 5, 5, 16)
    a, b = ours.windows(x).float(), emulated.windows(x)
    assert (a - b).abs().max() < tolerance * b.abs().max()
    flat = (32, 1, 1, 16)
    ours, emulated = kernel(flat, 0, CPU), Emulated(flat, 0, CPU, getattr(formats, round_to))
    for product in (ours, emulated):
        product.set_weight(torch.randn(flat, generator=torch.Generator().manual_seed(1)))
    for rows in (x, x[0, 0, :2]):
        a, b = ours.rows(rows).float(), emulated.rows(rows)
        assert (a - b).abs().max() < tolerance * b.abs().max()


def test_first_last_small_and_unfit_layers_are_left_with_a_reason():
    net = randomised(NETS["unet"]())
    left = quantized_copy(net, "int8", smallest=64, keep=["middle.0.*"]).left
    assert left["input"] == "the first layer"
    assert left["output"] == "the last layer"
    assert left["conditioning.layer1"] == "embeds the noise level or the label"
    assert left["middle.0.conv0"] == "kept on request"
    assert left["down.0.conv0"].startswith("small: 32 inputs")
    odd = nn.Sequential(
        nn.Linear(40, 40), Linear(40, 40), Conv(32, 32), nn.Conv2d(32, 32, 3, stride=2), nn.Linear(32, 32)
    )
    left = quantized_copy(odd, "fp8").left
    assert "not divisible by 16" in left["1"]
    assert "strides" in left["3"]
    assert "2" not in left

    class Own(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    assert (
        "may compute something else"
        in quantized_copy(nn.Sequential(nn.Linear(32, 32), Own(32, 32), *odd[2:]), "fp8").left["1"]
    )


@torch.no_grad()
def test_the_headline_counts_weights_and_multiplications_of_the_copy_alone():
    net = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), *(nn.Conv2d(32, 32, k, padding=k // 2) for k in (3, 1, 1)))
    net.append(nn.Flatten()).append(nn.Linear(32 * 16, 48)).append(nn.Linear(48, 16))
    x = torch.randn(2, 32, 4, 4)
    copy = quantized_copy(net, "nvfp4", keep=["2"])
    weights, products = [9216, 9216, 1024, 1024, 24576, 768], [147456, 147456, 16384, 16384, 24576, 768]
    shares = [(of[1] + of[3] + of[4]) / sum(of) for of in (weights, products)]
    expected = (
        f"nvfp4: 3 of 6 layers, {shares[0]:.0%} of their weights, {shares[1]:.0%} of their multiplications, emulated"
    )
    assert headline(copy, x).startswith(expected)
    assert report(copy, net, x).headline == headline(copy, x)
    assert "multiplications" not in headline(copy)
    assert headline(quantized_copy(net, "bf16"), x).startswith("bf16: 6 of 6 layers, 100% of their weights, 100%")


@torch.no_grad()
def test_the_report_tells_what_was_done_how_and_with_what_error():
    net = randomised(NETS["unet"]())
    copy = quantized_copy(net, "nvfp4")
    given = report(copy, net, *inputs())
    assert "emulated in software" in given.headline
    rows = {row.name: row for row in given.layers}
    assert rows["input"].precision == ""
    assert rows["input"].why == "the first layer"
    conv = rows["down.0.conv0"]
    assert (conv.precision, conv.kernel, conv.layer, conv.weights) == ("nvfp4", "emulated", "Conv 32 -> 32 3x3", 9216)
    exact = net.down[0].conv0.weight.permute(0, 2, 3, 1).flatten(1)
    assert conv.weight_error == pytest.approx(((nvfp4_round(exact) - exact).norm() / exact.norm()).item(), rel=1e-5)
    assert 0.01 < conv.output_error < 0.3
    assert conv.name in str(given)
    int8 = report(quantized_copy(net, "int8"), net)
    assert "by torch._int_mm" in int8.headline
    assert all(row.output_error is None for row in int8.layers)
    assert max(row.weight_error or 0 for row in int8.layers) < 0.02
    assert max(row.weight_error or 0 for row in report(quantized_copy(net, "bf16"), net, *inputs()).layers) < 0.003


def test_a_denoiser_s_copy_is_a_denoiser_and_a_network_s_has_its_attributes():
    denoiser = Denoiser(randomised(NETS["dit"]()), 0.7, "trigflow", "consistency")
    copy = quantized_copy(denoiser, "fp8")
    assert (copy.sigma_data, copy.time, copy.kind) == (0.7, "trigflow", "consistency")
    assert isinstance(copy.net, LowPrecision)
    assert copy.net.num_classes == 3
    assert copy.net.guided is False
    with pytest.raises(AttributeError):
        _ = copy.net.nothing_of_the_kind
    other = randomised(NETS["dit"](), 1)
    refresh(copy, Denoiser(other))
    x, _, label = inputs()
    assert torch.equal(
        copy(x, torch.ones(3), label), quantized_copy(Denoiser(other, 0.7, "trigflow"), "fp8")(x, torch.ones(3), label)
    )
    assert not any(p.requires_grad for p in copy.parameters())


@torch.no_grad()
def test_a_layer_with_two_names_stays_one():
    shared = nn.Linear(32, 32)
    net = nn.Sequential(nn.Linear(32, 32), shared, nn.SiLU(), shared, nn.Linear(32, 32))
    copy = quantized_copy(net, "int8")
    assert copy.net[1] is copy.net[3]
    refresh(copy, net)
    x = torch.randn(4, 32)
    assert (copy(x) - net(x)).norm() < 0.05 * net(x).norm()


@torch.no_grad()
def test_a_compiled_copy_is_refreshed_without_another_compilation(unchecked):
    net, other = randomised(NETS["mlp"]()), randomised(NETS["mlp"](), 1)
    copy = quantized_copy(net, "int8")
    graphs = 0

    def count(graph, _):
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(copy, backend=count)
    compiled(*inputs())
    first = graphs
    refresh(copy, other)
    assert torch.equal(compiled(*inputs()), quantized_copy(other, "int8")(*inputs()))
    assert first > 0
    assert graphs == first


@torch.no_grad()
def test_the_rest_follows_autocast_where_it_is_asked_for():
    net = randomised(NETS["dit"]())
    narrow = quantized_copy(net, "fp8", rest=torch.bfloat16)(*inputs())
    assert torch.equal(quantized_copy(net, "fp8", rest="bf16")(*inputs()), narrow)
    assert torch.equal(quantized_copy(net, "fp8")(*inputs()), quantized_copy(net, "fp8", rest=None)(*inputs()))
    for kind, device, rest in (("fp8", "cuda", torch.bfloat16), ("nvfp4", "cpu", None), ("int8", "cuda", None)):
        assert copies.rest_dtype(kind, "auto", torch.device(device)) == rest
    wide = quantized_copy(net, "fp8")(*inputs())
    assert 0 < (narrow - wide).abs().max() < 0.1 * wide.abs().max()


def test_what_cannot_be_is_said_in_a_sentence():
    net = randomised(NETS["mlp"]())
    for options, message in (
        ({"kind": "nvfp4", "kernel": "torch"}, "nvfp4.*torch"),
        ({"kind": "fp8", "kernel": "torch"}, r"fp8.*8\.9"),
        ({"kind": "nvfp4", "kernel": "torchao"}, r"nvfp4.*10\.0"),
    ):
        with pytest.raises(UserError, match=message):
            quantized_copy(net, **options)
    with pytest.raises(ValueError, match="smallest=4096"):
        quantized_copy(net, "int8", smallest=4096)
    with pytest.raises(ValueError, match="refresh"):
        refresh(net, net)
    copy = quantized_copy(net, "int8")
    with pytest.raises(ValueError, match=r"a\.lora"):
        refresh(copy, net.state_dict() | {"a.lora": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"blocks\.0\.linear0\.bias"):
        refresh(copy, {k: v for k, v in net.state_dict().items() if k != "blocks.0.linear0.bias"})
    with pytest.raises(ValueError, match=r"blocks\.0\.linear0\.weight.*\(3, 3\).*\(32, 32\)"):
        refresh(copy, net.state_dict() | {"blocks.0.linear0.weight": torch.zeros(3, 3)})


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"lightning_diff\[torchao\]"):
        quantized_copy(randomised(NETS["mlp"]()), "int8", kernel="torchao")


@torch.no_grad()
def test_torchao_s_int8_layers_are_refreshed_in_place_and_agree():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao.quantization")
        net, other = randomised(NETS["unet"]()), randomised(NETS["unet"](), 1)
        copy = quantized_copy(net, "int8", kernel="torchao")
        refresh(copy, other)
        theirs, ours = copy(*inputs()), quantized_copy(other, "int8")(*inputs())
        assert torch.equal(theirs, quantized_copy(other, "int8", kernel="torchao")(*inputs()))
    assert (theirs - ours).norm() < 0.05 * ours.norm()
    assert "by torchao" in report(copy, other).headline


@torch.no_grad()
def test_torchao_s_fp8_and_nvfp4_are_asked_for_by_row_and_by_block(monkeypatch):
    """Against a stand-in with its interface: these kernels need a GPU. Its "quantisation" leaves the weights as they are."""
    passed = []
    configurations = {"fp8": {"granularity": "by row"}, "nvfp4": {"use_triton_kernel": False}}
    for name, content in (
        ("torchao", {}),
        (
            "torchao.quantization",
            {
                "PerRow": lambda: "by row",
                "Float8DynamicActivationFloat8WeightConfig": lambda **options: ("fp8", options),
                "quantize_": lambda layer, configuration: passed.append(configuration),
            },
        ),
        ("torchao.prototype", {}),
        (
            "torchao.prototype.mx_formats",
            {"NVFP4DynamicActivationNVFP4WeightConfig": lambda **options: ("nvfp4", options)},
        ),
    ):
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(kernels, "_capable", lambda kind, device: True)
    net = randomised(NETS["mlp"]())
    for kind, options in configurations.items():
        passed.clear()
        copy = quantized_copy(net, kind, kernel="torchao")
        assert set(map(repr, passed)) == {repr((kind, options))}
        exact = net(*inputs())
        assert (copy(*inputs()) - exact).norm() < 0.02 * exact.norm()
