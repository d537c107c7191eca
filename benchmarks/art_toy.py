"""ART's one-dimensional experiments: the published table of Gaussian data, a mixture that stands in for pictures, and robustness.

    python benchmarks/art_toy.py [--updates 2500]
    python benchmarks/art_toy.py --mixture
    python benchmarks/art_toy.py --robustness [--seeds 5]

Gaussian data (arXiv 2601.18681): x0 ~ N(0, 1), sigma from 3 to 0, Euler's method. The flow is linear, so that W2 after K steps is
|1 - sigma_K| exactly, with sigma_K = sqrt(10) prod(1 - h s / (1 + s^2)). The paper's figures are estimates from samples and lie
0.003 to 0.005 above. "ART-RL" is algorithm 1 with the paper's networks, lambda and K = 100, 16 trajectories at a time, Adam from
1e-3 down, gamma's rate 2e-3; "our defaults" is `ActorCritic` as it comes, K = 32, 500 updates. Their grids are resampled. "shares"
is `StickBreaking` for ART's cost, not told the spread of the data.

Mixture: weights .3/.4/.3, means -1/.2/1, standard deviations .1/.05/.2, sigma from 80 to 0, exact score; W2 by 4,000 quantiles.
"shares" is `StickBreaking` rewarded for where the solver ends, for each K.

Robustness: grids learned on the Gaussian from five seeds, lambda adaptive against three fixed values, all else equal, in two units
of length, in the second of which |Q| is a hundred times as large: W2 at K = 5 over the unit, mean and worst; spread, the standard
deviation of ln sigma over seeds averaged over nodes; how many collapsed (are no better than the uniform grid at K = 5).
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_diff import schedules
from lightning_diff.learning_rate import Cosine
from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers import named
from lightning_diff.schedules import ActorCritic, StickBreaking
from lightning_diff.schedules.environments import EndPoint
from lightning_diff.schedules.grids import along

GAUSSIAN_K, MIXTURE_K = (2, 5, 10, 20, 50, 100), (2, 3, 5, 7, 10, 18, 30)
T = 3.0
PUBLISHED = {
    "uniform": (0.468, 0.215, 0.114, 0.060, 0.027, 0.016),
    "EDM, rho = 7": (0.664, 0.319, 0.177, 0.094, 0.041, 0.023),
    "EDM-T, rho = 3": (0.414, 0.195, 0.105, 0.056, 0.025, 0.015),
    "DPM": (0.670, 0.401, 0.211, 0.113, 0.049, 0.027),
    "ART-RL": (0.345, 0.149, 0.079, 0.042, 0.020, 0.013),
}
Grid = Callable[[int], Tensor]


# --- Gaussian data ---


class Line:
    """x0 ~ N(0, unit^2), learned from sigma = 3 units down."""

    def __init__(self, unit: float = 1.0):
        self.unit = unit

    def model(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return x / (1 + (_column(sigma, x) / self.unit) ** 2)

    def field(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """F and Q in closed form."""
        s = _column(sigma, x) / self.unit
        return -s * x / (1 + s**2) / self.unit, x / (1 + s**2) ** 2 / self.unit**2  # Q has the dimension 1 / length


def gaussian_w2(levels: Tensor) -> float:
    s, h = levels[:-1], levels[:-1] - levels[1:]
    return abs(1 - math.sqrt(1 + T**2) * float((1 - h * s / (1 + s**2)).prod()))


def closed_form(n: int) -> Tensor:
    """Nodes of density (1 + s^2)^(-3/4)."""
    s = torch.linspace(0, T, 100_001, dtype=torch.float64)
    share = torch.cat([s.new_zeros(1), torch.cumulative_trapezoid((1 + s**2) ** -0.75, s)])
    place = torch.searchsorted(share, torch.linspace(float(share[-1]), 0, n + 1, dtype=torch.float64)).clamp(
        max=100_000
    )
    return s[place]


def geometric(n: int) -> Tensor:
    """The paper's DPM row: K + 1 nodes down to 1e-4."""
    return torch.logspace(math.log10(T), -4, n + 1, dtype=torch.float64)


def learn(
    learner: torch.nn.Module,
    updates: int,
    batch: int,
    lr: float,
    *,
    seed: int,
    ask: Callable[..., Tensor] | None = None,
    line: Line | None = None,
) -> torch.nn.Module:
    """Train it on a model, or on Gaussian data, whose marginal at T is not T times a standard normal."""
    line = line or (None if ask else Line())
    spread, given = (math.sqrt(1 + T**2) / T, {"field": line.field}) if line else (1.0, {})
    ask = line.model if line else ask
    optimiser = torch.optim.Adam(learner.parameters(), lr=lr)
    rate, draws = Cosine(total=updates, warmup=max(1, updates // 20)), torch.Generator().manual_seed(seed)
    for update in range(updates):
        noise = spread * torch.randn(batch, 1, dtype=torch.float64, generator=draws)
        exploration_noise = torch.randn(batch, learner.steps, generator=draws)
        loss, details = learner(ask, noise, exploration_noise, **given)
        optimiser.zero_grad()
        loss.mean().backward()
        for group in optimiser.param_groups:
            group["lr"] = lr * rate(update + 1)
        optimiser.step()
        learner.learn(details)
    return learner


def as_published(seed: int, updates: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    learner = ActorCritic(100, T, sigma_min=1e-4, lam=0.1, trace=0.0, start="uniform", inputs="state", gamma_rate=2e-3)
    return learn(learner, updates, 16, 1e-3, seed=seed)


def art_rl(seed: int, updates: int = 500, lam: float | None = None, unit: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(seed)
    rate = None if lam is None else 2e-3
    learner = ActorCritic(32, T * unit, sigma_min=1e-4 * unit, lam=lam, start="uniform", gamma_rate=rate)
    return learn(learner, updates, 16, 1e-3, seed=seed, line=Line(unit))


def shares(seed: int, updates: int = 150, unit: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(seed)
    learner = StickBreaking(32, T * unit, sigma_min=1e-4 * unit, sigma_data=0.5 * unit, start="angle")
    return learn(learner, updates, 32, 3e-3, seed=seed, line=Line(unit))


def gaussian(updates: int) -> None:
    grids: dict[str, Grid] = {
        "uniform": lambda n: schedules.uniform(n, 0.0, T),
        "EDM, rho = 7": lambda n: schedules.karras(n, 0.0, T),
        "EDM-T, rho = 3": lambda n: schedules.karras(n, 0.0, T, rho=3.0),
        "DPM": geometric,
        "tangent": lambda n: schedules.tangent(n, 0.0, T, sigma_data=1.0),
        "closed form": closed_form,
    }
    seconds = {}
    ways = {"shares": lambda: shares(0), "ART-RL, our defaults": lambda: art_rl(0)}
    for name, make in (ways | {"ART-RL": lambda: as_published(0, updates)}).items():
        start = time.process_time()
        learned = make()
        seconds[name] = time.process_time() - start
        grids[name] = learned.grid if name == "shares" else partial(along, learned.grid())
    print(f"| W2, K = | {' | '.join(map(str, GAUSSIAN_K))} | CPU seconds |\n|{'---|' * (len(GAUSSIAN_K) + 2)}")
    for name, grid in grids.items():
        found = [gaussian_w2(grid(n)) for n in GAUSSIAN_K]
        told = PUBLISHED.get(name)
        cells = [f"{w:.3f}" + (f" ({w - p:+.3f})" if told else "") for w, p in zip(found, told or found, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {seconds.get(name, 0):.0f} |", flush=True)
    print("\nin brackets: less the published figure")


# --- the mixture ---


class Mixture:
    def __init__(self, quantiles: int = 4000):
        weights, means, stds = (torch.tensor(v).double() for v in ((0.3, 0.4, 0.3), (-1.0, 0.2, 1.0), (0.1, 0.05, 0.2)))
        self.oracle = GaussianMixture(weights, means[:, None], stds)
        p = (torch.arange(quantiles).double() + 0.5) / quantiles
        self.noise = torch.special.ndtri(p)[:, None]
        low, high = torch.full_like(p, -4.0), torch.full_like(p, 4.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = (weights * torch.special.ndtr((middle[:, None] - means) / stds)).sum(1) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.target = (low + high) / 2

    def ask(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.oracle(x, sigma)

    def w2(self, levels: Tensor, solver: str) -> float:
        x = named(solver)(self.oracle, 80.0 * self.noise, levels)[:, 0].sort().values
        return float((x - self.target).square().mean().sqrt())


def mixture(updates: int) -> None:
    data = Mixture()
    few = torch.special.ndtri((torch.arange(256).double() + 0.5) / 256)[:, None]
    for solver in ("euler", "heun"):

        def ours(n: int, solver: str = solver) -> Tensor:
            torch.manual_seed(0)
            learner = StickBreaking(n, 80.0, sigma_data=0.8, environment=EndPoint(solver, 64))
            return learn(learner, updates, 32, 3e-3, seed=0, ask=data.ask).grid()

        rows: dict[str, Grid] = {
            "EDM": schedules.karras,
            "log-SNR": schedules.log_snr,
            "closed form": lambda n: schedules.art(data.ask, few, n),
            f"closed form for {solver}": lambda n, solver=solver: schedules.art(data.ask, few, n, solver=solver),
            "shares, end point": ours,
        }
        print(f"| {solver}, K = | {' | '.join(map(str, MIXTURE_K))} |\n|{'---|' * (len(MIXTURE_K) + 1)}")
        for name, grid in rows.items():
            print(f"| {name} | {' | '.join(f'{data.w2(grid(n), solver):.3g}' for n in MIXTURE_K)} |", flush=True)
        print()


# --- robustness ---


def robustness(seeds: int, updates: int) -> None:
    print("| unit | learner | W2 at 5 | worst | spread of ln sigma | collapsed |\n|---|---|---|---|---|---|")
    uniform = gaussian_w2(schedules.uniform(5, 0.0, T))
    for unit in (1.0, 0.01):
        ways: dict[str, Callable[[int], torch.nn.Module]] = {"shares": partial(shares, unit=unit)}
        for lam in (None, 0.01, 0.1, 1.0):
            name = "ART-RL, lambda " + ("adaptive" if lam is None else f"{lam:g}")
            ways[name] = partial(art_rl, updates=updates, lam=lam, unit=unit)
        for name, make in ways.items():
            grids = [make(seed).grid(20) / unit for seed in range(seeds)]
            found = [gaussian_w2(along(grid, 5)) for grid in grids]
            spread = float(torch.stack([grid[1:-1].log() for grid in grids]).std(0).mean())
            collapsed = sum(not w < uniform for w in found)
            cells = f"{_mean(found):.3f} | {max(found):.3f} | {spread:.3f} | {collapsed} of {seeds}"
            print(f"| {unit:g} | {name} | {cells} |", flush=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _column(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--updates", type=int, help="default 2500 for ART-RL as published, 300 for the mixture, 500 for robustness"
    )
    parser.add_argument("--mixture", action="store_true")
    parser.add_argument("--robustness", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mixture:
        mixture(options.updates or 300)
    elif options.robustness:
        robustness(options.seeds, options.updates or 500)
    else:
        gaussian(options.updates or 2500)


if __name__ == "__main__":
    main()
