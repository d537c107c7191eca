"""Do sCD and sCT find the exact consistency function? A mixture of Gaussians in the plane, an MLP, and the end of the exact ODE.

    OMP_NUM_THREADS=1 python benchmarks/consistency_oracle.py [--steps 6000] [--density ring] [--time trigflow]

First an MLP learns the mixture's denoiser. Both methods start from it: distillation follows the exact denoiser's velocity, training
only sees examples, fresh ones at every step. What they should find is known: the end of the probability-flow ODE through x, which a
Runge-Kutta solver computes to 1e-7 (`oracle.GaussianMixture.ode_end`). Prints the mean squared error of f(x, t) against it, per
coordinate, over x drawn at each level: of the denoiser before, of both models' averaged weights after, and as fractions of it. The
variance of a coordinate of the data is in the caption: an error of that size would be no better than the mean.

As the untrained model errs: the mean of what x may come from is not where x's trajectory ends, least of all at high noise.
"""

import argparse
import math
import time

import torch
from torch import Tensor

from lightning_diff import ema, noise
from lightning_diff.data import Toy
from lightning_diff.denoiser import Denoiser
from lightning_diff.learning_rate import Cosine
from lightning_diff.nets import MLP
from lightning_diff.objectives import consistency_loss, denoising_loss
from lightning_diff.oracle import GaussianMixture
from lightning_diff.weighting import AdaptiveWeight

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0)
BATCH = 512


def trained(
    student: Denoiser, mixture: GaussianMixture, teacher: Denoiser | None, options: argparse.Namespace, denoising: bool
) -> Denoiser:
    """A copy with averaged weights."""
    steps = options.teacher_steps if denoising else options.steps
    law = noise.LogNormal(-1.0, options.std)
    weight = AdaptiveWeight((2,))
    parameters = [*student.parameters(), *([] if denoising else weight.parameters())]
    rate = options.lr * (2 if denoising else 1)
    optimizer = torch.optim.RAdam(parameters, lr=rate, betas=(0.9, 0.99))
    schedule, profile = Cosine(steps * BATCH, warmup=100 * BATCH), ema.PowerFunction(0.05)
    average = ema.start(dict(student.net.named_parameters()))
    generator = torch.Generator().manual_seed(1)
    for step in range(1, steps + 1):
        x0 = mixture.sample(BATCH, generator).float()
        eps = torch.randn(x0.shape, generator=generator)
        sigma = law.icdf(noise.stratified(BATCH, generator))
        if denoising:
            loss = denoising_loss(student, x0, sigma, eps).mean()
        else:
            share = min(step / options.warmup, 1.0)
            log_snr = noise.sigma_to_log_snr(sigma, student.sigma_data).float()
            raw = consistency_loss(student, x0, sigma, eps, teacher=teacher, warmup=share).loss
            loss = (weight(log_snr, raw) * raw + weight.penalty(log_snr, raw)).mean()
        optimizer.param_groups[0]["lr"] = rate * schedule(step * BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_(average, dict(student.net.named_parameters()), profile.decay(step * BATCH, BATCH))
    copy = make(student.sigma_data, student.time, options)
    copy.net.load_state_dict(average)
    return copy


def make(sigma_data: float, how: str, options: argparse.Namespace) -> Denoiser:
    return Denoiser(MLP((2,), width=options.width, depth=options.depth, norm="double"), sigma_data, how)


@torch.no_grad()
def errors(model: Denoiser, points: list[tuple[Tensor, float, Tensor]]) -> list[float]:
    return [float((model(x.float(), torch.tensor(sigma)) - end).square().mean()) for x, sigma, end in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", default="ring", choices=["ring", "grid", "moons", "spirals"])
    parser.add_argument("--time", default="trigflow", choices=["trigflow", "edm"])
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--teacher-steps", type=int, default=4_000)
    parser.add_argument("--warmup", type=int, default=2_000)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--std", type=float, default=1.8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    data = Toy(density=options.density, batch_size=BATCH)
    data.setup()
    mixture = GaussianMixture(*data.mixture()[:3])
    exact = mixture.denoiser(data.sigma_data, "edm")
    points = []
    for sigma in SIGMAS:
        x = mixture.sample(4000) + sigma * torch.randn(4000, 2, dtype=torch.float64)
        points.append((x, sigma, mixture.ode_end(x, torch.tensor(sigma))))

    start = time.perf_counter()
    denoiser = trained(make(data.sigma_data, options.time, options), mixture, None, options, denoising=True)
    models = {"denoiser": denoiser}
    for name, teacher in {"sCD": exact, "sCT": None}.items():
        student = make(data.sigma_data, options.time, options)
        student.net.load_state_dict(denoiser.net.state_dict())
        models[name] = trained(student, mixture, teacher, options, denoising=False)
    table = {name: errors(model, points) for name, model in models.items()}

    print(
        f"{options.density}, {options.time}, {options.steps} steps of {BATCH}, {(time.perf_counter() - start) / 60:.0f} minutes"
    )
    print(f"mean squared error against the end of the exact ODE; variance of the data {data.sigma_data**2:.3f}")
    print("| sigma | t | denoiser | sCD | sCT | sCD / denoiser | sCT / denoiser |\n|---|---|---|---|---|---|---|")
    for i, sigma in enumerate(SIGMAS):
        before, scd, sct = (table[name][i] for name in ("denoiser", "sCD", "sCT"))
        t = math.atan(sigma / data.sigma_data)
        print(
            f"| {sigma:g} | {t:.3f} | {before:.2e} | {scd:.2e} | {sct:.2e} | {scd / before:.3f} | {sct / before:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
