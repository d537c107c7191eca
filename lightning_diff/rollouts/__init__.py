"""What a reward run draws and learns from: plans, rollouts, selection, scores, advantages, old policies. No Lightning, no files."""

from .plan import Plan
from .rollout import Count, Rollout, added, draw, joined, rollout

__all__ = ["Count", "Plan", "Rollout", "added", "draw", "joined", "rollout"]
