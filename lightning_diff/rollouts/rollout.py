"""Rollouts that put their compute where it pays: explore cheaply, select, regenerate (Sol-RL, arXiv 2604.06916, section 3).

For each prompt, `pool` images are drawn in few deterministic steps and low precision, scored, and forgotten but for seeds and
scores. The seeds that scored highest and lowest are drawn again, from the same noise, in full precision and more steps, and scored
again: these images and these rewards are what is trained on. A prompt and its images are a group; for a class-conditional model a
prompt is a class.

Noise is a function of an integer seed, drawn on the CPU (see `generate`), and a seed a function of (run's seed, group, place in the
pool): the same on every device, in every precision and on any number of processes, and a larger pool begins as a smaller one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..autoencoders import Autoencoder
from ..foundation import rng
from ..foundation.devices import moved
from ..objectives import Chain, sample_chain
from ..rewards import Reward
from ..samplers import nfe
from ..samplers.generate import evaluating, generate
from ..schedules.sampling import Sampling
from .cost import Count, added
from .plan import Plan
from .scoring import score_groups
from .selection import pool_seeds, select


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

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those that there are, by name."""
        values = self._asdict()
        return ((name, value) for name in TENSORS if (value := values[name]) is not None)


TENSORS = tuple(name for name in Rollout._fields if name != "counts")


class Drawn(NamedTuple):
    """Images of G groups and their scores (see `scoring.Scores`); `chain` is of the stochastic sampler, flat over groups."""

    images: Float[Tensor, "g n *s"]
    score: Float[Tensor, "g n"]
    raw: Float[Tensor, "g n"] | None
    chain: Chain | None
    cost: Count


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
    autoencoder: Autoencoder | None = None,
) -> Rollout:
    """Explore, score, select; regenerate, score, select: the images that some groups train on, and their rewards.

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
        autoencoder: of a model of latents: the reward sees decoded images.
    """
    seeds, keys = pool_seeds(seed, groups, plan.pool), [rng.key(seed, "select", group) for group in groups]
    scored = partial(
        draw, reward=reward, label=label, plan=plan, shape=shape, seed=seed, device=device, autoencoder=autoencoder
    )
    if plan.preview_steps is None:  # nothing is drawn twice
        explored = full = scored(policy, seeds=seeds, steps=plan.steps, phase="full", eta=eta)
        candidates = torch.arange(plan.pool).expand(seeds.shape)
    else:
        explorer, precision = policy if preview is None else preview, plan.precision
        explored = scored(explorer, seeds=seeds, steps=plan.preview_steps, phase="explore", precision=precision)
        candidates = select(explored.score, plan.regenerated, plan.select, keys)
        again = seeds.gather(1, candidates)
        full = scored(policy, seeds=again, steps=plan.steps, phase="regenerate", eta=eta)
    kept = select(full.score, plan.keep, plan.select, keys)
    return _record(label, seeds, explored, candidates.gather(1, kept), full, kept)


@torch.no_grad()
def draw(
    denoiser: Callable[..., Tensor],
    *,
    reward: Reward,
    seeds: Int64[Tensor, "g n"],
    label: Int64[Tensor, " g"] | None,
    plan: Plan,
    steps: int,
    shape: Sequence[int],
    seed: int,
    phase: str,
    precision: str = "full",
    eta: float | None = None,
    device: torch.device | str | None = None,
    autoencoder: Autoencoder | None = None,
) -> Drawn:
    """Draw and score an image for each seed.

    Args:
        denoiser: the policy.
        reward: callable (images in [-1, 1], label) -> (B,), called with the images clipped, and label 0 where there are none. Of a
            `rewards.WeightedSum` each part is standardised within the group.
        seeds: of the images.
        label: of the groups.
        plan: solver, grid, batch.
        steps: of the solver.
        shape: of one image.
        seed: the run's.
        phase, precision: for the count.
        eta: noise of the stochastic sampler (see `objectives.sample_chain`) in place of the plan's solver; None for the plan's.
        device: where to compute (see `generate`).
        autoencoder: of a model of latents: the reward sees decoded images.
    """
    start = time.perf_counter()
    groups_and_n, numbers = tuple(seeds.shape), seeds.flatten().numpy()
    labels = None if label is None else label.repeat_interleave(seeds.shape[1])
    sampling, chain, batch = plan.sampling(steps), None, plan.batch
    if eta is None:
        images = generate(
            denoiser, shape, numbers, labels,
            sigmas=sampling.sigmas, solver=sampling.solver, seed=seed, batch=batch, device=device,
        )  # fmt: skip
        calls = nfe(sampling.solver, sampling.sigmas)
    else:
        chain = _chains(denoiser, shape, numbers, labels, sampling, eta, seed=seed, batch=batch, device=device)
        images, calls = chain.states[-1], sampling.steps
    score, raw = score_groups(reward, images, labels, seeds.shape[1], batch, device, autoencoder)
    count = Count(phase, precision, len(images), calls * len(images), time.perf_counter() - start)
    raw = None if raw is None else raw.unflatten(0, groups_and_n)
    return Drawn(images.unflatten(0, groups_and_n), score.unflatten(0, groups_and_n), raw, chain, count)


def joined(parts: Sequence[Rollout]) -> Rollout:
    """One rollout of several, their groups in order; what the same phase cost is added up."""
    named = [dict(part.tensors()) for part in parts]
    tensors = {name: torch.cat([each[name] for each in named]) for name in named[0]}
    return made_of(tensors, added(count for part in parts for count in part.counts))


def made_of(tensors: Mapping[str, Tensor], counts: tuple[Count, ...] = ()) -> Rollout:
    """A rollout from its tensors by name; those that are optional may be missing."""
    return Rollout(**{"label": None, **tensors}, counts=counts)  # type: ignore[arg-type]


def _record(
    label: Int64[Tensor, " g"] | None,
    seeds: Int64[Tensor, "g n"],
    explored: Drawn,
    selected: Int64[Tensor, "g m"],
    full: Drawn,
    kept: Int64[Tensor, "g m"],
) -> Rollout:
    """`selected` are places in the pool, which was explored; `kept` are places in what was drawn in full."""
    rows = torch.arange(len(kept))[:, None]

    def of_kept(values: Tensor) -> Tensor:
        return values[rows, kept]

    def of_kept_chains(values: Tensor) -> Tensor:
        return of_kept(values.transpose(0, 1).unflatten(0, full.score.shape))

    return Rollout(
        label=label,
        seeds=seeds,
        preview=explored.score,
        selected=selected,
        images=of_kept(full.images),
        reward=of_kept(full.score),
        states=None if full.chain is None else of_kept_chains(full.chain.states),
        log_prob=None if full.chain is None else of_kept_chains(full.chain.log_prob),
        counts=(full.cost,) if full is explored else (explored.cost, full.cost),
        preview_sum=explored.raw,
        reward_sum=None if full.raw is None else of_kept(full.raw),
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
    parts, on = [], torch.device("cpu") if device is None else torch.device(device)
    with evaluating(denoiser):
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            label = None if labels is None else moved(labels[first : first + batch], on)

            def denoise(x: Tensor, sigma: Tensor, label: Tensor | None = label) -> Tensor:
                return denoiser(x, sigma, label)

            def churn(x: Tensor, step: int, some: rng.Positions = some) -> Tensor:
                return moved(rng.normal(seed, f"churn {step}", some, shape), x.device).to(x.dtype)

            x = sampling.sigmas[0].item() * moved(rng.normal(seed, "sample", some, shape), on)
            chain = sample_chain(denoise, x, sampling.sigmas, eta=eta, generator=churn)
            parts.append(Chain(*(part.cpu() for part in chain)))
    return Chain(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
