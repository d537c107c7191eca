import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from lightning_diff import tangent
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP, DiT, UNet
from lightning_diff.tangent import softmax_attention

# torch compiles its own forward-mode rules with it, at the first use
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

UNET = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attention": (8,), "heads": 2}
NETS = {
    "unet additive": lambda: UNet((1, 8, 8), 3, **UNET),
    "unet adaptive": lambda: UNet((1, 8, 8), 3, norm="adaptive", embedding="fourier", fourier_scale=0.5, **UNET),
    "unet double": lambda: UNet((1, 8, 8), 3, norm="double", qk_norm=True, dropout=0.2, **UNET),
    "dit adaptive": lambda: DiT((1, 8, 8), 3, width=16, depth=2, heads=2),
    "dit double": lambda: DiT((1, 8, 8), 3, width=16, depth=2, heads=2, norm="double", qk_norm=True, dropout=0.2),
    "mlp adaptive": lambda: MLP((2,), 3, width=16, depth=2),
    "mlp double": lambda: MLP((2,), 3, width=16, depth=2, norm="double", dropout=0.2),
}


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=NETS)
def case(request):
    """A network in float64 whose every part counts, primals, tangents; dropout has one mask per call."""
    net = randomised(NETS[request.param]()).double()
    x, c_noise = torch.randn(3, *net.shape).double(), torch.randn(3).double()
    label = torch.tensor([0, 2, 3])

    def fn(x, c_noise):
        torch.manual_seed(1)
        return net(x, c_noise, label)

    return net, fn, (x, c_noise), (torch.randn_like(x), torch.randn_like(c_noise))


def test_the_tangent_is_the_central_difference(case):
    _, fn, primals, tangents = case
    _, tangent_ = tangent.jvp(fn, primals, tangents)
    difference = central_difference(fn, primals, tangents)
    assert (tangent_ - difference).norm() < 1e-7 * difference.norm()


def test_the_value_and_its_gradient_are_those_of_a_plain_call(case):
    net, fn, primals, tangents = case
    value, tangent_ = tangent.jvp(fn, primals, tangents)
    plain = fn(*primals)
    assert torch.equal(value, plain)
    assert value.requires_grad
    assert not tangent_.requires_grad
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(value.square().sum(), parameters)
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-10, atol=1e-12)


def test_the_tangent_records_no_graph(case):
    """What the value's graph keeps is what a plain call keeps: the tangent adds nothing to be stored."""
    _, fn, primals, tangents = case

    def stored(run):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            run()
        return sum(sizes)

    assert stored(lambda: tangent.jvp(fn, primals, tangents)) <= 1.05 * stored(lambda: fn(*primals))


def test_torch_func_and_dual_levels_need_no_flag(case):
    _, fn, primals, tangents = case
    _, expected = tangent.jvp(fn, primals, tangents)
    _, by_func = torch.func.jvp(fn, primals, tangents)
    assert torch.allclose(by_func, expected, rtol=1e-10, atol=1e-12)
    with forward_ad.dual_level():
        dual = fn(*(forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)))
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, expected, rtol=1e-10, atol=1e-12)


def test_no_grad_gives_the_same_and_no_graph(case):
    _, fn, primals, tangents = case
    _, expected = tangent.jvp(fn, primals, tangents)
    with torch.no_grad():
        value, tangent_ = tangent.jvp(fn, primals, tangents)
    assert not value.requires_grad
    assert torch.equal(tangent_, expected)


def test_a_gradient_through_torchs_own_tangent_is_right():
    """Outside `jvp`, tangents stay differentiable: nothing is cut behind the caller's back."""
    net = randomised(UNet((1, 8, 8), **UNET)).double()
    x, c_noise, direction = torch.randn(2, 1, 8, 8).double(), torch.randn(2).double(), torch.randn(2, 1, 8, 8).double()
    weight = net.middle[0].attention.qkv.weight

    def loss():
        return torch.func.jvp(lambda x: net(x, c_noise), (x,), (direction,))[1].square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = torch.randn_like(weight)
    h = 1e-5
    with torch.no_grad():
        weight += h * step
        up = loss()
        weight -= 2 * h * step
        down = loss()
        weight += h * step
    assert (gradient * step).sum().item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)


@pytest.mark.parametrize("time", ["edm", "trigflow"])
def test_a_denoisers_raw_network_and_the_whole_denoiser(time):
    denoiser = Denoiser(randomised(UNet((1, 8, 8), 3, norm="double", **UNET)).double(), 0.7, time=time)
    x, sigma = torch.randn(3, 1, 8, 8).double(), torch.tensor([0.1, 1.0, 10.0]).double()
    tangents = torch.randn_like(x), torch.rand_like(sigma)

    def raw(x, sigma):
        return denoiser.raw(x, denoiser.c_noise(sigma), torch.tensor([0, 1, 3]))

    for fn in (raw, denoiser):
        difference = central_difference(fn, (x, sigma), tangents)
        assert (tangent.jvp(fn, (x, sigma), tangents)[1] - difference).norm() < 1e-7 * difference.norm()


def test_weights_may_have_tangents_too():
    """Every function's rule is whole: derivative with respect to all parameters, through functional_call."""
    net = randomised(UNet((1, 8, 8), **UNET)).double()
    names, weights = zip(*((name, p.detach()) for name, p in net.named_parameters()), strict=True)
    x, c_noise = torch.randn(2, 1, 8, 8).double(), torch.randn(2).double()

    def fn(*weights):
        return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x, c_noise))

    tangents = tuple(torch.randn_like(w) for w in weights)
    _, tangent_ = tangent.jvp(fn, weights, tangents)
    difference = central_difference(fn, weights, tangents)
    assert (tangent_ - difference).norm() < 1e-7 * difference.norm()


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_autocast_gives_a_float32_tangent_near_the_exact_one(channels_last):
    net = randomised(UNet((1, 8, 8), 3, norm="double", **UNET))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    x, c_noise = torch.randn(3, 1, 8, 8).to(memory_format=layout), torch.randn(3)
    tangents = torch.randn_like(x), torch.randn_like(c_noise)
    exact_value, exact = tangent.jvp(net, (x, c_noise), tangents)
    with torch.autocast("cpu", torch.bfloat16):
        value, tangent_ = tangent.jvp(net, (x, c_noise), tangents)
        by_func = torch.func.jvp(net, (x, c_noise), tangents)[1]
    assert tangent_.dtype == torch.float32
    assert (value - exact_value).norm() < 0.02 * exact_value.norm()
    assert (tangent_ - exact).norm() < 0.04 * exact.norm()
    assert (by_func - exact).norm() < 0.04 * exact.norm()


def test_a_tangent_without_grad_does_not_spoil_a_later_gradient_under_the_same_autocast():
    net = randomised(MLP((2,), width=16, depth=1))
    x, c_noise = torch.randn(3, 2), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            tangent.jvp(net, (x, c_noise), (x, c_noise))
        net(x, c_noise).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_layers_of_torchs_own_work_as_well():
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.LayerNorm(8)).double()
    x, direction = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    difference = central_difference(net, (x,), (direction,))
    assert (tangent.jvp(net, (x,), (direction,))[1] - difference).norm() < 1e-7 * difference.norm()


@pytest.mark.usefixtures("without_annotation_checks")
def test_a_compiled_network_inside_runs_eagerly_instead_of_losing_its_tangent():
    net = randomised(MLP((2,), width=16, depth=1))
    x, c_noise = torch.randn(3, 2), torch.randn(3)
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x, c_noise)
    expected = tangent.jvp(net, (x, c_noise), (x, c_noise))[1]
    assert torch.allclose(tangent.jvp(compiled, (x, c_noise), (x, c_noise))[1], expected)


@pytest.mark.whole
@pytest.mark.usefixtures("without_annotation_checks")
@pytest.mark.parametrize(
    ("name", "backend"), [("dit double", "eager"), pytest.param("unet double", "aot_eager", marks=pytest.mark.slow)]
)
def test_a_compiled_function_that_calls_jvp_gives_the_eager_value_tangent_and_gradient(name, backend):
    net = randomised(NETS[name]()).double().eval()
    x, c_noise, label = torch.randn(2, 1, 8, 8).double(), torch.randn(2).double(), torch.tensor([1, 3])

    def step(x, c_noise):
        return tangent.jvp(lambda x, c_noise: net(x, c_noise, label), (x, c_noise), (x, c_noise))

    value, tangent_ = torch.compile(step, backend=backend, fullgraph=True)(x, c_noise)
    expected_value, expected = step(x, c_noise)
    assert torch.allclose(value, expected_value)
    assert torch.allclose(tangent_, expected)
    assert not tangent_.requires_grad
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(value.square().sum(), parameters)
    references = torch.autograd.grad(expected_value.square().sum(), parameters)
    for gradient, reference in zip(gradients, references, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-8, atol=1e-10)


def test_the_way_of_running_is_put_back_after_an_error():
    def broken(x):
        assert tangent.mode() == "carry"
        raise KeyError("inside")

    with pytest.raises(KeyError):
        tangent.jvp(broken, (torch.ones(2),), (torch.ones(2),))
    assert tangent.mode() == "native"


def test_misuse_is_an_error_in_words():
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"2 primals.* 1"):
        tangent.jvp(torch.add, (x, x), (x,))
    with pytest.raises(ValueError, match="primal 0 is"):
        tangent.jvp(torch.sin, (x,), (torch.ones(3),))
    with pytest.raises(ValueError, match="has no tangent"):
        tangent.jvp(lambda x: x.detach(), (x,), (x,))
    with pytest.raises(TypeError, match=r"tensor.* tuple"):
        tangent.jvp(lambda x: (x, x), (x,), (x,))


@pytest.mark.parametrize("fn", [lambda *a: tangent.modulate(*a), lambda x, y, _: tangent.residual(x, y, 0.6)])
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)])
def test_sums_of_products_with_any_of_their_inputs_moving(fn, direction):
    primals = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 1, 1).double()
    moving = [i for i in range(3) if direction[i]]
    moved = tuple(primals[i] for i in moving)
    tangents = tuple(torch.randn_like(primal) for primal in moved)

    def of(*values):
        inputs = list(primals)
        for i, each in zip(moving, values, strict=True):
            inputs[i] = each
        return fn(*inputs)

    difference = central_difference(of, moved, tangents)
    assert (tangent.jvp(of, moved, tangents)[1] - difference).norm() < 1e-7 * difference.norm()


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_attention_with_any_of_its_inputs_moving(direction):
    primals = tuple(torch.randn(2, 3, 5, 4).double() for _ in range(3))
    moving = [i for i in range(3) if direction[i]]
    tangents = tuple(torch.randn_like(primals[i]) for i in moving)

    def fn(*moved):
        inputs = list(primals)
        for i, each in zip(moving, moved, strict=True):
            inputs[i] = each
        return tangent.attention(*inputs)

    moved = tuple(primals[i] for i in moving)
    assert torch.allclose(fn(*moved), F.scaled_dot_product_attention(*primals))
    difference = central_difference(fn, moved, tangents)
    assert (tangent.jvp(fn, moved, tangents)[1] - difference).norm() < 1e-7 * difference.norm()


@pytest.mark.parametrize("how", ["carried", "traced"])
@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
def test_sixteen_bits_do_not_round_the_logits_of_attention(how, autocast):
    """The tangent's error stays that of 16 bits in and out however large the logits are: with rounded ones it was 1.4e-2."""
    jvp = tangent.jvp if how == "carried" else torch.func.jvp
    draw = torch.Generator().manual_seed(0)
    for size in (1.0, 6.0):
        moved = [torch.randn(2, 2, 64, 32, generator=draw).bfloat16() for _ in range(6)]
        primals, tangents = (moved[0] * size, *moved[1:3]), tuple(moved[3:])
        exact = jvp(tangent.attention, *(tuple(each.double() for each in group) for group in (primals, tangents)))[1]
        if autocast:
            primals, tangents = (tuple(each.float() for each in group) for group in (primals, tangents))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got = jvp(tangent.attention, primals, tangents)[1]
        assert float((got.double() - exact).norm() / exact.norm()) < 4.5e-3


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
def test_few_tokens_in_sixteen_bits_on_a_cpu_are_rounded_once(autocast):
    """Where it is faster than the fused kernel of 16 bits, attention is computed in float32; the gradients are its own."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, softmax_attention.FEW, 8, generator=draw).bfloat16().requires_grad_() for _ in range(3)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = tangent.attention(q, k, v)
    wide = [each.detach().float().requires_grad_() for each in (q, k, v)]
    exact = F.scaled_dot_product_attention(*wide)
    assert torch.equal(y, exact.bfloat16())
    y.sum().backward()
    exact.sum().backward()
    assert all(torch.equal(narrow.grad, each.grad.bfloat16()) for narrow, each in zip((q, k, v), wide, strict=True))
    assert tangent.attention(*(each.repeat(1, 1, 2, 1) for each in (q, k, v))).dtype == torch.bfloat16


def central_difference(fn, primals, tangents, h=1e-5):
    with torch.no_grad():
        up = fn(*(p + h * t for p, t in zip(primals, tangents, strict=True)))
        down = fn(*(p - h * t for p, t in zip(primals, tangents, strict=True)))
    return (up - down) / (2 * h)


def randomised(net):
    for p in net.parameters():
        torch.nn.init.normal_(p, std=math.prod(p.shape[1:]) ** -0.5 if p.ndim > 1 else 0.5)
    return net
