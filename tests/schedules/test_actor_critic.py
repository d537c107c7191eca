"""ART-RL against a control problem whose value is known in closed form, and its update against the identities behind it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_diff.schedules.actor_critic import ActorCritic, Trajectories

T, GAMMA = 2.0, -1.5
ALPHA, BETA = 0.8, -0.06  # psi(y) = alpha y + beta y^2 for y = int sqrt|Q| dpsi


def root_q(psi: Tensor) -> Tensor:
    """sqrt|Q| = dy/dpsi = 1 / (alpha + 2 beta y)."""
    return (ALPHA**2 + 4 * BETA * psi).rsqrt()


def length(psi: Tensor) -> Tensor:
    return (1 / root_q(psi) - ALPHA) / (2 * BETA)


def best(t: Tensor, psi: Tensor, gamma: float = GAMMA) -> tuple[Tensor, Tensor]:
    """V and mu*. In y the problem is linear-quadratic: V = max over Y of -(Y - y)^2 / (T - t) - gamma (psi(Y) - psi) + gamma T."""
    y, left = length(psi), T - t
    end = (2 * y / left - gamma * ALPHA) / (2 / left + 2 * gamma * BETA)
    value = -((end - y) ** 2) / left - gamma * (ALPHA * end + BETA * end**2 - psi) + gamma * T
    return value, (end - y) / left / root_q(psi)


def field(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(x), root_q(T - sigma)[:, None] ** 2


def unasked(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    raise AssertionError("the field is given")


class Exact(nn.Module):
    """A critic, or an actor before its softplus, that knows; the state is (t / T, x, psi / T)."""

    def __init__(self, is_actor: bool, factor: float = 1.0):
        super().__init__()
        self.is_actor, self.factor = is_actor, factor

    def forward(self, state: Tensor) -> Tensor:
        value, mean = best(T * state[..., 0], T * state[..., 2])
        return (self.factor * mean).expm1().log() - 0.5413248546129181 if self.is_actor else value


def knowing(steps: int, factor: float = 1.0, **options) -> ActorCritic:
    """A learner with the exact value, whose mean is the best one times a factor."""
    learner = ActorCritic(
        steps, T, **({"lam": 0.05, "start": "uniform", "inputs": "state", "sigma_min": 0.0} | options)
    ).double()
    learner.gamma.fill_(GAMMA)
    learner.critic, learner.actor = Exact(False), Exact(True, factor)
    return learner


def test_with_an_adapted_lambda_the_unit_of_length_does_not_matter():
    """Data, noise and levels a hundred times as large: the same updates and, in that unit, the same grid."""

    def learned(unit: float) -> Tensor:
        def line(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            s, x = (sigma / unit).reshape(-1, 1), x / unit
            return -s * x / (1 + s**2), x / (1 + s**2) ** 2 / unit

        torch.manual_seed(0)
        learner = ActorCritic(12, T * unit, sigma_min=1e-3 * unit, width=16).double()
        optimiser, draws = torch.optim.SGD(learner.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
        for _ in range(8):
            noise, exploration_noise = (torch.randn(8, n, dtype=torch.float64, generator=draws) for n in (1, 12))
            loss, details = learner(unasked, noise, exploration_noise, field=line)
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
            learner.learn(details)
        return learner.grid() / unit

    torch.testing.assert_close(learned(100.0), learned(1.0))


def test_a_surprise_reaches_back_by_the_trace():
    """At 1 the critic is trained towards what the rollout returned, lambda and the anchor included."""
    torch.manual_seed(0)
    for trace in (0.0, 0.7, 1.0):
        learner = knowing(7, trace=trace)
        seen, _ = explored(learner)
        value = learner.value(seen.state[:, :-1]).requires_grad_()
        learner.value = lambda state, value=value: value
        learner.loss(seen)[0].sum().backward()
        dt = T / 7
        spent = (seen.q * seen.theta**2 + GAMMA * seen.theta) * dt
        ahead = torch.cat([value.detach()[:, 1:], torch.full((12, 1), GAMMA * T).double()], 1)
        delta = ahead - value.detach() + 0.05 * dt - spent
        expected = torch.stack([sum(trace ** (j - k) * delta[:, j] for j in range(k, 7)) for k in range(7)], 1)
        torch.testing.assert_close(-value.grad, expected)


def explored(learner: ActorCritic) -> tuple[Trajectories, Tensor]:
    """Trajectories that explore at the first step alone, at the nodes of a Gauss-Hermite rule, and its weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    z = torch.zeros(12, learner.steps, dtype=torch.float64)
    z[:, 0] = torch.from_numpy(nodes)
    seen = learner.rollout(field, torch.zeros(12, 1, dtype=torch.float64), z)
    return seen, torch.from_numpy(weights / weights.sum())


@pytest.mark.parametrize("lam", [0.01, 0.02])
def test_the_value_with_exploration_is_the_value_plus_lambda_t(lam):
    """Theorem 3.1: along V + lambda t the moments have mean 0, up to the step's own order; along V they do not."""
    rates = []
    for steps in (100, 200):
        learner = knowing(steps, lam=lam)
        seen, weights = explored(learner)
        dt, value = T / steps, learner.value(seen.state[:, :2])
        spent = (seen.q * seen.theta**2 + GAMMA * seen.theta)[:, 0] * dt
        rates.append(float(weights @ (value[:, 1] - value[:, 0] - spent)) / dt + lam)
    assert abs(rates[1]) < 0.25 * lam
    assert rates[0] / rates[1] == pytest.approx(2, rel=0.2)


def test_the_best_mean_is_the_improvement_of_its_own_value():
    """Theorem 3.2: mu* = (V_psi - gamma) / (2 |Q|)."""
    t, psi = torch.tensor([0.2, 0.6, 1.0]).double(), torch.tensor([0.1, 0.5, 0.9]).double().requires_grad_()
    value, mean = best(t, psi)
    (slope,) = torch.autograd.grad(value.sum(), psi)
    torch.testing.assert_close(mean, (slope - GAMMA) / (2 * root_q(psi) ** 2))


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_both_actors_have_one_gradient_in_expectation(factor):
    """Stein's identity: E[(theta - mu) |Q| / lambda delta] is E[d delta / d theta], dt (V_psi - gamma - 2 |Q| mu)."""
    gradients = []
    for actor in ("score", "expected"):
        learner = knowing(400, factor, actor=actor)
        seen, weights = explored(learner)
        mean = learner.mean(seen.state[:, :-1], seen.q).detach().requires_grad_()
        learner.mean = lambda state, q, mean=mean: mean
        learner.loss(seen)[0].sum().backward()
        gradients.append(float(weights @ mean.grad[:, 0]) / (T / 400))
    assert gradients[0] == pytest.approx(gradients[1], abs=0.02)
    assert gradients[1] * (factor - 1) >= 0  # downhill to the best mean
    assert (abs(gradients[1]) > 0.1) == (factor != 1)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("lam", "actor", "trace"),
    [(0.05, "expected", 0.0), (None, "expected", 0.0), (None, "score", 0.5)],
)
def test_trained_it_follows_the_inverse_root_of_q(lam, actor, trace):
    """theta proportional to |Q|^(-1/2), of which a multiplier is found."""
    torch.manual_seed(0)
    options = {"start": "uniform", "inputs": "state", "width": 32, "gamma_rate": 0.01, "actor": actor, "trace": trace}
    learner = ActorCritic(40, T, sigma_min=0.0, lam=lam, **options).double()
    optimiser = torch.optim.Adam(learner.parameters(), lr=5e-3)
    start = torch.zeros(16, 1, dtype=torch.float64)
    for _ in range(350):
        loss, details = learner(unasked, start, torch.randn(16, 40, dtype=torch.float64), field=field)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        learner.learn(details)
    grid = learner.grid()
    middle = T - (grid[1:] + grid[:-1]) / 2
    lost = root_q(middle) * (grid[:-1] - grid[1:])
    uniform = root_q((torch.arange(40).double() + 0.5) * T / 40)
    assert lost.std() / lost.mean() < 0.5 * uniform.std() / uniform.mean()
