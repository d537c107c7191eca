"""Laws of the solvers: order, exact last step, number of calls, the right amount of noise."""

import math
from functools import cache

import pytest
import torch

from lightning_diff import samplers, schedules
from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import Gaussian, GaussianMixture


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), normal(3, 2), torch.tensor([0.5, 0.4, 0.6]))


@pytest.fixture(scope="module")
def solve(mixture):
    """The solution by (grid, solver, n) from 64 starts at sigma = 10, in float64; each is computed once."""
    x = 10 * normal(64, 2, seed=1)
    return cache(
        lambda grid, solver, n: samplers.SOLVERS[solver](mixture, x, schedules.GRIDS[grid](n, 0.01, sigma_max=10.0))
    )


@pytest.mark.parametrize(
    ("grid", "solver", "order"),
    [
        ("karras", "euler", 1),
        ("log_snr", "euler", 1),
        ("karras", "heun", 2),
        ("log_snr", "heun", 2),
        ("karras", "dpmpp_2m", 2),
        ("log_snr", "dpmpp_2m", 2),
        ("karras", "ipndm", 2),
        ("log_snr", "ipndm", 2),
        ("karras", "unipc", 4),  # its first steps, of lower order, do not show yet
    ],
)
def test_order(solve, grid, solver, order):
    """The error falls as n^-order. The step from sigma_min to 0 is the same map for every n, so it does not blur the
    slope."""
    exact = solve(grid, "heun", 1024) + (solve(grid, "heun", 1024) - solve(grid, "heun", 512)) / 3
    ns = torch.tensor([64.0, 128.0, 256.0], dtype=torch.float64)
    errors = torch.stack([(solve(grid, solver, int(n)) - exact).norm(dim=1).mean() for n in ns])
    log_n = ns.log() - ns.log().mean()
    slope = (log_n * errors.log()).sum() / (log_n**2).sum()
    assert -slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("solver", "tolerance"), [("euler", 3e-2), ("heun", 3e-4), ("dpmpp_2m", 3e-4), ("ipndm", 3e-4), ("unipc", 3e-4)]
)
def test_gaussian_flow(solver, tolerance):
    """The Gaussian's ODE has the solution mean + (x - mean) sqrt(s^2 + sigma_next^2) / sqrt(s^2 + sigma^2), along each
    axis."""
    root = normal(3, 3)
    gaussian = Gaussian(normal(3, seed=1), root @ root.T)
    x = 20 * normal(16, 3, seed=2)
    sigmas = schedules.karras(400, sigma_min=1e-3, sigma_max=20.0)
    exact = gaussian.ode_solution(x, sigmas[0], sigmas[-1])
    assert (samplers.SOLVERS[solver](gaussian, x, sigmas) - exact).abs().max() < tolerance


@pytest.mark.whole
@pytest.mark.parametrize(
    ("solver", "option", "order"), [("ipndm", 1, 1), ("ipndm", 2, 2), ("unipc", 1, 2), ("unipc", 2, 3)]
)
def test_order_as_asked_for(mixture, solver, option, order):
    """`order` is the predictor's; UniPC's correction adds one."""
    x = 10 * normal(64, 2, seed=1)
    ns = (64, 256)
    ends = [samplers.SOLVERS[solver](mixture, x, schedules.log_snr(n, 0.01, 10.0), order=option) for n in (*ns, 2048)]
    errors = [(end - ends[-1]).norm(dim=1).mean() for end in ends[:-1]]
    assert (errors[0] / errors[1]).log2() / 2 == pytest.approx(order, abs=0.15)


def test_a_high_order_is_exact_for_what_it_integrates():
    """ipndm of order p on an even grid: slopes that are polynomials of degree p - 1 in sigma, after the first p - 1 steps."""
    sigmas = schedules.uniform(8, sigma_min=0.0, sigma_max=8.0)
    for order in (1, 2, 3, 4):
        slope, integral = (lambda s, p=order: s ** (p - 1)), (lambda s, p=order: s**p / p)
        seen = {}

        def denoise(x, sigma, slope=slope, seen=seen):
            seen[sigma.item()] = x.item()
            return x - sigma * slope(sigma)

        samplers.ipndm(denoise, torch.zeros(1, 1, dtype=torch.float64), sigmas, order=order)
        assert seen[1.0] - seen[5.0] == pytest.approx(integral(1.0) - integral(5.0), rel=1e-12)


def test_unipc_of_order_one_and_two_predicts_as_euler_and_dpmpp():
    """Before any correction enters: at the second node, and at the third one for a denoiser of sigma alone."""
    seen = {}

    def denoise(x, sigma, solver):
        seen[solver, sigma.item()] = x
        return torch.full_like(x, math.sin(sigma.item()))

    x, sigmas = 9 * normal(3, 2), torch.tensor([9.0, 4.0, 1.0, 0.0], dtype=torch.float64)
    for solver in ("euler", "dpmpp_2m", "unipc"):
        samplers.SOLVERS[solver](lambda x, sigma, solver=solver: denoise(x, sigma, solver), x, sigmas)
    torch.testing.assert_close(seen["unipc", 4.0], seen["euler", 4.0])
    # the correction of the first step moved x_1 by (1 - 4/9) (D_1 - D_0) / 2, and the next step carries it on by 1/4
    moved = 5 / 9 * (math.sin(4.0) - math.sin(9.0)) / 2 / 4
    torch.testing.assert_close(seen["unipc", 1.0], seen["dpmpp_2m", 1.0] + moved)


@pytest.mark.parametrize("solver", samplers.SOLVERS)
def test_constant_denoiser_is_reached_exactly(solver):
    """One point of data: every trajectory is a straight line to it, for any grid."""
    point = torch.tensor([0.25, -0.7])
    x = samplers.SOLVERS[solver](lambda x, sigma: point.expand_as(x), 80 * normal(4, 2).float(), schedules.karras(7))
    assert torch.equal(x, point.expand(4, 2))


@pytest.mark.parametrize("solver", samplers.SOLVERS)
def test_one_step_is_the_denoiser(mixture, solver):
    x = 80 * normal(4, 2)
    sigmas = torch.tensor([80.0, 0.0])
    assert torch.equal(samplers.SOLVERS[solver](mixture, x, sigmas), mixture(x, sigmas[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", samplers.SOLVERS)
def test_denoiser_sees_the_grid(mixture, solver, dtype):
    """sigma is a scalar in x's dtype and takes the grid's values in order, without the 0; x is not changed in place."""
    seen = []

    def denoise(x, sigma):
        assert sigma.shape == ()
        assert sigma.dtype == dtype
        seen.append(sigma.item())
        return mixture(x, sigma)

    x = normal(2, 2, dtype=dtype)
    before = x.clone()
    sigmas = schedules.karras(5)
    assert samplers.SOLVERS[solver](denoise, x, sigmas).dtype == dtype
    assert torch.equal(x, before)
    assert list(dict.fromkeys(seen)) == sigmas[:-1].to(dtype).tolist()


def test_float32_steps_suffice(mixture):
    """A float32 denoiser stepped in float32 and in float64: the difference is far below an 8-bit rounding step,
    8e-3."""
    x, sigmas = 80 * normal(256, 2, dtype=torch.float32), schedules.karras(64)

    def denoise(x, sigma):
        return mixture(x.float(), sigma.float()).to(x.dtype)

    def noise(x, step):
        return normal(*x.shape, seed=step).to(x.dtype)

    for solve in samplers.SOLVERS.values():
        difference = solve(denoise, x, sigmas, generator=noise) - solve(denoise, x.double(), sigmas, generator=noise)
        assert difference.abs().max() < 3e-5


def test_nfe():
    for n in (1, 2, 18):
        sigmas = schedules.karras(n)
        assert samplers.nfe("euler", sigmas) == n
        for solver in ("dpmpp_2m", "ipndm", "unipc"):
            assert samplers.nfe(solver, sigmas) == n
        assert samplers.nfe("consistency", sigmas) == n
        assert samplers.nfe("heun", sigmas) == 2 * n - 1
        assert samplers.nfe(samplers.heun, sigmas, S_churn=40.0) == 2 * n - 1


def test_nfe_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    samplers.nfe("heun", schedules.karras(18), S_churn=40.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_churn_keeps_the_distribution():
    """With the exact denoiser and many steps, fresh noise does not change what is sampled: N(mean, cov)."""
    gaussian = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
    n = 20_000
    x = 20 * normal(n, 2, dtype=torch.float32)
    samples = samplers.heun(
        gaussian,
        x,
        schedules.karras(40, sigma_max=20.0),
        generator=torch.Generator().manual_seed(1),
        S_churn=20.0,
    )
    # Standard errors: sqrt(0.5 / n) = 0.005 for a mean, sqrt(2 / n) 0.5 = 0.005 for a variance. sigma_max adds its 0.1
    # %.
    torch.testing.assert_close(samples.mean(0), torch.tensor([1.0, -2.0]), atol=0.025, rtol=0)
    torch.testing.assert_close(samples.T.cov(), torch.tensor([[0.5, 0.3], [0.3, 0.4]]), atol=0.025, rtol=0)


def test_churn_raises_the_noise_level():
    """EDM, alg. 2, lines 4-6: sigma (1 + gamma) inside [S_min, S_max], gamma = min(S_churn / n, sqrt(2) - 1); variance
    to match."""
    sigmas = schedules.karras(10)
    for S_churn, gamma in ((2.0, 0.2), (1000.0, math.sqrt(2) - 1)):
        seen, noise = [], []

        def denoise(x, sigma, seen=seen):
            seen.append(sigma.item())
            return torch.zeros_like(x)

        def ones(x, step, noise=noise):
            noise.append(step)
            return torch.ones_like(x)

        x = torch.zeros(1, 1, dtype=torch.float64)
        samplers.heun(denoise, x, sigmas, generator=ones, S_churn=S_churn, S_min=0.05, S_max=50.0)
        raised = [(s * (1 + gamma) if 0.05 <= s <= 50 else s) for s in sigmas[:-1].tolist()]
        assert seen[::2] == pytest.approx(raised, rel=1e-12)
        assert noise == [i for i, s in enumerate(sigmas.tolist()) if 0.05 <= s <= 50]


def test_churn_noise_has_the_missing_variance():
    """From sigma to sigma_hat the noise added has variance sigma_hat^2 - sigma^2, times S_noise^2."""
    seen = []

    def denoise(x, sigma):
        seen.append((x.item(), sigma.item()))
        return torch.zeros_like(x)

    x = torch.zeros(1, 1, dtype=torch.float64)
    samplers.heun(
        denoise, x, torch.tensor([3.0, 0.0]), generator=lambda x, step: torch.ones_like(x), S_churn=0.2, S_noise=1.5
    )
    assert seen == [pytest.approx((1.5 * math.sqrt(3.6**2 - 3**2), 3.6), rel=1e-12)]


def test_generator_decides_the_churn(mixture):
    def solve(generator):
        return samplers.heun(mixture, x, schedules.karras(8), generator=generator, S_churn=8.0)

    x = 80 * normal(4, 2)
    one, same, other = (solve(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_gradients_flow(mixture):
    x = (10 * normal(2, 2)).requires_grad_()
    samplers.heun(mixture, x, schedules.karras(5, sigma_max=10.0)).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("solver", [name for name in samplers.SOLVERS if name != "consistency"])
def test_gradients_to_the_grid(mixture, solver):
    """They are the central difference, and asking for them does not change the samples."""
    x, sigmas = 10 * normal(3, 2), schedules.karras(5, 0.1, 10.0)
    tracked = sigmas.clone().requires_grad_()
    end = samplers.SOLVERS[solver](mixture, x, tracked)
    torch.testing.assert_close(end.detach(), samplers.SOLVERS[solver](mixture, x, sigmas), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(end.sum(), tracked)
    for i in range(1, 5):
        h = 1e-5 * sigmas[i] * torch.eye(6, dtype=torch.float64)[i]
        ahead, behind = (samplers.SOLVERS[solver](mixture, x, sigmas + sign * h).sum() for sign in (1, -1))
        assert gradient[i] == pytest.approx(((ahead - behind) / (2 * h.sum())).item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("sigmas", "word"),
    [
        ([80.0], "at least two"),
        ([80.0, 1.0], "last noise level .*0"),
        ([80.0, 1.0, 1.0, 0.0], "number 1 .*number 2 "),
        ([1.0, 80.0, 0.0], "decrease"),
        ([math.inf, 1.0, 0.0], "finite"),
        ([math.nan, 1.0, 0.0], "finite"),
        ([1.0, -1.0, 0.0], "decrease"),
    ],
)
@pytest.mark.parametrize("solver", samplers.SOLVERS)
def test_bad_grids_are_refused(solver, sigmas, word):
    with pytest.raises(ValueError, match=word):
        samplers.SOLVERS[solver](lambda x, sigma: x, torch.zeros(1, 1), torch.tensor(sigmas, dtype=torch.float64))


@pytest.mark.parametrize(("solver", "order"), [("ipndm", 5), ("ipndm", 0), ("unipc", 4)])
def test_unknown_orders_are_refused(solver, order):
    with pytest.raises(ValueError, match=f"{solver}: order must be"):
        samplers.SOLVERS[solver](lambda x, sigma: x, torch.zeros(1, 1), schedules.karras(3), order=order)


def test_unknown_solver_is_one_sentence():
    with pytest.raises(UserError, match="mean 'heun'"):
        samplers.named("huen")
    with pytest.raises(UserError, match="euler, heun, dpmpp_2m"):
        samplers.named("x")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_exact_consistency_model_draws_the_data_in_any_number_of_steps(steps):
    root = normal(3, 3)
    gaussian = Gaussian(normal(3, seed=1), root @ root.T)
    n = 40_000
    sigmas = schedules.consistency(steps, sigma_max=1000.0)
    x = samplers.consistency(gaussian.consistency_model(), 1000 * normal(n, 3, seed=2), sigmas)
    z = torch.linalg.solve(torch.linalg.cholesky(root @ root.T), (x - gaussian.mean).T).T  # standard normal
    assert (z.mean(0).abs() < 4 / n**0.5).all()
    assert ((z.T @ z / n - torch.eye(3)).abs() < 4 * 2**0.5 / n**0.5).all()


def test_a_step_of_the_consistency_sampler_is_trigflows():
    """x_t = cos(t) x0 + sin(t) sigma_data eps, and the output there (sCM, algorithm for two steps)."""
    gaussian = Gaussian(normal(2, seed=1), 0.3)
    sigma_data, eps = 0.7, [normal(5, 2, seed=seed) for seed in (2, 3)]
    model = gaussian.consistency_model(sigma_data, "trigflow")

    def f(x_t, t):
        return math.cos(t) * x_t - math.sin(t) * sigma_data * model.raw(
            x_t / sigma_data, torch.full((5,), t, dtype=torch.float64)
        )

    t_max, t = math.atan(80 / sigma_data), 1.1
    x0 = f(math.sin(t_max) * sigma_data * eps[0], t_max)
    expected = f(math.cos(t) * x0 + math.sin(t) * sigma_data * eps[1], t)
    drawn = samplers.consistency(
        model, 80 * eps[0], schedules.consistency(2, sigma_data=sigma_data), generator=lambda x, step: eps[step]
    )
    torch.testing.assert_close(drawn, expected, rtol=1e-9, atol=1e-9)
