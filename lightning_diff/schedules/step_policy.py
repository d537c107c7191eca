"""How many steps a sample is worth: a policy that chooses each step and when to stop (after TPDM, arXiv 2412.01243).

The next level is sigma_next = r sigma with r ~ Beta(1 + e^a, 1 + e^b), a and b from cheap features of the state, and with a
probability that is learned, too, the next level is 0 and sampling ends there. A sample that took M steps and ended in a picture
of reward R returns R gamma^M: gamma says what a step costs. The gradient is REINFORCE, its baseline the mean of its noise's other
samples (RLOO, arXiv 2402.14740); there is no critic. At test time the policy takes the mode of both.
"""

import math
from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.distributions import Beta

from ..foundation import rng
from ..foundation.devices import moved
from ..foundation.errors import UserError
from ..nets.frozen import Frozen
from ..rewards import Reward, name_of, scored
from ..samplers import OdeSolverName, ode_solver
from ..samplers.stepwise import Stepwise
from .costs import reference
from .counted import Counted
from .returns import read_together
from .trajectories import Labels, Model

Generators = torch.Generator | Sequence[torch.Generator] | None
FEATURES = 5
SHORTEST = 1e-3  # r is kept this far from 0 and 1


class AdaptiveSamples(NamedTuple):
    """Samples, and the steps that they took.

    Args:
        x: at level 0.
        steps: M of each.
        levels: the noise levels that each was at, 0 where it had ended.
        log_pi: log-probability of all its choices.
    """

    x: Float[Tensor, "b ..."]
    steps: Int64[Tensor, " b"]
    levels: Float[Tensor, "b nodes"]
    log_pi: Float[Tensor, " b"]


class StepPolicy(Counted):
    """Samples choose their own noise levels.

    Calling it draws a group of samples from each noise and returns a loss per noise whose gradient is minus the policy's; the
    optimiser belongs to the caller, who then hands the details of the whole batch to `learn`.

    Args:
        reward: a `rewards.Reward`, any callable (images (B, ...) in [-1, 1], label (B,)) -> (B,), greater than 0, for it is
            discounted: more steps would make a negative one larger. Samples are clipped for it; without classes, labels are 0.
            None: exp(-d / scale) of the distance d to a fine solution.
        gamma: discount of a step, in (0, 1].
        max_steps: after that many, the next level is 0.
        sigma_max, sigma_min: where it starts, and the level from which the next one is 0.
        solver: a name in `samplers.ODE_SOLVERS`: its very steps. (UniPC does not lower its order towards the end, which it does not
            know: `lower_order_final=False` of the sampler.)
        group_size: samples from each noise, >= 2.
        reference_steps: Heun steps of the fine solution, of which the default reward measures the distance.
        scale: of that distance: a root mean square of so much has reward 1/e.
        start: r = sigma_next / sigma of the policy at the start, in (0, 1).
        width: of its network.
    """

    unit: Tensor

    def __init__(
        self,
        reward: Reward | None = None,
        *,
        gamma: float = 0.97,
        max_steps: int = 40,
        sigma_max: float = 80.0,
        sigma_min: float = 0.002,
        sigma_data: float = 0.5,
        solver: OdeSolverName = "euler",
        group_size: int = 4,
        reference_steps: int = 64,
        scale: float = 0.1,
        start: float = 0.5,
        width: int = 64,
    ):
        super().__init__()
        if not 0 < gamma <= 1 or max_steps < 1 or group_size < 2 or not 0 < start < 1:
            raise ValueError(
                "StepPolicy: need gamma in (0, 1], max_steps >= 1, group_size >= 2 and start in (0, 1), "
                f"got {gamma}, {max_steps}, {group_size}, {start}"
            )
        if not 0 < sigma_min < sigma_max or not sigma_data > 0 or not scale > 0:
            raise ValueError("StepPolicy: need 0 < sigma_min < sigma_max, sigma_data > 0 and scale > 0")
        self._reward = Frozen(reward)
        self.gamma, self.max_steps, self.group_size = gamma, max_steps, group_size
        self.sigma_max, self.sigma_min, self.sigma_data = float(sigma_max), float(sigma_min), float(sigma_data)
        self.solver, self.reference_steps, self.scale = ode_solver(solver).name, reference_steps, scale
        self.start, self.width = start, width
        last = nn.Linear(width, 3)
        nn.init.zeros_(last.weight)
        with torch.no_grad():  # a Beta whose mode is `start`, and a probability of 1 in 100 to stop
            last.bias.copy_(torch.tensor([math.log(20 * start), math.log(20 * (1 - start)), -math.log(99)]))
        self.net = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))  # spread of one noise's returns, running

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds another one like it, but for the reward, which samples do not need."""
        names = [name for name in signature(StepPolicy).parameters if name != "reward"]
        return {name: getattr(self, name) for name in names}

    def forward(
        self,
        model: Model,
        noise: Float[Tensor, "b *s"],
        exploration_noise: Generators = None,
        label: Labels = None,
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """A loss per noise, and over its group, (B,) each, the means of return, reward and steps and the spread of returns.

        Args:
            model: callable (x, sigma (B,), label) -> x0.
            noise: standard normal.
            exploration_noise: where the choices come from; a generator for each sample, one noise's together (see the method of
                that name), makes them independent of the batch.
            label: classes, or None.
        """
        n = self.group_size
        target: Tensor | None = self.fine(model, noise, label) if self.reward is None else None
        many = noise.repeat_interleave(n, 0)
        labels = None if label is None else label.repeat_interleave(n, 0)
        targets = None if target is None else target.repeat_interleave(n, 0)
        drawn = self.sample(model, many, labels, generators=exploration_noise, explore=True)
        with torch.no_grad():
            reward = self.rewarded(drawn.x, labels, targets)
            gain = reward * self.gamma ** drawn.steps.to(reward.dtype)
            group = gain.reshape(-1, n)
            baseline = (group.sum(1, keepdim=True) - group) / (n - 1)
            advantage = ((group - baseline) / self.unit.clamp(min=1e-6)).flatten()
        loss = -(advantage.to(drawn.log_pi.dtype) * drawn.log_pi).reshape(-1, n).mean(1)
        seen = {"return": gain, "reward": reward, "steps": drawn.steps.double()}
        details = {name: value.double().reshape(-1, n).mean(1) for name, value in seen.items()}
        return loss, details | {"spread": group.double().std(1)}

    def sample(
        self,
        model: Model,
        noise: Float[Tensor, "b *s"],
        label: Labels = None,
        *,
        generators: Generators = None,
        explore: bool = False,
    ) -> AdaptiveSamples:
        """Draw a sample from each noise; every one stops by itself, and the model is not called with it again.

        Args:
            model: callable (x, sigma (B,), label) -> x0.
            noise: standard normal.
            label: classes, or None.
            generators: where the choices come from, if `explore`: one, or one for each sample.
            explore: draw the choices; otherwise their modes are taken.
        """
        x = self.sigma_max * noise
        sigma = torch.full((len(x),), self.sigma_max, dtype=torch.float64, device=x.device)
        log_pi, steps = sigma.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        ends, levels = torch.empty_like(x), [sigma]
        active = torch.arange(len(x), device=x.device)  # which samples x and sigma are: those that have not stopped
        solution = Stepwise(lambda x, sigma: model(x, sigma, label), self.solver, None)
        for k in range(self.max_steps):
            with torch.no_grad():
                D = solution.denoised(x, sigma)
                features = self._features(x, D, sigma)
            r, stops, log_p = self._choose(features, explore, generators)
            forced = k == self.max_steps - 1
            if not forced:
                log_pi = log_pi.index_add(0, active, log_p)
            last = stops | (sigma * r <= self.sigma_min) | forced
            steps[active] += 1
            # Euler's step to 0, which every solver's last one is; overwritten for those that go on.
            ends[active] = D.to(x.dtype)
            levels.append(torch.zeros_like(levels[0]).index_add(0, active, torch.where(last, 0.0, sigma * r)))
            going = [i for i, stops_here in enumerate(last.tolist()) if not stops_here]  # the one look at the device
            if not going:
                break
            on = moved(torch.tensor(going), x.device)
            active, x, sigma, D, ahead = active[on], x[on], sigma[on], D[on], (sigma * r)[on]
            label = None if label is None else label[on]
            if isinstance(generators, Sequence):
                generators = [generators[i] for i in going]
            solution.keep(on)
            with torch.no_grad():
                x = solution(x, sigma, ahead, denoised=D)
            sigma = ahead
        return AdaptiveSamples(ends, steps, torch.stack(levels, 1), log_pi)

    def evaluations(self, steps: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Of the model, for samples of so many steps."""
        return ode_solver(self.solver).calls(steps)

    @torch.no_grad()
    def learn(self, details: dict[str, Tensor]) -> None:
        """After the optimiser's step, from all noises of the batch: the unit of returns."""
        self.count_update()
        self.unit.lerp_(details["spread"].double().mean(), max(1 / self.count, 0.05))

    def exploration_noise(self, seed: int, positions: rng.Positions) -> list[torch.Generator]:
        """For the choices of noises by number, one for each sample of a group: a function of (seed, number)."""
        n = self.group_size
        numbers = [n * int(p) + i for p in positions for i in range(n)]
        return [rng.seed_generator(torch.Generator(), seed, "action", number) for number in numbers]

    def summary(self, details: dict[str, Tensor]) -> dict[str, float]:
        """Of a batch, for the record."""
        return read_together({name: value.mean() for name, value in details.items()})

    def fine(self, model: Model, noise: Float[Tensor, "b *s"], label: Labels = None) -> Float[Tensor, "b *s"]:
        """Where a fine solution from each noise ends."""
        with torch.no_grad():
            start = torch.full((len(noise),), self.sigma_max, dtype=torch.float64, device=noise.device)
            x, end = self.sigma_max * noise, torch.zeros_like(start)
            return reference(lambda x, sigma: model(x, sigma, label), x, start, end, self.reference_steps)

    @property
    def reward(self) -> Reward | None:
        return self._reward.value

    def rewarded(self, x: Tensor, label: Labels, target: Tensor | None) -> Float[Tensor, " b"]:
        """R of pictures.

        Raises:
            UserError: a reward that is not positive, finite and one number for each image.
        """
        reward = self.reward
        if reward is not None:
            found = scored(
                reward, x.clamp(-1, 1), label if isinstance(label, Tensor) else x.new_zeros(len(x), dtype=torch.int64)
            )
            if not found.min() > 0:
                raise UserError(
                    f"The reward {name_of(reward)} is {found.min().item():.4g} for an image: what is discounted for each step has "
                    "to be positive; take its exponential."
                )
            return found.double()
        assert target is not None
        distance = (x - target).flatten(1).square().mean(1).sqrt().double()
        return torch.exp(-distance / self.scale)

    def _choose(
        self, features: Tensor, explore: bool, generators: Generators
    ) -> tuple[Tensor, Bool[Tensor, " b"], Tensor]:
        """r, whether to stop, and the log-probability of both; of r only where it matters."""
        a, b, stop = self.net(features).double().unbind(1)
        alpha, beta = 1 + a.clamp(max=8).exp(), 1 + b.clamp(max=8).exp()
        if not explore:
            mode = (alpha - 1) / (alpha + beta - 2)
            return mode.clamp(SHORTEST, 1 - SHORTEST).detach(), stop.detach() > 0, torch.zeros_like(a)
        with torch.no_grad():
            r, u = _draw(alpha, beta, generators)
            r, stops = r.clamp(SHORTEST, 1 - SHORTEST), u < stop.sigmoid()
        log_stop = torch.nn.functional.logsigmoid(torch.where(stops, stop, -stop))
        log_p = log_stop + torch.where(stops, 0.0, Beta(alpha, beta, validate_args=False).log_prob(r))
        return r, stops, log_p

    def _features(self, x: Tensor, D: Tensor, sigma: Tensor) -> Tensor:
        """ln sigma, and sizes of x, the flow F and D against those of Gaussian data: known without another call."""
        spread = (sigma**2 + self.sigma_data**2).sqrt()
        rms = [tensor.double().flatten(1).square().mean(1).sqrt().clamp(min=1e-12) for tensor in (x, D - x, D)]
        log_sigma = (sigma / self.sigma_data).log()
        flow = (rms[1] / sigma * spread / sigma).log()
        kept = (rms[2] * spread / self.sigma_data**2).clamp(min=1e-3).log()
        parts = [log_sigma / 3, log_sigma.tanh(), (rms[0] / spread).log(), flow.clamp(-4, 4), kept.clamp(-4, 4)]
        return torch.stack(parts, 1).to(next(self.parameters()).dtype)


def _draw(alpha: Tensor, beta: Tensor, generators: Generators) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """A Beta variable, as X / (X + Y) of two Gamma ones (torch's own sampler of Beta takes no generator), and a uniform one."""
    shape = torch.stack([alpha, beta]).cpu()
    if isinstance(generators, Sequence):
        gammas = torch.stack(
            [torch._standard_gamma(one, generator=g) for one, g in zip(shape.T, generators, strict=True)], 1
        )
        u = torch.stack([torch.rand((), dtype=shape.dtype, generator=g) for g in generators])
    else:
        gammas = torch._standard_gamma(shape, generator=generators)
        u = torch.rand(shape.shape[1], dtype=shape.dtype, generator=generators)
    r = gammas[0] / gammas.sum(0).clamp(min=1e-30)
    return moved(r, alpha.device), moved(u, alpha.device)
