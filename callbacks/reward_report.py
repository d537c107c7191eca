"""What a reward fine-tuning came to: the reward of the same seeds before and after, and what it cost."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import matplotlib
import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor

from ..artifacts import metrics_table, pictures
from ..autoencoders import as_images
from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.atomic import replacing
from ..modules.alignment import AlignmentModule
from ..modules.training_data import training_data
from ..rewards import WeightedSum
from ..rollouts.scoring import score_parts
from ..samplers.generate import generate
from ..schedules.sampling import choose
from .base import PeriodicCallback
from .cadence import refuse_nonpositive
from .ema import averaged
from .trackers import log_picture

COSTS = ("seconds", "evaluations", "images")  # what `Mentor` logs by phase


class RewardReport(PeriodicCallback[AlignmentModule]):
    """Score the averaged weights on the same seeds, at the start, every so often and at the end; draw what came of it.

    Logs reward/mean and reward/std, over n images that start from seeds that training never uses, by the recipe's sampler for full
    precision with `steps`; with a `rewards.WeightedSum`, of the weighted sum of its parts in their own units, and beside it of each
    part by its name. At the end writes `before_after.png`, samples of the
    model that training started from over those of the trained one, from the same seeds, and `reward.png`: the reward against
    seconds, evaluations of the network and images drawn, where a `Mentor` logs them.

    Args:
        every: images (training examples) between scores; None for start and end only.
        n: images.
        steps: of the solver; None for the plan's.
        columns, rows: of the picture; a row is a class, where there are some.
        batch: images at a time.
        seed: of the images.
    """

    ALONE: ClassVar[str] = "log reward/mean and draw reward.png"
    together = True
    watches = AlignmentModule

    def __init__(
        self,
        every: int | None = None,
        *,
        n: int = 200,
        steps: int | None = None,
        columns: int = 10,
        rows: int = 10,
        batch: int = 256,
        seed: int = 0,
    ):
        refuse_nonpositive("RewardReport", every=every, n=n, steps=steps, columns=columns, rows=rows, batch=batch)
        super().__init__(every)
        self.n, self.steps, self.columns, self.rows = n, steps, columns, rows
        self.batch, self.seed = batch, seed

    def on_run_start(self, trainer: Trainer, module: AlignmentModule) -> None:
        if not module.images_seen:
            self.act(trainer, module)

    def on_run_end(self, trainer: Trainer, module: AlignmentModule) -> None:
        self.act(trainer, module)
        after, before = self._shown(trainer, module), self._shown(trainer, module, module.policies.reference)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        shape = tuple(after.shape[1:])
        if len(shape) == 3 and shape[0] in (1, 3):
            rows = range(0, len(after), self.columns)
            pairs = torch.cat([part[i : i + self.columns] for i in rows for part in (before, after)])
            known = training_data(trainer).data.class_names
            labels = list(module.classes) or range(len(rows))
            names = [
                name for i in range(len(rows)) for name in (f"{pictures.caption(labels[i], known)} before", "after")
            ]
            pictures.save_grid(folder / "before_after.png", pairs, self.columns, row_names=names)
            log_picture(trainer, "reward/before_after", folder / "before_after.png")
        if (curve := read_curve(folder / "metrics.csv")) and draw_curve(curve, folder):
            log_picture(trainer, "reward/curve", folder / "reward.png")

    def act(self, trainer: Trainer, module: AlignmentModule) -> None:
        """Every process draws and scores all of it: it is little, and a reward may have to be set up by all together."""
        images, label = self._drawn(trainer, module, self.n)
        several = module.reward if isinstance(module.reward, WeightedSum) else None
        parts = score_parts(module.reward, images, label, self.batch, module.device, module.reward_epoch.autoencoder)
        rewards = parts if several is None else {"": several.raw(parts)} | parts
        values: dict[str, float] = {}
        for name, reward in rewards.items():
            start = f"reward/{name}" if name else "reward"
            values |= {f"{start}/mean": float(reward.mean()), f"{start}/std": float(reward.std())}
        self.log_row(trainer, module, values)

    def _shown(
        self, trainer: Trainer, module: AlignmentModule, denoiser: Denoiser | None = None
    ) -> Float[Tensor, "n *s"]:
        rows = min(self.rows, len(module.classes)) if len(module.classes) else self.rows
        label = torch.tensor(list(module.classes)[:rows] or [0] * rows).repeat_interleave(self.columns)
        samples = self._drawn(trainer, module, rows * self.columns, denoiser, label)[0]
        return as_images(samples, module.reward_epoch.autoencoder, module.device)

    def _drawn(
        self,
        trainer: Trainer,
        module: AlignmentModule,
        n: int,
        denoiser: Denoiser | None = None,
        label: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of the averaged weights, or another denoiser's."""
        plan, classes = module.recipe_plan, list(module.classes)
        sampling = choose(
            None,
            plan.solver,
            self.steps or plan.steps,
            plan.grid,
            sigma_min=plan.sigma_min,
            sigma_max=plan.sigma_max,
        )
        if label is None:
            label = torch.tensor([classes[i % len(classes)] if classes else 0 for i in range(n)])
        weights = averaged(trainer, module) if denoiser is None else nullcontext()
        with weights:
            images = generate(
                module.denoiser if denoiser is None else denoiser,
                module.shape,
                range(n),  # small numbers; those of rollouts have 63 bits
                label if classes else None,
                sigmas=sampling.sigmas,
                solver=sampling.solver,
                seed=rng.alike(self.seed, module.seed),
                progress=self.shows_progress(trainer),
                batch=self.batch,
                device=module.device,
            )
        return images, label


def read_curve(path: Path, costs: Mapping[str, float] | None = None) -> dict[str, list[float]]:
    """Reward against the training cost at which it was measured, from a run's metrics.csv.

    Args:
        path: of the file.
        costs: what an evaluation costs by precision, relative to full precision; 1 where left out.

    Returns:
        "reward", and of "seconds", "evaluations", "images" those that were logged; empty without rewards.
    """
    logged: dict[str, list[tuple[int, float]]] = {name: [] for name in COSTS}
    reward: dict[int, float] = {}
    for row in metrics_table.read(path):
        if not row["images"]:
            continue
        kind, _, phase = row["metric"].partition("/")
        if (
            kind in COSTS
        ):  # a rollout stands at the images before its epoch's first step, training at those after the last
            weight = (costs or {}).get(phase.rpartition("/")[2], 1.0) if kind == "evaluations" else 1.0
            logged[kind].append((int(row["images"]) + (phase != "train"), weight * float(row["value"])))
        elif row["metric"] == "reward/mean":
            reward[int(row["images"])] = float(row["value"])
    if not reward:
        return {}
    curve = {"reward": [reward[images] for images in sorted(reward)]}
    for name, rows in logged.items():
        if rows:
            curve[name] = [sum(value for at, value in rows if at <= images) for images in sorted(reward)]
    return curve


def draw_curve(curve: dict[str, list[float]], folder: Path) -> bool:
    """Write `reward.png`; False without costs to draw it against."""
    names = [name for name in COSTS if name in curve]
    if not names:
        return False
    labels = {"seconds": "seconds", "evaluations": "network evaluations", "images": "images drawn"}
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            axes.plot(curve[name], curve["reward"], "o-", ms=3, lw=1.3)
            axes.set(xlabel=labels[name], ylabel="mean reward")
            axes.grid(alpha=0.3)
        figure.suptitle(f"{folder.name}: reward of the averaged weights")
        with replacing(folder / "reward.png") as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    return True
