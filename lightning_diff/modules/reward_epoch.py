"""A reward epoch's rollout: drawn by all processes together, each some of the groups, and whole on every one of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..autoencoders import Autoencoder
from ..denoiser import Denoiser
from ..foundation import stopping
from ..foundation.processes import from_all, rows_of_all
from ..precision import headline
from ..rewards import Reward
from ..rollouts import Count, Plan, Rollout, added, draw, joined, rollout
from ..rollouts.cost import Total
from ..rollouts.policies import Policies
from ..rollouts.rollout import made_of
from ..rollouts.selection import pool_seeds, prompt_labels


class Measured(NamedTuple):
    """Whole pools of G groups: images, scores, these in the reward's own units, and the cost."""

    images: Float[Tensor, "g n *s"]
    score: Float[Tensor, "g n"]
    raw: Float[Tensor, "g n"]
    cost: Count


@dataclass(frozen=True, kw_only=True)
class RewardEpoch:
    """Collects rollouts with the old policy: a function of (seed, epoch, plan) and its weights, on any number of processes.

    Args:
        policies: what samples.
        reward: see `rollouts.draw`.
        classes: the prompts' classes; empty for a model without.
        shape: of one image.
        seed: the run's.
        eta: noise of the stochastic sampler in what is kept; None for the plan's solver.
        autoencoder: of a model of latents: the reward sees decoded images.
        device: where to compute.
        rank, world: number of this process, and how many there are.
        autocast: context in which networks compute.
        total: what has been drawn since the start of the run.
    """

    policies: Policies
    reward: Reward
    classes: Sequence[int]
    shape: tuple[int, ...]
    seed: int
    eta: float | None = None
    autoencoder: Autoencoder | None = None
    device: torch.device | str = "cpu"
    rank: int = 0
    world: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    total: Total = field(default_factory=Total)
    _printed: set[str] = field(default_factory=set, init=False)

    def collect(self, plan: Plan, epoch: int) -> Rollout:
        """Draw an epoch's images by a plan: every process some of the groups, and all get everything."""
        chunks, first = plan.chunks(), epoch * plan.prompts
        self._remark(plan, len(chunks))
        mine = chunks[self.rank :: self.world]
        # Without a chunk of its own a process draws another's: a reward may have to be set up by all processes together.
        parts = []
        for number, rows in enumerate(mine or chunks[:1]):
            if number < len(chunks) // self.world:  # which all processes have
                stopping.check("chunk")
            parts.append(self._rollout(range(first + rows.start, first + rows.stop), plan))
        whole = self._from_all(joined(parts), [row for rows in mine for row in rows], plan.prompts)
        self.total.add(whole.counts)
        return whole

    def _rollout(self, groups: range, plan: Plan) -> Rollout:
        explores_with_another = plan.preview_steps is not None and plan.precision != "full"
        with self.autocast():
            return rollout(
                self._sampler(),
                self.reward,
                groups,
                self._labels(groups),
                plan,
                shape=self.shape,
                seed=self.seed,
                preview=self._sampler(plan.precision) if explores_with_another else None,
                eta=self.eta,
                device=self.device,
                autoencoder=self.autoencoder,
            )

    def measure(
        self, plan: Plan, groups: range, pool: int, steps: int, precision: str, *, is_final: bool = False
    ) -> Measured:
        """Some groups' whole pools, drawn with the old policy; each process draws some, all get everything.

        Args:
            plan: solver, grid, batch.
            groups: numbers counted over all epochs.
            pool: seeds of each.
            steps: of the solver.
            precision: of the network.
            is_final: draw as what is kept is drawn, and not as previews are.
        """
        rows = list(range(len(groups)))[self.rank :: self.world]
        drawn = partial(
            draw, self._sampler(precision), reward=self.reward, plan=plan, steps=steps, shape=self.shape, seed=self.seed,
            phase="measure", precision=precision, eta=self.eta if is_final else None, device=self.device,
            autoencoder=self.autoencoder,
        )  # fmt: skip
        parts = []
        for row in rows or [0]:
            group = groups[row : row + 1]
            with self.autocast():
                parts.append(drawn(seeds=pool_seeds(self.seed, group, pool), label=self._labels(group)))
        (count,) = self._counts_from_all(added(part.cost for part in parts), bool(rows))
        self.total.add((count,))

        def whole(values: list[Tensor]) -> Tensor:
            return rows_of_all(torch.cat(values)[: len(rows)], rows, len(groups), self.device)

        score = whole([part.score for part in parts])
        raw = [part.raw for part in parts if part.raw is not None]
        return Measured(whole([part.images for part in parts]), score, whole(raw) if raw else score, count)

    # --- what samples ---

    def _labels(self, groups: range) -> Int64[Tensor, " g"] | None:
        return prompt_labels(self.seed, groups, self.classes) if len(self.classes) else None

    def _sampler(self, precision: str = "full") -> Denoiser:
        return self.policies.sampler(precision, self._describe)

    def _describe(self, copy: Denoiser) -> None:
        """Print what computes a copy, which may be software."""
        if self.rank == 0:
            x = torch.zeros(1, *self.shape, device=self.device)
            label = torch.zeros(1, dtype=torch.int64, device=self.device) if len(self.classes) else None
            self._print(f"exploring in {headline(copy, x, torch.ones(1, device=x.device), label)}")

    def _remark(self, plan: Plan, chunks: int) -> None:
        """Print what makes a plan slow or its previews poor."""
        if chunks % self.world:
            nearest = plan.even_batch(self.world)
            hint = "" if nearest is None else f"; plan.batch={nearest} gives each the same"
            self._print(f"rollouts: {chunks} chunks for {self.world} processes leave some of them waiting{hint}")
        if plan.preview_steps is not None and self.eta is not None:
            self._print(
                "rollouts: the policy gradient draws what is kept with fresh noise, which previews do not have, so that they rank "
                f"it worse the larger model.loss.eta is, here {self.eta:g}; plan.preview_steps=null leaves them out"
            )

    def _print(self, line: str) -> None:
        """Once, on one process."""
        if self.rank == 0 and line not in self._printed:
            print(line, flush=True)
        self._printed.add(line)

    # --- all processes together ---

    def _from_all(self, part: Rollout, rows: list[int], n: int) -> Rollout:
        """The rollout of n groups, of which this process has drawn `rows`, or without any some of another's."""
        own = {name: values[: len(rows)] for name, values in part.tensors()}
        tensors = {name: rows_of_all(values, rows, n, self.device) for name, values in own.items()}
        return made_of(tensors, self._counts_from_all(part.counts, bool(rows)))

    def _counts_from_all(self, counts: tuple[Count, ...], is_mine: bool) -> tuple[Count, ...]:
        """Images and evaluations of all processes; the seconds of the slowest."""
        values = [[c.images * is_mine, c.evaluations * is_mine, c.seconds] for c in counts]
        everybody = from_all(torch.tensor([values], dtype=torch.float64, device=self.device)).cpu()
        images, evaluations, seconds = everybody.unbind(-1)
        return tuple(
            Count(
                count.phase,
                count.precision,
                int(images[:, i].sum()),
                int(evaluations[:, i].sum()),
                seconds[:, i].max().item(),
            )
            for i, count in enumerate(counts)
        )
