"""A time grid as a sequence of decisions with any reward: at each step, which share of the remaining way to go.

Levels are measured on the way from sigma_max to 0 by a coordinate u in which even steps are good ones to begin with: the angle
arctan(sigma / sigma_data), best for Gaussian data, or int |Q|^(1/2) dsigma as it was found along the model's own trajectories,
whose even steps are ART's problem solved in closed form. With n steps left, the next one goes the share

    f = sigmoid(y - ln(n - 1)),   u <- (1 - f) u,   y ~ N(a(state), exploration^2)

of the way that is left. Whatever the actor a says, shares lie in (0, 1) and the last one is 1: levels decrease strictly and end at
0. So ART-RL's budget (arXiv 2601.18681, eq. 6) holds by construction, and there is no multiplier to find. At a = 0 the grid is the
even one. To first order a step varies by `exploration` times itself: near the optimum, where |Q| theta^2 = (L / T)^2 along a path,
that is ART-RL's policy N(mu, lambda / |Q|) (eq. 11) with a lambda of the problem's own scale, (exploration L / T)^2.
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..foundation import rng
from .coordinate import PIECES, curve_of, level_at, measured_levels
from .counted import Counted
from .environments import Environment, Surrogate
from .grids import along, levels_of
from .monitor import Field, monitor
from .networks import mlp
from .returns import discounted, read_together, running, share_left
from .trajectories import Labels, Model

FEATURES = 6


class Episodes(NamedTuple):
    """What a batch of episodes saw.

    Args:
        state: features at steps 0..K-1.
        y: what was done.
        cost: of each step.
        outcome: at the end.
        length: int sqrt|Q| dpsi along the path.
    """

    state: Float[Tensor, "b k f"]
    y: Float[Tensor, "b k"]
    cost: Float[Tensor, "b k"]
    outcome: Float[Tensor, " b"]
    length: Float[Tensor, " b"]


class StickBreaking(Counted):
    """An actor-critic for time grids with any reward.

    Calling it rolls out one episode for each noise and returns a loss per trajectory; the optimiser belongs to the caller, who then
    hands the details of the whole batch to `learn`. Costs and outcomes are measured in units of their own running spread.

    Args:
        steps: K. With `environments.Surrogate` a fine one, from which grids for other budgets are resampled; the other environments
            allow the very number of steps that the grid is for.
        sigma_max: where it starts.
        sigma_min: the level below which the model is not called.
        sigma_data: of the data, for the angle.
        environment: what is rewarded (see `environments`); default ART's surrogate.
        start: the coordinate: "angle", or "monitor", which the first call measures, and teaches nothing else.
        exploration: standard deviation of ln(step).
        trace: in [0, 1], how far the advantage looks ahead before it trusts the critic: 0 to the next state, as in ART-RL, 1 to
            the end, which no error of the critic can mislead. A critic that is not right yet sees no price in what is left for
            later: at 0 and 0.9 a line of Gaussian data ends in a grid with nearly all of the way in its last step.
        width: of both networks.
    """

    unit: Tensor
    length: Tensor
    left: Tensor
    curve: Tensor

    def __init__(
        self,
        steps: int = 32,
        sigma_max: float = 80.0,
        *,
        sigma_min: float = 0.002,
        sigma_data: float = 0.5,
        environment: Environment | None = None,
        start: Literal["angle", "monitor"] = "monitor",
        exploration: float = 0.3,
        trace: float = 1.0,
        width: int = 128,
    ):
        super().__init__()
        if steps < 2 or not 0 <= sigma_min < sigma_max or not sigma_data > 0:
            raise ValueError(
                "StickBreaking: need steps >= 2, 0 <= sigma_min < sigma_max and sigma_data > 0, "
                f"got {steps}, {sigma_min:g}, {sigma_max:g}, {sigma_data:g}"
            )
        if not exploration > 0 or not 0 <= trace <= 1:
            raise ValueError(f"StickBreaking: need exploration > 0 and trace in [0, 1], got {exploration}, {trace}")
        self.steps, self.sigma_max, self.sigma_min = steps, float(sigma_max), float(sigma_min)
        self.sigma_data, self.start, self.exploration, self.trace = sigma_data, start, exploration, trace
        self.environment: Environment = Surrogate() if environment is None else environment
        self.actor, self.critic = mlp(FEATURES, width), mlp(FEATURES, width)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))  # of returns
        self.register_buffer("length", torch.ones((), dtype=torch.float64))  # L, running
        self.register_buffer("left", self._even())  # ln of the share left by each step but the last, running
        self.register_buffer("curve", torch.zeros(PIECES + 1, dtype=torch.float64))  # sigma over u, if measured
        self._has_curve: bool | None = False  # as on the device; None where that has to be looked at

    @property
    def lambda_(self) -> Tensor:
        """ART-RL's lambda that this exploration amounts to, in units of |Q|."""
        return (self.exploration * self.length / self.sigma_max) ** 2

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
            noise: standard normal; episodes start at sigma_max times it.
            exploration_noise: standard normal, for each step (see the method of that name).
            label: classes, or None.
            field: (x, sigma (B,)) -> F, Q, where they are known or to be had some other way than by `monitor`.
        """
        if self.start == "monitor" and not self.count:
            return self._measured(model, noise, label, field)
        return self.loss(self.rollout(model, noise, exploration_noise, label, field=field))

    def exploration_noise(self, seed: int, positions: rng.Positions) -> Float[Tensor, "b k"]:
        """For trajectories by number: a function of (seed, number)."""
        return rng.normal(seed, "action", positions, (self.steps,))

    @torch.no_grad()
    def rollout(
        self,
        model: Model,
        noise: Float[Tensor, "b *s"],
        exploration_noise: Float[Tensor, "b k"],
        label: Labels = None,
        *,
        field: Field | None = None,
    ) -> Episodes:
        """Episodes under the policy, those with exploration_noise = 0 under its mean. Arguments as for calling it."""

        # Clamped, for a hasty policy comes to levels that are 0 in float32.
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma.clamp(min=self.sigma_min), label)

        field = partial(monitor, denoise) if field is None else field
        x = self.sigma_max * noise
        episode = self.environment.begin(denoise, x, self.sigma_max, label, steps=self.steps)
        u = torch.ones(len(x), dtype=torch.float64, device=x.device)
        sigma = torch.full_like(u, self.sigma_max)
        length = torch.zeros_like(u)
        states, ys, costs = [], [], []
        for k in range(self.steps):
            level = sigma.clamp(min=self.sigma_min).to(x.dtype)
            F, Q = field(x, level)
            q = Q.flatten(1).norm(dim=1).double()
            states.append(self._features(k, sigma, x, F, q))
            y = self.actor(states[-1]).double() + self.exploration * exploration_noise[:, k].double()
            u = u * share_left(y, self.steps - k)
            sigma_next = torch.zeros_like(u) if k == self.steps - 1 else self.level(u)
            length += q.sqrt() * (sigma - sigma_next)
            D = x + level.reshape(-1, *[1] * (x.ndim - 1)) * F
            x, cost = episode.step(x, D, sigma, sigma_next, q)
            ys.append(y)
            costs.append(cost.double())
            sigma = sigma_next
        return Episodes(
            torch.stack(states, 1), torch.stack(ys, 1), torch.stack(costs, 1), episode.end(x).double(), length
        )

    def _features(self, k: int, sigma: Tensor, x: Tensor, F: Tensor, q: Tensor) -> Tensor:
        """t, ln s, ln|Q|, |x| and |F| against what they are for Gaussian data, ln of the steps left; all of order 1."""
        spread = (sigma**2 + self.sigma_data**2).sqrt()
        size = [tensor.double().flatten(1).square().mean(1).clamp(min=1e-30).sqrt() for tensor in (x, F)]
        d = x[0].numel() ** 0.5
        flow = (size[1] * spread / sigma.clamp(min=self.sigma_min)).clamp(min=1e-6).log()
        monitor = (q / d * spread**3 / self.sigma_data**2).clamp(min=1e-6).log()
        clock = torch.full_like(sigma, k / self.steps)
        left = torch.full_like(sigma, math.log((self.steps - k) / self.steps))
        parts = [2 * clock - 1, left / 2, (sigma.clamp(min=self.sigma_min) / self.sigma_data).log() / 3]
        return torch.stack([*parts, monitor, (size[0] / spread).log(), flow], 1).to(next(self.parameters()).dtype)

    # --- learning ---

    def loss(self, seen: Episodes) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """Policy gradient with generalised advantages (arXiv 1506.02438) and the critic's distance from its own return.

        The last step is forced, and so has no part in the policy's gradient.
        """
        value = self.critic(seen.state)
        reward = -seen.cost / self.unit
        reward[:, -1] += seen.outcome / self.unit
        ahead = torch.cat([value.detach()[:, 1:], torch.zeros_like(value[:, :1])], 1).double()
        delta = reward + ahead - value.detach().double()
        advantage = discounted(delta, self.trace)
        mean = self.actor(seen.state[:, :-1])
        log_pi = -((seen.y[:, :-1].to(mean.dtype) - mean) ** 2) / (2 * self.exploration**2)
        target = (value.detach().double() + advantage).to(value.dtype)
        actor = -(log_pi * advantage[:, :-1].to(mean.dtype)).sum(1)
        critic = (value - target).square().sum(1)
        details = {
            "cost": seen.cost.sum(1),
            "outcome": seen.outcome,
            "length": seen.length,
            "left": share_left(mean.detach().double(), self._remaining(mean)).log(),
        }
        return actor + critic, details

    @torch.no_grad()
    def learn(self, details: dict[str, Float[Tensor, "b ..."]]) -> None:
        """After the optimiser's step, from all trajectories of the batch: units, L and the average of the policy's means."""
        self.count_update()
        if "monitor" in details:
            self._has_curve = True
            self.curve.copy_(curve_of(self._levels(), details["monitor"].double().mean(0).cpu()))
            self.length.copy_(details["length"].double().mean())
            return
        count = self.count - (self.start == "monitor")
        cost, outcome = details["cost"].double().mean(), details["outcome"].double()
        spread = cost + (outcome.std(correction=0) if len(outcome) > 1 else outcome.abs().mean())
        weight = max(1 / count, 0.02)
        self.unit.lerp_(spread.clamp(min=1e-12), weight)
        self.length.lerp_(details["length"].double().mean(), weight)
        self.left.copy_(running(self.left, details["left"].double().mean(0), count))

    def summary(self, details: dict[str, Tensor]) -> dict[str, float]:
        """Of a batch, for the record: cost, outcome, ART-RL's lambda, spread of ln(step) among trajectories."""
        spread = (-details["left"].expm1()).log().std(0, correction=0).mean()
        means = {name: details[name].mean() for name in ("cost", "outcome")}
        return read_together(means | {"lambda": self.lambda_, "spread": spread})

    def grid(self, n: int | None = None) -> Float64[Tensor, " nodes"]:
        """Nodes from the policy's means, averaged over trajectories and the later part of training, without networks.

        Args:
            n: steps; None for those of the training, otherwise the coordinate u is interpolated.
        """
        share = torch.cat([self.left.new_zeros(1), self.left.cumsum(0)]).exp()
        u = torch.cat([share, share.new_zeros(1)])
        return levels_of(self.level(along(u, n or self.steps)), self.sigma_max)

    @property
    def has_curve(self) -> bool:
        """Whether the coordinate has been measured."""
        if self._has_curve is None:
            self._has_curve = bool(self.curve[-1])
        return self._has_curve

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_curve = None

    def level(self, u: Float64[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """sigma where the share u of the way is left."""
        if not self.has_curve:
            return self.sigma_data * (math.atan(self.sigma_max / self.sigma_data) * u).tan()
        return level_at(self.curve, u)

    def _measured(
        self, model: Model, noise: Tensor, label: Labels, field: Field | None
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """The first call's: |Q| at `_levels` along each trajectory, and a loss whose gradient is 0."""
        field = partial(monitor, lambda x, sigma: model(x, sigma, label)) if field is None else field
        x, levels, found = self.sigma_max * noise, self._levels().tolist(), []
        with torch.no_grad():
            for sigma, sigma_next in zip(levels, [*levels[1:], 0.0], strict=True):
                F, Q = field(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
                found.append(Q.flatten(1).norm(dim=1).double())
                x = x + (sigma - sigma_next) * F
        q = torch.stack(found, 1)
        length = -torch.trapezoid(q.sqrt(), self._levels().to(q.device))
        details = {"monitor": q, "length": length, "cost": length**2 / (2 * self.steps), "outcome": 0 * length}
        details["left"] = self._even().to(q.device).expand(len(x), -1)
        nothing = torch.stack([weight.sum() for weight in self.parameters()]).sum() * 0
        return nothing.expand(len(x)), details

    def _levels(self) -> Float64[Tensor, " m"]:
        return measured_levels(self.sigma_min, self.sigma_max)

    def _remaining(self, like: Tensor) -> Tensor:
        return torch.arange(self.steps, 1, -1, dtype=torch.float64, device=like.device)

    def _even(self) -> Tensor:
        n = torch.arange(self.steps, 1, -1, dtype=torch.float64)
        return ((n - 1) / n).log()
