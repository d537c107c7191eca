"""Watching the rollouts of a reward fine-tuning, and steering them."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..artifacts import events
from ..autoencoders import as_images
from ..foundation import rng
from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..modules.alignment import AlignmentModule
from ..modules.base import StepOutputs
from ..rollouts import Count, added, steering
from ..rollouts.plan import Plan, refuse_unknown_precision
from ..rollouts.ranking import chosen_ranks, mean_spearman
from ..rollouts.selection import ONE_SIDED, select
from ..rollouts.steering import Option, Worth
from .base import StepCallback
from .cadence import refuse_nonpositive

Choice: TypeAlias = dict[str, int | float | str | None]  # epoch, pool, preview_steps, precision, agreement


class Mentor(StepCallback[AlignmentModule]):
    """Log what each epoch drew and cost; now and then measure how well previews rank, and choose how to explore.

    Every epoch, from its rollout and its training steps: rewards and their spread, diversity, the distance to the reference (a
    reward that rises while diversity falls and the distance grows is being hacked), agreement of preview and final reward among
    what is kept, evaluations, and seconds by phase (docs/metrics.md has the names).

    Every `every` epochs the whole pools of the epoch's first `groups` groups are drawn in full, and beside that by every way to
    explore that there is to choose from: `pools` x `preview_steps` x `precisions`, and without previews. The next epoch explores by
    the one that gives the most information for its cost among those that rank at least as well as `threshold` (see `steering`). If
    in any epoch the previews of what is kept agree less than that, the next one explores in full precision, and if it did already,
    without previews, until measured again. Not so with `select: top`: among the highest alone, previews that rank the pool well
    agree little, and only measurements steer.

    Nothing here looks at a clock to decide: what is chosen is a function of (recipe, seed), like everything that is trained.

    Args:
        every: epochs between measurements; None for never: then only the fallback steers.
        groups: measured each time.
        threshold: least Spearman correlation, in [-1, 1].
        steer: whether to change anything; False only logs.
        pools: sizes to choose from; None for the recipe's own and its half, down to what is kept.
        preview_steps: to choose from; None for the recipe's own, one less and one more.
        precisions: to choose from, "full" among them or not; None for the recipe's own and "full".
        costs: cost of an evaluation in each precision, relative to full precision, as measured on this machine; 1 where left out,
            which is what an emulated format is worth. A number of the recipe's, so that runs repeat.
    """

    ALONE: ClassVar[str] = "change the plan"
    RESUME_MUST_KEEP: ClassVar[tuple[str, ...]] = ("*",)  # it steers what is trained
    watches = AlignmentModule

    def __init__(
        self,
        every: int | None = 20,
        *,
        groups: int = 4,
        threshold: int | float = 0.7,
        steer: bool = True,
        pools: Sequence[int] | None = None,
        preview_steps: Sequence[int] | None = None,
        precisions: Sequence[str] | None = None,
        costs: Mapping[str, int | float] | None = None,
    ):
        refuse_nonpositive("Mentor", every=every, groups=groups, **{f"costs.{k}": v for k, v in (costs or {}).items()})
        if not -1 <= threshold <= 1:
            raise ValueError(f"Mentor: threshold must lie in [-1, 1], got {threshold}")
        for precision in precisions or ():
            refuse_unknown_precision("Mentor: precisions", precision)
        self.every, self.groups, self.threshold, self.steer = every, groups, threshold, steer
        self.pools, self.preview_steps, self.precisions = pools, preview_steps, precisions
        self.costs = dict(costs or {})
        self.epoch = -1  # the last one watched
        self.history: list[Choice] = []  # what was chosen
        # Of each process: sum of the distance to the reference, examples.
        self._window = torch.zeros(1, 2, dtype=torch.float64)

    def on_run_start(self, trainer: Trainer, module: AlignmentModule) -> None:
        plan = module.recipe_plan
        if self.pools is None:
            self.pools = sorted({max(plan.keep, plan.pool // 2), plan.pool})
        if self.preview_steps is None:
            own = plan.preview_steps or max(1, plan.steps // 2)
            self.preview_steps = sorted({max(1, own - 1), own, min(plan.steps, own + 1)})
        if self.precisions is None:
            self.precisions = list(dict.fromkeys([plan.precision, "full"]))
        if min(self.pools) < plan.regenerated:
            raise UserError(
                f"Mentor: pools: {min(self.pools)} seeds are fewer than the {plan.regenerated} drawn in full"
            )
        # The windows of as many processes as there were; with another number, the same total.
        self._sums = self._window[trainer.global_rank :: trainer.world_size].sum(0).to(module.device)
        self._clock = time.perf_counter()

    # --- an epoch ---

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        self._watch(trainer, cast(AlignmentModule, pl_module))

    def _watch(self, trainer: Trainer, module: AlignmentModule) -> None:
        epoch = module.rollout_epoch
        if epoch == self.epoch:
            return
        self.epoch = epoch
        values = self._watched(module)
        if self.every is not None and epoch % self.every == 0:
            values |= self._measured(module)
        elif self._is_misled(module.plan, values):
            self._choose(module, steering.fallback(module.plan), values["rollout/agreement_kept"])
        self.log_row(trainer, module, values)
        self._clock = time.perf_counter()

    def _is_misled(self, plan: Plan, values: dict[str, float]) -> bool:
        """Whether the kept images alone say that previews cannot be trusted."""
        agreement = values.get("rollout/agreement_kept", 1.0)
        return self.steer and plan.select not in ONE_SIDED and agreement < self.threshold

    def _watched(self, module: AlignmentModule) -> dict[str, float]:
        drawn, plan = module.rollout, module.plan
        assert drawn is not None
        explores = any(count.phase == "explore" for count in drawn.counts)
        values = {
            "reward/kept": float(drawn.raw_reward.mean()),
            "reward/kept_spread": steering.within(drawn.raw_reward),
            "reward/pool": float(drawn.raw_preview.mean()),
            "reward/pool_spread": steering.within(drawn.raw_preview),
            "rollout/diversity": _diversity(module, drawn.images),
            "rollout/pool": drawn.seeds.shape[1],
            "rollout/preview_steps": plan.preview_steps or plan.steps,
        }
        if explores:
            values["rollout/agreement_kept"] = mean_spearman(drawn.preview.gather(1, drawn.selected), drawn.reward)
        return values | _spent(drawn.counts)

    @torch.no_grad()
    def on_micro_batch_end(self, trainer: Trainer, module: AlignmentModule, outputs: StepOutputs) -> None:
        kl = outputs["kl"].double()
        self._sums += torch.stack([kl.sum(), torch.full_like(kl[0], len(kl))])

    def on_step_end(self, trainer: Trainer, module: AlignmentModule, outputs: StepOutputs) -> None:
        if module.rollout is not None:
            return  # in the middle of an epoch
        total, count = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self._sums.zero_()
        values = {
            "seconds/train": time.perf_counter() - self._clock,
            "evaluations/train": module.epoch_images * module.loss.evaluations,
        }
        if module.loss.kl:
            values["train/kl"] = total / count
        self.log_row(trainer, module, values)

    # --- ranking ---

    def _measured(self, module: AlignmentModule) -> dict[str, float]:
        """Draw whole pools of a few groups by every way there is; steer by what comes out."""
        plan, present_plan = module.recipe_plan, module.plan
        now = Option(present_plan.pool, present_plan.preview_steps, present_plan.precision)
        options = self._options(plan, now)
        first = module.rollout_epoch * plan.prompts
        groups = range(first, first + min(self.groups, plan.prompts))
        pool = max(option.pool for option in options)
        measure = partial(module.reward_epoch.measure, present_plan, groups, pool)
        images, true, raw, count = measure(plan.steps, "full", is_final=True)
        counts = [count]
        previews: dict[tuple[int | None, str], Tensor] = {(None, "full"): true}
        for _, steps, precision in options:
            if steps is not None and (steps, precision) not in previews:
                _, previews[steps, precision], _, count = measure(steps, precision)
                counts.append(count)
        training = module.trained_levels * module.loss.evaluations
        keys = [rng.key(module.seed, "select", group) for group in groups]
        found = [
            steering.worth(plan, option, previews[option[1:]], true, keys, self.costs, training) for option in options
        ]
        present = next(each for each in found if each.option == now)
        if self.steer:
            chosen = steering.best(found, now, self.threshold)
            if chosen.option != now:
                self._choose(module, chosen.option, chosen.agreement)
        return self._described(present, present_plan, previews[now[1:]], true) | {
            "reward/unselected": float(raw.mean()),
            "rollout/diversity_unselected": _diversity(module, images),
            **_spent(added(counts)),
        }

    def _options(self, plan: Plan, now: Option) -> list[Option]:
        """What there is to choose from, the present way to explore among it."""
        assert self.pools is not None
        assert self.preview_steps is not None
        assert self.precisions is not None
        options = list(steering.options(plan, self.pools, self.preview_steps, self.precisions))
        return options if now in options else [*options, now]

    def _described(self, present: Worth, plan: Plan, preview: Tensor, true: Tensor) -> dict[str, float]:
        """How the present way to explore ranks: over the pool, and by the true ranks of what it would keep as best and worst."""
        preview, true = preview[:, : plan.pool], true[:, : plan.pool]
        half = plan.keep // 2
        values = {"rollout/agreement": present.agreement, "rollout/worth": present.rate}
        if half:
            ranks = chosen_ranks(true, select(preview, half, "top"), select(-preview, half, "top"))
            values |= {"rollout/rank_top": ranks.top, "rollout/rank_bottom": ranks.bottom}
        return values

    def _choose(self, module: AlignmentModule, option: Option, agreement: float) -> None:
        module.change_plan(option.of(module.recipe_plan))
        self.history.append({"epoch": self.epoch + 1, **option._asdict(), "agreement": agreement})
        if module.trainer.is_global_zero:
            how = "without previews" if option.preview_steps is None else f"previews of {option.preview_steps} steps"
            what = (
                f"mentor: from epoch {self.epoch + 1} on a pool of {option.pool}, {how}, {option.precision} precision "
                f"(agreement {agreement:.2f})"
            )
            print(what, flush=True)
            events.note(module.trainer.default_root_dir, module.images_seen, what)

    # --- checkpoints ---

    def state_dict(self) -> dict[str, object]:
        window = from_all(self._sums[None]).cpu()
        return {"epoch": self.epoch, "history": [dict(entry) for entry in self.history], "window": window}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.history = state_dict["epoch"], [dict(entry) for entry in state_dict["history"]]
        self._window = state_dict["window"]


def _diversity(module: AlignmentModule, samples: Tensor) -> float:
    """Of what is seen: decoded, where samples are latents."""
    images = as_images(samples.flatten(0, 1), module.reward_epoch.autoencoder, module.device)
    return steering.diversity(images.unflatten(0, samples.shape[:2]))


def _spent(counts: Iterable[Count]) -> dict[str, float]:
    values: dict[str, float] = defaultdict(float)
    for phase, precision, images, evaluations, seconds in counts:
        values[f"seconds/{phase}"] += seconds
        values[f"evaluations/{phase}/{precision}"] += evaluations
        values[f"images/{phase}/{precision}"] += images
    return dict(values)
