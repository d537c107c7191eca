"""A network's own time: the number by which it is told its noise level."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ..noise import sigma_to_flow_time, sigma_to_t

TimeName = Literal["edm", "trigflow", "flow"]
TIMES = get_args(TimeName)


class Time(nn.Module):
    """Noise level -> the network's time, (B,) -> (B,), increasing; without parameters, and with nothing to save."""

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """For sigma in (0, infinity]."""
        raise NotImplementedError

    def rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """d time / d ln sigma."""
        raise NotImplementedError

    @property
    def ends_in_noise(self) -> bool:
        """Whether sigma = infinity has a time of its own."""
        return False

    def pipeline_levels(self, sigmas: Float64[Tensor, " n"], shift: float) -> dict[str, list[Any]]:
        """See `Denoiser.pipeline_levels`."""
        raise ValueError(f"a pipeline of diffusers has flow's time or an index in a table, not that of {type(self).__name__}")

    @property
    def arguments(self) -> dict[str, Any]:
        """With which it is built again."""
        return {}

    def node(self) -> dict[str, Any]:
        """As a recipe writes it."""
        return {"_target_": f"lightning_diff.denoiser.{type(self).__name__}", **self.arguments}


class LogTime(Time):
    """ln(sigma) / 4 (EDM, arXiv 2206.00364, table 1)."""

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return sigma.log() / 4

    def rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return torch.full_like(sigma, 0.25)


class AngleTime(Time):
    """t = arctan(sigma / sigma_data) (sCM, arXiv 2410.11081, section 3)."""

    def __init__(self, sigma_data: float):
        super().__init__()
        self.sigma_data = sigma_data

    @property
    def ends_in_noise(self) -> bool:
        return True

    @property
    def arguments(self) -> dict[str, Any]:
        return {"sigma_data": self.sigma_data}

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return sigma_to_t(sigma, self.sigma_data)

    def rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2)  # cos(t) sin(t)


class FlowTime(Time):
    """Flow matching's s = sigma / (1 + sigma) times a number; 1 at pure noise.

    Args:
        scale: > 0. 1 for networks of ours; 1,000 is what SD3 and Sana are called with.
    """

    def __init__(self, scale: float = 1.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"FlowTime: scale must be positive, got {scale}")
        self.scale = float(scale)

    @property
    def ends_in_noise(self) -> bool:
        return True

    @property
    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self.scale * torch.where(sigma.isinf(), torch.ones_like(sigma), sigma_to_flow_time(sigma))

    def rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        s = sigma_to_flow_time(sigma)
        return self.scale * s * (1 - s)


    def pipeline_levels(self, sigmas: Float64[Tensor, " n"], shift: float) -> dict[str, list[Any]]:
        s = FlowTime()(sigmas)
        return {"sigmas": (s / (shift - (shift - 1) * s)).tolist()}


Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


class TableTime(Time):
    """Index in a table of discrete noise levels, 0 for the smallest, as DDPM's networks are called with; a real number between.

    The table is that of a variance-preserving chain with variances beta_i: sigma_i^2 = (1 - abar_i) / abar_i with abar_i the
    product of 1 - beta_j up to i. Between its entries the index is linear in ln sigma; below the first it is 0, above the last the
    last. A table rescaled to zero terminal SNR (arXiv 2305.08891) ends at sigma = infinity; in its last interval the index is
    linear in 1 / sigma.

    Args:
        steps: entries, >= 2.
        betas: "linear" in beta (DDPM, arXiv 2006.11239), "scaled_linear" in its root (latent diffusion), or "squaredcos_cap_v2"
            (improved DDPM, arXiv 2102.09672), which has no start and end; or the variances themselves, `steps` of them in (0, 1).
        beta_start, beta_end: the first and the last variance, 0 < start <= end < 1.
        zero_snr: rescale the table so that its last entry is pure noise.
    """

    log_sigmas: Float64[Tensor, " steps"]

    def __init__(
        self,
        steps: int = 1000,
        betas: Betas | list[float] = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        zero_snr: bool = False,
    ):
        super().__init__()
        if steps < 2:
            raise ValueError(f"TableTime: steps must be at least 2, got {steps}")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"TableTime: need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")
        if isinstance(betas, list):
            _refuse_no_table(betas, steps)
        elif betas not in _BETAS:
            raise ValueError(f"TableTime: betas must be one of {', '.join(_BETAS)}, got {betas!r}")
        self.steps, self.betas, self.zero_snr = steps, betas, zero_snr
        self.beta_start, self.beta_end = beta_start, beta_end
        with torch.device("cpu"):  # with its values, also where a network is built without
            clean = (1 - _variances(betas, steps, beta_start, beta_end)).cumprod(0).sqrt()  # sqrt(abar)
        if zero_snr:
            clean = (clean - clean[-1]) * clean[0] / (clean[0] - clean[-1])
        self.register_buffer("log_sigmas", ((1 - clean**2).sqrt() / clean).log(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TableTime":
        """Moves, and stays float64, with its values: in half precision a level is found wrong by whole entries."""
        self.log_sigmas = self.log_sigmas.to(fn(self.log_sigmas).device)
        return self

    @property
    def ends_in_noise(self) -> bool:
        return self.zero_snr

    @property
    def arguments(self) -> dict[str, Any]:
        names = ("steps", "betas", "beta_start", "beta_end", "zero_snr")
        return {name: getattr(self, name) for name in names}

    @property
    def sigmas(self) -> Float64[Tensor, " steps"]:
        """The table, increasing; the last is infinity for zero terminal SNR."""
        return self.log_sigmas.exp()

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        left, width, place = self._interval(sigma)
        inside = (place - self.log_sigmas[left]) / width
        if self.zero_snr:
            towards_noise = 1 - (self.log_sigmas[left] - place).exp()
            inside = torch.where(left == self.steps - 2, towards_noise, inside)
        return (left + inside).to(sigma.dtype)

    def rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        left, width, place = self._interval(sigma)
        rate = 1 / width
        if self.zero_snr:
            rate = torch.where(left == self.steps - 2, (self.log_sigmas[left] - place).exp(), rate)
        log = sigma.double().log()
        return torch.where((log < self.log_sigmas[0]) | (log > self.log_sigmas[-1]), 0.0, rate).to(sigma.dtype)

    def pipeline_levels(self, sigmas: Float64[Tensor, " n"], shift: float) -> dict[str, list[Any]]:
        if shift != 1:
            raise ValueError(f"shift is of flow's schedulers, and this time is an index in a table, got {shift:g}")
        indices = self(sigmas).round().long().tolist()
        for i, (index, after) in enumerate(zip(indices, indices[1:], strict=False)):
            if index == after:
                raise ValueError(
                    f"noise levels {float(sigmas[i]):.4g} and {float(sigmas[i + 1]):.4g} are one entry of the table, {index}, which "
                    f"goes from {float(self.sigmas[0]):.4g} to {float(self.sigmas[-1]):.4g}; take a grid within it, of fewer steps"
                )
        return {"timesteps": indices}

    def _interval(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number of the entry below, distance to the one above in ln sigma, and ln sigma kept within the table."""
        table = self.log_sigmas
        place = sigma.double().log().clamp(table[0], table[-1])
        left = (torch.searchsorted(table, place.detach(), right=True) - 1).clamp(max=self.steps - 2)
        return left, table[left + 1] - table[left], place


def _linear(steps: int, start: float, end: float) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _scaled_linear(steps: int, start: float, end: float) -> Tensor:
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def _squared_cosine(steps: int, start: float, end: float) -> Tensor:
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    remaining = ((share + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
    return (1 - remaining[1:] / remaining[:-1]).clamp(max=0.999)


_BETAS = {"linear": _linear, "scaled_linear": _scaled_linear, "squaredcos_cap_v2": _squared_cosine}


def _variances(betas: str | list[float], steps: int, start: float, end: float) -> Tensor:
    return torch.tensor(betas, dtype=torch.float64) if isinstance(betas, list) else _BETAS[betas](steps, start, end)


def _refuse_no_table(betas: list[float], steps: int) -> None:
    if len(betas) != steps:
        raise ValueError(f"TableTime: {steps} steps need as many betas, got {len(betas)}")
    if wrong := [each for each in betas if not 0 < each < 1]:
        raise ValueError(f"TableTime: betas must lie between 0 and 1, got {wrong[0]}")


def named(time: str | Time, sigma_data: float) -> Time:
    """The time of a name in `TIMES`; a time of its own as it is."""
    if isinstance(time, Time):
        return time
    if time not in TIMES:
        raise ValueError(f"Denoiser: time must be one of {', '.join(TIMES)} or a Time, got {time!r}")
    return AngleTime(sigma_data) if time == "trigflow" else FlowTime() if time == "flow" else LogTime()
