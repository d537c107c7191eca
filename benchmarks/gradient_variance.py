"""How noisy is the gradient? Levels drawn at random, stratified, and stratified under an adaptive law, on 8x8 digits.

    python benchmarks/gradient_variance.py [RUN ...] [--steps 400] [--batches 64] [--batch 128]

Takes the denoisers of run folders, or trains the main example's network for `--steps` steps; then the weights stay as they are.
Each law is shown the losses of 200 batches and stays as it is too. The gradient of the same objective is taken over the same images
and noise under every law, batch by batch. Prints the total variance over all parameters of a batch's gradient relative to random
draws of the base law, with a 95 % interval from the jackknife over paired batches; and the cosine between each law's mean gradient
and the stratified one's, beside what the noise of two means makes of equal expectations. About two minutes on a quiet core.
"""

import argparse
import math

import torch
from torch import Tensor

from lightning_diff.artifacts import load_denoiser
from lightning_diff.data import Digits
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.nets import UNet
from lightning_diff.noise import AdaptiveNoise, LogNormal, NoiseLaw, sigma_to_log_snr
from lightning_diff.objectives import denoising_loss

SHOWN = 200  # batches that a law learns from


class Batches:
    """Batch number i: images, noise, and uniforms both stratified and not, all by their number alone."""

    def __init__(self, data: Digits, size: int):
        self.train, self.size = data.train, size

    def __call__(self, i: int, is_stratified: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        positions = range(i * self.size, (i + 1) * self.size)
        index = torch.from_numpy((rng.uniform(0, "image", positions) * len(self.train)).astype("int64"))
        jitter = torch.from_numpy(rng.uniform(0, "level", positions))
        u = (torch.arange(self.size) + jitter) / self.size if is_stratified else jitter
        images = self.train.images(index)
        return images, rng.normal(0, "noise", positions, images.shape[1:]), u


def losses(denoiser: Denoiser, law: NoiseLaw, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(sigma, unweighted loss) of each sample."""
    images, noise, u = batch
    sigma = law.icdf(u).float()
    return sigma, denoising_loss(denoiser, images, sigma, noise)


def trained(data: Digits, batches: Batches, steps: int) -> Denoiser:
    torch.manual_seed(0)
    net = UNet(data.shape, channels=32, channel_mult=[1, 1], num_blocks=1, attention=[])
    denoiser = Denoiser(net, data.sigma_data)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
    for step in range(steps):
        loss = losses(denoiser, LogNormal(), batches(10_000 + step))[1].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser


def taught(law: AdaptiveNoise, denoiser: Denoiser, batches: Batches) -> AdaptiveNoise:
    with torch.no_grad():
        for i in range(SHOWN):
            sigma, loss = losses(denoiser, law, batches(100_000 + i))
            law.update(sigma_to_log_snr(sigma, denoiser.sigma_data), loss, torch.ones_like(loss))
    return law


def gradients(denoiser: Denoiser, law: NoiseLaw, batches: Batches, number: int, is_stratified: bool) -> Tensor:
    """(number of batches, parameters)."""
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    rows = []
    for i in range(number):
        sigma, loss = losses(denoiser, law, batches(i, is_stratified))
        importance = law.importance(sigma) if isinstance(law, AdaptiveNoise) else 1.0
        grads = torch.autograd.grad((importance * loss).mean(), parameters)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


def total_variance(gram: Tensor) -> Tensor:
    """Sum over parameters of the unbiased variance, from the inner products of the gradients."""
    n = len(gram)
    return (gram.diagonal().sum() - gram.sum() / n) / (n - 1)


def ratio_with_error(gram: Tensor, base: Tensor) -> tuple[float, float]:
    """Ratio of total variances and its standard error: the jackknife over paired batches."""
    n = len(gram)
    without = [torch.arange(n) != i for i in range(n)]
    each = torch.stack([total_variance(gram[k][:, k]) / total_variance(base[k][:, k]) for k in without])
    return float(total_variance(gram) / total_variance(base)), float(((n - 1) * each.var(correction=0)).sqrt())


def measure(title: str, denoiser: Denoiser, batches: Batches, number: int) -> None:
    base, options = LogNormal(), {"warmup": 0, "sigma_data": denoiser.sigma_data}
    laws: list[tuple[str, NoiseLaw, bool]] = [("random", base, False), ("stratified", base, True)]
    for target in ("loss", "gradient"):
        law = taught(AdaptiveNoise(base, target=target, **options), denoiser, batches)  # type: ignore[arg-type]
        laws.append((f"adaptive, target {target}", law, True))
    print(f"\n{title}: {number} batches of {batches.size}\n")
    print(
        "| levels | gradient variance | 95 % interval | cosine to stratified | expected | ln sigma |\n|---|---|---|---|---|---|"
    )
    grams, means = {}, {}
    for name, law, is_stratified in laws:
        g = gradients(denoiser, law, batches, number, is_stratified)
        grams[name], means[name] = (g @ g.T).double(), g.mean(0).double()
        del g
    for name, law, _ in laws:
        ratio, error = ratio_with_error(grams[name], grams["random"])
        mean, reference = means[name], means["stratified"]
        cosine = float(mean @ reference / mean.norm() / reference.norm())
        # Two independent means of one vector m, each with noise of total variance v / n: cosine m^2 / |mean| |mean'|.
        noise = float(total_variance(grams["stratified"])) / number
        square = max(float(reference.square().sum()) - noise, 0.0)
        expected = square / math.sqrt((square + noise) * (square + float(total_variance(grams[name])) / number))
        levels = law.icdf((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000).log()
        drawn = f"{float(levels.mean()):.2f} ± {float(levels.std()):.2f}"
        interval = f"{ratio - 1.96 * error:.3f} to {ratio + 1.96 * error:.3f}"
        print(f"| {name} | {ratio:.3f} | {interval} | {cosine:.3f} | {expected:.3f} | {drawn} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="run folders with a finished model")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    data = Digits(batch_size=options.batch)
    data.setup()
    batches = Batches(data, options.batch)
    for run in options.runs:
        measure(run, load_denoiser(run).requires_grad_(), batches, options.batches)
    if not options.runs:
        measure(f"after {options.steps} steps", trained(data, batches, options.steps), batches, options.batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
