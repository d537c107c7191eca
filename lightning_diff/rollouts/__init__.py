"""Rollouts of reward fine-tuning: plans, rollouts, selection, scores, advantages, training examples. No Lightning, no files."""

from .advantages import Advantages
from .cost import Count, added
from .loss import RewardLoss
from .plan import Plan
from .rollout import Rollout, draw, joined, rollout

__all__ = ["Advantages", "Count", "Plan", "RewardLoss", "Rollout", "added", "draw", "joined", "rollout"]
