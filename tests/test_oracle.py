"""Laws of the exact denoisers: Tweedie, closed forms, and the two preconditionings of one function."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from lightning_diff.denoiser import Denoiser
from lightning_diff.oracle import Dataset, Gaussian, GaussianMixture, Oracle
from lightning_diff.samplers import heun


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def level(sigma):
    return torch.tensor(sigma, dtype=torch.float64)


def full_gaussian():
    root = normal(4, 4, seed=1)
    return Gaussian(normal(1, 2, 2), root @ root.T)


ORACLES = {
    "gaussian": full_gaussian,
    "diagonal": lambda: Gaussian(normal(1, 2, 2), normal(1, 2, 2, seed=1) ** 2),
    "isotropic": lambda: Gaussian(normal(1, 2, 2), 0.3),
    "mixture": lambda: GaussianMixture(
        torch.tensor([1.0, 2.0, 0.5]), normal(3, 1, 2, 2), torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0, 1, 1])
    ),
    "dataset": lambda: Dataset(normal(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 2])),
}
SIGMAS = [0.01, 0.3, 1.0, 10.0, 80.0]


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]()


def noisy(oracle, sigma, n=16):
    """Draws of x at this level, so that the posterior is not one-sided."""
    return oracle.sample(n, torch.Generator().manual_seed(5)) + sigma * normal(n, 1, 2, 2, seed=6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_tweedie(oracle, sigma):
    """D(x) = x + sigma^2 grad log p(x), with the gradient by autograd, and the closed-form score is that gradient."""
    x = noisy(oracle, sigma).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_prob(x, level(sigma)).sum(), x)
    torch.testing.assert_close(oracle.score(x, level(sigma)), gradient, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(oracle(x, level(sigma)), x + sigma**2 * gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma_data", [0.5, 0.752])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_edm_and_trigflow_are_one_function(oracle, sigma, sigma_data):
    x = noisy(oracle, sigma)
    exact = oracle(x, level(sigma))
    edm = oracle.denoiser(sigma_data, "edm")(x, level(sigma))
    trigflow = oracle.denoiser(sigma_data, "trigflow")(x, level(sigma))
    assert (edm - trigflow).abs().max() < 1e-12
    # The same function by another route. At sigma_max x is 80 times the output, and its last digits go with it.
    assert (edm - exact).abs().max() < 1e-12


@pytest.mark.parametrize("time", ["edm", "trigflow"])
def test_network_output_is_the_definition(oracle, time):
    """F = (D - c_skip x) / c_out, with the sign turned for TrigFlow, called as any network is."""
    sigma_data, sigma = 0.5, torch.tensor([0.1, 0.5, 2.0, 20.0]).double()
    x = noisy(oracle, 1.0, 4)
    denoiser = oracle.denoiser(sigma_data, time)
    norm = (sigma**2 + sigma_data**2).sqrt().reshape(4, 1, 1, 1)
    F = denoiser.raw(x / norm, denoiser.c_noise(sigma))
    c_skip, c_out = sigma_data**2 / norm**2, sigma.reshape(4, 1, 1, 1) * sigma_data / norm
    definition = (oracle(x, sigma) - c_skip * x) / c_out
    torch.testing.assert_close(F, definition if time == "edm" else -definition, rtol=1e-9, atol=1e-10)


def test_pure_noise_is_a_finite_limit(oracle):
    """At t = pi/2 there is no signal: D is the mean of the data, F_trigflow is minus that over sigma_data."""
    denoiser = oracle.denoiser(0.5, "trigflow")
    F = denoiser.raw(normal(4, 1, 2, 2), torch.full((4,), math.pi / 2, dtype=torch.float64))
    mean = (
        oracle.mean
        if isinstance(oracle, Gaussian)
        else (oracle.log_weights.exp() @ oracle.means.flatten(1)).view(1, 2, 2)
    )
    torch.testing.assert_close(F, (-mean / 0.5).expand(4, 1, 2, 2))


@pytest.mark.parametrize("sigma", [0.002, 0.3, 80.0])
def test_float32_loses_rounding_only(oracle, sigma):
    x = noisy(oracle, sigma).float()
    exact = oracle(x.double(), level(sigma))
    output = oracle(x, torch.tensor(sigma))
    assert output.dtype == torch.float32
    # The float32 sigma itself is off by 6e-8 relative, which the posterior weights of the mixtures amplify.
    assert (output - exact).abs().max() < 1e-5
    for time in ("edm", "trigflow"):
        assert (oracle.denoiser(0.5, time)(x, torch.tensor(sigma)) - exact).abs().max() < 2e-5


def test_one_level_for_each_sample(oracle):
    x, sigma, label = noisy(oracle, 1.0, 3), torch.tensor([0.1, 1.0, 9.0]).double(), torch.tensor([0, 1, 1])
    for function in (oracle, oracle.score, oracle.log_prob):
        rows = [function(x[i : i + 1], sigma[i], label[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(function(x, sigma, label), torch.cat(rows))


@pytest.mark.parametrize("time", ["edm", "trigflow"])
def test_forward_mode(oracle, time):
    """The network's Jacobian-vector product in (x_in, c_noise), which consistency models need, is its finite
    difference."""
    denoiser = oracle.denoiser(0.5, time)
    x, c_noise, dx, dc = normal(3, 1, 2, 2), level([0.1, 0.5, 0.9]), normal(3, 1, 2, 2, seed=1), level([1.0, -0.5, 0.3])
    _, tangent = torch.func.jvp(denoiser.raw, (x, c_noise), (dx, dc))
    h = 1e-5
    difference = (denoiser.raw(x + h * dx, c_noise + h * dc) - denoiser.raw(x - h * dx, c_noise - h * dc)) / (2 * h)
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_density_is_the_samples_density(name):
    """Mean and covariance of samples against the moments; E[grad log p] = 0 and E[x grad log p^T] = -I hold for one
    density."""
    oracle, n = ORACLES[name](), 200_000
    generator = torch.Generator().manual_seed(0)
    x = (oracle.sample(n, generator) + 0.5 * torch.randn(n, 1, 2, 2, generator=generator, dtype=torch.float64)).flatten(
        1
    )
    score = oracle.score(x.view(n, 1, 2, 2), level(0.5)).flatten(1)
    assert score.mean(0).abs().max() < 0.02
    torch.testing.assert_close(x.T @ score / n, -torch.eye(4).double(), atol=0.05, rtol=0)


def test_log_prob_is_normalised():
    mixture = GaussianMixture(torch.tensor([1.0, 3.0]), torch.tensor([[-1.0], [2.0]]), 0.5)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(mixture.log_prob(x, level(0.7)).exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "isotropic"])
def test_denoising_loss_of_the_gaussian(name):
    """Monte Carlo mean and variance of |F - target|^2 / d against the closed form, at levels on both sides of
    sigma_data."""
    oracle, n, sigma_data = ORACLES[name](), 100_000, 0.5
    generator = torch.Generator().manual_seed(0)
    denoiser = oracle.denoiser(sigma_data)
    sigmas = torch.tensor([0.01, 0.5, 3.0, 50.0], dtype=torch.float64)
    means, variances = oracle.denoising_loss(sigmas, sigma_data)
    for sigma, mean, variance in zip(sigmas, means, variances, strict=True):
        x0 = oracle.sample(n, generator)
        x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        loss = (denoiser.edm_output(x, sigma) - (x0 - c_skip * x) / c_out).square().flatten(1).mean(1)
        # five standard errors of the mean; a variance of chi-squared-like losses is known to about sqrt(20 / n)
        assert (loss.mean() - mean).abs() < 5 * (variance / n).sqrt()
        assert loss.var() == pytest.approx(variance.item(), rel=0.1)


def test_gaussian_flow_solves_its_ode():
    """d/dsigma of the closed-form path is (x - D(x)) / sigma."""
    oracle = full_gaussian()
    start = noisy(oracle, 10.0)

    def path(sigma):
        return oracle.ode_solution(start, level(10.0), sigma)

    x, dx_dsigma = torch.func.jvp(path, (level(0.7),), (level(1.0),))
    torch.testing.assert_close(dx_dsigma, (x - oracle(x, level(0.7))) / 0.7)
    torch.testing.assert_close(path(level(10.0)), start)


def test_gaussian_as_a_mixture_of_one():
    x = noisy(full_gaussian(), 1.0)
    gaussian, mixture = Gaussian(normal(1, 2, 2), 0.09), GaussianMixture(torch.ones(1), normal(1, 1, 2, 2), 0.3)
    for name in ("__call__", "score", "log_prob"):
        torch.testing.assert_close(getattr(gaussian, name)(x, level(0.4)), getattr(mixture, name)(x, level(0.4)))


def test_mixture_splits_where_it_is_known():
    """Two points: the denoiser is tanh, the textbook case."""
    pair = Dataset(torch.tensor([[-1.0], [1.0]]))
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    torch.testing.assert_close(pair(x, level(0.8)), (x / 0.8**2).tanh())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dataset_returns_the_nearest_image_at_tiny_noise(dtype):
    digits = torch.from_numpy(load_digits().images).to(dtype)[:, None] / 8 - 1
    oracle = Dataset(digits)
    i = torch.arange(0, 1797, 100)
    x = digits[i] + 0.002 * normal(len(i), 1, 8, 8, dtype=dtype)
    assert torch.equal(oracle(x, torch.tensor(0.002, dtype=dtype)), digits[i])
    nearest = torch.cdist(x.flatten(1).double(), digits.flatten(1).double()).argmin(1)
    assert torch.equal(nearest, i)
    # and their mean at overwhelming noise
    torch.testing.assert_close(
        oracle(x, torch.tensor(1e5, dtype=dtype)), digits.mean(0, keepdim=True).expand_as(x), atol=1e-3, rtol=0
    )


def test_labels_restrict_to_the_class():
    """The conditional denoiser is that of the class's components alone; the last label, and no label, mean all of
    them."""
    weights, means, stds = torch.tensor([1.0, 2.0, 0.5]), normal(3, 2), torch.tensor([0.3, 0.1, 1.0])
    mixture = GaussianMixture(weights, means, stds, torch.tensor([1, 0, 1]))
    one = GaussianMixture(weights[[0, 2]], means[[0, 2]], stds[[0, 2]])
    x, sigma = normal(5, 2, seed=1), level(0.5)
    ones = torch.ones(5, dtype=torch.int64)
    assert mixture.num_classes == 2
    for name in ("__call__", "score", "log_prob"):
        conditional, alone = getattr(mixture, name), getattr(one, name)
        torch.testing.assert_close(conditional(x, sigma, ones), alone(x, sigma))
        torch.testing.assert_close(conditional(x, sigma, 2 * ones), conditional(x, sigma))
    torch.testing.assert_close(mixture.denoiser()(x, sigma, ones), one.denoiser()(x, sigma))
    zeros = mixture.sample(1000, torch.Generator().manual_seed(0), torch.zeros(1000, dtype=torch.int64))
    torch.testing.assert_close(zeros.mean(0), means[1], atol=0.02, rtol=0)


def test_classes_make_up_the_whole():
    """p(x) = sum of p(class) p(x | class)."""
    dataset = ORACLES["dataset"]()
    x = noisy(dataset, 1.0)
    shares = [0.4, 0.4, 0.2]
    parts = [
        share * dataset.log_prob(x, level(1.0), torch.full((16,), label)).exp() for label, share in enumerate(shares)
    ]
    torch.testing.assert_close(sum(parts), dataset.log_prob(x, level(1.0)).exp())


def test_sampling_repeats_and_weighs():
    mixture = ORACLES["mixture"]()
    one, same = (mixture.sample(4000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same)
    # the middle component is a point with weight 2 / 3.5
    share = (one == mixture.means[1]).flatten(1).all(1).double().mean().item()
    assert share == pytest.approx(2 / 3.5, abs=0.04)


def test_usable_as_a_model(tmp_path):
    """A Denoiser: it moves with state_dict and to(), has nothing to train, and gives gradients to x."""
    denoiser = ORACLES["mixture"]().denoiser(0.5, "trigflow")
    assert isinstance(denoiser, Denoiser)
    assert list(denoiser.parameters()) == []
    x = normal(2, 1, 2, 2).requires_grad_()
    denoiser(x, level(1.0)).sum().backward()
    assert x.grad.isfinite().all()
    torch.save(denoiser.state_dict(), tmp_path / "oracle.pt")
    other = ORACLES["mixture"]().denoiser(0.5, "trigflow")
    other.load_state_dict(torch.load(tmp_path / "oracle.pt", weights_only=True))
    assert torch.equal(other(x, level(1.0)), denoiser(x, level(1.0)))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Gaussian(torch.zeros(2), torch.eye(3)), "cov must be"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "positive semi-definite"),
        (lambda: Gaussian(torch.zeros(2), -1.0), "positive semi-definite"),
        (lambda: GaussianMixture(torch.zeros(2), torch.zeros(2, 1), 0.1), "weights"),
        (lambda: GaussianMixture(torch.tensor([1.0, -1.0]), torch.zeros(2, 1), 0.1), "weights"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(2, 1), -0.1), "stds"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(2, 1), 0.1, torch.tensor([0, 2])), "every class"),
        (lambda: Dataset(torch.zeros(2, 1), torch.tensor([-1, 0])), "every class"),
        (lambda: ORACLES["dataset"]()(torch.zeros(2, 3), torch.tensor(1.0)), r"x must be \(B, 1, 2, 2\)"),
        (lambda: full_gaussian()(torch.zeros(2, 3), torch.tensor(1.0)), r"x must be \(B, 1, 2, 2\)"),
        (lambda: ORACLES["dataset"]()(torch.zeros(1, 1, 2, 2), torch.tensor(1.0), torch.tensor([4])), "labels must be"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize("name", ["gaussian", "diagonal", "isotropic"])
def test_a_gaussians_ode_ends_where_its_solution_does_and_where_a_solver_does(name):
    oracle = ORACLES[name]()
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    x = oracle.sample(5).double() + sigma.reshape(-1, 1, 1, 1) * normal(5, 1, 2, 2)
    end = oracle.ode_end(x, sigma)
    torch.testing.assert_close(end, Oracle.ode_end(oracle, x, sigma, steps=512), rtol=1e-6, atol=1e-8)
    assert torch.equal(end, oracle.ode_solution(x, sigma, level(0.0)))


@pytest.mark.whole
def test_a_mixtures_ode_is_solved_with_order_four_in_any_coordinates():
    mixture = GaussianMixture(torch.ones(6), normal(6, 2), 0.2, torch.arange(6) % 3)
    x, sigma, label = 80 * normal(100, 2, seed=1), level(80.0), torch.arange(100) % 4
    exact = mixture.ode_end(x, sigma, label, steps=2048)
    errors = [float((mixture.ode_end(x, sigma, label, steps=n) - exact).norm()) for n in (64, 128, 256)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.3)
    torch.testing.assert_close(mixture.ode_end(x, sigma, label, sigma_data=1.3), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.whole
def test_a_mixtures_ode_end_is_constant_along_its_ode():
    """Self-consistency: from a point further down the same trajectory, which Heun's method finds, the end is the same."""
    mixture = GaussianMixture(torch.ones(6), normal(6, 2), 0.2)
    x = 80 * normal(100, 2, seed=1)
    grid = torch.cat([torch.linspace(math.log(80), math.log(0.5), 2000).double().exp(), level(0.0)[None]])
    passed = []
    heun(lambda x, sigma: passed.append((x, sigma)) or mixture(x, sigma), x, grid)
    for later, sigma in passed[1001::1000]:
        torch.testing.assert_close(mixture.ode_end(later, sigma), mixture.ode_end(x, level(80.0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("time", ["edm", "trigflow"])
@pytest.mark.parametrize("name", ["gaussian", "diagonal", "isotropic"])
def test_a_gaussians_consistency_model_is_its_consistency_function(name, time):
    oracle = ORACLES[name]()
    sigma = torch.tensor([1e-6, *SIGMAS, 1e6], dtype=torch.float64)
    x = oracle.sample(7).double() + sigma.reshape(-1, 1, 1, 1) * normal(7, 1, 2, 2)
    model = oracle.consistency_model(0.7, time)
    assert model.time == time
    torch.testing.assert_close(model(x, sigma), oracle.ode_end(x, sigma), rtol=1e-9, atol=1e-9)
