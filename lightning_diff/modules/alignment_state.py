"""What a checkpoint holds of reward fine-tuning beside the weights: the old policy, and the epoch under way."""

from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from ..foundation.errors import UserError
from ..rollouts import Plan, Rollout
from ..rollouts.policies import Policies
from ..rollouts.rollout import made_of
from .reward_epoch import RewardEpoch


class Stored(TypedDict):
    """What a checkpoint holds of the epoch under way, beside what every module's has."""

    model: str | None  # hash of the weights that training started from
    old: dict[str, Tensor]  # theta_old's weights that train
    recipe_plan: dict[str, int | float | str | None]
    plan: dict[str, int | float | str | None]
    rollout: dict[str, Tensor] | None
    evaluations: dict[str, int]
    images_drawn: dict[str, int]


def stored(
    model: str | None, policies: Policies, recipe_plan: Plan, plan: Plan, rollout: Rollout | None, epoch: RewardEpoch
) -> Stored:
    """For a checkpoint.

    Args:
        model: hash of the weights that training started from.
        policies: of which the old one is kept.
        recipe_plan, plan: the recipe's, and that of this epoch.
        rollout: of the epoch under way; None between epochs.
        epoch: for the sums of what was drawn.
    """
    return Stored(
        model=model,
        old=policies.state(),
        recipe_plan=asdict(recipe_plan),
        plan=asdict(plan),
        rollout=None if rollout is None else dict(rollout.tensors()),
        evaluations=dict(epoch.total.evaluations),
        images_drawn=dict(epoch.total.images),
    )


def refuse_other_model(kept: Stored, model: str | None, path: Path) -> None:
    """UserError where training started from another model than that of `path`, whose weights have the hash `model`."""
    if kept["model"] != model:
        raise UserError(
            f"the checkpoint started from another model: its weights have the hash {str(kept['model'])[:12]}, those of "
            f"{path} {str(model)[:12]}; put the old one back, or choose another name"
        )


def plan_of(kept: Stored, recipe_plan: Plan) -> Plan:
    """The plan that the epoch goes on with: the checkpoint's, or the recipe's where that has changed."""
    return Plan(**kept["plan"]) if kept["recipe_plan"] == asdict(recipe_plan) else recipe_plan  # type: ignore[arg-type]


def rollout_of(kept: Stored, plan: Plan) -> Rollout | None:
    """The rollout under way; None where there is none, or where another recipe (resumed by force) has epochs of another size."""
    is_of_this_size = all(kept["recipe_plan"][name] == getattr(plan, name) for name in ("prompts", "keep", "steps"))
    return made_of(kept["rollout"]) if kept["rollout"] is not None and is_of_this_size else None
