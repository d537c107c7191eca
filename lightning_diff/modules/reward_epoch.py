"""The rollouts of a reward post-training under the Trainer: shared out over the processes, kept for the epoch, resumed."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.processes import from_all, rows_of_all
from ..precision import headline
from ..rollouts import Count, Plan, Rollout, added, draw, joined, rollout
from ..rollouts.advantages import rollout_advantages
from ..rollouts.policies import Policies
from ..rollouts.selection import pool_seeds, prompt_labels

if TYPE_CHECKING:
    from .alignment import AlignmentModule

TENSORS = tuple(name for name in Rollout._fields if name != "counts")
PHASES = ("explore", "regenerate", "full")


class Measured(NamedTuple):
    """Whole pools of G groups: images, scores, these in the reward's own units, and the cost."""

    images: Float[Tensor, "g n *s"]
    score: Float[Tensor, "g n"]
    raw: Float[Tensor, "g n"]
    cost: Count


class Roller:
    """Draws the epoch's images when they are first asked for, and hands out training examples of them by position.

    Args:
        module: whose epoch, plan, reward and rollout these are.
        policies: what samples.
    """

    def __init__(self, module: "AlignmentModule", policies: Policies):
        self.module, self.policies = module, policies
        self.evaluations: dict[str, int] = {}  # since the start of the run, of all processes, by phase and precision
        self.images_drawn: dict[str, int] = {}
        self._said: set[str] = set()
        self._examples: tuple[Tensor, Tensor] | None = None  # (image, level) of each example of the epoch; advantages

    # --- drawing ---

    def roll_out(self) -> None:
        """Draw the epoch's images; every process some of the groups, and all get everything."""
        module, plan = self.module, self.module.plan
        chunks, rank, world = plan.chunks(), module.trainer.global_rank, module.trainer.world_size
        self._warn(plan, len(chunks), world)
        mine = chunks[rank::world]
        first = module.rollout_epoch * plan.prompts
        # Without a chunk of its own a process draws another's: a reward may have to be set up by all processes together.
        parts = [self._chunk(range(first + chunk.start, first + chunk.stop), plan) for chunk in mine or chunks[:1]]
        rows = [row for chunk in mine for row in chunk]
        module.rollout = self._of_all(joined(parts), rows, plan.prompts)
        self._count(module.rollout.counts)
        self._examples = None

    def _chunk(self, groups: range, plan: Plan) -> Rollout:
        module = self.module
        explores_with_another = plan.preview_steps is not None and plan.precision != "full"
        with module.trainer.precision_plugin.forward_context():
            return rollout(
                self._sampler(),
                module.reward,
                groups,
                self.labels(groups),
                plan,
                shape=module.shape,
                seed=module.seed,
                preview=self._sampler(plan.precision) if explores_with_another else None,
                eta=self._eta,
                device=module.device,
            )

    @property
    def _eta(self) -> float | None:
        return self.module.eta if self.module.objective == "policy_gradient" else None

    def _sampler(self, precision: str = "full") -> Denoiser:
        return self.policies.sampler(precision, self._describe)

    def _describe(self, copy: Denoiser) -> None:
        """What computes a copy, which may be software."""
        if self.module.trainer.is_global_zero:
            x = torch.zeros(1, *self.module.shape, device=self.module.device)
            label = torch.zeros(1, dtype=torch.int64, device=self.module.device) if len(self.module.classes) else None
            self._say(f"exploring in {headline(copy, x, torch.ones(1, device=x.device), label)}")

    def _warn(self, plan: Plan, chunks: int, world: int) -> None:
        if chunks % world:
            nearest = plan.even_batch(world)
            hint = "" if nearest is None else f"; plan.batch={nearest} gives each the same"
            self._say(f"rollouts: {chunks} chunks for {world} processes leave some of them waiting{hint}")
        if plan.preview_steps is not None and self._eta is not None:
            self._say(
                "rollouts: the policy gradient draws what is kept with fresh noise, which previews do not have, so that they rank "
                f"it worse the larger model.eta is, here {self._eta:g}; plan.preview_steps=null leaves them out"
            )

    def _say(self, line: str) -> None:
        """Once, on one process."""
        if self.module.trainer.is_global_zero and line not in self._said:
            print(line, flush=True)
        self._said.add(line)

    def labels(self, groups: range) -> Int64[Tensor, " g"] | None:
        return prompt_labels(self.module.seed, groups, self.module.classes) if len(self.module.classes) else None

    def _of_all(self, part: Rollout, rows: list[int], n: int) -> Rollout:
        tensors: dict[str, Any] = {}
        for name in TENSORS:
            value = getattr(part, name)
            own = None if value is None else value[: len(rows)]  # a process without groups of its own has drawn others'
            tensors[name] = None if own is None else rows_of_all(own, rows, n, self.module.device)
        return Rollout(**tensors, counts=self._counts_of_all(part.counts, bool(rows)))

    def _counts_of_all(self, counts: tuple[Count, ...], is_mine: bool) -> tuple[Count, ...]:
        """Images and evaluations of all processes; the seconds of the slowest."""
        values = [[c.images * is_mine, c.evaluations * is_mine, c.seconds] for c in counts]
        everybody = from_all(torch.tensor([values], dtype=torch.float64, device=self.module.device)).cpu()
        return tuple(
            Count(count.phase, count.precision, int(images), int(evaluations), float(seconds))
            for count, images, evaluations, seconds in zip(
                counts, everybody[..., 0].sum(0), everybody[..., 1].sum(0), everybody[..., 2].max(0).values, strict=True
            )
        )

    def _count(self, counts: tuple[Count, ...]) -> None:
        for count in counts:
            key = f"{count.phase}/{count.precision}"
            self.evaluations[key] = self.evaluations.get(key, 0) + count.evaluations
            self.images_drawn[key] = self.images_drawn.get(key, 0) + count.images

    def measure(self, groups: range, pool: int, steps: int, precision: str, *, is_final: bool = False) -> Measured:
        """Some groups' whole pools, drawn with the old policy; each process draws some, all get everything.

        Args:
            groups: numbers counted over all epochs.
            pool: seeds of each.
            steps: of the solver.
            precision: of the network.
            is_final: draw as what is kept is drawn, and not as previews are.
        """
        module, n = self.module, len(groups)
        rows = list(range(n))[module.trainer.global_rank :: module.trainer.world_size]
        parts = []
        for row in rows or [0]:
            group = range(groups[row], groups[row] + 1)
            seeds, label, sampler = pool_seeds(module.seed, group, pool), self.labels(group), self._sampler(precision)
            options: dict[str, Any] = {"shape": module.shape, "seed": module.seed, "device": module.device}
            options |= {"phase": "measure", "precision": precision, "eta": self._eta if is_final else None}
            with module.trainer.precision_plugin.forward_context():
                parts.append(draw(sampler, module.reward, seeds, label, module.plan, steps, **options))
        (count,) = self._counts_of_all(added(part.cost for part in parts), bool(rows))
        self._count((count,))

        def of_all(name: str) -> Tensor:
            own = torch.cat([getattr(part, name) for part in parts])[: len(rows)]
            return rows_of_all(own, rows, n, module.device)

        score = of_all("score")
        return Measured(of_all("images"), score, score if parts[0].raw is None else of_all("raw"), count)

    # --- handing out ---

    def examples(self, position: Int64[Tensor, " b"], noise: Float[Tensor, "b *s"]) -> dict[str, Tensor]:
        """Training examples by position: image and level are a permutation of all those of the epoch.

        Returns:
            "x", at noise level "sigma", "advantage", "position", with labels "label"; "x0", or of a chain "x_next", "sigma_next"
            and "log_prob".
        """
        module = self.module
        if module.rollout is None:
            self.roll_out()
        drawn = module.rollout
        assert drawn is not None
        if self._examples is None:
            self._examples = self._order(), rollout_advantages(drawn, module.spread, module.baseline).flatten()
        order, advantage = self._examples
        image, level = order[position % module.epoch_images].unbind(1)
        group, member = image // module.plan.keep, image % module.plan.keep
        sigmas = module.plan.sampling(module.plan.steps).sigmas
        batch = {"position": position, "sigma": sigmas[level], "advantage": advantage[image]}
        if drawn.label is not None:
            batch["label"] = drawn.label[group]
        if drawn.states is not None and drawn.log_prob is not None:
            return batch | {
                "x": drawn.states[group, member, level],
                "x_next": drawn.states[group, member, level + 1],
                "sigma_next": sigmas[level + 1],
                "log_prob": drawn.log_prob[group, member, level],
            }
        x0 = drawn.images[group, member]
        column = sigmas[level].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
        return batch | {"x0": x0, "x": x0 + column * noise}

    def _order(self) -> Int64[Tensor, "examples 2"]:
        """Image and level of each of the epoch's examples: every image at the first few of its shuffled levels, all shuffled."""
        module, plan = self.module, self.module.plan
        epoch, images, kept = module.rollout_epoch, plan.images, module.trained_levels
        of_all = plan.steps - (module.objective == "policy_gradient")
        levels = np.stack(
            [rng.permutation(module.seed, "image levels", epoch * images + i, of_all)[:kept] for i in range(images)]
        )
        order = rng.permutation(module.seed, "examples", epoch, images * kept)
        return torch.from_numpy(np.stack([order // kept, levels.reshape(-1)[order]], 1))

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        """What is drawn of the epoch under way, and what has been counted."""
        drawn = self.module.rollout
        tensors = (
            None if drawn is None else {name: value for name in TENSORS if (value := getattr(drawn, name)) is not None}
        )
        return {"rollout": tensors, "evaluations": dict(self.evaluations), "images_drawn": dict(self.images_drawn)}

    def restore(self, state: dict[str, Any]) -> None:
        module = self.module
        self.evaluations, self.images_drawn = dict(state["evaluations"]), dict(state["images_drawn"])
        before, tensors = state["recipe_plan"], state["rollout"]
        if before == asdict(module.recipe_plan):
            module.plan = Plan(**state["plan"])
        is_of_this_size = all(before[name] == getattr(module.plan, name) for name in ("prompts", "keep", "steps"))
        if tensors is not None and is_of_this_size:  # by force, a run may go on with another recipe's epochs
            module.rollout = Rollout(**{name: tensors.get(name) for name in TENSORS})
