"""Forward mode through each network of the library against central differences in float64.

The library makes the sines of a time, rotary embeddings and linear attention in float32 whatever the network's precision. For the
reference alone its `Tensor.float()` leaves float64 as it is, so that central differences have something to converge to.
"""

import jaxtyping
import pytest
import torch
from diffusers_models import MODELS, conditioned, make
from torch.nn.attention import sdpa_kernel

from lightning_diff import tangent
from lightning_diff.denoiser import Denoiser, FlowTime
from lightning_diff.modules.network_check import refuse_no_forward_mode, refuse_unfit_network
from lightning_diff.nets.diffusers import forward_mode


@pytest.fixture
def wide(monkeypatch):
    narrow = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self if self.dtype is torch.float64 else narrow(self))


def function(net):
    """net as a function of x and its own time, in the precision of x, and a place with directions, in float64."""
    label = conditioned(net)
    unit = net.family.time(net.config)(torch.tensor([torch.inf, 1.0]).double())  # of time: a thousand, or one
    x, time = torch.randn(2, *net.shape).double(), torch.tensor([0.31, 0.67]).double() * unit[0]
    directions = torch.randn_like(x), torch.tensor([1.0, -0.7]).double() * unit[0] / 1000

    in_precision = {
        dtype: label if isinstance(label, torch.Tensor) else label.to(dtype) for dtype in (torch.float32, torch.float64)
    }  # here, because what is traced should not

    def called(x, time):
        return net(x, time, in_precision[x.dtype])

    return called, (x, time), directions


def narrow(net):
    """Likewise, in float32."""
    fn, *tensors = function(net)
    return fn, *(tuple(each.float() for each in group) for group in tensors)


def central(fn, primals, directions, h=1e-5):
    with torch.no_grad():
        ahead, behind = (fn(*(p + sign * h * d for p, d in zip(primals, directions, strict=True))) for sign in (1, -1))
    return (ahead - behind) / (2 * h)


def relative(one, other):
    return float(((one.double() - other).norm() / other.norm()).detach())


@pytest.mark.parametrize("along", ["both", "time"])
@pytest.mark.parametrize("name", MODELS)
def test_is_the_derivative(name, along, wide):
    net = make(name).double()
    fn, primals, (dx, dtime) = function(net)
    directions = (dx if along == "both" else torch.zeros_like(dx), dtime)
    expected = central(fn, primals, directions)
    found = {}
    for dtype in (torch.float64, torch.float32):
        net.to(dtype)
        given = [tuple(each.to(dtype) for each in tensors) for tensors in (primals, directions)]
        found[dtype] = max(relative(jvp(fn, *given)[1], expected) for jvp in (tangent.jvp, torch.func.jvp))
    print(f"{name:14} {along:5} float64 {found[torch.float64]:.1e}   float32 {found[torch.float32]:.1e}")
    assert found[torch.float64] < 1e-7
    assert found[torch.float32] < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_are_those_of_a_plain_call(name):
    net = make(name)
    fn, primals, directions = narrow(net)

    def gradient(output):
        return torch.autograd.grad(output.square().sum(), list(net.parameters()), allow_unused=True)

    plain = fn(*primals)
    value, derivative = tangent.jvp(fn, primals, directions)
    assert torch.allclose(value, plain, atol=1e-5)
    assert not derivative.requires_grad
    for one, other in zip(gradient(value), gradient(plain), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_another_attention_is_taken_in_forward_mode_alone(monkeypatch):
    entered = []
    monkeypatch.setattr(forward_mode, "sdpa_kernel", lambda kernel: entered.append(kernel) or sdpa_kernel(kernel))
    net = make("sd3")
    fn, primals, directions = narrow(net)
    fn(*primals).sum().backward()
    assert not entered
    for jvp in (tangent.jvp, torch.func.jvp):
        jvp(fn, primals, directions)
        assert entered.pop()


@pytest.mark.whole
@pytest.mark.parametrize("name", MODELS)
def test_passes_the_checks_before_a_training(name):
    net = make(name)
    denoiser = Denoiser(net, time=net.family.time(net.config), prediction=net.family.prediction)
    refuse_unfit_network(denoiser, net.shape, net.num_classes)
    refuse_no_forward_mode(denoiser, net.shape, net.num_classes, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "sd15", "dit", "pixart", "sd3", "flux", "sana"])
def test_compiles_whole_with_its_derivative(name):
    jaxtyping.config.update("jaxtyping_disable", True)  # checks of types are not traced; the next test has them again
    net = make(name).requires_grad_(False)
    fn, primals, directions = narrow(net)

    def both(x, time):
        return tangent.jvp(fn, (x, time), directions)

    expected = both(*primals)
    torch._dynamo.reset()
    found = torch.compile(both, backend="eager", fullgraph=True, dynamic=False)(*primals)
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other.double()) < 1e-5


@pytest.mark.parametrize("name", ["sd15", "sd3", "sana"])
def test_a_smooth_time_has_a_small_derivative(name):
    """|dF / d ln sigma| along time alone over |F|, mean of eight levels from 0.1 to 10: why a teacher is retimed."""
    net = make(name)
    x, sigma, label = torch.randn(8, *net.shape), torch.logspace(-1, 1, 8), conditioned(net, 8)

    def steepness(time):
        output, rate = tangent.jvp(lambda c_noise: net(x, c_noise, label), (time(sigma),), (time.rate(sigma),))
        return float((rate.flatten(1).norm(dim=1) / output.flatten(1).norm(dim=1)).mean())

    with torch.no_grad():
        own, smooth = steepness(net.family.time(net.config)), steepness(FlowTime())
    print(f"{name}: {own:.2g} with its own time, {smooth:.2g} with s")
    assert own > 100 * smooth
