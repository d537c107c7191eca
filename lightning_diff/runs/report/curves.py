"""Curves over training images: every number of metrics.csv that is no figure of quality, by section."""

from collections.abc import Iterable, Sequence

from ..compare import LOSS, Run, protocol_of
from ..listing import REWARD
from .plots import Line, Plot, lines

TITLES = {
    LOSS: "Unweighted loss",
    "train/loss": "Loss that is minimised: weighted, with penalties",
    "val/loss": "Unweighted loss of held-out images",
    "val/gap": "Held-out loss less training loss, with the same noise",
    "train/learning_rate": "Learning rate",
    "images_per_second": "Images per second",
    "train/grad_norm": "Norm of the gradient",
    "gpu_memory_gib": "Peak memory on the GPU, GiB",
    REWARD: "Mean reward of the averaged weights",
    "rollout/agreement": "Agreement of previews with full samples",
}
REWARDS = ("reward/", "rollout/", "seconds/", "evaluations/", "images/")  # of RewardReport and Mentor (docs/rewards.md)
SCHEDULES = ("schedule/",)  # of LearnedGrid
LEFT_OUT = ("_se",)  # how the names of standard errors end


def training(runs: Sequence[Run]) -> list[Plot]:
    """Loss, learning rate, images per second, and what else was logged."""
    return _plots(runs, [name for name in _names(runs) if not name.startswith((*REWARDS, *SCHEDULES))])


def rewards(runs: Sequence[Run]) -> list[Plot]:
    """Rewards, and what watches them."""
    return _plots(runs, [name for name in _names(runs) if name.startswith(REWARDS)])


def schedules(runs: Sequence[Run]) -> list[Plot]:
    """A schedule while it is learned."""
    return _plots(runs, [name for name in _names(runs) if name.startswith(SCHEDULES)])


def _names(runs: Sequence[Run]) -> list[str]:
    """Metrics with a place in the training, those with a title first."""
    found = {row["metric"] for run in runs for row in run.metrics if row["images"] and not row["reference"]}
    kept = [name for name in sorted(found) if not name.endswith(LEFT_OUT)]
    return [*(name for name in TITLES if name in kept), *(name for name in kept if name not in TITLES)]


def _plots(runs: Sequence[Run], names: Iterable[str]) -> list[Plot]:
    wanted = list(names)
    found = [_all(run, set(wanted)) for run in runs]
    plots = []
    for name in wanted:
        curves = [
            Line(run.name, list(each[name]), list(each[name].values()), colour)
            for colour, (run, each) in enumerate(zip(runs, found, strict=True))
            if name in each
        ]
        title = f"{TITLES[name]} ({name})" if name in TITLES else name
        if (plot := lines(title, curves)) is not None:
            plots.append(plot)
    return plots


def _all(run: Run, names: set[str]) -> dict[str, dict[int, float]]:
    """`Run.curve` of many metrics, in one pass over the table."""
    found: dict[str, dict[int, float]] = {}
    for row in run.metrics:
        if row["metric"] in names and row["images"] and protocol_of(row) is None:
            found.setdefault(row["metric"], {})[int(float(row["images"]))] = float(row["value"])
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}
