"""Conditions under which a figure was measured, built from everything that changes a sample."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from ..artifacts.metrics_columns import FIRST
from ..artifacts.step_policy import digest
from ..denoiser import Denoiser
from ..foundation import rng
from ..precision import LowPrecision
from ..samplers import named, nfe, pure_noise
from ..samplers.guidance import takes_scale
from ..schedules.adaptive_sampling import PolicySampling
from ..schedules.sampling import Sampling

EVERYWHERE = (0.0, math.inf)


@dataclass(frozen=True)
class Protocol:
    """Conditions under which a figure was measured: two figures compare only if these agree, all but the seed.

    Of floors and of figures from before they were recorded, those after `reference` are None.

    Args:
        n: generated images (held-out images, for a floor); `evaluate` fills it in.
        seed: of the samples.
        solver: of the samples, by name, and the grid or policy by name.
        steps: solver steps.
        nfe: evaluations of the network for each image.
        ema: profile of the weights that were averaged, by name; "none" for the last step's own.
        reference: hash of the real images and of the feature space; `evaluate` fills it in.
        sigmas: largest and smallest noise level and a hash of all, "80-0.002 1f3a9c04"; of a step policy, its own hash.
        guidance: scale; 1 is none.
        guide: what guides in place of the model itself without labels: hash of its weights.
        interval: noise levels at which it does, if not at all of them.
        options: of the solver, such as "S_churn=40".
        precision: type in which the network computed, "float32" or "bfloat16", kind of a low-precision copy.
        generator: of the noise (see `rng.Seed`).
        labels: hash of what the samples are conditioned on, "none" for samples without labels.
    """

    n: int | None = None
    seed: int | None = None
    solver: str | None = None
    steps: int | None = None
    nfe: int | float | None = None
    ema: str | None = None
    reference: str | None = None
    sigmas: str | None = None
    guidance: float | None = None
    guide: str | None = None
    interval: str | None = None
    options: str | None = None
    precision: str | None = None
    generator: int | None = None
    labels: str | None = None

    def record(self) -> dict[str, str | int | float | None]:
        """As columns of a table: the first seven, and of the others those that are set."""
        return {name: value for name, value in asdict(self).items() if name in FIRST or value is not None}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """All that changes a sample beside the denoiser, the sample's own number and its label; `protocol` reads every field.

    Args:
        sampling: solver and noise levels, or a step policy.
        seed: of the samples.
        guidance, guide, interval: see `samplers.guidance.guided`.
        options: further arguments of the solver, S_churn for instance; not for a step policy.
    """

    sampling: Sampling | PolicySampling
    seed: int = 0
    guidance: float = 1.0
    guide: Callable[..., Tensor] | None = None
    interval: tuple[float, float] = EVERYWHERE
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options and isinstance(self.sampling, PolicySampling):
            raise ValueError(
                f"options of a solver on a grid are not for {self.sampling.name}: {', '.join(self.options)}"
            )


def protocol(
    drawing: Drawing, denoiser: Callable[..., Tensor], labels: Int64[Tensor, " n"] | None, device: torch.device
) -> Protocol:
    """Of samples drawn so; `n`, `ema` and `reference`, and what a policy took (`steps`, `nfe`), are to be filled in.

    Args:
        drawing: how.
        denoiser: the model.
        labels: of all samples.
        device: where it computes.
    """
    sampling, is_guided = drawing.sampling, drawing.guidance != 1
    on_a_grid = isinstance(sampling, Sampling)
    return Protocol(
        seed=drawing.seed,
        solver=sampling.name
        if sampling.name.split("/")[0] == sampling.solver
        else f"{sampling.solver}/{sampling.name}",
        steps=sampling.steps if on_a_grid else None,
        nfe=evaluations(drawing, takes_scale(denoiser)) if isinstance(sampling, Sampling) else None,
        sigmas=_levels(sampling),
        guidance=drawing.guidance,
        guide=None if drawing.guide is None or not is_guided else _name(drawing.guide),
        interval=None if drawing.interval == EVERYWHERE or not is_guided else "{:g}-{:g}".format(*drawing.interval),
        options=" ".join(f"{name}={value:g}" for name, value in sorted(drawing.options.items())) or None,
        precision=precision(denoiser, device),
        generator=rng.generator_of(drawing.seed),
        labels=labels_hash(labels),
    )


def evaluations(drawing: Drawing, takes_scale: bool) -> int:
    """Of networks, for one sample on a grid: a guided call inside the interval is two, unless the network takes the scale."""
    sampling = drawing.sampling
    assert isinstance(sampling, Sampling)
    calls = nfe(sampling.solver, sampling.sigmas, **drawing.options)
    if drawing.guidance == 1 or takes_scale:
        return calls
    if drawing.interval == EVERYWHERE:
        return 2 * calls
    low, high = drawing.interval
    guided = 0

    def count(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal guided
        guided += int(low < float(sigma) <= high)
        return x

    x = torch.zeros(1, 1, dtype=torch.float64)
    solver, noise = named(sampling.solver), torch.Generator()
    pure_noise.solve(solver, count, x, sampling.sigmas, from_noise=count, generator=noise, **drawing.options)
    return calls + guided


def precision(denoiser: Callable[..., Tensor], device: torch.device) -> str:
    """Type in which a denoiser's network computes here and now."""
    net = getattr(denoiser, "net", denoiser)
    if isinstance(net, LowPrecision):
        return str(net.precision)
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        own = next((each.dtype for each in net.parameters()), None) if isinstance(net, nn.Module) else None
        dtype = getattr(net, "autocast_dtype", None) or own or torch.float32
    products = torch.get_float32_matmul_precision()
    return str(dtype).removeprefix("torch.") + ("" if products == "highest" else f"/{products}")


def labels_hash(labels: Int64[Tensor, " n"] | None) -> str:
    """A hash of the labels that images are conditioned on, "none" without."""
    return "none" if labels is None else short_hash(labels.cpu().numpy().tobytes())


def _levels(sampling: Sampling | PolicySampling) -> str:
    if isinstance(sampling, PolicySampling):
        state = {name: value.detach().cpu() for name, value in sampling.policy.state_dict().items()}
        return short_hash(f"{sorted(sampling.policy.arguments.items())} {digest(state)}".encode())
    nodes = sampling.sigmas.double()
    return f"{float(nodes[0]):g}-{float(nodes[-2]):g} {short_hash(nodes.numpy(force=True).tobytes())}"


def _name(guide: Callable[..., Tensor]) -> str:
    """Of a network, a hash of what it is and of its weights; of a function, its name."""
    if not isinstance(guide, nn.Module):
        return getattr(guide, "__qualname__", type(guide).__qualname__)
    settings = (
        f"{guide.sigma_data} {_parametrisation(guide)} {guide.kind}{_bounds(guide)}"
        if isinstance(guide, Denoiser)
        else type(guide).__qualname__
    )
    state = {name: value.detach().cpu() for name, value in guide.state_dict().items()}
    return short_hash(f"{settings} {digest(state)}".encode())


def _parametrisation(denoiser: Denoiser) -> str:
    return f"{denoiser.time}" + (f" {denoiser.prediction}" if denoiser.prediction != denoiser.time else "")


def _bounds(denoiser: Denoiser) -> str:
    return "" if denoiser.bounds is None else " {:g} {:g}".format(*denoiser.bounds)


def short_hash(content: bytes) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:8]
