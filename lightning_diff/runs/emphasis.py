"""Which noise levels a recipe trains, before it trains: how often each is drawn, what it weighs, and the product."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ..foundation.atomic import replacing
from ..modules import TrainingModule
from ..noise import log_snr_to_sigma, sigma_to_log_snr
from ..noise.laws import as_training_law
from ..weighting import as_weighting

LOW, HIGH, POINTS = -10.0, 10.0, 401  # log-SNR
COLUMNS = 40  # characters of a line of bars
BARS = " ▁▂▃▄▅▆▇█"


class Emphasis(NamedTuple):
    """Curves over log-SNR, each (n,) float64.

    Args:
        log_snr: increasing.
        density: of the training law, with respect to log-SNR.
        weight: that multiplies the unweighted loss, importance included, for losses of one.
        product: density times weight, scaled to area one.
    """

    log_snr: Float64[Tensor, " n"]
    density: Float64[Tensor, " n"]
    weight: Float64[Tensor, " n"]
    product: Float64[Tensor, " n"]


@torch.no_grad()
def emphasis(module: TrainingModule) -> Emphasis:
    """As at the first step: what learns from losses weighs and draws as it begins."""
    law, weighting = as_training_law(module.noise), as_weighting(module.weighting)
    sigma_data = module.denoiser.sigma_data
    u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    weighting.prepare(sigma_to_log_snr(law.objective_law().icdf(u), sigma_data))
    log_snr = torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64)
    sigma = log_snr_to_sigma(log_snr, sigma_data)
    density = law.log_prob(sigma).double().exp() / 2  # d ln sigma = d log-SNR / 2
    weight = law.importance(sigma) * weighting(log_snr.float(), torch.ones(POINTS)).double()
    product = density * weight
    area = torch.trapezoid(product, log_snr)
    return Emphasis(log_snr, density, weight, product / area if area > 0 else product)


def lines(found: Emphasis, sigma_data: float) -> str:
    """The three curves as bars, one line each."""
    ends = [f"{float(log_snr_to_sigma(found.log_snr[i], sigma_data)):.2g}" for i in (0, -1)]
    title = f"noise levels, from sigma {ends[0]} (log-SNR {LOW:g}) to {ends[1]} ({HIGH:g}), as at the first step:"
    curves = {
        "p, how often drawn": found.density,
        "w, the weight": found.weight,
        "p w, in the objective": found.product,
    }
    width = max(map(len, curves))
    return "\n".join([title, *(f"  {name:<{width}}  {_bars(curve)}" for name, curve in curves.items())])


def _bars(curve: Float64[Tensor, " n"]) -> str:
    means = torch.stack([part.mean() for part in curve.tensor_split(COLUMNS)])
    top = means.max().clamp(min=torch.finfo(torch.float64).tiny)
    heights = (means / top * (len(BARS) - 1)).round().long().clamp(0, len(BARS) - 1)
    return "".join(BARS[height] for height in heights.tolist())


def draw(path: Path, found: Emphasis, sigma_data: float, name: str) -> None:
    """The three curves as a picture, whole or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    x = found.log_snr.numpy()
    axes.fill_between(x, found.density.numpy(), color="0.82", label="p, how often a level is drawn")
    axes.plot(x, found.product.numpy(), color="C0", lw=1.8, label="p w, its share of the objective (area one)")
    weights = axes.twinx()
    weights.plot(x, found.weight.numpy(), color="C3", lw=1.2, ls="--", label="w, the weight of its loss (right)")
    weights.set(ylabel="weight w", ylim=(0, 1.3 * float(found.weight.max())))  # room for the legend
    axes.set(xlabel="log-SNR  λ = ln(σ_data² / σ²)        ← noisier      cleaner →", ylabel="per unit of log-SNR")
    axes.set(xlim=(LOW, HIGH), ylim=(0, 1.3 * float(torch.maximum(found.density, found.product).max())))
    axes.set_title(f"{name}: the noise levels that are trained, at the first step", fontsize=11)
    axes.grid(alpha=0.3)
    handles = [each.get_legend_handles_labels() for each in (axes, weights)]
    axes.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], frameon=False, fontsize=8)
    marks = [0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 80.0]
    places = sigma_to_log_snr(torch.tensor(marks, dtype=torch.float64), sigma_data).tolist()
    top = axes.secondary_xaxis("top")
    top.set_xticks(places, [f"{mark:g}" for mark in marks], fontsize=8)
    top.set_xlabel("noise level σ", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
