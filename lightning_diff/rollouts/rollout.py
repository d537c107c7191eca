"""Rollouts that spend compute where it pays: explore cheaply, select, regenerate (Sol-RL, arXiv 2604.06916, section 3).

For each prompt, `pool` images are drawn in few deterministic steps and low precision, scored, and forgotten but for seeds and
scores. The seeds that scored highest and lowest are drawn again, from the same noise, in full precision and more steps, and scored
again: these images and these rewards are what is trained on. A prompt and its images are a group; for a class-conditional model a
prompt is a class.

Noise is a function of an integer seed, drawn on the CPU (see `generate`), and a seed a function of (run's seed, group, place in the
pool): the same on every device, in every precision and on any number of processes, and a larger pool begins as a smaller one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..foundation import rng
from ..objectives import Chain, sample_chain
from ..rewards import Reward
from ..samplers import nfe
from ..samplers.generate import evaluating, generate
from ..schedules.sampling import Sampling
from .plan import Plan
from .scoring import score_groups
from .selection import pool_seeds, select

__all__ = ["Count", "Drawn", "Plan", "Rollout", "added", "draw", "joined", "rollout"]


class Count(NamedTuple):
    """What one phase cost: images drawn, network evaluations for them (one image each), and seconds."""

    phase: str
    precision: str
    images: int
    evaluations: int
    seconds: float


class Rollout(NamedTuple):
    """What was drawn for G groups: of previews nothing but scores.

    Args:
        label: (G,) the prompts' classes, or None.
        seeds: (G, N) of the pools.
        preview: (G, N) scores that seeds were selected by: of previews, or without exploring of the images themselves.
        selected: (G, M) places in the pool of what is kept, ascending.
        images: (G, M, ...) in full precision, neither clipped nor rounded.
        reward: (G, M) of these images, float64.
        states, log_prob: (G, M, nodes, ...) and (G, M, steps) of the sampling chains, if it was a stochastic sampler.
        counts: what it cost.
        preview_sum, reward_sum: (G, N) and (G, M) what `preview` and `reward` are in the units of their parts, where they are sums
            of standardised ones: there a group's mean says nothing.
    """

    label: Int64[Tensor, " g"] | None
    seeds: Int64[Tensor, "g n"]
    preview: Float[Tensor, "g n"]
    selected: Int64[Tensor, "g m"]
    images: Float[Tensor, "g m *s"]
    reward: Float[Tensor, "g m"]
    states: Float[Tensor, "g m nodes *s"] | None = None
    log_prob: Float[Tensor, "g m steps"] | None = None
    counts: tuple[Count, ...] = ()
    preview_sum: Float[Tensor, "g n"] | None = None
    reward_sum: Float[Tensor, "g m"] | None = None

    @property
    def raw_preview(self) -> Float[Tensor, "g n"]:
        """In the reward's own units."""
        return self.preview if self.preview_sum is None else self.preview_sum

    @property
    def raw_reward(self) -> Float[Tensor, "g m"]:
        return self.reward if self.reward_sum is None else self.reward_sum


class Drawn(NamedTuple):
    """Images of G groups and their scores (see `scoring.Scores`); `chain` is of the stochastic sampler, flat over groups."""

    images: Float[Tensor, "g n *s"]
    score: Float[Tensor, "g n"]
    raw: Float[Tensor, "g n"] | None
    chain: Chain | None
    cost: Count


@torch.no_grad()
def draw(
    denoiser: Callable[..., Tensor],
    reward: Reward,
    seeds: Int64[Tensor, "g n"],
    label: Int64[Tensor, " g"] | None,
    plan: Plan,
    steps: int,
    *,
    shape: Sequence[int],
    seed: int,
    phase: str,
    precision: str = "full",
    eta: float | None = None,
    device: torch.device | str | None = None,
) -> Drawn:
    """Draw and score an image for each seed.

    Args:
        denoiser: the policy.
        reward: callable (images in [-1, 1], label) -> (B,); it is shown the images clipped, and label 0 where there are none. Of
            a `rewards.WeightedSum` each part is standardised within the group.
        seeds: of the images.
        label: of the groups.
        plan: solver, grid, batch.
        steps: of the solver.
        shape: of one image.
        seed: the run's.
        phase, precision: for the count.
        eta: noise of the stochastic sampler (see `objectives.sample_chain`) in place of the plan's solver; None for the plan's.
        device: where to compute (see `generate`).
    """
    start = time.perf_counter()
    groups, n = seeds.shape
    numbers = seeds.flatten().numpy()
    labels = None if label is None else label.repeat_interleave(n)
    sampling, chain = plan.sampling(steps), None
    options = {"seed": seed, "batch": plan.batch, "device": device}
    if eta is None:
        images = generate(denoiser, shape, numbers, labels, sigmas=sampling.sigmas, solver=sampling.solver, **options)  # type: ignore[arg-type]
    else:
        chain = _chains(denoiser, shape, numbers, labels, sampling, eta, **options)  # type: ignore[arg-type]
        images = chain.states[-1]
    score, raw = score_groups(reward, images, labels, n, plan.batch, device)
    calls = sampling.steps if eta is not None else nfe(sampling.solver, sampling.sigmas)
    count = Count(phase, precision, len(images), calls * len(images), time.perf_counter() - start)
    raw = None if raw is None else raw.unflatten(0, (groups, n))
    return Drawn(images.unflatten(0, (groups, n)), score.unflatten(0, (groups, n)), raw, chain, count)


def rollout(
    policy: Callable[..., Tensor],
    reward: Reward,
    groups: Sequence[int],
    label: Int64[Tensor, " g"] | None,
    plan: Plan,
    *,
    shape: Sequence[int],
    seed: int,
    preview: Callable[..., Tensor] | None = None,
    eta: float | None = None,
    device: torch.device | str | None = None,
) -> Rollout:
    """Explore, select, regenerate for some groups.

    With a pool of `keep`, equal steps and no other preview the result is plain sampling's, bit for bit.

    Args:
        policy: the old policy, in full precision.
        reward: see `draw`.
        groups: numbers of the groups, counted over all epochs.
        label: their classes, or None.
        plan: how.
        shape: of one image.
        seed: the run's.
        preview: the old policy in low precision; None explores with `policy`.
        eta: draw what is kept with the stochastic sampler (see `draw`).
        device: where to compute.
    """
    keys = [rng.key(seed, "select", group) for group in groups]
    seeds = pool_seeds(seed, groups, plan.pool)
    common = {"shape": shape, "seed": seed, "device": device}
    if plan.preview_steps is None:
        full = draw(policy, reward, seeds, label, plan, plan.steps, phase="full", eta=eta, **common)  # type: ignore[arg-type]
        chosen = select(full.score, plan.keep, plan.select, keys)
        return _kept(full, chosen, chosen, label, seeds, full)
    explored = draw(
        policy if preview is None else preview, reward, seeds, label, plan, plan.preview_steps,
        phase="explore", precision=plan.precision, **common,  # type: ignore[arg-type]
    )  # fmt: skip
    first = select(explored.score, plan.regenerated, plan.select, keys)
    again = seeds.gather(1, first)
    full = draw(policy, reward, again, label, plan, plan.steps, phase="regenerate", eta=eta, **common)  # type: ignore[arg-type]
    second = select(full.score, plan.keep, plan.select, keys)
    chosen = first.gather(1, second)
    return _kept(full, second, chosen, label, seeds, explored)


def joined(parts: Sequence[Rollout]) -> Rollout:
    """One rollout of several, their groups in order; what the same phase cost is added up."""
    tensors: dict[str, Any] = {
        name: None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in Rollout._fields
        if name != "counts"
    }
    return Rollout(**tensors, counts=added(count for part in parts for count in part.counts))


def added(counts: Iterable[Count]) -> tuple[Count, ...]:
    """Counts of the same phase and precision as one."""
    totals: dict[tuple[str, str], Count] = {}
    for phase, precision, images, evaluations, seconds in counts:
        before = totals.get((phase, precision), Count(phase, precision, 0, 0, 0.0))
        sums = before.images + images, before.evaluations + evaluations, before.seconds + seconds
        totals[phase, precision] = Count(phase, precision, *sums)
    return tuple(totals.values())


def _kept(
    drawn: Drawn,
    places: Int64[Tensor, "g m"],
    selected: Int64[Tensor, "g m"],
    label: Int64[Tensor, " g"] | None,
    seeds: Int64[Tensor, "g n"],
    explored: Drawn,
) -> Rollout:
    """`places` are in what was drawn in full, `selected` in the pool, of which `explored` is."""
    rows = torch.arange(len(places))[:, None]
    states = log_prob = None
    if drawn.chain is not None:
        groups_and_n = drawn.score.shape
        states = drawn.chain.states.transpose(0, 1).unflatten(0, groups_and_n)[rows, places]
        log_prob = drawn.chain.log_prob.transpose(0, 1).unflatten(0, groups_and_n)[rows, places]
    images, reward = drawn.images[rows, places], drawn.score[rows, places]
    reward_sum = None if drawn.raw is None else drawn.raw[rows, places]
    counts = (drawn.cost,) if drawn is explored else (explored.cost, drawn.cost)
    return Rollout(
        label, seeds, explored.score, selected, images, reward, states, log_prob, counts, explored.raw, reward_sum
    )


def _chains(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    numbers: rng.Positions,
    labels: Int64[Tensor, " n"] | None,
    sampling: Sampling,
    eta: float,
    *,
    seed: int,
    batch: int,
    device: torch.device | str | None,
) -> Chain:
    """`generate` with the stochastic sampler, keeping the chains, on the CPU."""
    parts = []
    with evaluating(denoiser):
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            label = None if labels is None else labels[first : first + batch].to(device)

            def denoise(x: Tensor, sigma: Tensor, label: Tensor | None = label) -> Tensor:
                return denoiser(x, sigma, label)

            def churn(x: Tensor, step: int, some: rng.Positions = some) -> Tensor:
                return rng.normal(seed, f"churn {step}", some, shape).to(x.device, x.dtype)

            x = sampling.sigmas[0].item() * rng.normal(seed, "sample", some, shape).to(device)
            chain = sample_chain(denoise, x, sampling.sigmas, eta=eta, generator=churn)
            parts.append(Chain(*(part.cpu() for part in chain)))
    return Chain(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
