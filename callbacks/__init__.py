"""Callbacks: what watches a run, and logs, draws, averages or saves. No losses. Installed as `lightning_diff.callbacks`.

One of your own derives from `base.StepCallback` or `base.PeriodicCallback`, or is any Lightning callback.
"""

from .checkpoint import Checkpoint
from .critic_levels import CriticLevels
from .ema import EMA
from .evaluate import Evaluate
from .finite_guard import FiniteGuard
from .learned_grid import LearnedGrid
from .mentor import Mentor
from .noise_levels import NoiseLevels
from .progress import Progress
from .reward_report import RewardReport
from .run_record import RunRecord
from .sample_grid import SampleGrid
from .tangents import Tangents
from .throughput import Throughput
from .time_limit import TimeLimit
from .validation import Validation

__all__ = [
    "EMA",
    "Checkpoint",
    "CriticLevels",
    "Evaluate",
    "FiniteGuard",
    "LearnedGrid",
    "Mentor",
    "NoiseLevels",
    "Progress",
    "RewardReport",
    "RunRecord",
    "SampleGrid",
    "Tangents",
    "Throughput",
    "TimeLimit",
    "Validation",
]
