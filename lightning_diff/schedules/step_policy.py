"""How many steps a sample is worth: a policy that chooses each step and when to stop (after TPDM, arXiv 2412.01243).

The next level is sigma_next = r sigma with r ~ Beta(1 + e^a, 1 + e^b), a and b from cheap features of the state, and with a
probability that is learned, too, the next level is 0 and sampling ends there. A sample that took M steps and ended in a picture
of reward R returns R gamma^M: gamma says what a step costs. The gradient is REINFORCE, its baseline the mean of its noise's other
tries (RLOO, arXiv 2402.14740); there is no critic. At test time the policy takes the mode of both.
"""

import math
from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.distributions import Beta

from ..foundation import rng
from ..foundation.errors import UserError
from ..rewards import Reward, name_of, scored
from .actor_critic import Label, Model
from .costs import ORDERS, Past, reference, step

Chance = torch.Generator | Sequence[torch.Generator] | None
FEATURES = 5
SHORTEST = 1e-3  # r is kept this far from 0 and 1


class Spent(NamedTuple):
    """Samples and what they took.

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


class StepPolicy(nn.Module):
    """Samples choose their own noise levels.

    Calling it draws `tries` samples from each noise and returns a loss per noise whose gradient is minus the policy's; the
    optimiser belongs to the caller, who then hands what it learned from the whole batch to `learn`.

    Args:
        reward: a `rewards.Reward`, any callable (images (B, ...) in [-1, 1], label (B,)) -> (B,), greater than 0, for it is
            discounted: more steps would make a negative one larger. Samples are clipped for it; without classes, labels are 0.
            None: exp(-d / scale) of the distance d to a fine solution.
        gamma: discount of a step, in (0, 1].
        max_steps: after that many, the next level is 0.
        sigma_max, sigma_min: where it starts, and the level from which the next one is 0.
        solver: a name in `costs.ORDERS`.
        tries: samples from each noise, >= 2.
        reference_steps: Heun steps of the fine solution, of which the default reward measures the distance.
        scale: of that distance: a root mean square of so much has reward 1/e.
        start: r = sigma_next / sigma of the policy at the start, in (0, 1).
        width: of its network.
    """

    updates: Tensor
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
        solver: str = "euler",
        tries: int = 4,
        reference_steps: int = 64,
        scale: float = 0.1,
        start: float = 0.5,
        width: int = 64,
    ):
        super().__init__()
        if not 0 < gamma <= 1 or max_steps < 1 or tries < 2 or not 0 < start < 1:
            raise ValueError(
                "StepPolicy: need gamma in (0, 1], max_steps >= 1, tries >= 2 and start in (0, 1), "
                f"got {gamma}, {max_steps}, {tries}, {start}"
            )
        if not 0 < sigma_min < sigma_max or not sigma_data > 0 or not scale > 0:
            raise ValueError("StepPolicy: need 0 < sigma_min < sigma_max, sigma_data > 0 and scale > 0")
        if solver not in ORDERS:
            raise ValueError(f"StepPolicy: solver must be one of {', '.join(ORDERS)}, got {solver!r}")
        self._reward = (reward,)  # in a tuple, out of sight of parameters() and state_dict()
        self.gamma, self.max_steps, self.tries = gamma, max_steps, tries
        self.sigma_max, self.sigma_min, self.sigma_data = float(sigma_max), float(sigma_min), float(sigma_data)
        self.solver, self.reference_steps, self.scale = solver, reference_steps, scale
        self.start, self.width = start, width
        last = nn.Linear(width, 3)
        nn.init.zeros_(last.weight)
        with torch.no_grad():  # a Beta whose mode is `start`, and a chance of 1 in 100 to stop
            last.bias.copy_(torch.tensor([math.log(20 * start), math.log(20 * (1 - start)), -math.log(99)]))
        self.net = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
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
        chance: Chance = None,
        label: Label = None,
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """A loss per noise, and over its tries, (B,) each, the means of return, reward and steps and the
        spread of returns.

        Args:
            model: callable (x, sigma (B,), label) -> x0.
            noise: standard normal.
            chance: where the choices come from; a generator for each try, one noise's together (see `chance`), makes them
                independent of the batch.
            label: classes, or None.
        """
        n = self.tries
        target = self.fine(model, noise, label) if self.reward is None else None
        many, labels, targets = (None if t is None else t.repeat_interleave(n, 0) for t in (noise, label, target))
        assert many is not None
        spent = self.sample(model, many, labels, chance=chance, explore=True)
        with torch.no_grad():
            reward = self.rewarded(spent.x, labels, targets)
            gain = reward * self.gamma ** spent.steps.to(reward.dtype)
            group = gain.reshape(-1, n)
            baseline = (group.sum(1, keepdim=True) - group) / (n - 1)
            advantage = ((group - baseline) / self.unit.clamp(min=1e-6)).flatten()
        loss = -(advantage.to(spent.log_pi.dtype) * spent.log_pi).reshape(-1, n).mean(1)
        seen = {"return": gain, "reward": reward, "steps": spent.steps.double()}
        details = {name: value.double().reshape(-1, n).mean(1) for name, value in seen.items()}
        return loss, details | {"spread": group.double().std(1)}

    def sample(
        self,
        model: Model,
        noise: Float[Tensor, "b *s"],
        label: Label = None,
        *,
        chance: Chance = None,
        explore: bool = False,
    ) -> Spent:
        """Draw a sample from each noise; every one stops by itself, and the model is not asked about it again.

        Args:
            model: callable (x, sigma (B,), label) -> x0.
            noise: standard normal.
            label: classes, or None.
            chance: where the choices come from, if `explore`.
            explore: draw the choices; otherwise their modes are taken.
        """

        x = self.sigma_max * noise
        sigma = torch.full((len(x),), self.sigma_max, dtype=torch.float64, device=x.device)
        log_pi, steps = sigma.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        ends, levels, past = torch.empty_like(x), [sigma], None
        going = torch.arange(len(x), device=x.device)  # which samples x and sigma are: those that have not ended
        for k in range(self.max_steps):
            with torch.no_grad():
                D = model(x, sigma.to(x.dtype), label)
                features = self._features(x, D, sigma)
            r, stops, log_p = self._choose(features, explore, chance)
            forced = k == self.max_steps - 1
            if not forced:
                log_pi = log_pi.index_add(0, going, log_p)
            last = stops | (sigma * r <= self.sigma_min) | forced
            steps[going] += 1
            ends[going[last]] = D[last].to(x.dtype)  # Euler's step to 0, which every solver's last one is
            levels.append(torch.zeros_like(levels[0]).index_add(0, going, torch.where(last, 0.0, sigma * r)))
            on = ~last
            if not on.any():
                break
            going, x, sigma, D, ahead = going[on], x[on], sigma[on], D[on], (sigma * r)[on]
            label = None if label is None else label[on]
            past = None if past is None else Past(*(of[on] for of in past))
            if isinstance(chance, Sequence):
                chance = [one for one, stays in zip(chance, on.tolist(), strict=True) if stays]
            with torch.no_grad():
                moved = step(partial(_asked, model, label), x, sigma, ahead, self.solver, past=past, denoised=D)
            past, x, sigma = Past(sigma, x, D), moved, ahead
        return Spent(ends, steps, torch.stack(levels, 1), log_pi)

    def evaluations(self, steps: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Of the model, for samples of so many steps: one at each, and a second one at each but the last if the solver corrects."""
        return 2 * steps - 1 if self.solver in ("heun", "unipc") else steps

    @torch.no_grad()
    def learn(self, details: dict[str, Tensor]) -> None:
        """After the optimiser's step, from all noises of the batch: the unit of returns."""
        self.updates += 1
        self.unit.lerp_(details["spread"].double().mean(), max(1 / int(self.updates), 0.05))

    def chance(self, seed: int, positions: rng.Positions) -> list[torch.Generator]:
        """The choices of noises by number, `tries` for each: a function of (seed, number)."""
        numbers = [self.tries * int(p) + i for p in positions for i in range(self.tries)]
        return [torch.Generator().manual_seed(int(key >> np.uint64(1))) for key in rng.keys(seed, "action", numbers)]

    def summary(self, details: dict[str, Tensor]) -> dict[str, float]:
        """Of a batch, for the record."""
        return {name: float(value.mean()) for name, value in details.items()}

    def fine(self, model: Model, noise: Float[Tensor, "b *s"], label: Label = None) -> Float[Tensor, "b *s"]:
        """Where a fine solution from each noise ends."""
        with torch.no_grad():
            start = torch.full((len(noise),), self.sigma_max, dtype=torch.float64, device=noise.device)
            x, end = self.sigma_max * noise, torch.zeros_like(start)
            return reference(lambda x, sigma: model(x, sigma, label), x, start, end, self.reference_steps)

    @property
    def reward(self) -> Reward | None:
        return self._reward[0]

    def rewarded(self, x: Tensor, label: Label, target: Tensor | None) -> Float[Tensor, " b"]:
        """R of pictures.

        Raises:
            UserError: a reward that is not positive, finite and one number for each image.
        """
        reward = self.reward
        if reward is not None:
            found = scored(reward, x.clamp(-1, 1), x.new_zeros(len(x), dtype=torch.int64) if label is None else label)
            if not found.min() > 0:
                raise UserError(
                    f"The reward {name_of(reward)} is {found.min().item():.4g} for an image: what is discounted for each step has "
                    "to be positive; take its exponential."
                )
            return found.double()
        assert target is not None
        distance = (x - target).flatten(1).square().mean(1).sqrt().double()
        return torch.exp(-distance / self.scale)

    def _choose(self, features: Tensor, explore: bool, chance: Chance) -> tuple[Tensor, Bool[Tensor, " b"], Tensor]:
        """r, whether to stop, and the log-probability of both; of r only where it matters."""
        a, b, stop = self.net(features).double().unbind(1)
        alpha, beta = 1 + a.clamp(max=8).exp(), 1 + b.clamp(max=8).exp()
        if not explore:
            mode = (alpha - 1) / (alpha + beta - 2)
            return mode.clamp(SHORTEST, 1 - SHORTEST).detach(), stop.detach() > 0, torch.zeros_like(a)
        with torch.no_grad():
            r, u = _draw(alpha, beta, chance)
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


def _asked(model: Model, label: Label, x: Tensor, sigma: Tensor) -> Tensor:
    return model(x, sigma, label)


def _draw(alpha: Tensor, beta: Tensor, chance: Chance) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """A Beta variable, as X / (X + Y) of two Gamma ones (torch's own sampler of Beta takes no generator), and a uniform one."""
    shape = torch.stack([alpha, beta]).cpu()
    if isinstance(chance, Sequence):
        gammas = torch.stack(
            [torch._standard_gamma(one, generator=g) for one, g in zip(shape.T, chance, strict=True)], 1
        )
        u = torch.stack([torch.rand((), dtype=shape.dtype, generator=g) for g in chance])
    else:
        gammas = torch._standard_gamma(shape, generator=chance)
        u = torch.rand(shape.shape[1], dtype=shape.dtype, generator=chance)
    return (gammas[0] / gammas.sum(0).clamp(min=1e-30)).to(alpha.device), u.to(alpha.device)
