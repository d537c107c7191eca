"""The consistency loss against finite differences, the paper's objective by plain autograd, and exact consistency functions."""

import math
import shutil

import jaxtyping
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP, DiT, UNet
from lightning_diff.objectives import consistency_loss, denoising_loss
from lightning_diff.oracle import Gaussian, GaussianMixture

SIGMA_DATA = 0.7
SIGMA = torch.tensor([0.02, 0.3, 1.0, 80.0], dtype=torch.float64)
UNET = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attention": (8,), "heads": 2}
NETS = {
    "unet adaptive": lambda: UNet((1, 8, 8), 3, norm="adaptive", **UNET),
    "unet double": lambda: UNet((1, 8, 8), 3, norm="double", qk_norm=True, **UNET),
    "dit double": lambda: DiT((1, 8, 8), 3, width=16, depth=2, heads=2, norm="double", qk_norm=True),
}
CASES = [(name, time) for name in NETS for time in ("edm", "trigflow")]


class Retold(nn.Module):
    """An EDM-conditioned network conditioned on the angle instead, with TrigFlow's sign: the same function."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, label=None):
        return -self.net(x, (SIGMA_DATA * t.tan()).log() / 4, label)


class Listening(nn.Module):
    """Records the guidance scales that it is conditioned on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()).double())
        self.heard = []

    def forward(self, x, c_noise, label=None, guidance=None):
        self.heard.append(guidance)
        return x * self.weight


def randomised(net):
    for p in net.parameters():
        nn.init.normal_(p, std=math.prod(p.shape[1:]) ** -0.5 if p.ndim > 1 else 0.5)
    return net.double()


def drawn(*shape):
    return 0.7 * torch.randn(4, *shape).double(), torch.randn(4, *shape).double()


def columns(sigma, ndim):
    t = (sigma / SIGMA_DATA).atan().reshape(-1, *[1] * (ndim - 1))
    return t, t.cos(), t.sin()


def consistency_function(denoiser, x_t, t, label=None):
    """By the denoiser's own forward in EDM's coordinates."""
    return denoiser(x_t / t.cos(), SIGMA_DATA * t.flatten().tan(), label)


@pytest.mark.parametrize(("name", "time"), CASES)
@pytest.mark.parametrize("distilled", [True, False])
def test_the_tangent_is_cos_t_times_the_total_derivative_of_the_consistency_function(name, time, distilled):
    net, other = randomised(NETS[name]()), randomised(NETS[name]())
    student, teacher = Denoiser(net, SIGMA_DATA, time), Denoiser(other, SIGMA_DATA, time) if distilled else None
    x0, noise = drawn(1, 8, 8)
    label = torch.tensor([0, 1, 2, 3])
    g = consistency_loss(student, x0, SIGMA, noise, label, teacher=teacher).tangent

    t, cos, sin = columns(SIGMA, 4)
    x_t = cos * x0 + sin * SIGMA_DATA * noise
    velocity = cos * SIGMA_DATA * noise - sin * x0
    if distilled:
        velocity = (cos * x_t - consistency_function(teacher, x_t, t, label)) / sin  # by the teacher's denoised image
    h = 3e-5 * cos * sin  # short where the function bends, at either end
    with torch.no_grad():
        ahead = consistency_function(student, x_t + h * velocity, t + h, label)
        behind = consistency_function(student, x_t - h * velocity, t - h, label)
    expected = cos * (ahead - behind) / (2 * h)
    for one, other in zip(g, expected, strict=True):
        assert (one - other).norm() < 1e-7 * other.norm()


@pytest.mark.parametrize(("name", "time"), CASES)
def test_the_gradient_is_that_of_the_papers_continuous_time_objective(name, time):
    """E[w(t) f . df⁻/dt] with w = 1 / (sigma_data tan t), everything by torch's own derivatives of the denoiser."""
    student = Denoiser(randomised(NETS[name]()), SIGMA_DATA, time)
    teacher = Denoiser(randomised(NETS[name]()), SIGMA_DATA, time)
    x0, noise = drawn(1, 8, 8)
    parameters = list(student.parameters())
    loss = consistency_loss(student, x0, SIGMA, noise, teacher=teacher, normalisation="none").loss
    gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)

    t, cos, sin = columns(SIGMA, 4)
    x_t = cos * x0 + sin * SIGMA_DATA * noise
    with torch.no_grad():
        velocity = (cos * x_t - consistency_function(teacher, x_t, t)) / sin
        _, df_dt = torch.func.jvp(
            lambda x, t: consistency_function(student, x, t), (x_t, t), (velocity, torch.ones_like(t))
        )
    f = consistency_function(student, x_t, t)
    objective = (f * df_dt / (SIGMA_DATA * t.tan())).sum() * 2 / x0[0].numel()  # of |F - F⁻ - g|^2 / D
    references = torch.autograd.grad(objective, parameters, allow_unused=True)
    scale = max(float(reference.norm()) for reference in references if reference is not None)
    for gradient, reference in zip(gradients, references, strict=True):
        if reference is not None:
            assert (gradient - reference).norm() < 1e-8 * scale


@pytest.mark.parametrize("name", NETS)
def test_one_function_told_its_noise_level_in_either_way_has_one_tangent(name):
    net = randomised(NETS[name]())
    edm, trigflow = Denoiser(net, SIGMA_DATA, "edm"), Denoiser(Retold(net), SIGMA_DATA, "trigflow")
    x0, noise = drawn(1, 8, 8)
    label = torch.tensor([0, 1, 2, 3])
    for warmup in (0.0, 0.4, 1.0):
        one = consistency_loss(edm, x0, SIGMA, noise, label, warmup=warmup)
        other = consistency_loss(trigflow, x0, SIGMA, noise, label, teacher=None, warmup=warmup)
        torch.testing.assert_close(one.tangent, other.tangent, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.dF_dt, other.dF_dt, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-9, atol=0)


@pytest.mark.parametrize("time", ["edm", "trigflow"])
def test_an_exact_consistency_function_has_no_tangent_along_its_own_ode(time):
    gaussian = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double())
    exact, teacher = gaussian.consistency_model(SIGMA_DATA, time), gaussian.denoiser(SIGMA_DATA, "edm")
    x0, noise = drawn(2)
    assert consistency_loss(exact, x0, SIGMA, noise, teacher=teacher).tangent.abs().max() < 1e-13
    untrained = gaussian.denoiser(SIGMA_DATA, time)  # the denoiser itself is no consistency function
    assert consistency_loss(untrained, x0, SIGMA, noise, teacher=teacher).tangent.norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_without_a_teacher_an_exact_consistency_function_has_no_tangent_on_average(sigma):
    gaussian = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double())
    exact = gaussian.consistency_model(SIGMA_DATA, "trigflow")
    n = 20_000
    x0, noise = gaussian.sample(n), torch.randn(n, 2).double()
    g = consistency_loss(exact, x0, torch.full((n,), sigma), noise).tangent
    # Independent of x_t, too: its products with functions of x_t vanish on average.
    x = x0 + sigma * noise
    features = torch.stack([torch.ones(n), *x.T, x.norm(dim=1)], 1).double()
    products = (features[:, :, None] * g[:, None]).flatten(1)
    assert ((products.mean(0) / products.std(0)).abs() < 4 / n**0.5).all()


def test_at_the_start_of_the_warm_up_the_velocity_is_learnt():
    student = Denoiser(randomised(MLP((2,), width=16, depth=1)), SIGMA_DATA, "trigflow")
    x0, noise = drawn(2)
    parameters = list(student.parameters())
    loss = consistency_loss(student, x0, SIGMA, noise, warmup=0.0, normalisation="none").loss
    _, cos, sin = columns(SIGMA, 2)
    u = cos * x0 / SIGMA_DATA + sin * noise
    velocity = cos * noise - sin * x0 / SIGMA_DATA
    regression = (cos * (student.raw(u, (SIGMA / SIGMA_DATA).atan()) - velocity)).square().mean(1) * SIGMA_DATA
    gradients, expected = (
        torch.autograd.grad(each.sum(), parameters, allow_unused=True) for each in (loss, regression)
    )
    for gradient, reference in zip(gradients, expected, strict=True):
        assert reference is None or torch.allclose(gradient, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("derivative", ["two_pass", "central", "discrete"])
@pytest.mark.parametrize("distilled", [True, False])
def test_other_derivatives_agree_under_dropout(derivative, distilled):
    """With another mask in the second evaluation, the differences would be of the size of F over a tiny step."""
    net = randomised(UNet((1, 8, 8), norm="double", qk_norm=True, dropout=0.3, **UNET))
    student = Denoiser(net, SIGMA_DATA, "trigflow")
    teacher = Denoiser(randomised(UNet((1, 8, 8), **UNET)), SIGMA_DATA, "edm") if distilled else None
    x0, noise = drawn(1, 8, 8)
    values = {}
    for how, options in {"jvp": {}, derivative: {"step": 1e-4, "levels": 2_000_000}}.items():
        torch.manual_seed(1)
        values[how] = consistency_loss(student, x0, SIGMA, noise, teacher=teacher, derivative=how, **options)
        values[how, "next"] = torch.rand(3)
    tolerance = {"two_pass": 1e-12, "central": 1e-6, "discrete": 1e-3}[derivative]
    assert torch.equal(values["jvp", "next"], values[derivative, "next"])
    for part in ("tangent", "dF_dt", "loss"):
        one, other = getattr(values[derivative], part), getattr(values["jvp"], part)
        assert (one - other).norm() < tolerance * other.norm(), part


def test_the_discrete_loss_approaches_the_continuous_one_with_its_levels():
    student = Denoiser(randomised(MLP((2,), width=16, depth=1)), SIGMA_DATA, "trigflow")
    x0, noise = drawn(2)
    exact = consistency_loss(student, x0, SIGMA, noise).tangent
    errors = []
    for levels in (1000, 2000, 4000):
        g = consistency_loss(student, x0, SIGMA, noise, derivative="discrete", levels=levels).tangent
        errors.append(float((g - exact).norm()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("derivative", ["jvp", "two_pass", "central", "discrete"])
def test_the_teacher_is_guided_by_each_samples_scale_and_the_student_told_it(derivative):
    mixture = GaussianMixture(torch.ones(3), torch.randn(3, 2).double(), 0.4, torch.tensor([0, 1, 2]))
    teacher = mixture.denoiser(SIGMA_DATA, "edm")
    student = Denoiser(Listening(), SIGMA_DATA, "trigflow")
    x0, noise = drawn(2)
    label, scale = torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 1.3, 2.0, 1.5]).double()
    guided = consistency_loss(student, x0, SIGMA, noise, label, teacher=teacher, guidance=scale, derivative=derivative)
    assert all(torch.equal(heard, scale) for heard in student.net.heard)

    # With F = weight u and v the guided velocity: g = -cos^2 (u - v) - cos sin (u + d u/dt), d u/dt = v.
    _, cos, sin = columns(SIGMA, 2)
    x = x0 + SIGMA[:, None] * noise
    D, D_without = teacher(x, SIGMA, label), teacher(x, SIGMA, None)
    velocity = (cos**2 * x - (D_without + scale[:, None] * (D - D_without))) / sin
    expected = -(cos**2) * (SIGMA_DATA * cos * x / SIGMA_DATA - velocity) - cos * sin * (cos * x + velocity)
    tolerance = {"discrete": 0.03, "central": 1e-6}.get(derivative, 1e-9)
    assert (guided.tangent - expected).norm() < tolerance * expected.norm()


def test_normalisation_is_per_sample_and_by_name():
    student = Denoiser(randomised(MLP((2,), width=16, depth=1)), SIGMA_DATA)
    x0, noise = drawn(2)
    g = consistency_loss(student, x0, SIGMA, noise).tangent
    norm = g.norm(dim=1)
    for how, residual in {
        "l2": norm / (norm + 0.3),
        "rms": norm / (norm / 2**0.5 + 0.3),
        "clip": g.clamp(-1, 1).norm(dim=1),
        "none": norm,
    }.items():
        result = consistency_loss(student, x0, SIGMA, noise, normalisation=how, c=0.3)
        torch.testing.assert_close(result.loss, residual**2 / 2)
        torch.testing.assert_close(result.tangent, g)
    assert (norm > 1).any()  # so that clipping did something


@pytest.mark.parametrize("choice", [{"normalisation": "L2"}, {"derivative": "jpv"}])
def test_an_unknown_choice_is_refused(choice):
    student, (x0, noise) = Denoiser(randomised(MLP((2,), width=16, depth=1)), SIGMA_DATA), drawn(2)
    with pytest.raises(Exception, match=next(iter(choice))):
        consistency_loss(student, x0, SIGMA, noise, **choice)


def test_checkpointed_blocks_give_the_same_gradients_in_two_passes():
    net = randomised(UNet((1, 8, 8), norm="double", qk_norm=True, dropout=0.3, **UNET))
    student = Denoiser(net, SIGMA_DATA, "trigflow")
    x0, noise = drawn(1, 8, 8)

    def gradients(derivative):
        torch.manual_seed(1)
        loss = consistency_loss(student, x0, SIGMA, noise, derivative=derivative).loss.mean()
        return torch.autograd.grad(loss, list(net.parameters()))

    expected = gradients("jvp")
    for block in (*net.down, *net.middle, *net.up):
        block.forward = lambda *inputs, plain=block.forward: checkpoint(plain, *inputs, use_reentrant=False)
    for gradient, reference in zip(gradients("two_pass"), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("derivative", ["jvp", "two_pass"])
def test_under_bfloat16_autocast_the_tangent_stays_near_the_exact_one(derivative):
    net = randomised(UNet((1, 8, 8), norm="double", qk_norm=True, **UNET)).float()
    student = Denoiser(net, SIGMA_DATA, "trigflow")
    x0, noise = (each.float() for each in drawn(1, 8, 8))
    exact = consistency_loss(student, x0, SIGMA, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = consistency_loss(student, x0, SIGMA, noise, derivative=derivative)
    assert all(part.dtype == torch.float32 for part in rounded)
    assert (rounded.tangent - exact.tangent).norm() < 0.05 * exact.tangent.norm()
    gradients = [torch.autograd.grad(each.loss.sum(), list(net.parameters())) for each in (rounded, exact)]
    error, size = (
        sum(float(part.square().sum()) for part in parts) ** 0.5
        for parts in ([a - b for a, b in zip(*gradients, strict=True)], gradients[1])
    )
    assert error < 0.1 * size


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.whole
@pytest.mark.usefixtures("without_annotation_checks")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("dit double", "eager"),
        pytest.param("unet double", "aot_eager", marks=pytest.mark.slow),
        pytest.param("unet double", "inductor", marks=pytest.mark.slow),
    ],
)
def test_the_compiled_loss_is_the_eager_one(name, backend):
    if backend == "inductor" and shutil.which("c++") is None and not torch.cuda.is_available():
        pytest.skip("no compiler")
    student, teacher = (Denoiser(randomised(NETS[name]()).eval(), SIGMA_DATA, "edm") for _ in range(2))
    x0, noise = drawn(1, 8, 8)
    label, parameters = torch.tensor([0, 1, 2, 3]), list(student.parameters())
    compiled = torch.compile(consistency_loss, backend=backend, fullgraph=True)
    for warmup in (torch.tensor(0.3), torch.tensor(1.0)):  # one graph serves all shares of the warm-up
        results = [
            loss(student, x0, SIGMA, noise, label, teacher=teacher, warmup=warmup)
            for loss in (compiled, consistency_loss)
        ]
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert not results[0].tangent.requires_grad
        gradients = [torch.autograd.grad(result.loss.sum(), parameters) for result in results]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.whole
@pytest.mark.usefixtures("without_annotation_checks")
def test_a_compiled_step_has_two_convolutions_for_each_of_a_diffusion_step():
    """The value's and the tangent's; torch's own forward mode has a third, with weights of zero."""
    net = UNet((1, 8, 8), channels=8, channel_mult=(1,), num_blocks=1, attention=())
    student = Denoiser(net, SIGMA_DATA, "trigflow")
    x0, noise = (each.float() for each in drawn(1, 8, 8))
    counts = []

    def counting(graph, inputs):
        counts.append(sum("conv2d" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    torch.compile(denoising_loss, backend=counting, fullgraph=True)(student, x0, SIGMA.float(), noise)
    torch.compile(consistency_loss, backend=counting, fullgraph=True)(student, x0, SIGMA, noise)
    assert counts[0] > 5
    assert counts[1] == 2 * counts[0]
