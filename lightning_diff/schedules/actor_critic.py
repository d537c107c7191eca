"""ART-RL: a time grid learned by an actor and a critic (arXiv 2601.18681, algorithm 1), and what makes that quick and safe.

Time is the control. With s = sigma, T = sigma_max and psi = T - s the noise removed so far, sampling on a clock t in [0, T] is

    dx/dt = theta F(x, s),   dpsi/dt = theta,   psi(0) = 0, psi(T) = T,

and a uniform grid of t puts the solver's nodes at s_k = T - psi(t_k). Euler's error gives (eq. 9)

    max E[ -int |Q| theta^2 dt ]  under  int theta dt = T, or   V = max E[ int (-|Q| theta^2 - gamma theta) dt ] + gamma T.

The policy is N(mu, lambda / |Q|) (eq. 11): exploration of that width changes V by lambda t and the best mean not at all (theorems
3.1 and 3.2), mu* = (V_x F + V_psi - gamma) / (2 |Q|).
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import softplus

from .. import tangent
from ..foundation import rng
from .counted import Counted
from .grids import along, levels_of
from .monitor import Field, monitor
from .networks import mlp
from .returns import discounted, read_together, running
from .trajectories import Labels, Model


class Trajectories(NamedTuple):
    """What a batch of rollouts saw.

    Args:
        state: features of the state at t_0..t_K.
        slope: their derivative along the flow, t held fixed, at t_0..t_{K-1}.
        q: |Q|, at least epsilon.
        theta: what was done.
        mean: what the policy had in mind.
    """

    state: Float[Tensor, "b nodes f"]
    slope: Float[Tensor, "b k f"]
    q: Float[Tensor, "b k"]
    theta: Float[Tensor, "b k"]
    mean: Float[Tensor, "b k"]


class ActorCritic(Counted):
    """Algorithm 1: moment conditions for actor and critic, a multiplier for the budget.

    Calling it rolls out one trajectory for each noise and returns a loss per trajectory whose gradient is minus the update of
    eqs. (22a) and (22b); the optimiser belongs to the caller, who then hands the trajectories of the whole batch to `learn`.

    As published: one trajectory at a time, lam=0.1, trace=0, start="uniform", Adam at 1e-4, 5,000 to 20,000 times. A number for
    lambda has the unit of |Q|, so that it is too wide for one problem and too narrow for the next; lam=None takes
    (exploration L / T)^2 with a running L = int sqrt|Q| dpsi, which makes the policy's standard deviation `exploration` times its
    mean at the optimum, and measures |Q|, V and gamma in units of (L / T)^2. Its first call measures L on even steps and teaches
    nothing.

    The moment conditions hold with any adapted test function. Those of (22) are the gradients at step k alone, which trust the
    critic's next value from the first update on; with `trace` the gradients of earlier steps count too, by trace^(j - k) after
    j - k steps, so that a critic that is still wrong misleads less. On a line of Gaussian data that learns in 500 updates what
    takes 2,500 without.

    Args:
        steps: K of the rollouts. Train at a fine one and resample: cost and dynamics are Riemann sums.
        sigma_max: T.
        sigma_min: the level below which the model is not called.
        lam: lambda; None adapts it.
        exploration: for lam=None, standard deviation over mean of the policy.
        trace: in [0, 1], how far a surprise delta reaches back. At 1 the critic has no part in the actor's gradient but as a
            baseline, and noise has the larger one.
        actor: "score", the stochastic gradient of eq. 22b, or "expected", its expectation dt (V_x F + V_psi - gamma - 2 |Q| mu)
            dmu, from the critic's derivative along the flow: far less variance, and no better than the critic's slope, which takes
            long to be right.
        start: "uniform": the mean is softplus(actor), 1 at first, steps even in sigma. "monitor": that over |Q|^(1/2), steps of
            equal error by what each trajectory sees of its own |Q|, and what the critic adds to it. On images the best steps
            differ a thousandfold, which the first takes long to find.
        gamma_rate: of the multiplier's steps; default 1e-4 as published, with an adapted lambda 0.05 / T.
        epsilon: floor of |Q|.
        inputs: what the networks see besides t and psi: "norms" (ln s, ln|Q|, and of |x| and |F| the logarithms of per-element root
            mean squares; lengths in units of T), or "state", x itself, for points of a line.
        width: of both networks.
    """

    gamma: Tensor
    scale: Tensor
    speed: Tensor

    def __init__(
        self,
        steps: int = 100,
        sigma_max: float = 80.0,
        *,
        sigma_min: float = 0.002,
        lam: float | None = None,
        exploration: float = 0.6,
        trace: float = 0.9,
        actor: Literal["score", "expected"] = "score",
        start: Literal["uniform", "monitor"] = "monitor",
        gamma_rate: float | None = None,
        epsilon: float = 1e-6,
        inputs: Literal["norms", "state"] = "norms",
        width: int = 128,
    ):
        super().__init__()
        if steps < 2 or not 0 <= sigma_min < sigma_max:
            raise ValueError(f"ActorCritic: need steps >= 2 and 0 <= sigma_min < sigma_max, got {steps}, {sigma_min:g}")
        if (lam is not None and not lam > 0) or not exploration > 0 or not epsilon > 0:
            raise ValueError("ActorCritic: lam, exploration and epsilon must be positive")
        if inputs == "norms" and not sigma_min > 0:
            raise ValueError("ActorCritic: inputs='norms' looks at ln sigma, and needs sigma_min > 0")
        if not 0 <= trace <= 1:
            raise ValueError(f"ActorCritic: trace must be in [0, 1], got {trace}")
        self.steps, self.sigma_max, self.sigma_min = steps, float(sigma_max), float(sigma_min)
        self.lam, self.exploration, self.trace, self.actor_kind, self.epsilon = lam, exploration, trace, actor, epsilon
        self.gamma_rate = (1e-4 if lam is not None else 0.05 / sigma_max) if gamma_rate is None else gamma_rate
        self.start, self.inputs = start, inputs
        features = 3 if inputs == "state" else 6
        self.actor, self.critic = mlp(features, width), mlp(features, width)
        self.register_buffer("gamma", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))  # (L / T)^2, or 1
        self.register_buffer("speed", torch.ones(steps, dtype=torch.float64))  # running average of normalised means

    # --- the policy and the value ---

    @property
    def lambda_(self) -> Tensor:
        """lambda in units of `scale`."""
        return torch.full_like(self.scale, self.exploration**2 if self.lam is None else self.lam)

    @property
    def _measuring(self) -> bool:
        return self.lam is None and not self.count

    def mean(self, state: Float[Tensor, "*b f"], q: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """mu > 0."""
        mean = softplus(self.actor(state) + 0.5413248546129181)  # softplus^-1(1)
        return mean if self.start == "uniform" else mean * q.to(mean.dtype).rsqrt()

    def value(self, state: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """NN_c, which is V - lambda t; with an adapted scale in units of T, as V itself is."""
        value: Tensor = self.critic(state)
        return value * (self.sigma_max if self.lam is None else 1.0)

    # --- rollouts ---

    def forward(
        self,
        model: Model,
        noise: Float[Tensor, "b *s"],
        exploration_noise: Float[Tensor, "b k"],
        label: Labels = None,
        *,
        field: Field | None = None,
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """A loss per trajectory and what `learn` needs of it, (B, ...) each.

        Args:
            model: callable (x, sigma (B,), label) -> x0.
            noise: standard normal; the trajectories start at T times it.
            exploration_noise: standard normal, for each step (see the method of that name).
            label: classes, or None.
            field: (x, sigma (B,)) -> F, Q, where they are known or to be had some other way than by `monitor`.
        """
        field = partial(monitor, lambda x, sigma: model(x, sigma, label)) if field is None else field
        return self.loss(self.rollout(field, noise, exploration_noise))

    def exploration_noise(self, seed: int, positions: rng.Positions) -> Float[Tensor, "b k"]:
        """For trajectories by number: a function of (seed, number)."""
        return rng.normal(seed, "action", positions, (self.steps,))

    @torch.no_grad()
    def rollout(self, field: Field, noise: Float[Tensor, "b *s"], z: Float[Tensor, "b k"]) -> Trajectories:
        """Euler steps of a uniform clock under the policy. psi is clipped to [0, T] for the state; theta is not."""
        T, dt = self.sigma_max, self.sigma_max / self.steps
        dtype = next((weight.dtype for weight in self.parameters()), torch.float64)
        x, psi = T * noise, noise.new_zeros(len(noise), dtype=torch.float64)
        std = self.lambda_.sqrt()
        states, slopes, qs, thetas, means = [], [], [], [], []
        for k in range(self.steps + 1):
            sigma = (T - psi).clamp(min=self.sigma_min)
            F, Q = field(x, sigma.to(x.dtype))
            q = Q.flatten(1).norm(dim=1).double() / self.scale
            states.append(self._features(k * dt, psi, sigma, x, F, q).to(dtype))
            if k == self.steps:
                break
            q = q.clamp(min=self.epsilon)
            mean = torch.ones_like(q) if self._measuring else self.mean(states[-1], q).double()
            theta = mean if self._measuring else mean + std * q.rsqrt() * z[:, k].double()
            psi_next = (psi + dt * theta).clamp(0, T)
            move = (psi_next - psi).to(x.dtype)
            x = x + move.reshape(-1, *[1] * (x.ndim - 1)) * F
            if self.inputs == "state":
                slopes.append(torch.stack([0 * psi, F.flatten(1).sum(1).double(), 1 / T + 0 * psi], 1).to(dtype))
            psi = psi_next
            qs.append(q)
            thetas.append(theta)
            means.append(mean)
        state = torch.stack(states, 1)
        slope = torch.stack(slopes, 1) if slopes else self._differences(state)
        return Trajectories(state, slope, torch.stack(qs, 1), torch.stack(thetas, 1), torch.stack(means, 1))

    def _features(self, t: float, psi: Tensor, sigma: Tensor, x: Tensor, F: Tensor, q: Tensor) -> Tensor:
        T = self.sigma_max
        clock, done = torch.full_like(psi, t / T), psi / T
        if self.inputs == "state":
            return torch.stack([clock, x.flatten(1).sum(1).double(), done], 1)
        size = [tensor.double().flatten(1).square().mean(1).clamp(min=1e-30).log() / 4 for tensor in (x / T, F)]
        return torch.stack([clock, done, (sigma / T).log() / 2, q.clamp(min=self.epsilon).log() / 2, *size], 1)

    def _differences(self, state: Tensor) -> Tensor:
        """d features / d psi from one node to the next; t is held."""
        moved = state[:, 1:] - state[:, :-1]
        width = self.sigma_max * moved[..., 1:2]  # the second feature is psi / T
        slope = torch.where(width.abs() > 1e-9 * self.sigma_max, moved / width, 0.0)
        return torch.cat([torch.zeros_like(slope[..., :1]), slope[..., 1:]], -1)

    # --- learning ---

    def loss(self, seen: Trajectories) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """Minus sum_k NN_c surprise_k and minus the actor's sum, surprises held fixed (eq. 22), per trajectory.

        surprise_k = sum over j >= k of trace^(j - k) delta_j.
        """
        T, dt, gamma, lam = self.sigma_max, self.sigma_max / self.steps, self.gamma, self.lambda_
        value = self.value(seen.state[:, :-1])
        mean = self.mean(seen.state[:, :-1], seen.q)
        # V without lambda t, the end anchored at gamma T instead of being learned.
        ahead = torch.cat([value.detach()[:, 1:], gamma.to(value.dtype).expand(len(value), 1) * T], 1).double()
        cost = (seen.q * seen.theta**2 + gamma * seen.theta) * dt
        delta = ahead - value.detach().double() + lam * dt - cost
        unit = T if self.lam is None else 1.0  # dimensionless where the scale is
        surprise = discounted(delta, self.trace) / unit
        critic = -(value / unit * surprise.to(value.dtype)).sum(1)
        if self.actor_kind == "score":
            log_pi = -seen.q.to(mean.dtype) / (2 * lam.to(mean.dtype)) * (seen.theta.to(mean.dtype) - mean) ** 2
            actor = -(log_pi * surprise.to(mean.dtype)).sum(1)
        else:
            _, slope = tangent.jvp(self.value, (seen.state[:, :-1].detach(),), (seen.slope,))
            push = slope.double() - gamma - 2 * seen.q * mean.detach().double()
            actor = -(mean * (push * dt / unit).to(mean.dtype)).sum(1)
        details = {
            "cost": (seen.q * seen.mean**2).sum(1) * dt * self.scale,
            "psi_end": seen.theta.sum(1) * dt,
            "length": (seen.q.sqrt() * seen.mean).sum(1) / seen.mean.sum(1) * T * self.scale.sqrt(),
            "speed": seen.mean / seen.mean.mean(1, keepdim=True),
        }
        return (critic + actor) * (not self._measuring), details

    @torch.no_grad()
    def learn(self, details: dict[str, Float[Tensor, "b ..."]]) -> None:
        """After the optimiser's step, from all trajectories of the batch: multiplier (eq. 23), scale, average."""
        reached = (
            details["psi_end"].double().clamp(max=2 * self.sigma_max)
        )  # one path that met |Q| = 0 would outweigh all
        self.gamma += self.gamma_rate * (reached.mean() - self.sigma_max)
        self.count_update()
        if self.lam is None:
            length = details["length"].double().mean()
            new, before = (length / self.sigma_max) ** 2, self.scale.clone()
            weight = torch.maximum(1 / self.updates, torch.full_like(self.scale, 0.02))
            self.scale.copy_(self.scale ** (1 - weight) * new**weight)
            if self.count == 1:
                self.gamma.fill_(
                    -2.0
                )  # where |Q| is the same everywhere, 1 in this unit, that is what the budget costs
            else:
                self.gamma *= before / self.scale
        self.speed.copy_(running(self.speed, details["speed"].double().mean(0), self.count))

    def summary(self, details: dict[str, Tensor]) -> dict[str, float]:
        """Of a batch, for the record: cost, multiplier, psi(T) / T, lambda, spread of ln(theta) among trajectories."""
        found = read_together(
            {
                "cost": details["cost"].mean(),
                "multiplier": self.gamma * self.scale,
                "psi_end": details["psi_end"].mean(),
                "lambda": self.lambda_ * self.scale,
                "spread": details["speed"].double().log().std(0, correction=0).mean(),
            }
        )
        return found | {"psi_end": found["psi_end"] / self.sigma_max}

    def grid(self, n: int | None = None) -> Float64[Tensor, " nodes"]:
        """Nodes from the average of the policy's normalised means (section 4.3), without networks or noise.

        Args:
            n: steps; None for those of the training, otherwise sigma is interpolated over the clock.
        """
        share = (self.speed / self.speed.sum()).cpu()
        left = 1 - torch.cat([share.new_zeros(1), share.cumsum(0)])
        return levels_of(self.sigma_max * along(left, n or self.steps), self.sigma_max)
